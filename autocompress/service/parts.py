"""What the routes work with, and how they ask for it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from ..errors import StudyError
from ..search.results import Results
from ..search.storage import study_stamp
from ..search.store import StudyStore
from . import events
from .allowances import Allowances
from .bell import Bell
from .database import Database, Event, Search
from .exports import Exports
from .keeping import Kept
from .metrics import Metrics
from .problems import Refusal
from .queue import Queue
from .rates import Guard
from .runner import Runner
from .settings import Settings
from .submission import Places
from .tokens import Person, Tokens

Value = TypeVar("Value")
KEPT = 64  # of what was worked out of studies, and of runs of events
bearer = HTTPBearer(auto_error=False, description="A token made by `autocompress token create NAME`.")


@dataclass(frozen=True)
class Parts:
    """One server's parts."""

    settings: Settings
    database: Database
    queue: Queue
    tokens: Tokens
    places: Places
    runner: Runner
    exports: Exports
    bell: Bell
    guard: Guard
    allowances: Allowances
    metrics: Metrics
    kept: Kept = field(default_factory=lambda: Kept(KEPT))
    heard: Kept = field(default_factory=lambda: Kept(KEPT))

    def results(self, search: Search) -> Results:
        """What the storage holds of a search, read once for as long as nobody writes of it: one object, by which what
        is worked out of it may be kept too. Raises Refusal (409) where it was not begun yet.
        """
        stamp = study_stamp(self.database.engine, search.study)
        try:
            # Read after the stamp: what comes in between is read once more.
            opened = partial(StudyStore.open, self.settings.storage, search.study)
            return self.kept.get((search.id, "results"), stamp, lambda: Results(opened()))
        except StudyError as error:
            if not str(error).startswith("no study"):
                raise
            raise Refusal(
                409,
                "it has no trials yet",
                f"search {search.study!r}",
                f"it is {search.state}",
                "wait for its first trial, or see its log",
            ) from None

    def worked_out(self, search: Search, what: str, results: Results, make: Callable[[Results], Value]) -> Value:
        """What is worked out of the results of a search, once for as long as they are the newest."""
        return self.kept.get((search.id, what), results, lambda: make(results))

    def told(self, search: str, after: int, upto: int) -> Sequence[Event]:
        """The events of a search past a number and up to another, read once for all who have seen as much of it."""
        return self.heard.get((search, after), upto, lambda: events.read(self.database, search, after, upto))

    def log(self, search: Search, run: int) -> Path:
        """The log of a run."""
        return self.runner.job(search).log(run)


def _parts(request: Request) -> Parts:
    found: Parts = request.app.state.parts
    return found


def _person(request: Request) -> Person:
    """Whom the gate let in."""
    found: Person = request.state.person
    return found


def _search(request: Request, study: str) -> Search:
    return _parts(request).queue.find(_person(request), study)


def _admin(request: Request) -> Person:
    """An admin whom the gate let in. Raises Refusal (403) for others."""
    person = _person(request)
    if not person.admin:
        raise Refusal(
            403, "this is for admins", request.url.path, "it tells of everybody's searches", "use an admin's token"
        )
    return person


def _listener(request: Request) -> Iterator[None]:
    """A person's place among those who listen to events, until their stream ends."""
    with _parts(request).guard.stream(_person(request).name):
        yield


AdminOnly = Depends(_admin)
Listening = Depends(_listener)
WithParts = Annotated[Parts, Depends(_parts)]
WithPerson = Annotated[Person, Depends(_person)]
WithSearch = Annotated[Search, Depends(_search)]


def search_document(search: Search) -> dict[str, Any]:
    """A search as people see it."""
    return {
        "study": search.study,
        "owner": search.owner,
        "state": search.state,
        "verdict": search.verdict,
        "error": search.error,
        "reason": search.reason,
        "resumes": None if search.resumes is None else moment(search.resumes),
        "priority": search.priority,
        "created": moment(search.created),
        "config": search.config,
        "trials": search.trials,
        "timeout_s": search.timeout_s,
        "workers": search.workers,
        "spent_s": round(search.spent_s, 1),
        "run": search.run,
        "events": search.events,
        "id": search.id,
    }


def moment(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def parts_of(settings: Settings, runner: Runner, database: Database, bell: Bell) -> Parts:
    """The parts of a server."""
    places = Places(settings)
    return Parts(
        settings,
        database,
        Queue(database),
        Tokens(database),
        places,
        runner,
        Exports(settings, places),
        bell,
        Guard(settings),
        Allowances(database, settings.quota),
        Metrics(),
    )
