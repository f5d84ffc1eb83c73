"""What ended trials teach those that follow: how far facts were off, and how trainings went on from each rung."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..front import Front
from ..outcome import Completed, Infeasible, Metrics, Outcome, measured
from ..trial.peers import Pair, Peers
from .records import Record

ENOUGH, LEAST = 8, 0.005  # measured trials before facts count as exact to a share, and the least that it is
LAST = 200  # trials that are learned from


class Lessons:
    """Takes in each trial once; objectives and lower are the study's."""

    def __init__(self, objectives: tuple[str, ...], lower: tuple[str, ...]) -> None:
        self._objectives, self._lower = objectives, lower
        self._taken: set[int] = set()
        self._off: dict[str, deque[float]] = {}
        self._passed: dict[str, deque[Pair]] = {}

    def take(self, records: Mapping[int, Record]) -> None:
        """Learn from the trials that were measured in full since the last call."""
        for number in sorted(records.keys() - self._taken):
            self._taken.add(number)
            outcome = records[number].outcome
            if not isinstance(outcome, Completed | Infeasible) or (metrics := measured(outcome)) is None:
                continue
            for name, off in _off(outcome, metrics).items():
                self._off.setdefault(name, deque(maxlen=LAST)).append(off)
            for rung, there in outcome.rungs.items():
                end = {name: metrics[name] for name in there}
                self._passed.setdefault(rung, deque(maxlen=LAST)).append((there, end))

    def tolerance(self) -> dict[str, float]:
        """By what share facts were off in 95 of 100 trials, by metric, where there were enough."""
        return {name: max(value, LEAST) for name, value in _mostly(self._off).items()}

    def peers(self, front: Front, records: Mapping[int, Record]) -> Peers:
        """What a training is held against now."""
        outcomes = [records[number].outcome for number in front.trials]
        members = [outcome.metrics for outcome in outcomes if isinstance(outcome, Completed)]
        shown = tuple({name: metrics[name] for name in self._objectives} for metrics in members)
        passed = {rung: tuple(rows) for rung, rows in self._passed.items()}
        return Peers(self._objectives, self._lower, shown, passed)


def facts_off(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """By what share facts were off in 95 of 100 trials that were measured, by metric, where there were enough."""
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        if isinstance(outcome, Completed | Infeasible) and (metrics := measured(outcome)) is not None:
            for name, off in _off(outcome, metrics).items():
                found.setdefault(name, []).append(off)
    return _mostly(found)


def _off(outcome: Completed | Infeasible, metrics: Metrics) -> dict[str, float]:
    return {name: abs(metrics[name] / value - 1) if value else 0.0 for name, value in outcome.facts.items()}


def _mostly(off: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: float(np.quantile(rows, 0.95)) for name, rows in off.items() if len(rows) >= ENOUGH}
