"""What an executor is: somewhere to run trials, that knows nothing of studies."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ..outcome import Baseline, Candidate, Result
from ..trial.trial import TrialSpec

Value = TypeVar("Value")
Note = Callable[[str], None]  # is told what is worth a line


@dataclass(frozen=True)
class Finished:
    """A trial that came back; `candidate` fetches what it made, where it made something.

    cut_off says of a lost trial that its node or cluster went away with it, so that it says nothing of the trial.
    """

    number: int
    outcome: Result
    candidate: Callable[[], Candidate | None]
    cut_off: bool = False


class Executor(Protocol):
    """Runs trials and single calls somewhere; knows nothing of studies.

    processors: how many a call may keep busy while nothing else runs.
    """

    processors: int

    def share(self, baseline: Baseline) -> None:
        """Give every later trial this baseline."""

    def call(self, function: Callable[..., Value], *arguments: Any, trains: bool = False) -> Value:
        """Run one function where trials are measured, or where they train, and wait for it."""

    def submit(self, spec: TrialSpec) -> None:
        """Start a trial."""

    def finished(self, wait: float) -> list[Finished]:
        """The trials that ended, after waiting up to `wait` seconds for the first."""

    def cancel(self) -> None:
        """Give up all running trials."""

    def close(self) -> None:
        """Let go of workers; may be called again."""
