"""The queue of searches: submitted by people, changed by what they ask for."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from . import events
from .database import Database, Search
from .problems import Refusal
from .states import FOLLOWS, State, after
from .tokens import Person

MOST_TRIES = 20  # of a change that others are faster with, each time


@dataclass(frozen=True)
class Submission:
    """A search to be: its study, its config's path in the folder and text, and the digest of the folder.

    key is the client's own word for the submission: sent again, it means the same search.
    """

    study: str
    config: str
    config_text: str
    content: str
    key: str | None = None
    priority: int = 0
    trials: int | None = None
    timeout_s: float | None = None
    workers: int | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Wanted:
    """Which searches a list is of; after is the id of the last one of the page before."""

    state: State | None = None
    owner: str | None = None
    study: str | None = None
    after: str | None = None
    limit: int = 50


class Queue:
    """The searches of a database, as people see and change them."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock

    def submitted(self, person: Person, key: str | None, content: str) -> Search | None:
        """What was submitted under a person's key before. Raises Refusal (409) where that was something else."""
        if key is None:
            return None
        with self._database.transaction() as session:
            found = session.scalar(select(Search).where(Search.owner == person.name, Search.key == key))
        if found is not None and found.content != content:
            raise Refusal(
                409,
                f"key {key!r} was used for search {found.study!r}",
                "Idempotency-Key",
                "a key means one submission, and this one differs",
                "send another key",
            )
        return found

    def submit(self, person: Person, new: Submission) -> tuple[Search, bool]:
        """Queue a search; returns it, and whether it is new. Raises Refusal (409) where its study's name is taken."""
        row = Search(**vars(new), owner=person.name, state=State.queued, created=self._clock())
        row.revision = row.run = row.run_revision = row.interrupted = row.losses = row.events = 0
        try:
            with self._database.transaction() as session:
                session.add(row)
                session.flush()
                events.append(session, new.id, "state", {"state": State.queued}, self._clock())
        except IntegrityError:
            before = self.submitted(person, new.key, new.content)
            if before is not None:
                return before, False
            raise taken(new.study) from None
        return self.find(person, new.study), True

    def find(self, person: Person, study: str) -> Search:
        """A person's search by its study. Raises Refusal (404), also for another person's."""
        with self._database.transaction() as session:
            found = session.scalar(select(Search).where(Search.study == study))
        if found is None or not person.sees(found.owner):
            raise Refusal(
                404,
                "there is no such search of yours",
                f"search {study!r}",
                "people see their own searches",
                "see `autocompress list --server URL` for their names",
            )
        return found

    def page(self, person: Person, wanted: Wanted) -> tuple[Sequence[Search], str | None]:
        """Searches that a person sees, newest first, and where the next page begins; None after the last."""
        query = select(Search).order_by(Search.created.desc(), Search.id.desc()).limit(wanted.limit + 1)
        if not person.admin:
            query = query.where(Search.owner == person.name)
        for column, value in ((Search.state, wanted.state), (Search.owner, wanted.owner), (Search.study, wanted.study)):
            query = query if value is None else query.where(column == value)
        with self._database.transaction() as session:
            last = session.get(Search, wanted.after) if wanted.after else None
            if last is not None:
                older = (Search.created == last.created) & (Search.id < last.id)
                query = query.where((Search.created < last.created) | older)
            rows = session.scalars(query).all()
        more = len(rows) > wanted.limit
        return rows[: wanted.limit], rows[wanted.limit - 1].id if more else None

    def ask(self, person: Person, study: str, request: str) -> Search:
        """Pause, resume or cancel. Raises Refusal: 404, or 409 for what cannot be done in its state."""
        for _ in range(MOST_TRIES):
            found = self.find(person, study)
            old = State(found.state)
            new = after(request, old, study)
            values: dict[str, Any] = {"reason": None, "resumes": None}  # from now on it is as somebody asked
            values |= {"error": None, "losses": 0} if new is State.queued and new is not old else {}
            with self._database.transaction() as session:
                if new is old:
                    session.execute(update(Search).where(Search.id == found.id, Search.state == old).values(values))
                    break
                if change(session, found.id, old, new, self._clock(), **values):
                    break
        return self.find(person, study)

    def patch(self, person: Person, study: str, values: dict[str, Any]) -> Search:
        """Change priority, trials, timeout_s or workers; a running search is started again with them, once drained."""
        found = self.find(person, study)
        restarts = any(getattr(found, name) != value for name, value in values.items() if name != "priority")
        with self._database.transaction() as session:
            changed = {**values, **({"revision": Search.revision + 1} if restarts else {})}
            if changed:
                session.execute(update(Search).where(Search.id == found.id).values(changed))
                events.append(session, found.id, "changed", values, self._clock())
        return self.find(person, study)

    def counts(self) -> dict[str, int]:
        """How many searches are in each state."""
        with self._database.transaction() as session:
            rows = session.execute(select(Search.state, func.count()).group_by(Search.state)).all()
        return {**dict.fromkeys(map(str, State), 0), **{state: int(count) for state, count in rows}}

    def leases(self) -> dict[str, int]:
        """How many searches a server holds, and how many one held that gave no sign of life since."""
        with self._database.transaction() as session:
            ends = session.scalars(select(Search.lease_expires).where(Search.lease_owner.is_not(None))).all()
        held = sum(end is not None and end >= self._clock() for end in ends)
        return {"held": held, "lapsed": len(ends) - held}


def taken(study: str) -> Refusal:
    """The refusal of a study's name that is in use."""
    return Refusal(
        409,
        "this name is in use",
        f"study {study!r}",
        "a name means one study in a storage, whoever began it",
        "choose another `study:` name; a search of yours on this server goes on with --resume",
    )


def change(session: Session, search: str, old: State, new: State, now: float, **values: Any) -> bool:
    """Move a search from one state to another, and tell it; False where it is in the old one no more."""
    assert new in FOLLOWS[old], f"{new} does not follow {old}"
    moved = update(Search).where(Search.id == search, Search.state == old).values(state=new, **values)
    if session.execute(moved.returning(Search.id)).scalar() is None:
        return False
    told = {name: values[name] for name in ("error", "verdict", "reason") if values.get(name) is not None}
    events.append(session, search, "state", {"state": new, **told}, now)
    return True
