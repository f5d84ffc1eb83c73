"""What to try next: rows of parameters that promise most hypervolume a second, from what is known without training."""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from .aim import Aim, Seen
from .surrogate import GaussianProcess, Scales
from .terrain import Array, Row, Terrain

POINTS = 320  # that a surrogate learns from, at most: half of them the best, and half the last
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


class Proposer:
    """Proposes rows, by surrogates of facts and of quality that are fitted to what was seen.

    seconds: what a row would cost; infinite for one that has to wait for another.
    """

    def __init__(self, terrain: Terrain, aim: Aim, seconds: Callable[[Row], float], seed: int) -> None:
        self._terrain, self._aim, self._seconds, self._seed = terrain, aim, seconds, seed
        self._scales: dict[str, tuple[int, Scales]] = {}
        self._cube = np.random.default_rng(0).random((8 * SAMPLES, len(aim.axes)))

    def propose(
        self, seen: Sequence[Seen], known: Set[tuple[Any, ...]], running: Sequence[Row], first: Sequence[Row] = ()
    ) -> Row:
        """The row to try next.

        seen: to learn from; known: the keys of rows that were tried; first: rows to begin with, each scaled to fit,
        and left out where it surely does not.
        """
        generator = np.random.default_rng([self._seed, len(known), len(running)])
        known = known | {self._terrain.key(row) for row in running}
        facts = self._fact_models(seen)
        for row in first:
            fitted = self._scaled_to_fit(row, facts) if facts else row
            hopeless = facts and self._fits(self._terrain.encode([fitted]), facts)[0][0] < UNLIKELY
            if self._terrain.key(fitted) not in known and not hopeless:
                return fitted
        trained = [one for one in seen if one.qualities]
        if not facts:
            return self._unknown(known, generator)
        begun = len(trained) >= BEGINNING
        drawn = self._pool(trained, facts, generator) if begun else self._mild(facts, generator)
        pool = {self._terrain.key(row): row for row in drawn}
        rows = [row for key, row in pool.items() if key not in known]
        if not rows:
            return self._unknown(known, generator)
        if not begun:
            return rows[0]
        # Where all that is worth anything waits for another, what is worth nothing is drawn at random.
        worth = self._worth(rows, trained, running, facts)
        return rows[int(np.argmax(worth))] if worth.max() > 0 else self._unknown(known, generator)

    def _unknown(self, known: Set[tuple[Any, ...]], generator: np.random.Generator) -> Row:
        row = self._terrain.random(generator)
        for _ in range(50):
            if self._terrain.key(row) not in known:
                break
            row = self._terrain.random(generator)
        return row

    # Surrogates

    def _fact_models(self, seen: Sequence[Seen]) -> dict[str, GaussianProcess]:
        """A surrogate of each fact, as a logarithm; none where too little was seen."""
        found = {}
        for name in self._aim.facts:
            rows = [one for one in seen if name in one.facts][-POINTS:]
            if len(rows) >= 4:
                values = np.log([max(one.facts[name], 1e-9) for one in rows])
                inputs = self._terrain.encode_kept([one.row for one in rows])
                found[name] = self._model(name, inputs, values, self._terrain.groups)
        return found

    def _model(self, name: str, inputs: Array, values: Array, groups: NDArray[np.int64]) -> GaussianProcess:
        count, scales = self._scales.get(name, (0, None))
        tune = len(values) >= GROWTH * count
        model = GaussianProcess(inputs, values, groups, scales, tune)
        if tune:
            self._scales[name] = (len(values), model.scales)
        return model

    def _quality_models(self, trained: Sequence[Seen], names: Sequence[str]) -> dict[str, GaussianProcess]:
        """A surrogate of each quality, by settings and facts; trained: what it learns from."""
        known = list(trained)
        if len(trained) > POINTS:
            recent = trained[-POINTS // 2 :]
            known = [*self._aim.best(trained[: -POINTS // 2], POINTS // 2), *recent]
        facts = {name: np.log([max(one.facts.get(name, 1e-9), 1e-9) for one in known]) for name in names}
        inputs = _with_facts(self._terrain.encode_kept([one.row for one in known]), facts)
        groups = np.concatenate([self._terrain.groups, np.full(len(names), self._terrain.groups.max(initial=0) + 1)])
        return {
            name: self._model(name, inputs, self._aim.to_drop(name, [one.qualities[name] for one in known]), groups)
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

    def _pool(self, trained: Sequence[Seen], facts: Models, generator: np.random.Generator) -> list[Row]:
        """Rows at random, rows like the best ones, other leaves of their trunks, and some of these moved to fit."""
        terrain, best = self._terrain, self._aim.best(trained, ELITE)
        rows = [terrain.random(generator) for _ in range(RANDOM)]
        for index in range(MUTANTS):
            parent = best[min(int(generator.exponential(len(best) / 3)), len(best) - 1)].row
            rows.append(terrain.mutant(parent, generator, 1 + index % 3))
        leaves = [
            terrain.mutant(one.row, generator, int(generator.integers(1, 4)), terrain.leaves(one.row))
            for one in best[:TRUNKS]
            for _ in range(LEAVES)
        ]
        chosen = [rows[index] for index in generator.choice(len(rows), size=SOLVED, replace=False)]
        return rows + leaves + self._solved(chosen, facts, generator)

    def _mild(self, facts: Models, generator: np.random.Generator) -> list[Row]:
        """Rows at random that just keep the limits on facts, those first that most likely do."""
        rows = self._solved([self._terrain.random(generator) for _ in range(RANDOM)], facts, generator)
        fits, _ = self._fits(self._terrain.encode(rows), facts)
        return [rows[index] for index in np.argsort(fits < SURE, kind="stable")]

    def _solved(self, rows: Sequence[Row], facts: Models, generator: np.random.Generator) -> list[Row]:
        """Rows with one setting moved to the value that just keeps the limits on facts, as far as facts are known."""
        lines = []
        for row, names in zip(rows, self._effective(rows, facts), strict=True):
            lines.append(_Line(row, [names[int(generator.integers(len(names)))]] if names else []))
        return self._fitting(lines, facts)

    def _scaled_to_fit(self, row: Row, facts: Models) -> Row:
        """A row as it is where it fits; else with the one setting moved by which it best keeps the limits on facts."""
        if self._fits(self._terrain.encode([row]), facts)[0][0] >= SURE:
            return row
        (names,) = self._effective([row], facts)
        return self._fitting([_Line(row, names)], facts)[0]

    def _effective(self, rows: Sequence[Row], facts: Models) -> list[list[str]]:
        """The settings of each row that move its size between their ends."""
        owners, ends = [], []
        for index, row in enumerate(rows):
            for name in self._terrain.knobs(row):
                owners.append((index, name))
                ends.append(self._terrain.encode_line(row, name, self._terrain.ends[name]))
        found: list[list[str]] = [[] for _ in rows]
        if ends:
            sizes = facts[self._aim.facts[0]].predict(np.vstack(ends))[0].reshape(-1, 2)
            for (index, name), (low, high) in zip(owners, sizes, strict=True):
                if abs(high - low) > EFFECT:
                    found[index].append(name)
        return found

    def _fitting(self, lines: Sequence["_Line"], facts: Models) -> list[Row]:
        """Of each line of rows, the largest that fits, which takes least away; or the one that most likely does."""
        rows = [row for line in lines for row in line.rows(self._terrain)]
        if not rows:
            return []
        fits, means = self._fits(np.vstack([line.inputs(self._terrain) for line in lines]), facts)
        size = means[self._aim.facts[0]]
        found, start = [], 0
        for line in lines:
            here = np.arange(start, start + line.count(self._terrain))
            inside = here[fits[here] >= SURE]
            found.append(rows[inside[np.argmax(size[inside])] if len(inside) else here[np.argmax(fits[here])]])
            start += len(here)
        return found

    # What candidates promise

    def _worth(self, rows: Sequence[Row], trained: Sequence[Seen], running: Sequence[Row], facts: Models) -> Array:
        """The hypervolume that each row is expected to add, by its seconds.

        Where nothing is known to be good: by how much it is expected to come nearer to that.
        """
        models = self._quality_models(trained, list(facts))
        encoded = self._terrain.encode(rows)
        likely, means = self._fits(encoded, facts)
        inputs = _with_facts(encoded, means)
        qualities = {}
        for name, model in models.items():
            mean, deviation = model.predict(inputs)
            deviation = np.sqrt(deviation**2 + NOTED * model.noise**2)
            qualities[name] = self._aim.from_drop(name, mean[:, None] + deviation[:, None] * QUANTILES)
        seconds = np.array([self._seconds(row) for row in rows]) ** PATIENCE
        taken = self._taken(trained, running, facts, models)
        if taken is not None:
            gains = likely * self._gains(taken, means, qualities)
            if (gains > 0).any():
                return gains / seconds
        return likely * self._hopes(trained, qualities, len(rows)) / seconds

    def _taken(self, trained: Sequence[Seen], running: Sequence[Row], facts: Models, models: Models) -> Array | None:
        """Costs of what is feasible, and expected of what runs; None where nothing is feasible."""
        feasible = [one for one in trained if one.feasible]
        if not feasible:
            return None
        costs = self._aim.costs(feasible)
        if not running:
            return costs
        encoded = self._terrain.encode(running)
        _, means = self._fits(encoded, facts)
        inputs = _with_facts(encoded, means)
        values = {name: np.exp(mean) for name, mean in means.items()}
        values |= {name: self._aim.from_drop(name, model.predict(inputs)[0]) for name, model in models.items()}
        return np.vstack([costs, np.column_stack([axis.cost(values[axis.name]) for axis in self._aim.axes])])

    def _hopes(self, trained: Sequence[Seen], qualities: Mapping[str, Array], count: int) -> Array:
        """By how much each row is expected to come nearer to the limits on quality than what was seen, all else kept.

        Nearness is counted in steps that grow, and one that keeps the limits comes nearer by all of the way.
        """
        near = [one for one in trained if self._aim.miss(one, facts_only=True) <= 0] or trained
        best = min(float(self._short({n: np.array([v]) for n, v in one.qualities.items()})[0]) for one in near)
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
        for point in taken[(taken < 1).all(1)]:
            free = free[~(point <= free).all(1)]
        share, free = len(free) / len(self._cube), free[:SAMPLES]
        count = len(next(iter(means.values())))
        if not len(free):
            return np.zeros(count)
        fixed = np.ones((count, len(free)), dtype=bool)
        for position, axis in enumerate(self._aim.axes):
            if axis.fact:
                fixed &= axis.cost(np.exp(means[axis.name]))[:, None] <= free[:, position]
        total = np.zeros(count)
        for quantile in range(len(QUANTILES)):
            inside, keeps = fixed.copy(), np.ones(count, dtype=bool)
            for position, axis in enumerate(self._aim.axes):
                if not axis.fact:
                    inside &= axis.cost(qualities[axis.name][:, quantile])[:, None] <= free[:, position]
            for bound in self._aim.bounds:
                if bound.name in qualities:
                    values = qualities[bound.name][:, quantile]
                    keeps &= values <= bound.bound if bound.at_most else values >= bound.bound
            total += keeps * inside.mean(1) * share / len(QUANTILES)
        return total


@dataclass(frozen=True)
class _Line:
    """A row, and the rows that it becomes by each value of each of these settings."""

    row: Row
    names: Sequence[str]

    def rows(self, terrain: Terrain) -> list[Row]:
        return [self.row, *({**self.row, name: value} for name in self.names for value in terrain.grids[name])]

    def count(self, terrain: Terrain) -> int:
        return 1 + sum(len(terrain.grids[name]) for name in self.names)

    def inputs(self, terrain: Terrain) -> Array:
        lines = [terrain.encode_line(self.row, name, terrain.grids[name]) for name in self.names]
        return np.vstack([terrain.encode([self.row]), *lines])


def _with_facts(inputs: Array, facts: Mapping[str, Array]) -> Array:
    """Settings and, on the scale of these, the logarithms of facts."""
    return np.column_stack([inputs, *(np.asarray(values) / 2 for values in facts.values())])
