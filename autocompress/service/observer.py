"""What a study's storage says of a search while it runs: trials that ended, and how the front changes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..outcome import Completed
from ..recipe import recipe_line
from ..search.records import Record
from ..search.results import Results
from .studies import Studies


@dataclass
class Observer:
    """Looks at one study again and again; told are the trials whose end was told, front what was last told of it."""

    studies: Studies
    study: str
    told: set[int]
    front: dict[str, Any] | None = None
    _seen: Results | None = field(default=None, repr=False)

    def look(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What is new, as kinds of events with their data; nothing where the study was not begun yet."""
        results = self.studies.results(self.study)
        if results is None or results is self._seen:
            return
        for number in sorted(results.records.keys() - self.told):
            yield "trial", trial_data(number, results.records[number])
            self.told.add(number)
        found = front_data(results)
        if results.records and found != self.front:
            yield "front", found
            self.front = found
        self._seen = results

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


def front_data(results: Results) -> dict[str, Any]:
    """The front in short: its trials with the objectives they are compared by."""
    front, objectives, lower = results.front, results.store.objectives, results.store.lower
    metrics = {number: getattr(results.records[number].outcome, "metrics", {}) for number in front.trials}
    rows = [{"trial": number, **{name: found.get(name) for name in objectives}} for number, found in metrics.items()]
    told = {"verdict": front.verdict, "front": rows, "counts": dict(front.counts)}
    # Of a task's own metrics, those of which less is better.
    return {**told, "lower": list(lower)} if lower else told
