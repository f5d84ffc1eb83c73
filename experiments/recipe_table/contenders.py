"""What is compared: samplers as they come, and ours whole and with parts switched off."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from clock import OBJECTIVES, TRAINING, Rules, Truth

from autocompress.search.facts_first import FactsFirst
from autocompress.search.portfolio import load_portfolio, portfolio_rows
from autocompress.search.proposals import Models, Proposer
from autocompress.search.samplers import make_sampler
from autocompress.search.terrain import Row

PLAIN, KEPT = Rules(cache=False, rejects=False), Rules()
SEEDS, HALF, FEW = 20, 10, 5
LONG, SHORT = 300, 60  # trials


@dataclass(frozen=True)
class Contender:
    """A sampler with the rules that it is held to."""

    make: Callable[[Truth, int], optuna.samplers.BaseSampler]
    rules: Rules = KEPT
    seeds: int = SEEDS
    trials: int = LONG


class NoSolving(Proposer):
    """Rows as they were drawn, none moved to what just fits."""

    def _solved(self, rows: Sequence[Row], facts: Models, generator: np.random.Generator) -> list[Row]:
        return list(rows)

    def _scaled_to_fit(self, row: Row, facts: Models) -> Row:
        return row


class NoStages(FactsFirst):
    """What takes every training for one to be done anew."""

    def _seconds(self, row: Row) -> float:
        self._stages, self._busy = set(), set()
        return super()._seconds(row)


def ours(truth: Truth, seed: int, begun: bool = True, kind: type[FactsFirst] = FactsFirst) -> FactsFirst:
    """The sampler of `sampler: auto`, as the product makes it; begun: with the portfolio."""
    rows = portfolio_rows(truth.space, load_portfolio()) if begun else []
    rate = truth.baseline["first_seconds"] * TRAINING
    return kind(truth.space, OBJECTIVES, truth.limits, truth.baseline, (), seed, rows, rate)


def without_portfolio(truth: Truth, seed: int) -> FactsFirst:
    """Ours, which begins with rows at random that just fit."""
    return ours(truth, seed, begun=False)


def without_solving(truth: Truth, seed: int) -> FactsFirst:
    """Ours, which moves no row to what just fits."""
    sampler = ours(truth, seed)
    sampler._proposer = NoSolving(sampler._terrain, sampler._aim, sampler._seconds, seed)
    return sampler


def without_stages(truth: Truth, seed: int) -> FactsFirst:
    """Ours, which neither sees that leaves of a trained trunk are cheap nor asks for them by themselves."""
    sampler = ours(truth, seed, kind=NoStages)
    sampler._terrain.leaves = lambda row: set()
    return sampler


def named(name: str) -> Callable[[Truth, int], optuna.samplers.BaseSampler]:
    """A sampler that a config may name."""
    return lambda truth, seed: make_sampler(name, seed, 0)


def tpe(truth: Truth, seed: int) -> optuna.samplers.BaseSampler:
    """TPE as Optuna gives it."""
    return optuna.samplers.TPESampler(seed=seed)


OURS = "ours"
AS_IT_COMES = "TPE as it comes"
SOME, MANY = ({count: f"{OURS}, {count} workers" for count in counts} for counts in ((8, 16), (64, 256)))
# Those first that most hangs on: a seed of each, then the next.
CONTENDERS = {
    OURS: Contender(ours),
    AS_IT_COMES: Contender(tpe, PLAIN, FEW, 200),
    "TPE, multivariate": Contender(named("tpe"), PLAIN, HALF),
    "random": Contender(named("random"), PLAIN),
    "NSGA-II": Contender(named("nsga2"), PLAIN),
    "TPE, multivariate, stages kept, rejection": Contender(named("tpe"), KEPT, HALF),
    "random, stages kept, rejection": Contender(named("random")),
    **{name: Contender(ours, Rules(workers=count), FEW) for count, name in SOME.items()},
    "ours without facts before training": Contender(ours, Rules(rejects=False), FEW),
    "ours without kept stages": Contender(without_stages, Rules(cache=False), FEW),
    "ours without solving for the budget": Contender(without_solving, KEPT, FEW),
    "ours without the portfolio": Contender(without_portfolio, KEPT, FEW),
    "GP": Contender(named("gp"), PLAIN, 2, SHORT),
    **{name: Contender(ours, Rules(workers=count), 2, 2 * LONG) for count, name in MANY.items()},
}
