"""What the studies of a database hold, read and worked out once until something happens to them: many look at once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..search.results import Results
from ..search.storage import study_stamp
from ..search.store import StudyStore
from .database import Database

Value = TypeVar("Value")
KEPT = 64


class Studies:
    """The results of studies, for the routes and for who tells of them."""

    def __init__(self, database: Database) -> None:
        self._database, self._kept = database, Kept(KEPT)

    def results(self, study: str) -> Results | None:
        """What the storage holds of a study: one object until somebody writes of it; None where it was not begun."""
        stamp = study_stamp(self._database.engine, study)
        if stamp is None:
            return None

        def read(before: Results | None) -> Results:
            """After the stamp: what comes in between is read once more."""
            return Results(StudyStore.open(self._database.url, study) if before is None else before.store.anew())

        return self._kept.get((study, "results"), stamp, read)

    def worked_out(self, results: Results, what: str, make: Callable[[Results], Value]) -> Value:
        """What is worked out of results, once for as long as they are the newest."""
        return self._kept.get((results.name, what), results, lambda _: make(results))


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    version: Hashable = None
    value: Any = None


class Kept:
    """One value for each key, of its newest version, for so many keys; values must not be changed."""

    def __init__(self, most: int) -> None:
        self._most, self._entries, self._lock = most, OrderedDict[Hashable, _Entry](), threading.Lock()

    def get(self, key: Hashable, version: Hashable, make: Callable[[Any], Value]) -> Value:
        """The value of a version, made from the one before (None at first): once, however many ask."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)
        with entry.lock:
            if entry.version != version:
                entry.value, entry.version = make(entry.value), version
            found: Value = entry.value
            return found
