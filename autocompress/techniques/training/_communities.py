"""Dividing a teacher's filters among students by the network that their activity makes of them."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Weights = NDArray[np.float64]
FINER = 1.5  # by how much the resolution rises while the communities cannot be shared out
EPSILON = 1e-12


def activity(output: Tensor) -> Tensor:
    """How active each filter is for each example: the mean of what is above zero. (N, filters, height, width)."""
    return output.relu().mean((2, 3))


def hub_weights(activities: Iterable[Tensor]) -> Weights:
    """The links between filters by the activation hub rule (Bhardwaj et al., 2019): a_i * a_j * |a_i - a_j|, summed.

    activities: (N, filters) of each batch, which count as shares of the most active filter of an example. A filter that
    is active where others are is linked most to those that are less so: important ones go with unimportant ones.
    """
    total: Tensor | float = 0.0
    for rows in activities:
        for row in (rows / rows.amax(1, keepdim=True).clamp_min(EPSILON)).double():
            total = total + row.outer(row) * (row.unsqueeze(0) - row.unsqueeze(1)).abs()
    assert isinstance(total, torch.Tensor)
    found: Weights = total.numpy()
    return found


def modularity(weights: Weights, parts: Sequence[Sequence[int]], resolution: float = 1.0) -> float:
    """How much of the links lies within parts beyond what chance would put there (Newman and Girvan, 2004).

    The sum over parts of w / W - resolution * (d / 2 W)^2, with the weight w of its inner links, the sum d of its
    filters' and W of all; 0 without links. weights: symmetric, with an empty diagonal.
    """
    total = weights.sum()
    if not total:
        return 0.0
    inner = [weights[np.ix_(part, part)].sum() / total for part in parts]
    degrees = [weights[list(part)].sum() / total for part in parts]
    return float(sum(inner) - resolution * sum(share**2 for share in degrees))


def communities(weights: Weights, resolution: float = 1.0) -> list[list[int]]:
    """Parts of high modularity: filters move and parts join, one by one, while it rises (Blondel et al., 2008)."""
    of = np.arange(len(weights))
    total, degrees = max(weights.sum(), EPSILON), weights.sum(1)
    while True:
        before = of.copy()
        _move(weights, of, degrees, resolution / total)
        _join(weights, of, degrees, resolution / total)
        if np.array_equal(before, of):
            return [np.flatnonzero(of == part).tolist() for part in dict.fromkeys(of.tolist())]


def _move(weights: Weights, of: NDArray[np.int64], degrees: Weights, share: float) -> None:
    """Move each filter to the part where it adds most, until none wants to; of: the part of each, changed."""
    count = len(weights)
    member = np.zeros((count, count))
    member[np.arange(count), of] = 1
    links, sums = weights @ member, degrees @ member
    moved = True
    while moved:
        moved = False
        for node in range(count):
            sums[of[node]] -= degrees[node]
            gains = links[node] - share * degrees[node] * sums
            best = int(gains.argmax())
            if gains[best] > gains[of[node]] + EPSILON:
                links[:, of[node]] -= weights[:, node]
                links[:, best] += weights[:, node]
                of[node], moved = best, True
            sums[of[node]] += degrees[node]


def _join(weights: Weights, of: NDArray[np.int64], degrees: Weights, share: float) -> None:
    """Join the two parts that gain most, until none do; of: the part of each filter, changed."""
    while True:
        names = np.unique(of)
        member = (of[:, None] == names[None, :]).astype(np.float64)
        sums = degrees @ member
        gains = member.T @ weights @ member - share * np.outer(sums, sums)
        np.fill_diagonal(gains, -np.inf)
        first, second = np.unravel_index(int(gains.argmax()), gains.shape)
        if gains[first, second] <= EPSILON:
            return
        of[of == names[second]] = names[first]


def divided(weights: Weights, students: int, resolution: float = 1.0) -> list[list[int]]:
    """The filters of each student: communities, the largest first, each to the student who has fewest filters yet.

    They are looked for at a finer resolution until no student has a quarter more than an even share.
    """
    share = 1.25 * -(-len(weights) // students)
    while True:
        parts: list[list[int]] = [[] for _ in range(students)]
        for part in sorted(communities(weights, resolution), key=lambda part: (-len(part), part)):
            min(parts, key=len).extend(part)
        if all(parts) and len(max(parts, key=len)) <= share:
            return [sorted(part) for part in parts]
        resolution *= FINER
