"""What a tensor holds over many batches: its finite range, and whether a mask's fill lies far from all else in it."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np

from ._uniform import Array

FAR = 6  # powers of two, from which a number may be a mask's fill
GAP = 4  # powers of two that nothing lies in, between such numbers and others
SHARE = 0.05  # of the numbers that are not zero: with fewer below a gap, those above it are no fill
OFFSET = 1100  # more than the smallest exponent of any float


class Span:
    """The range of the finite numbers of a tensor, seen batch by batch."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.infinite = self.undefined = False
        self.exponents: Counter[int] = Counter()

    def see(self, values: Array) -> None:
        """Widen the range by the finite numbers among these, and remember what others there are."""
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not math.isfinite(low) or not math.isfinite(high):
            self.undefined |= bool(np.isnan(values).any())
            self.infinite |= bool(np.isinf(values).any())
            values = values[np.isfinite(values)]
            if not values.size:
                return
            low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._count(values, max(-low, high))

    def _count(self, values: Array, largest: float) -> None:
        if largest < 2.0 ** (FAR - 1):  # no fill among them: they count as one size
            self.exponents[int(np.frexp(largest)[1])] += int(np.count_nonzero(values))
            return
        counts = np.bincount(np.frexp(values[values != 0])[1] + OFFSET)
        self.exponents.update({int(at) - OFFSET: int(counts[at]) for at in np.flatnonzero(counts)})

    @property
    def edges(self) -> tuple[float, float]:
        """The smallest and the largest finite number; zeros where there was none."""
        return (self.low, self.high) if self.low <= self.high else (0.0, 0.0)

    @property
    def too_wide(self) -> bool:
        """Whether a range about zero that holds the finite numbers is wider than the largest float of 32 bits."""
        return 2 * max(map(abs, self.edges)) > float(np.finfo(np.float32).max)

    @property
    def fill(self) -> float:
        """The size from which on numbers are a mask's fill, such as 1e9 among scores: infinity where there is none."""
        sizes = sorted(size for size, count in self.exponents.items() if count)
        total, below = self.exponents.total(), 0
        for size, after in pairwise(sizes):
            below += self.exponents[size]
            if after > FAR and after - size > GAP and below >= SHARE * total:
                return 2.0 ** (after - 1)
        return math.inf

    def obstacle(self, low: float, high: float) -> str | None:
        """Why no 8 bits over a range hold what was seen, or None."""
        if self.undefined or self.infinite:
            return "holds infinities, as masks do"
        if max(-low, high) >= self.fill:
            return f"holds a mask's fill of {low if -low >= high else high:.3g}, beside which 8 bits lose all else"
        return "spans more than 32-bit floats hold" if self.too_wide else None
