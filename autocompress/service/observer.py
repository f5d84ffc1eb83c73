"""What a study's storage says of a search while it runs: trials that ended, and how the front changes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import StudyError
from ..front import Front, find_front
from ..outcome import Completed
from ..recipe import recipe_line
from ..search.records import Record
from ..search.storage import study_stamp
from ..search.store import StudyStore
from .database import Database


@dataclass
class Observer:
    """Reads one study again and again; told are the trials whose end was told, front what was last told of it."""

    database: Database
    study: str
    told: set[int]
    front: dict[str, Any] | None = None
    _store: StudyStore | None = field(default=None, repr=False)
    _stamp: tuple[int, int, str] | None = field(default=None, repr=False)

    def look(self, anew: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
        """What is new, as kinds of events with their data; nothing where the study was not begun yet.

        anew: read also what was measured again at the end of a search.
        """
        try:
            stamp = study_stamp(self.database.engine, self.study)
            # A store reads its trials once: those that ended since are seen by another one.
            if self._store is None or stamp != self._stamp:
                self._store = StudyStore.open(self.database.url, self.study)
                self._stamp = stamp
            records = self._store.finished()
        except StudyError:
            self._store = None
            return
        new = sorted(records.keys() - self.told)
        if not new and not anew:
            return
        for number in new:
            yield "trial", trial_data(number, records[number])
            self.told.add(number)
        found = front_data(self._store, records)
        if records and found != self.front:
            yield "front", found
            self.front = found

    @property
    def verdict(self) -> str | None:
        """The verdict on the budget, as far as it was told."""
        return str(self.front["verdict"]) if self.front else None


def trial_data(number: int, record: Record) -> dict[str, Any]:
    """How a trial ended, in short."""
    outcome = record.outcome
    return {
        "trial": number,
        "outcome": getattr(outcome, "type", None),
        "reason": getattr(outcome, "reason", None),
        "feasible": isinstance(outcome, Completed),
        "recipe": recipe_line(record.recipe_data),
        "metrics": getattr(outcome, "metrics", {}),
        "seconds": round(sum(getattr(outcome, "seconds", {}).values()), 3),
    }


def front_data(store: StudyStore, records: Mapping[int, Record]) -> dict[str, Any]:
    """The front in short: its trials with the objectives they are compared by."""
    outcomes = {number: row.outcome for number, row in records.items() if row.outcome is not None}
    front: Front = find_front(outcomes, store.objectives, store.lower)
    rows = [
        {"trial": number, **{name: getattr(outcomes[number], "metrics", {}).get(name) for name in store.objectives}}
        for number in front.trials
    ]
    found = {"verdict": front.verdict, "front": rows, "counts": dict(front.counts)}
    # Of a task's own metrics, those of which less is better.
    return {**found, "lower": list(store.lower)} if store.lower else found
