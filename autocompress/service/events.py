"""What happened to a search, numbered in the order it happened, each written once."""

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from .database import Database, Event, Search


def append(session: Session, search: str, kind: str, data: dict[str, Any], now: float | None = None) -> None:
    """Write an event in a session's transaction.

    The number is counted in the search's own row, which stays locked until the transaction ends: so numbers become
    visible in their order, and who has seen one has missed none before it.
    """
    counted = update(Search).where(Search.id == search).values(events=Search.events + 1).returning(Search.events)
    number = session.execute(counted).scalar_one()
    session.add(Event(search=search, number=number, kind=kind, data=data, time=time.time() if now is None else now))


def read(database: Database, search: str, after: int, most: int = 500) -> Sequence[Event]:
    """The events of a search that follow a number."""
    wanted = select(Event).where(Event.search == search, Event.number > after).order_by(Event.number).limit(most)
    with database.transaction() as session:
        return session.scalars(wanted).all()


def last(session: Session, search: str, kind: str) -> dict[str, Any] | None:
    """What the newest event of a kind says; None where there is none."""
    wanted = select(Event.data).where(Event.search == search, Event.kind == kind).order_by(Event.number.desc()).limit(1)
    return session.scalar(wanted)


def told_trials(database: Database, search: str) -> set[int]:
    """The numbers of the trials whose end is among the events."""
    with database.transaction() as session:
        rows = session.scalars(select(Event.data).where(Event.search == search, Event.kind == "trial"))
        return {int(data["trial"]) for data in rows}


def newest(database: Database, searches: Sequence[str]) -> dict[str, int]:
    """The number of the last event of each search."""
    with database.transaction() as session:
        rows = session.execute(select(Search.id, Search.events).where(Search.id.in_(searches)))
        return {row.id: row.events for row in rows}
