"""What each step of a recipe bought and cost, as far as the measurements after its prefixes are known."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..outcome import Metrics, measured
from ..recipe import VERSION, digest, fingerprint
from .files import StudyFiles
from .records import Record
from .results import Results
from .transfer import Scratch, compared

SEARCHED_ON = ("config", "search space")  # what a study is made of besides, and no measurement depends on
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Prefix:
    """The model after the first steps of a recipe, 0 for the uncompressed one, or the reason why nothing is known."""

    steps: int
    metrics: Metrics | None
    note: str = ""


@dataclass(frozen=True)
class Around:
    """What is known around a trial: the model after each of its steps, and its network trained from scratch.

    whole: whether nothing more is worth measuring, as of a trial that was given up.
    """

    prefixes: list[Prefix]
    scratch: Scratch | None
    whole: bool


@dataclass(frozen=True)
class Effect:
    """What steps did, counted from 1: several where nothing is known in between."""

    first: int
    last: int
    before: Metrics
    after: Metrics

    @property
    def change(self) -> Metrics:
        """What each metric became more by, or less."""
        return {name: self.after[name] - self.before[name] for name in self.after if name in self.before}

    @property
    def speed_changed(self) -> bool:
        """Whether the two speed-ups differ by more than their 95% intervals allow."""
        return speeds_differ(self.before, self.after)


def speeds_differ(one: Metrics, other: Metrics) -> bool:
    """Whether two speed-ups differ by more than their 95% intervals allow; True where these are not known."""
    low, high = "speedup_low", "speedup_high"
    if not all(name in row for name in (low, high) for row in (one, other)):
        return True
    return one[high] < other[low] or other[high] < one[low]


def effects(prefixes: Sequence[Prefix]) -> list[Effect]:
    """What lies between the prefixes that are known."""
    known = [(prefix.steps, prefix.metrics) for prefix in prefixes if prefix.metrics is not None]
    return [Effect(before[0] + 1, after[0], before[1], after[1]) for before, after in itertools.pairwise(known)]


@dataclass(frozen=True)
class Known:
    """What is known of recipes without measuring: trials of the study, and prefixes that were measured before."""

    records: Mapping[int, Record]
    files: StudyFiles
    made_of: Mapping[str, str]

    @classmethod
    def of(cls, results: Results) -> "Known":
        """What a study knows."""
        return cls(results.records, results.files, results.store.get("made_of") or {})

    def prefixes(self, number: int, baseline: Metrics) -> list[Prefix]:
        """The prefixes of a trial's recipe, from the uncompressed model to the trial itself."""
        steps = self.records[number].recipe_data["steps"]
        own = measured_of(self.records[number])
        between = [self.find(steps[:length]) for length in range(1, len(steps))]
        last = [Prefix(len(steps), own, "" if own else NOT_MEASURED)] if steps else []
        return [Prefix(0, baseline), *between, *last]

    def missing(self, number: int, baseline: Metrics) -> list[Prefix]:
        """The prefixes of a trial that are worth measuring: of one that was measured in full itself.

        Others were given up because that was not worth it.
        """
        if measured_of(self.records[number]) is None:
            return []
        return [prefix for prefix in self.prefixes(number, baseline) if prefix.note == NOT_MEASURED]

    def find(self, steps: Sequence[Mapping[str, Any]]) -> Prefix:
        """A prefix, found by its content."""
        recipe = {"version": VERSION, "steps": list(steps)}
        name = fingerprint(recipe)
        for record in self.records.values():
            metrics = measured_of(record)
            if metrics is not None and record.fingerprint == name:
                return Prefix(len(steps), metrics)
        kept = self.files.load_prefix(self._key(recipe)) or {}
        return Prefix(len(steps), kept.get("metrics"), kept.get("note", NOT_MEASURED))

    def keep(self, prefix: Prefix, steps: Sequence[Mapping[str, Any]]) -> None:
        """Keep what was measured. Raises WriteError."""
        key = self._key({"version": VERSION, "steps": list(steps)})
        self.files.store_prefix(key, {"metrics": prefix.metrics, "note": prefix.note})

    def around(self, number: int, baseline: Metrics) -> Around:
        """All of it that is known of a trial."""
        scratch, missing = self.scratch(number), self.missing(number, baseline)
        whole = measured_of(self.records[number]) is None or (not missing and scratch is not None)
        return Around(self.prefixes(number, baseline), scratch, whole)

    def scratch(self, number: int) -> Scratch | None:
        """A trial's network trained from scratch; None where that was not measured."""
        kept = self.files.load_prefix(self._key(self._beside(number)))
        return None if kept is None else Scratch(**kept)

    def keep_scratch(self, number: int, scratch: Scratch) -> None:
        """Keep what was measured. Raises WriteError."""
        self.files.store_prefix(self._key(self._beside(number)), asdict(scratch))

    def _beside(self, number: int) -> dict[str, Any]:
        return {**self.records[number].recipe_data, "beside": "from scratch"}

    def _key(self, recipe: Mapping[str, Any]) -> str:
        facts = {name: value for name, value in self.made_of.items() if name not in SEARCHED_ON}
        return digest([facts, recipe])[:32]


def measured_of(record: Record) -> Metrics | None:
    """The metrics of a trial that was measured in full."""
    return None if record.outcome is None else measured(record.outcome)


def transfer_of(results: Results, number: int, scratch: Scratch | None = None) -> dict[str, Any] | None:
    """Whether what a trial takes from the uncompressed model helps it; None where that was not measured.

    scratch: what was measured just now, else what is kept.
    """
    scratch, own = scratch or Known.of(results).scratch(number), measured_of(results.record(number))
    if scratch is None:
        return None
    return compared(own, scratch, results.quality, results.quality in results.store.lower)
