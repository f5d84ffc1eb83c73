"""What a place that keeps results is told, and one that keeps them in this process."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..outcome import Metrics, Outcome
from ..recipe import Recipe


@dataclass(frozen=True)
class Data:
    """What a search learns and measures on: a name, a digest of what it holds, and how many examples a split has."""

    name: str
    digest: str
    examples: dict[str, int]


@dataclass(frozen=True)
class StudyInfo:
    """What the parent run says from the start; quality is the task's main metric, source the config's file."""

    study: str
    experiment: str
    params: dict[str, Any]
    config: str
    baseline: Metrics
    quality: str = "accuracy"
    source: str = ""
    data: Data | None = None


@dataclass(frozen=True)
class Row:
    """One finished trial."""

    number: int
    recipe: Recipe
    outcome: Outcome
    started_ms: int
    ended_ms: int


@dataclass(frozen=True)
class Member:
    """A trial that is shown with a study: what one would pick it for, and its cells under the heading."""

    number: int
    picks: tuple[str, ...]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Note:
    """What is said of a study in words: its limits, the answer, the front (or the nearest miss), what to type next.

    page is the address of the search's page in the service that runs it; None where none does.
    """

    budget: tuple[str, ...]
    verdict: tuple[str, ...]
    heading: tuple[str, ...]
    members: tuple[Member, ...]
    commands: tuple[str, ...]
    page: str | None = None


@dataclass(frozen=True)
class Summary:
    """What is known of the whole study: refreshed while it runs."""

    front: tuple[int, ...]
    verdict: str
    hypervolume: dict[int, float]
    files: dict[str, bytes]
    metrics: Metrics = field(default_factory=dict)
    note: Note | None = None


class Away(Exception):
    """The place cannot be reached, or takes nothing now: the same call may work later."""


class Barred(Exception):
    """The place takes nothing from this process, now or later: why, and what to do about it."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(f"{reason}: {fix}")
        self.reason, self.fix = reason, fix


class Tracker(Protocol):
    """A place that keeps what searches found. Every call may be repeated without harm.

    A call raises Away or Barred where that is plain, and anything else where `alive` has to say whether the place is
    at fault or the call.
    """

    def begin(self, info: StudyInfo) -> None:
        """Open the parent run, or the one that an earlier search of this study opened."""

    def log(self, row: Row) -> None:
        """Keep one finished trial."""

    def refresh(self, summary: Summary) -> None:
        """Mark the front and renew the figures."""

    def log_model(self, number: int, data: bytes, example: tuple[Any, Any]) -> None:
        """Keep the file of one trial as a model, with the signature of its example input and output."""

    def log_confirmed(self, row: Row, metrics: Metrics) -> None:
        """Keep the last measurements of a trial, test split included, and how it ended by them."""

    def register(self, aliases: Mapping[str, int]) -> None:
        """Register the models of the front, and name trials of it: smallest, fastest, most-accurate, knee."""

    def end(self, status: str) -> None:
        """Close the parent run as FINISHED, FAILED or KILLED."""

    def run_ids(self) -> dict[int, str]:
        """Where each trial was kept."""

    def page(self) -> str:
        """The study's address within the place's own page; empty where it has none."""

    def alive(self) -> bool:
        """Whether the place answers; puts right what was deleted there meanwhile. May raise where it does not."""


class MemoryTracker:
    """Keeps everything in this process: for tests, and for searches that need no record."""

    def __init__(self) -> None:
        self.info: StudyInfo | None = None
        self.rows: dict[int, Row] = {}
        self.summary: Summary | None = None
        self.models: dict[int, bytes] = {}
        self.tests: dict[int, Metrics] = {}
        self.aliases: dict[str, int] = {}
        self.status = "RUNNING"

    def begin(self, info: StudyInfo) -> None:
        """Keep it."""
        self.info = info

    def log(self, row: Row) -> None:
        """Keep it."""
        self.rows[row.number] = row

    def refresh(self, summary: Summary) -> None:
        """Keep the newest."""
        self.summary = summary

    def log_model(self, number: int, data: bytes, example: tuple[Any, Any]) -> None:
        """Keep the bytes."""
        self.models[number] = data

    def log_confirmed(self, row: Row, metrics: Metrics) -> None:
        """Keep them."""
        self.tests[row.number] = metrics

    def register(self, aliases: Mapping[str, int]) -> None:
        """Keep the names."""
        self.aliases = dict(aliases)

    def end(self, status: str) -> None:
        """Keep the status."""
        self.status = status

    def run_ids(self) -> dict[int, str]:
        """Nothing here has an id."""
        return {}

    def page(self) -> str:
        """There is none."""
        return ""

    def alive(self) -> bool:
        """Always."""
        return True
