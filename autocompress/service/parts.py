"""What the routes work with, and how they ask for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from ..search.results import Results
from .allowances import Allowances
from .bell import Bell
from .database import Database, Search
from .events import moment
from .exports import Exports
from .metrics import Metrics
from .problems import Refusal
from .queue import Queue
from .rates import Guard
from .runner import Runner
from .settings import Settings
from .studies import Studies
from .submission import Places
from .tokens import Person, Tokens

Value = TypeVar("Value")
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
    studies: Studies

    def results(self, search: Search) -> Results:
        """What the storage holds of a search. Raises Refusal (409) where it was not begun yet."""
        found = self.studies.results(search.study)
        if found is None:
            raise Refusal(
                409,
                "it has no trials yet",
                f"search {search.study!r}",
                f"it is {search.state}",
                "wait for its first trial, or see its log",
            )
        return found

    def worked_out(self, search: Search, what: str, make: Callable[[Results], Value]) -> Value:
        """What is worked out of a search's results, once for as long as they are the newest. Raises Refusal (409)."""
        return self.studies.worked_out(self.results(search), what, make)

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


async def _given_parts(request: Request) -> Parts:
    return _parts(request)  # without the thread that FastAPI gives to what may take long


async def _given_person(request: Request) -> Person:
    return _person(request)


AdminOnly = Depends(_admin)
Listening = Depends(_listener)
WithParts = Annotated[Parts, Depends(_given_parts)]
WithPerson = Annotated[Person, Depends(_given_person)]
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
        runner.studies,
    )
