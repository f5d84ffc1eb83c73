"""Facts of rows that no trial has tried yet: found on workers before there is anything to choose by."""

import itertools
import math
import time

import optuna

from ..outcome import Facts, Result
from ..trial.facts import FACTS
from ..trial.run import TrialSpec
from .facts_first import FactsFirst
from .plan import Plan
from .store import StudyStore
from .terrain import Row

SHARE = 3  # of the trials: a short search does not spend its time on what it will never choose from
FEWEST = 8  # or as many as it takes to know what fits, where that is less than two for each trial
TIME = 0.1  # of a search's time that they may take, where it has an end
KEPT = "facts"  # the study's attribute


def most_ahead(trials: int) -> int:
    """How many rows' facts are found ahead at most."""
    return max(trials // SHARE, min(2 * trials, FEWEST))


class Ahead:
    """Hands out what workers are to find the facts of, and tells the sampler what they were; kept with the study.

    Nothing is asked for where the sampler does not use it, or no limit is on a fact.
    """

    def __init__(self, plan: Plan, store: StudyStore, sampler: optuna.samplers.BaseSampler) -> None:
        self._plan, self._store, self._sampler = plan, store, sampler
        self._known: list[tuple[Row, dict[str, float]]] = []
        self._running: dict[int, Row] = {}
        self._left: list[Row] = []
        self._numbers = itertools.count(-1, -1)
        search = plan.setup.config.search
        self._until = math.inf if search.timeout is None else time.monotonic() + TIME * search.timeout
        if isinstance(sampler, FactsFirst) and any(limit.metric in FACTS for limit in plan.limits):
            self._known = [(row, facts) for row, facts in store.get(KEPT, [])]
            for row, facts in self._known:
                sampler.know(row, facts)
            done = [row for row, _ in self._known]
            self._left = [row for row in sampler.survey()[: most_ahead(search.trials)] if row not in done]

    @property
    def running(self) -> int:
        """How many workers are at it."""
        return len(self._running)

    @property
    def left(self) -> int:
        """How many are not handed out."""
        return len(self._left)

    def next(self) -> TrialSpec | None:
        """The next recipe whose facts are to be found, under a number below 0; None once all were, or time is up."""
        if not self._left or time.monotonic() > self._until:
            self._left = []
            return None
        row = self._left.pop(0)
        number = next(self._numbers)
        self._running[number] = row
        return self._plan.setup.facts(number, self._plan.setup.space.recipe(row))

    def take(self, number: int, result: Result) -> None:
        """Take what a worker found; what failed is not asked for again by this search."""
        row = self._running.pop(number)
        if isinstance(result, Facts) and isinstance(self._sampler, FactsFirst):
            self._sampler.know(row, result.metrics)
            self._known.append((row, result.metrics))
            self._store.set(KEPT, [list(pair) for pair in self._known])
