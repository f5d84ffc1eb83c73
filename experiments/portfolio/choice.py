"""Choosing recipes that together reach most of what all of them reach, by hypervolume: pure functions."""

from collections.abc import Callable, Collection, Mapping, Sequence

import moocore
import numpy as np
import pandas as pd

DROPS = (0.005, 0.01, 0.03)  # of accuracy that a budget allows
SLOWEST = 0.5  # the speed-up from which hypervolume counts: small files are worth having when they are slower, too
Points = Mapping[str, tuple[float, float]]  # by recipe, by how much its file is smaller and faster, as logarithms
Reached = Mapping[tuple[str, float], Points]  # by task and drop, of the recipes within it


def reached(rows: pd.DataFrame, drops: Sequence[float] = DROPS) -> Reached:
    """What recipes reach on each task within each drop; rows: one for each recipe on each task, and its baseline."""
    found: dict[tuple[str, float], Points] = {}
    for task, group in rows.groupby("task", sort=False):
        base = float(group.loc[group["case"] == "baseline", "accuracy"].iloc[0])
        tried = group[(group["case"] != "baseline") & group["accuracy"].notna()]
        for drop in drops:
            # Half of the last digit that is written: a drop of exactly as much is within it.
            within = tried[tried["accuracy"] >= base - drop - 5e-7]
            smaller = np.log(within["compression_ratio"].clip(lower=1.0))
            faster = np.log((within["speedup"] / SLOWEST).clip(lower=1.0))
            found[str(task), drop] = dict(zip(within["case"], zip(smaller, faster, strict=True), strict=True))
    return found


def hypervolume(points: Collection[tuple[float, float]]) -> float:
    """The area that gains dominate, each counted from zero."""
    if not points:
        return 0.0
    return float(moocore.hypervolume(-np.array(list(points)), ref=np.zeros(2)))


def covered(points: Points, chosen: Collection[str]) -> float:
    """The share of the hypervolume of all recipes that the chosen ones reach; 1 where there is none to reach."""
    whole = hypervolume(points.values())
    return hypervolume([points[name] for name in chosen if name in points]) / whole if whole > 0 else 1.0


def mean_covered(given: Reached, chosen: Collection[str], weights: Mapping[str, float] | None = None) -> float:
    """The mean share over tasks and drops; weights: of the tasks, where they do not count alike."""
    shares = [covered(points, chosen) for points in given.values()]
    return float(np.average(shares, weights=[1.0 if weights is None else weights[task] for task, _ in given]))


def greedy(names: Sequence[str], worth: Callable[[list[str]], float], count: int) -> list[str]:
    """Up to `count` names, each the one that adds most to the worth of those before it, the first of equals.

    Ends where nothing adds to it. The worth of hypervolume is submodular: so chosen, it is at least 1 - 1/e of the
    best that as many names reach (Nemhauser et al., 1978).
    """
    chosen: list[str] = []
    value = worth(chosen)
    for _ in range(min(count, len(names))):
        worths = {name: worth([*chosen, name]) for name in names if name not in chosen}
        best = max(worths, key=worths.__getitem__)
        if worths[best] <= value + 1e-12:
            break
        chosen.append(best)
        value = worths[best]
    return chosen


def without(given: Reached, task: str) -> Reached:
    """What is reached on the other tasks."""
    return {key: points for key, points in given.items() if key[0] != task}


def only(given: Reached, task: str) -> Reached:
    """What is reached on one task."""
    return {key: points for key, points in given.items() if key[0] == task}
