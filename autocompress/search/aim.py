"""What a search aims at, as numbers: objectives as costs, limits as bounds, and what is known of a candidate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .terrain import Array, Row

NOTHING = 2.0  # the cost of what was not measured


@dataclass(frozen=True)
class Axis:
    """One objective as a cost, from 0 at its ideal to 1 at the worst that counts.

    log: by ratios rather than differences. fact: known without training.
    """

    name: str
    less: bool
    ideal: float
    worst: float
    log: bool
    fact: bool

    def cost(self, values: Array) -> Array:
        """Where values lie between the ideal and the worst; what is better than the ideal costs nothing."""
        ideal, worst = self._shape(np.array(self.ideal)), self._shape(np.array(self.worst))
        return np.asarray(np.maximum((self._shape(values) - ideal) / (worst - ideal), 0.0))

    def _shape(self, values: Array) -> Array:
        return np.log(np.maximum(values, 1e-12)) if self.log else values


@dataclass(frozen=True)
class Bound:
    """A limit on a metric, as a surrogate sees it."""

    name: str
    at_most: bool
    bound: float


@dataclass(frozen=True)
class Seen:
    """A candidate that is known: its facts, and its qualities once it was trained."""

    row: Row
    facts: Mapping[str, float]
    qualities: Mapping[str, float] = field(default_factory=dict)
    feasible: bool = False


@dataclass(frozen=True)
class Aim:
    """Axes of the hypervolume, limits, and for each quality the baseline's and the drop of it that matters."""

    axes: tuple[Axis, ...]
    bounds: tuple[Bound, ...]
    qualities: Mapping[str, tuple[float, float]]

    @property
    def facts(self) -> tuple[str, ...]:
        """The facts that matter, each once, and the size before all."""
        names = [axis.name for axis in self.axes] + [bound.name for bound in self.bounds]
        return tuple(dict.fromkeys(("size_bytes", *(name for name in names if name not in self.qualities))))

    def to_drop(self, name: str, values: Sequence[float]) -> Array:
        """Qualities as drops from the baseline: small ones by difference, large ones by ratio."""
        base, scale = self.qualities[name]
        return np.asarray(np.arcsinh((base - np.asarray(values)) / scale))

    def from_drop(self, name: str, drops: Array) -> Array:
        """The qualities that to_drop made drops of."""
        base, scale = self.qualities[name]
        return np.asarray(base - np.sinh(np.minimum(drops, 30.0)) * scale)

    def costs(self, seen: Sequence[Seen]) -> Array:
        """The cost of each candidate on each axis: (candidates, axes)."""
        columns = []
        for axis in self.axes:
            values = np.array([{**one.facts, **one.qualities}.get(axis.name, math.nan) for one in seen])
            columns.append(np.nan_to_num(axis.cost(values), nan=NOTHING))
        return np.column_stack(columns)

    def miss(self, one: Seen, facts_only: bool = False) -> float:
        """By how much a candidate is past the limits: qualities by the drop that matters, facts by the limit."""
        values, total = {**one.facts, **one.qualities}, 0.0
        for bound in self.bounds:
            if bound.name in values and not (facts_only and bound.name in self.qualities):
                scale = self.qualities[bound.name][1] if bound.name in self.qualities else abs(bound.bound)
                past = (values[bound.name] - bound.bound) / max(scale, 1e-12)
                total += max(past if bound.at_most else -past, 0.0)
        return total


def best_of(costs: Array, misses: Array, count: int) -> NDArray[np.int64]:
    """The places of up to `count` candidates, best first: the feasible by how many dominate them, then the near misses.

    costs: (candidates, axes); misses: (candidates,), zero where one is feasible.
    """
    near = np.arange(len(misses))
    if len(near) > count:
        near = near[misses <= np.partition(misses, count - 1)[count - 1]]
    feasible = costs[misses <= 0]
    if len(near) > 2 * count and (misses[near] <= 0).all():
        # What enough of the least costly dominate cannot be among the best.
        few = costs[near[np.argsort(costs[near].sum(1), kind="stable")[: 2 * count]]]
        near = near[_dominators(costs[near], few) < count]
    rank = _dominators(costs[near], feasible)
    return near[np.lexsort((costs[near].sum(1), rank, misses[near]))[:count]]


def _dominators(costs: Array, points: Array) -> NDArray[np.int64]:
    """How many of the points dominate each candidate: are no costlier anywhere, and not as costly everywhere."""
    most, least = np.ones((2, len(points), len(costs)), dtype=bool)
    for point, cost in zip(points.T, costs.T, strict=True):
        most &= point[:, None] <= cost
        least &= point[:, None] >= cost
    return np.asarray((most & ~least).sum(0))
