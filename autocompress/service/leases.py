"""Which server holds which search, and until when: what a server does with a search, only its holder may write."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from . import events
from .allowances import Allowances, lock
from .database import Allowance, Database, Search
from .queue import change
from .quotas import Quota, Standing, Waiting, blocked, next_in_turn, spent, tomorrow
from .states import State


def claimable(now: float) -> ColumnElement[bool]:
    """What a server may take: what is queued, and what another one holds no more."""
    left = and_(Search.state == State.cancelled, Search.lease_owner.is_not(None))
    states = or_(Search.state.in_((State.queued, State.running, State.pausing)), left)
    return and_(states, or_(Search.lease_expires.is_(None), Search.lease_expires < now))


class Leases:
    """The searches that one server holds, by its name; all writes are void once it holds a search no more."""

    def __init__(
        self,
        database: Database,
        owner: str,
        lease_s: float,
        clock: Callable[[], float] = time.time,
        usual: Quota | None = None,
    ) -> None:
        self._database, self._owner, self._lease_s, self._clock = database, owner, lease_s, clock
        self._allowances = Allowances(database, usual or Quota(), clock)

    def claim(self, room: int) -> list[str]:
        """Take up to so many searches, left ones before queued ones and those as quotas.py says; their ids.

        What waits for its owner's quota is told so.
        """
        now = self._clock()
        columns = (Search.id, Search.owner, Search.priority, Search.created, Search.state, Search.reason)
        with self._database.transaction() as session:
            rows = session.execute(select(*columns).where(claimable(now)).order_by(Search.created, Search.id)).all()
            standings = self._allowances.standings(session, {row.owner for row in rows}) if rows else {}
        queued = [row for row in rows if row.state == State.queued]
        self._explain({row.id: (row.reason, blocked(row.owner, standings[row.owner], now)) for row in queued})
        taken = [row.id for row in rows if row.state != State.queued][:room]
        taken = [identity for identity in taken if self._take_over(identity, now)]
        waiting = [Waiting(row.id, row.owner, row.priority, row.created) for row in queued]
        for search in next_in_turn(waiting, standings, now, room - len(taken)):
            if self._begin(search, now):
                taken.append(search.id)
        return taken

    def _explain(self, reasons: dict[str, tuple[str | None, str | None]]) -> None:
        """Write why queued searches wait, where that is another reason than is told."""
        changed = {identity: new for identity, (old, new) in reasons.items() if old != new}
        if changed:
            with self._database.transaction() as session:
                for identity, reason in changed.items():
                    still = (Search.id == identity, Search.state == State.queued)
                    session.execute(update(Search).where(*still).values(reason=reason))

    def _take_over(self, identity: str, now: float) -> bool:
        with self._database.transaction() as session:
            return self._take(session, identity, now)

    def _begin(self, search: Waiting, now: float) -> bool:
        """Take a queued search, unless its owner has as many as they may by now, on whichever server."""
        with self._database.transaction() as session:
            lock(session, search.owner)
            standing = self._allowances.standings(session, [search.owner])[search.owner]
            if blocked(search.owner, standing, now) is not None or not self._take(session, search.id, now, queued=True):
                return False
            session.execute(update(Allowance).where(Allowance.name == search.owner).values(begun=now))
            return change(session, search.id, State.queued, State.running, now, reason=None, resumes=None)

    def _take(self, session: Session, identity: str, now: float, queued: bool = False) -> bool:
        lease = {"lease_owner": self._owner, "lease_expires": now + self._lease_s}
        # The condition stands in the update itself, so that of two servers one finds nothing left to take.
        state = Search.state == State.queued if queued else Search.state != State.queued
        taking = update(Search).where(Search.id == identity, state, claimable(now)).values(lease)
        return session.execute(taking.returning(Search.id)).scalar() is not None

    def suspend(self, searches: Sequence[Search]) -> None:
        """Pause those whose owner has used up the day's seconds; they go on by themselves."""
        now = self._clock()
        running = [search for search in searches if search.state == State.running]
        for search, why in self._spent(running, now):
            with self._database.transaction() as session:
                values = {"reason": why, "resumes": tomorrow(now)}
                if change(session, search.id, State.running, State.pausing, now, **values):
                    search.state = State.pausing

    def wake(self) -> None:
        """Queue again what was suspended and may go on: the next day, or with a larger quota."""
        now, paused = self._clock(), (Search.state == State.paused, Search.resumes.is_not(None))
        with self._database.transaction() as session:
            waiting = session.scalars(select(Search).where(*paused)).all()
        still = {search.id for search, _ in self._spent(waiting, now)}
        for search in waiting:
            if search.id not in still:
                with self._database.transaction() as session:
                    values = {"reason": None, "resumes": None}
                    change(session, search.id, State.paused, State.queued, now, **values)

    def _spent(self, searches: Sequence[Search], now: float) -> list[tuple[Search, str]]:
        if not searches:
            return []
        with self._database.transaction() as session:
            standings = self._allowances.standings(session, {search.owner for search in searches})
        reasons = [(search, spent(search.owner, standings[search.owner], now)) for search in searches]
        return [(search, why) for search, why in reasons if why is not None]

    def standing(self, owner: str) -> Standing:
        """What a person may have, and has."""
        return self._allowances.standing(owner)

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
        """Write an event, and count the seconds of a trial; False where the search is held no more."""
        mine = select(Search.id).where(Search.id == search.id, Search.lease_owner == self._owner).with_for_update()
        with self._database.transaction() as session:
            if kind == "trial":
                lock(session, search.owner)  # before the search, in the order in which searches are begun
            if session.scalar(mine) is None:
                return False
            if kind == "trial":
                self._allowances.charge(session, search.owner, float(data.get("seconds", 0.0)))
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
