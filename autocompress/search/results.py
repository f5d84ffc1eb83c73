"""Reading a study: its front, its trials and the files that they made."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import SearchConfig
from ..documents import Document
from ..errors import StudyError
from ..front import Front, find_front, front_document, hypervolumes, loosening
from ..outcome import Baseline, Candidate, Completed, Metrics, measured
from ..recipe import recipe_line
from ..tracking.figures import Picture, Point
from .files import StudyFiles
from .forecast import ExpectedGain, expected_gain
from .records import Record
from .store import StudyStore

TOLERANCE = 1e-9  # a share of a bound: sums of the same numbers differ by less


def points(records: Mapping[int, Record], front: Sequence[int]) -> list[Point]:
    """The measured trials as points of a picture."""
    return [
        Point(number, metrics, recipe_line(record.recipe_data), isinstance(record.outcome, Completed), number in front)
        for number, record in records.items()
        if record.outcome is not None and (metrics := measured(record.outcome)) is not None
    ]


class Results:
    """A finished or running study, as its storage tells it."""

    def __init__(self, store: StudyStore) -> None:
        self.store, self.name = store, store.name
        self.records = store.finished()
        self.baseline: Metrics = {**(store.get("baseline") or {}), **store.confirmed.get("baseline", {})}
        self.quality: str = store.get("quality", "accuracy")
        self.limits = store.limits
        self.front: Front = find_front(store.outcomes(), store.objectives, store.lower)
        self.test: dict[str, Metrics] = store.get("test") or {}
        self.files = StudyFiles(store.folder, store.name)

    def metrics(self, number: int) -> Metrics:
        """What is known of a trial, test split included. Raises StudyError when there is no such trial."""
        outcome = self.record(number).outcome
        return {**getattr(outcome, "metrics", {}), **self.test.get(str(number), {})}

    def record(self, number: int) -> Record:
        """One trial. Raises StudyError when there is none of that number that ended."""
        if number not in self.records:
            top = max(self.records, default=None)
            known = "it has no finished trials" if top is None else f"finished trials go up to {top}"
            raise StudyError(f"study {self.name!r} has no finished trial {number}: {known}")
        return self.records[number]

    def row(self, number: int) -> dict[str, Any]:
        """A trial as `front --json` shows it."""
        record, remarks = self.record(number), self.remarks(number)
        return {
            "recipe": record.recipe_data,
            "metrics": self.metrics(number),
            "feasible": isinstance(record.outcome, Completed),
            "run_id": (self.store.get("run_ids") or {}).get(str(number)),
            **({"remarks": remarks} if remarks else {}),
        }

    def remarks(self, number: int) -> list[str]:
        """What a trial's metrics do not tell, and which limits on quality it is past on the test split.

        It was chosen on the validation split, whose noise favours who is chosen. A limit on what may be lost is held
        against what the uncompressed model has on the test split.
        """
        found, base = self.test.get(str(number), {}), self.test.get("baseline", {})
        told = list(getattr(self.record(number).outcome, "remarks", []))
        for limit in self.limits:
            name, bound = f"test_{limit.metric}", limit.bound
            if limit.label.endswith("_drop"):
                bound += base.get(name, math.nan) - self.baseline.get(limit.metric, math.nan)
            if name in found and replace(limit, bound=bound).violation({limit.metric: found[name]}) > TOLERANCE:
                sense = limit.sense.replace("_", " ")
                told.append(
                    f"has {limit.metric} {found[name]:.4f} on the test split, past the limit: {sense} {bound:.4f}"
                )
        return told

    def trial(self, number: int) -> dict[str, Any]:
        """A trial as `show` shows it: what was asked for, what came of it, and what was done to each layer."""
        outcome, candidate = self.record(number).outcome, self.candidate(number)
        return {
            "study": self.name,
            "trial": number,
            **self.row(number),
            "outcome": getattr(outcome, "type", None),
            "reason": getattr(outcome, "reason", None),
            "doing": getattr(outcome, "doing", ""),
            "details": getattr(outcome, "details", ""),
            "violations": getattr(outcome, "violations", {}),
            "seconds": getattr(outcome, "seconds", {}),
            "rungs": getattr(outcome, "rungs", {}),
            "carried_out": self.steps(number),
            "decisions": candidate.decisions if candidate else [],
        }

    def steps(self, number: int) -> list[dict[str, Any]]:
        """The steps that a trial carried out, as plain values: one for each decision."""
        record, candidate = self.record(number), self.candidate(number)
        written: list[dict[str, Any]] = record.recipe_data["steps"]
        if candidate is None or len(candidate.decisions) == len(written):
            return written
        from ..techniques import expanded  # and torch with it: only where a step stands for several

        return [step.to_data() for step in expanded(record.recipe).steps]

    def document(self) -> dict[str, Any]:
        """The front as one JSON document."""
        shown = {*self.front.trials, *([] if self.front.nearest_miss is None else [self.front.nearest_miss])}
        baseline = {**self.baseline, **self.test.get("baseline", {})}
        rows = {number: self.row(number) for number in shown}
        loosen = loosening(self.store.outcomes(), self.limits, self.front.nearest_miss, self.baseline)
        document = front_document(self.name, self.front, rows, baseline, loosen)
        gain = self.expected_gain()
        return {**document, "expected_gain": gain and vars(gain), "ended": self.store.get("ended") or ""}

    def expected_gain(self) -> ExpectedGain | None:
        """What more trials are expected to add to the hypervolume; None where there are too few to tell."""
        store, outcomes = self.store, self.store.outcomes()
        grown = hypervolumes(outcomes, store.objectives, self.baseline, store.lower)
        seconds = [sum(outcome.seconds.values()) for outcome in outcomes.values()]
        return expected_gain(list(grown.values()), seconds)

    def picture(self) -> Picture:
        """What a picture of the front shows."""
        shown = points(self.records, self.front.trials)
        return Picture(self.name, self.quality, shown, self.baseline, self.limits)

    def candidate(self, number: int) -> Candidate | None:
        """What a trial made, where it is kept: for the trials of the front."""
        found = self.files.load(number)
        return found and replace(found, remarks=self.remarks(number))

    def kept_baseline(self) -> Baseline | None:
        """The study's baseline, where it is kept."""
        return self.files.load_baseline(self.store.get("baseline_key", ""))

    def config(self) -> SearchConfig:
        """The config that the study was made with. Raises StudyError when its file moved away."""
        root = Path(self.store.get("root", "."))
        if not root.is_dir():
            raise StudyError(f"the study's config folder {root} is gone: put it back, or give --config")
        data = _with_units(self.store.get("config"))
        config = SearchConfig.model_validate(data)
        config._root, config._document = root, Document(self.store.get("config_path", "config"), data)
        return config


def _with_units(data: dict[str, Any]) -> dict[str, Any]:
    """Quantities are kept as plain numbers: give them back the units that configs need."""
    budget, search = dict(data["budget"]), dict(data["search"])
    for values, key, unit in ((budget, "size", "B"), (budget, "latency", "ms"), (search, "timeout", "s"),
                              (search, "trial_timeout", "s")):  # fmt: skip
        if values.get(key) is not None:
            values[key] = f"{values[key]!r} {unit}"
    return {**data, "budget": budget, "search": search}
