"""Rounding by error and rate: a weight takes the value that costs least in squared error and bits together.

Entropy-constrained quantization (Chou, Lookabaugh and Gray, 1989): weights go to values by what these cost, values
cost what a code for their frequencies takes, and both are found anew in turns until nothing moves. Bits are those of
an ideal code, which the streams of packed files come within a few percent of.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SWEEPS = 100
MOST = 2**20  # numbers on a line; of more, as many quantiles


@dataclass(frozen=True)
class Line:
    """Numbers in rising order with sums up to each of them, so that a run of them is known at once.

    each: how many weights a number stands for.
    """

    values: Array
    sums: Array
    squares: Array
    each: int

    @classmethod
    def of(cls, values: Array) -> "Line":
        """The line of these numbers."""
        each = -(-values.size // MOST)
        line = np.sort(values, axis=None)[each // 2 :: each]
        wide = line.astype(np.float64)
        sums, squares = (np.concatenate([[0.0], np.cumsum(wide**power)]) for power in (1, 2))
        return cls(line, sums, squares, each)


@dataclass(frozen=True)
class Priced:
    """Values that weights may take, in rising order, with what each costs beside its squared error."""

    points: Array
    costs: Array

    def nearest(self, values: Array) -> Array:
        """For each number the value with the least sum of squared distance and cost; zero stays zero."""
        chosen, edges = intervals(self.points, self.costs)
        found = self.points[chosen[np.searchsorted(edges.astype(values.dtype), values)]]
        return np.asarray(np.where(values == 0, 0, found).astype(values.dtype))


def intervals(points: Array, costs: Array) -> tuple[Array, Array]:
    """Which points are cheapest somewhere, in rising order, and where each gives way to the next.

    A number x pays (x - point)**2 + cost: but for x**2, which all pay, a line for each point; so each is best in one
    interval at most.
    """
    height, order = points**2 + costs, np.arange(len(points))
    with np.errstate(invalid="ignore", divide="ignore"):
        meet = (height - height[:, None]) / (2 * (points - points[:, None]))
    starts = np.where(order[:, None] < order, meet, -np.inf).max(0)
    ends = np.where(order[:, None] > order, meet, np.inf).min(0)
    chosen = np.flatnonzero(starts < ends)
    return chosen, starts[chosen[1:]]


def bits_of(counts: Array) -> Array:
    """The bits of each symbol in an ideal code for how often they occur, which is more than never."""
    return np.asarray(np.log2(counts.sum() / counts))


def settled(line: Line, points: Array, price: float, value_bits: int, free: bool) -> Priced:
    """The values and their costs at which assignments, frequencies and, where they are free, values agree.

    points: the values from which it starts, in rising order. price: what a bit costs in squared error. value_bits:
    what a value itself takes in a file; the rarest is left out as long as that makes the whole cheaper. The value 0
    is neither moved nor left out.
    """
    best, total = _settled(line, points, price, value_bits, free)
    while True:
        others = np.where(best.points == 0, -np.inf, best.costs)
        if len(others) < 2 or others.max() == -np.inf:
            return best
        fewer, cost = _settled(line, np.delete(best.points, others.argmax()), price, value_bits, free)
        if cost >= total:
            return best
        best, total = fewer, cost


def _settled(line: Line, points: Array, price: float, value_bits: int, free: bool) -> tuple[Priced, float]:
    """Values and costs that agree, and what all weights and values cost together."""
    costs = np.zeros(len(points))
    points = points.astype(np.float64)
    total = np.inf
    for _ in range(SWEEPS):
        chosen, edges = intervals(points, costs)
        ends = np.concatenate([[0], np.searchsorted(line.values, edges.astype(line.values.dtype)), [len(line.values)]])
        counts, sums, squares = np.diff(ends), np.diff(line.sums[ends]), np.diff(line.squares[ends])
        used = counts > 0
        points, counts, sums, squares = points[chosen][used], counts[used], sums[used], squares[used]
        if free:
            points = np.where(points == 0, 0, sums / counts)
        costs = price * bits_of(counts)
        before, total = total, (squares - 2 * points * sums + counts * (points**2 + costs)).sum()
        if total >= before:
            break
    return Priced(points, costs), float(line.each * total + price * value_bits * len(points))
