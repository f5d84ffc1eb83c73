"""Trials in this process, for tests and debugging."""

from collections.abc import Callable
from typing import Any

from ..outcome import Baseline, Candidate
from ..trial.trial import TrialSpec, measure, prepare
from .base import Finished, Value


class InlineExecutor:
    """Runs each trial at once in this process: for tests and debugging."""

    processors = 1

    def __init__(self) -> None:
        self._baseline: Baseline | None = None
        self._done: list[Finished] = []

    def share(self, baseline: Baseline) -> None:
        """Keep the baseline."""
        self._baseline = baseline

    def call(self, function: Callable[..., Value], *arguments: Any, trains: bool = False) -> Value:
        """Call it."""
        return function(*arguments)

    def submit(self, spec: TrialSpec) -> None:
        """Run the trial to its end; a time limit would end this process too, and is not kept."""
        assert self._baseline is not None
        candidate = prepare(spec, self._baseline)
        outcome = measure(candidate, spec, self._baseline)
        made = candidate if isinstance(candidate, Candidate) else None
        self._done.append(Finished(spec.number, outcome, lambda: made))

    def finished(self, wait: float) -> list[Finished]:
        """What was run since the last call."""
        done, self._done = self._done, []
        return done

    def cancel(self) -> None:
        """Nothing runs between calls."""

    def close(self) -> None:
        """Nothing is held."""
