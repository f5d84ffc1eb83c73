"""What happened to a search, numbered in the order it happened, each written once."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from .database import Database, Event, Search
from .tokens import Person


def append(session: Session, search: str, kind: str, data: dict[str, Any], now: float | None = None) -> None:
    """Write an event in a session's transaction.

    The number is counted in the search's own row, which stays locked until the transaction ends: so numbers become
    visible in their order, and who has seen one has missed none before it.
    """
    counted = update(Search).where(Search.id == search).values(events=Search.events + 1).returning(Search.events)
    number = session.execute(counted).scalar_one()
    session.add(Event(search=search, number=number, kind=kind, data=data, time=time.time() if now is None else now))


def read(database: Database, search: str, after: int, upto: int, most: int = 500) -> Sequence[Event]:
    """The events of a search past a number and up to another, the first of them where they are too many."""
    wanted = select(Event).where(Event.search == search, Event.number > after, Event.number <= upto)
    wanted = wanted.order_by(Event.number).limit(most)
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


def latest(database: Database, searches: Sequence[str], kind: str) -> dict[str, dict[str, Any]]:
    """What the newest event of a kind says, by search; nothing of those that have none."""
    last = select(Event.search, func.max(Event.number).label("number"))
    last = last.where(Event.search.in_(searches), Event.kind == kind).group_by(Event.search)
    found = last.subquery()
    wanted = select(Event.search, Event.data).join(
        found, (Event.search == found.c.search) & (Event.number == found.c.number)
    )
    with database.transaction() as session:
        return {row.search: row.data for row in session.execute(wanted)}


def moment(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


ALL = "@"  # begins the names of topics that are not one search's; no id does


def topic(person: Person) -> str:
    """What a person listens to who looks at all of the searches that they see."""
    return ALL if person.admin else f"{ALL}{person.name}"


def newest(database: Database, topics: Sequence[str]) -> dict[str, int]:
    """The number of the last event of each search; of people's topics, how many events there were."""
    searches = [name for name in topics if not name.startswith(ALL)]
    people = [name for name in topics if name.startswith(ALL)]
    with database.transaction() as session:
        rows = session.execute(select(Search.id, Search.events).where(Search.id.in_(searches)))
        numbers = {row.id: row.events for row in rows}
        for name in people:
            total = select(func.coalesce(func.sum(Search.events), 0))
            owned = total if name == ALL else total.where(Search.owner == name.removeprefix(ALL))
            numbers[name] = int(session.execute(owned).scalar_one())
    return numbers
