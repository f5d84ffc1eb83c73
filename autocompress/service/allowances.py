"""What people may have and what they had, in the database."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from ..errors import ServiceError
from .database import Allowance, Database, Search
from .quotas import Quota, Standing, day
from .states import State

INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
RUNS = (State.running, State.pausing)


class Allowances:
    """The quotas of a database; usual is what those have of whom it says nothing."""

    def __init__(self, database: Database, usual: Quota, clock: Callable[[], float] = time.time) -> None:
        self._database, self._usual, self._clock = database, usual, clock

    def own(self, name: str) -> Quota:
        """What was set for a person alone."""
        with self._database.transaction() as session:
            found = session.get(Allowance, name)
        return Quota() if found is None else _quota(found)

    def give(self, name: str, quota: Quota) -> Quota:
        """Set what is not None for a person alone; returns all that is set. Raises ServiceError for less than none."""
        for field, value in vars(quota).items():
            if value is not None and value < 0:
                raise ServiceError(f"--{field.replace('_', '-')} {value}: a quota is 0 or more")
        values = {field: value for field, value in vars(quota).items() if value is not None}
        return self._set(name, values)

    def reset(self, name: str) -> Quota:
        """Let a person have what is usual again."""
        return self._set(name, dict.fromkeys(vars(Quota())))

    def _set(self, name: str, values: dict[str, float | None]) -> Quota:
        with self._database.transaction() as session:
            lock(session, name)
            if values:
                session.execute(update(Allowance).where(Allowance.name == name).values(values))
        return self.own(name)

    def standing(self, name: str) -> Standing:
        """What a person may have, and has."""
        with self._database.transaction() as session:
            return self.standings(session, [name])[name]

    def standings(self, session: Session, names: Iterable[str]) -> dict[str, Standing]:
        """What people may have, and have."""
        wanted, today = sorted(set(names)), day(self._clock())
        # A cancelled search runs until its server lets go of it.
        runs = or_(Search.state.in_(RUNS), Search.lease_owner.is_not(None))
        counted = select(Search.owner, func.count()).where(Search.owner.in_(wanted), runs).group_by(Search.owner)
        running = {owner: int(count) for owner, count in session.execute(counted)}
        rows = {row.name: row for row in session.scalars(select(Allowance).where(Allowance.name.in_(wanted)))}
        found = {}
        for name in wanted:
            row = rows.get(name)
            used = row.used_s if row is not None and row.day == today else 0.0
            quota = self._usual if row is None else _quota(row).or_else(self._usual)
            found[name] = Standing(quota, running.get(name, 0), used, 0.0 if row is None else row.begun)
        return found

    def charge(self, session: Session, name: str, seconds: float) -> None:
        """Count seconds of a trial, in a session's transaction, for a person who is locked in it."""
        today = day(self._clock())
        row = session.get_one(Allowance, name)
        row.used_s, row.day = (row.used_s if row.day == today else 0.0) + seconds, today


def lock(session: Session, name: str) -> None:
    """Let nobody else decide over a person until a session's transaction ends; its first statement on SQLite.

    A row that is written stays locked in both databases.
    """
    new = INSERT[session.get_bind().dialect.name](Allowance).values(name=name, day=0, used_s=0.0, begun=0.0)
    session.execute(new.on_conflict_do_nothing())
    session.execute(update(Allowance).where(Allowance.name == name).values(name=name))


def _quota(row: Allowance) -> Quota:
    return Quota(row.searches, row.workers, row.trial_seconds)
