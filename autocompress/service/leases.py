"""Which server holds which search, and until when: what a server does with a search, only its holder may write."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, case, or_, select, update

from . import events
from .database import Database, Search
from .queue import change
from .states import State


def claimable(now: float) -> ColumnElement[bool]:
    """What a server may take: what is queued, and what another one holds no more."""
    left = and_(Search.state == State.cancelled, Search.lease_owner.is_not(None))
    states = or_(Search.state.in_((State.queued, State.running, State.pausing)), left)
    return and_(states, or_(Search.lease_expires.is_(None), Search.lease_expires < now))


class Leases:
    """The searches that one server holds, by its name; all writes are void once it holds a search no more."""

    def __init__(self, database: Database, owner: str, lease_s: float, clock: Callable[[], float] = time.time) -> None:
        self._database, self._owner, self._lease_s, self._clock = database, owner, lease_s, clock

    def claim(self, room: int) -> list[str]:
        """Take up to so many searches, left ones before queued ones and those by priority and age; their ids."""
        now = self._clock()
        waiting = case((Search.state == State.queued, 1), else_=0)
        first = select(Search.id, Search.state).where(claimable(now))
        first = first.order_by(waiting, Search.priority.desc(), Search.created, Search.id).limit(2 * room)
        with self._database.transaction() as session:
            rows = session.execute(first).all()
        taken: list[str] = []
        for identity, state in rows:
            if len(taken) < room and self._take(identity, State(state), now):
                taken.append(identity)
        return taken

    def _take(self, identity: str, state: State, now: float) -> bool:
        lease = {"lease_owner": self._owner, "lease_expires": now + self._lease_s}
        # The condition stands in the update itself, so that of two servers one finds nothing left to take.
        taking = update(Search).where(Search.id == identity, Search.state == state, claimable(now)).values(lease)
        with self._database.transaction() as session:
            if session.execute(taking.returning(Search.id)).scalar() is None:
                return False
            if state is State.queued:
                change(session, identity, state, State.running, now)
        return True

    def held(self) -> Sequence[Search]:
        """What this server holds, with all leases made longer."""
        renewing = update(Search).where(Search.lease_owner == self._owner)
        with self._database.transaction() as session:
            session.execute(renewing.values(lease_expires=self._clock() + self._lease_s))
            return session.scalars(select(Search).where(Search.lease_owner == self._owner)).all()

    def write(self, search: Search, **values: Any) -> bool:
        """Change a search's values; False where it is held no more."""
        mine = update(Search).where(Search.id == search.id, Search.lease_owner == self._owner).values(values)
        with self._database.transaction() as session:
            return session.execute(mine.returning(Search.id)).scalar() is not None

    def tell(self, search: Search, kind: str, data: dict[str, Any]) -> bool:
        """Write an event; False where the search is held no more."""
        mine = select(Search.id).where(Search.id == search.id, Search.lease_owner == self._owner).with_for_update()
        with self._database.transaction() as session:
            if session.scalar(mine) is None:
                return False
            events.append(session, search.id, kind, data, self._clock())
        return True

    def settle(self, search: Search, new: State | None, **values: Any) -> bool:
        """Give a search back, in a new state or in the one it is in; False where that is another one by now."""
        values = {**values, "lease_owner": None, "lease_expires": None}
        if new is None:
            return self.write(search, **values)
        with self._database.transaction() as session:
            mine = select(Search.id).where(Search.id == search.id, Search.lease_owner == self._owner).with_for_update()
            if session.scalar(mine) is None:
                return False
            return change(session, search.id, State(search.state), new, self._clock(), **values)
