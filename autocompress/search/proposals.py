"""What to try next: rows of parameters that promise most hypervolume a second, from what is known without training."""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from .aim import Aim, Seen, best_of
from .surrogate import GaussianProcess, Scales
from .terrain import Array, Row, Terrain

POINTS = 160  # that a surrogate learns from, at most: half of them the best, and half the last
ELITE = 24
BEGINNING = 5  # trained rows, before which quality is not guessed
RANDOM, MUTANTS, TRUNKS, LEAVES, SOLVED = 80, 60, 6, 12, 80  # candidates of each kind that are compared
# What moves a size, as a logarithm; how likely what fits must fit, and how unlikely what is not tried is to.
EFFECT, SURE, UNLIKELY = 0.05, 0.7, 0.05
SAMPLES = 2048  # of the cube, by which hypervolumes are compared
QUANTILES = np.array([-1.28155, -0.52440, 0.0, 0.52440, 1.28155])  # of a normal, a fifth of it around each
PATIENCE = 0.35  # by what power of its seconds a gain is divided: by more, a trunk is asked for leaves too long
NOTED = 0.1  # the share of the noise of quality that a measured file may have again
LEAST_HOPE = 1e-3  # so that rows are told apart by their facts where none is expected to come nearer
GROWTH = 1.2  # scales are tuned anew when a surrogate has learned from so many times the points

Models = Mapping[str, GaussianProcess]


@dataclass(frozen=True, eq=False)
class Weighed:
    """What was seen, with what is worked out of it once.

    line: its row as numbers; miss: by how much it misses the limits; fits: whether its facts keep theirs; short: how
    far its qualities miss theirs.
    """

    seen: Seen
    line: Array
    costs: Array
    miss: float
    fits: bool
    short: float


class Proposer:
    """Proposes rows, by surrogates of facts and of quality that are fitted to what was seen.

    seconds: what a row would cost; infinite for one that has to wait for another.
    """

    def __init__(self, terrain: Terrain, aim: Aim, seconds: Callable[[Row], float], seed: int) -> None:
        self._terrain, self._aim, self._seconds, self._seed = terrain, aim, seconds, seed
        self._scales: dict[str, tuple[int, Scales]] = {}
        self._weighed: dict[int, Weighed] = {}
        self._cube = np.ascontiguousarray(np.random.default_rng(0).random((8 * SAMPLES, len(aim.axes))).T)

    def propose(
        self, seen: Sequence[Seen], known: Set[tuple[Any, ...]], running: Sequence[Row], first: Sequence[Row] = ()
    ) -> Row:
        """The row to try next.

        seen: to learn from; known: the keys of rows that were tried; first: rows to begin with, each scaled to fit,
        and left out where it surely does not.
        """
        generator = np.random.default_rng([self._seed, len(known), len(running)])
        busy = {self._terrain.key(row) for row in running}
        weighed = self._weigh(seen)
        facts = self._fact_models(weighed)
        for row in first:
            fitted = self._scaled_to_fit(row, facts) if facts else row
            key = self._terrain.key(fitted)
            hopeless = facts and self._fits(self._terrain.encode([fitted]), facts)[0][0] < UNLIKELY
            if key not in known and key not in busy and not hopeless:
                return fitted
        trained = [one for one in weighed if one.seen.qualities]
        if not facts:
            return self._unknown(known, busy, generator)
        begun = len(trained) >= BEGINNING
        drawn = self._pool(trained, facts, generator) if begun else self._mild(facts, generator)
        pool = {self._terrain.key(row): row for row in drawn}
        rows = [row for key, row in pool.items() if key not in known and key not in busy]
        if not rows:
            return self._unknown(known, busy, generator)
        if not begun:
            return rows[0]
        # Where all that is worth anything waits for another, what is worth nothing is drawn at random.
        worth = self._worth(rows, trained, running, facts)
        return rows[int(np.argmax(worth))] if worth.max() > 0 else self._unknown(known, busy, generator)

    def _unknown(self, known: Set[Any], busy: Set[Any], generator: np.random.Generator) -> Row:
        row = self._terrain.random(generator)
        for _ in range(50):
            key = self._terrain.key(row)
            if key not in known and key not in busy:
                break
            row = self._terrain.random(generator)
        return row

    def _weigh(self, seen: Sequence[Seen]) -> list[Weighed]:
        """What is worked out of what was seen; of what was seen before, as it was then."""
        new = [one for one in seen if id(one) not in self._weighed]
        lines, costs = self._terrain.encode([one.row for one in new]), self._aim.costs(new)
        made = {
            id(one): Weighed(one, line, cost, self._aim.miss(one), *self._nearness(one))
            for one, line, cost in zip(new, lines, costs, strict=True)
        }
        self._weighed = {id(one): made.get(id(one)) or self._weighed[id(one)] for one in seen}
        return list(self._weighed.values())

    def _nearness(self, one: Seen) -> tuple[bool, float]:
        """Whether facts keep their limits, and how far qualities miss theirs."""
        qualities = {name: np.array([value]) for name, value in one.qualities.items()}
        return self._aim.miss(one, facts_only=True) <= 0, float(self._short(qualities)[0])

    # Surrogates

    def _fact_models(self, weighed: Sequence[Weighed]) -> dict[str, GaussianProcess]:
        """A surrogate of each fact, as a logarithm; none where too little was seen."""
        found = {}
        for name in self._aim.facts:
            rows = [one for one in weighed if name in one.seen.facts][-POINTS:]
            if len(rows) >= 4:
                values = np.log([max(one.seen.facts[name], 1e-9) for one in rows])
                inputs = np.array([one.line for one in rows])
                found[name] = self._model(name, inputs, values, self._terrain.groups)
        return found

    def _model(self, name: str, inputs: Array, values: Array, groups: NDArray[np.int64]) -> GaussianProcess:
        count, scales = self._scales.get(name, (0, None))
        tune = len(values) >= GROWTH * count
        model = GaussianProcess(inputs, values, groups, scales, tune)
        if tune:
            self._scales[name] = (len(values), model.scales)
        return model

    def _quality_models(self, trained: Sequence[Weighed], names: Sequence[str]) -> dict[str, GaussianProcess]:
        """A surrogate of each quality, by settings and facts; trained: what it learns from."""
        known = list(trained)
        if len(trained) > POINTS:
            recent = trained[-POINTS // 2 :]
            known = [*_best(trained[: -POINTS // 2], POINTS // 2), *recent]
        facts = {name: np.log([max(one.seen.facts.get(name, 1e-9), 1e-9) for one in known]) for name in names}
        inputs = _with_facts(np.array([one.line for one in known]), facts)
        groups = np.concatenate([self._terrain.groups, np.full(len(names), self._terrain.groups.max(initial=0) + 1)])
        return {
            name: self._model(
                name, inputs, self._aim.to_drop(name, [one.seen.qualities[name] for one in known]), groups
            )
            for name in self._aim.qualities
        }

    def _fits(self, inputs: Array, facts: Models) -> tuple[Array, dict[str, Array]]:
        """How likely rows keep the limits on facts, and the logarithms of their facts."""
        likely, means = np.ones(len(inputs)), {}
        for name, model in facts.items():
            means[name], deviation = model.predict(inputs)
            for bound in self._aim.bounds:
                if bound.name == name:
                    gap = (math.log(bound.bound) - means[name]) * (1 if bound.at_most else -1)
                    likely = likely * ndtr(gap / np.maximum(deviation, 0.01))
        return likely, means

    # Candidates

    def _pool(self, trained: Sequence[Weighed], facts: Models, generator: np.random.Generator) -> list[Row]:
        """Rows at random, rows like the best ones, other leaves of their trunks, and some of these moved to fit."""
        terrain, best = self._terrain, [one.seen for one in _best(trained, ELITE)]
        rows = terrain.randoms(generator, RANDOM)
        for index in range(MUTANTS):
            parent = best[min(int(generator.exponential(len(best) / 3)), len(best) - 1)].row
            rows.append(terrain.mutant(parent, generator, 1 + index % 3))
        leaves = [
            terrain.mutant(row, generator, int(generator.integers(1, 4)), names)
            for row, names in [(one.row, terrain.leaves(one.row)) for one in best[:TRUNKS]]
            for _ in range(LEAVES)
        ]
        chosen = [rows[index] for index in generator.choice(len(rows), size=SOLVED, replace=False)]
        return rows + leaves + self._solved(chosen, facts, generator)

    def _mild(self, facts: Models, generator: np.random.Generator) -> list[Row]:
        """Rows at random that just keep the limits on facts, those first that most likely do."""
        rows = self._solved(self._terrain.randoms(generator, RANDOM), facts, generator)
        fits, _ = self._fits(self._terrain.encode(rows), facts)
        return [rows[index] for index in np.argsort(fits < SURE, kind="stable")]

    def _solved(self, rows: Sequence[Row], facts: Models, generator: np.random.Generator) -> list[Row]:
        """Rows with one setting moved to the value that just keeps the limits on facts, as far as facts are known."""
        encoded = self._terrain.encode(rows)
        chosen = [
            [names[int(generator.integers(len(names)))]] if names else []
            for names in self._effective(rows, encoded, facts)
        ]
        return self._fitting(rows, encoded, chosen, facts)

    def _scaled_to_fit(self, row: Row, facts: Models) -> Row:
        """A row as it is where it fits; else with the one setting moved by which it best keeps the limits on facts."""
        encoded = self._terrain.encode([row])
        if self._fits(encoded, facts)[0][0] >= SURE:
            return row
        return self._fitting([row], encoded, self._effective([row], encoded, facts), facts)[0]

    def _effective(self, rows: Sequence[Row], encoded: Array, facts: Models) -> list[list[str]]:
        """The settings of each row that move its size between their ends."""
        knobs = [self._terrain.knobs(row) for row in rows]
        inputs = self._terrain.along(encoded, knobs, self._terrain.ends)
        if not len(inputs):
            return [[] for _ in rows]
        low, high = facts[self._aim.facts[0]].mean(inputs).reshape(-1, 2).T
        moves = iter((np.abs(high - low) > EFFECT).tolist())
        return [[name for name in names if next(moves)] for names in knobs]

    def _fitting(self, rows: Sequence[Row], encoded: Array, names: list[list[str]], facts: Models) -> list[Row]:
        """Each row, or it with another value of one of its names: the largest that fits, which takes least away.

        Where none surely fits: the one that most likely does.
        """
        if not rows:
            return []
        terrain = self._terrain
        fits, means = self._fits(np.vstack([encoded, terrain.along(encoded, names, terrain.codes)]), facts)
        size = means[self._aim.facts[0]]
        found, start = [], len(rows)
        for index, (row, some) in enumerate(zip(rows, names, strict=True)):
            values = [(name, value) for name in some for value in terrain.grids[name]]
            here = np.array([index, *range(start, start + len(values))])
            start += len(values)
            inside = np.flatnonzero(fits[here] >= SURE)
            best = inside[np.argmax(size[here[inside]])] if len(inside) else np.argmax(fits[here])
            found.append({**row, **dict([values[best - 1]])} if best else row)
        return found

    # What candidates promise

    def _worth(self, rows: Sequence[Row], trained: Sequence[Weighed], running: Sequence[Row], facts: Models) -> Array:
        """The hypervolume that each row is expected to add, by its seconds.

        Where nothing is known to be good: by how much it is expected to come nearer to that.
        """
        models = self._believed(self._quality_models(trained, list(facts)), running, facts)
        encoded = self._terrain.encode(rows)
        likely, means = self._fits(encoded, facts)
        inputs = _with_facts(encoded, means)
        qualities = {}
        for name, model in models.items():
            mean, deviation = model.predict(inputs)
            deviation = np.sqrt(deviation**2 + NOTED * model.noise**2)
            qualities[name] = self._aim.from_drop(name, mean[:, None] + deviation[:, None] * QUANTILES)
        taken = self._taken(trained, running, facts, models)
        if taken is not None:
            gains = likely * self._gains(taken, means, qualities)
            if (gains > 0).any():
                return self._by_seconds(rows, gains)
        return self._by_seconds(rows, likely * self._hopes(trained, qualities, len(rows)))

    def _believed(self, models: Models, running: Sequence[Row], facts: Models) -> Models:
        """Surrogates of quality that count what runs as if it had come to what they expect."""
        if not running:
            return models
        encoded = self._terrain.encode(running)
        inputs = _with_facts(encoded, self._fits(encoded, facts)[1])
        return {name: model.believing(inputs) for name, model in models.items()}

    def _by_seconds(self, rows: Sequence[Row], gains: Array) -> Array:
        """Gains by what they cost, which is worked out of those alone that gain anything."""
        costs = [self._seconds(row) if gain > 0 else 1.0 for row, gain in zip(rows, gains, strict=True)]
        return np.asarray(gains / np.array(costs) ** PATIENCE)

    def _taken(self, trained: Sequence[Weighed], running: Sequence[Row], facts: Models, models: Models) -> Array | None:
        """Costs of what is feasible, and expected of what runs; None where nothing is feasible."""
        feasible = [one.costs for one in trained if one.seen.feasible]
        if not feasible:
            return None
        costs = np.array(feasible)
        if not running:
            return costs
        encoded = self._terrain.encode(running)
        _, means = self._fits(encoded, facts)
        inputs = _with_facts(encoded, means)
        values = {name: np.exp(mean) for name, mean in means.items()}
        values |= {name: self._aim.from_drop(name, model.predict(inputs)[0]) for name, model in models.items()}
        return np.vstack([costs, np.column_stack([axis.cost(values[axis.name]) for axis in self._aim.axes])])

    def _hopes(self, trained: Sequence[Weighed], qualities: Mapping[str, Array], count: int) -> Array:
        """By how much each row is expected to come nearer to the limits on quality than what was seen, all else kept.

        Nearness is counted in steps that grow, and one that keeps the limits comes nearer by all of the way.
        """
        best = min(one.short for one in [one for one in trained if one.fits] or trained)
        short = self._short(qualities) if qualities else np.zeros((count, 1))
        return np.asarray(np.maximum(best + LEAST_HOPE - short, 0.0).mean(1))

    def _short(self, qualities: Mapping[str, Array]) -> Array:
        """How far qualities miss their limits, as logarithms of a kind."""
        total: Array = np.zeros_like(next(iter(qualities.values()), np.zeros(1)))
        for bound in self._aim.bounds:
            if bound.name in qualities:
                past = (qualities[bound.name] - bound.bound) / self._aim.qualities[bound.name][1]
                total = total + np.arcsinh(np.maximum(past if bound.at_most else -past, 0.0))
        return total

    def _gains(self, taken: Array, means: Mapping[str, Array], qualities: Mapping[str, Array]) -> Array:
        """The share of the cube that rows would dominate and nothing does yet, over the quantiles of their quality."""
        free = self._cube
        for point in _front(taken[(taken < 1).all(1)]):
            free = free[:, ~_dominated(point, free)]
        share, free = free.shape[1] / self._cube.shape[1], free[:, :SAMPLES]
        count = len(next(iter(means.values())))
        if not free.size:
            return np.zeros(count)
        places = [(position, axis) for position, axis in enumerate(self._aim.axes) if not axis.fact]
        if places:  # so that the points which a quality reaches are the last ones, and counted at once
            free = free[:, np.argsort(free[places[0][0]], kind="stable")]
        fixed = np.ones((count, free.shape[1]), dtype=bool)
        for position, axis in enumerate(self._aim.axes):
            if axis.fact:
                fixed &= axis.cost(np.exp(means[axis.name]))[:, None] <= free[position]
        total, after = np.zeros(count), _counts(fixed)
        for quantile in range(len(QUANTILES)):
            costs = [(position, axis.cost(qualities[axis.name][:, quantile])) for position, axis in places]
            if len(costs) > 1:
                others = [cost[:, None] <= free[position] for position, cost in costs[1:]]
                after = _counts(np.logical_and.reduce([fixed, *others]))
            start = np.searchsorted(free[costs[0][0]], costs[0][1]) if costs else np.zeros(count, dtype=np.int64)
            inside = after[np.arange(count), start] / free.shape[1]
            total += self._keeps(qualities, quantile, count) * inside * share / len(QUANTILES)
        return total

    def _keeps(self, qualities: Mapping[str, Array], quantile: int, count: int) -> NDArray[np.bool_]:
        """Which rows keep the limits on quality, at one quantile of it."""
        keeps = np.ones(count, dtype=bool)
        for bound in self._aim.bounds:
            if bound.name in qualities:
                values = qualities[bound.name][:, quantile]
                keeps &= values <= bound.bound if bound.at_most else values >= bound.bound
        return keeps


def _best(known: Sequence[Weighed], count: int) -> list[Weighed]:
    """Up to `count` candidates, best first."""
    if not known:
        return []
    costs, misses = np.array([one.costs for one in known]), np.array([one.miss for one in known])
    return [known[index] for index in best_of(costs, misses, count)]


def _front(points: Array) -> Array:
    """The points that no other dominates, each once."""
    import moocore

    return np.asarray(moocore.filter_dominated(points)) if len(points) else points


def _dominated(point: Array, samples: Array) -> NDArray[np.bool_]:
    """Which of (axes, samples) are at least as costly everywhere as a point."""
    found = point[0] <= samples[0]
    for cost, costs in zip(point[1:], samples[1:], strict=True):
        found &= cost <= costs
    return np.asarray(found)


def _counts(inside: NDArray[np.bool_]) -> NDArray[np.int32]:
    """How many are true in each row from each place on: (rows, places + 1)."""
    found = np.zeros((len(inside), inside.shape[1] + 1), dtype=np.int32)
    np.cumsum(inside[:, ::-1], axis=1, out=found[:, 1:])
    return found[:, ::-1]


def _with_facts(inputs: Array, facts: Mapping[str, Array]) -> Array:
    """Settings and, on the scale of these, the logarithms of facts."""
    return np.column_stack([inputs, *(np.asarray(values) / 2 for values in facts.values())])
