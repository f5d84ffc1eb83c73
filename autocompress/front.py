"""Dominance, the front, its hypervolume, choosing from it and explaining why there is none: pure functions."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .config import DROP, Names, less_is_better
from .errors import AutocompressError, suggest
from .outcome import Completed, Failed, Infeasible, Limit, Metrics, Outcome, Stopped, as_searched, measured
from .recipe import recipe_line

PICKS = ("smallest", "fastest", "most-accurate", "knee")
MANY = 500  # points, from which on a library that takes a while to load is faster
Verdict = Literal["feasible", "infeasible", "nothing_finished"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Front:
    """What a search found: the numbers of the trials on the front, best size first, or why there are none."""

    verdict: Verdict
    trials: tuple[int, ...]
    nearest_miss: int | None
    binding_limit: str | None
    counts: dict[str, int]


@dataclass(frozen=True)
class Loosening:
    """To what one limit would have to be loosened, as the budget writes it: bytes, milliseconds, times, a drop.

    alone, with the others as they are, for `trial`; None where no measured trial meets all the others. together, with
    the others, for the nearest miss: the bound where that is met, None where that was not measured.
    """

    limit: str
    sense: Literal["at_most", "at_least"]
    bound: float
    alone: float | None
    trial: int | None
    together: float | None


def signs(objectives: Sequence[str], lower: Names = ()) -> Array:
    """+1 for each objective where less is better, -1 where more is; lower: the task's own where less is."""
    return np.array([1.0 if less_is_better(name, lower) else -1.0 for name in objectives])


def costs(metrics: Sequence[Metrics], objectives: Sequence[str], lower: Names = ()) -> Array:
    """Objectives as costs to minimize: (points, objectives)."""
    rows = [[metric[name] for name in objectives] for metric in metrics]
    return np.array(rows, dtype=float).reshape(len(rows), len(objectives)) * signs(objectives, lower)


def nondominated(points: Array) -> NDArray[np.bool_]:
    """Which points no other point dominates: at most as costly everywhere, and less somewhere. Equals stay together."""
    if len(points) > MANY:
        import moocore

        return np.asarray(moocore.is_nondominated(points, keep_weakly=True), dtype=np.bool_)
    better = (points[:, None, :] <= points[None, :, :]).all(2) & (points[:, None, :] < points[None, :, :]).any(2)
    return np.asarray(~np.any(better, axis=0), dtype=np.bool_)


def find_front(outcomes: Mapping[int, Outcome], objectives: Sequence[str], lower: Names = ()) -> Front:
    """The front of the outcomes by trial number, or the nearest miss and the limit that binds.

    lower: the task's own metrics of which less is better.
    """
    good = {number: o.metrics for number, o in outcomes.items() if isinstance(o, Completed)}
    counts = _counts(outcomes.values())
    if good:
        table = costs(list(good.values()), objectives, lower)
        order = np.lexsort((np.array(list(good)), table[:, 0]))
        mask, numbers = nondominated(table), list(good)
        trials = tuple(numbers[index] for index in order if mask[index])
        return Front("feasible", _distinct(trials, good, objectives), None, None, counts)
    misses = {number: outcome for number, outcome in outcomes.items() if isinstance(outcome, Infeasible)}
    if not misses:
        return Front("nothing_finished", (), None, None, counts)
    nearest = min(misses, key=lambda number: (measured(misses[number]) is None, excess(misses[number]), number))
    return Front("infeasible", (), nearest, binding_limit(misses[nearest]), counts)


def grown_front(
    front: Front, outcomes: Mapping[int, Outcome], new: Collection[int], objectives: Sequence[str], lower: Names = ()
) -> Front:
    """The front of outcomes, from that of all but the new ones: what find_front finds, by what matters of it alone."""
    mattered = {*front.trials, *new, *([] if front.nearest_miss is None else [front.nearest_miss])}
    found = find_front({number: outcomes[number] for number in mattered}, objectives, lower)
    added = _counts([outcomes[number] for number in new])
    return replace(found, counts={name: front.counts[name] + count for name, count in added.items()})


def _counts(outcomes: Collection[Outcome]) -> dict[str, int]:
    """How many outcomes there are of each type."""
    types = Counter(outcome.type for outcome in outcomes)
    return {kind.type: types[kind.type] for kind in (Completed, Infeasible, Stopped, Failed)}


def _distinct(trials: tuple[int, ...], metrics: Mapping[int, Metrics], objectives: Sequence[str]) -> tuple[int, ...]:
    """Of trials with equal objectives, the first."""
    seen: dict[tuple[float, ...], int] = {}
    for number in sorted(trials):
        seen.setdefault(tuple(metrics[number][name] for name in objectives), number)
    first = set(seen.values())
    return tuple(number for number in trials if number in first)


def excess(outcome: Infeasible) -> float:
    """How far past its limits an outcome is in all: the sum of its violations."""
    return sum(value for value in outcome.violations.values() if value > 0)


def binding_limit(outcome: Infeasible) -> str | None:
    """The limit that an outcome is furthest past, as a share of the limit."""
    return max(outcome.violations, key=lambda label: outcome.violations[label], default=None)


def loosening(
    outcomes: Mapping[int, Outcome], limits: Sequence[Limit], nearest_miss: int | None, baseline: Metrics
) -> list[Loosening]:
    """How far each limit is from being met; nothing where the budget is met, or nothing was held against it.

    baseline: what drops are counted from.
    """
    if nearest_miss is None:
        return []
    known = {number: metrics for number, outcome in outcomes.items() if (metrics := measured(outcome)) is not None}
    nearest = getattr(outcomes[nearest_miss], "metrics", {})
    return [_loosened(limit, limits, known, nearest, baseline) for limit in limits]


def _loosened(
    limit: Limit, limits: Sequence[Limit], known: Mapping[int, Metrics], nearest: Metrics, baseline: Metrics
) -> Loosening:
    sign = 1 if limit.sense == "at_most" else -1
    others = [other for other in limits if other is not limit]
    able = [
        (sign * metrics[limit.metric], number)
        for number, metrics in known.items()
        if not math.isnan(metrics.get(limit.metric, math.nan)) and all(o.violation(metrics) <= 0 for o in others)
    ]
    cost, trial = min(able, default=(None, None))
    together = limit.bound if limit.violation(nearest) <= 0 else nearest.get(limit.metric)
    drop = limit.label.endswith(DROP)

    def written(value: float | None) -> float | None:
        return None if value is None or math.isnan(value) else baseline[limit.metric] - value if drop else value

    alone = None if cost is None else sign * cost
    sense: Literal["at_most", "at_least"] = "at_most" if drop else limit.sense
    bound = baseline[limit.metric] - limit.bound if drop else limit.bound
    return Loosening(limit.label, sense, bound, written(alone), trial, written(together))


def hypervolume(metrics: Sequence[Metrics], objectives: Sequence[str], baseline: Metrics, lower: Names = ()) -> float:
    """The share of the unit cube that points dominate, once each objective is scaled by the baseline.

    A cost c becomes c / (c + baseline), a gain g becomes baseline / (g + baseline): the baseline lies in the middle
    of every axis, and what is worse than it in one objective still counts for the others. The reference point is 1
    everywhere. Lies in [0, 1] and grows with each new point of the front.
    """
    return _volume(_shares(metrics, objectives, baseline, lower))


def _shares(metrics: Sequence[Metrics], objectives: Sequence[str], baseline: Metrics, lower: Names) -> Array:
    """Points of the unit cube, the lower the better: (points, objectives)."""
    less = [less_is_better(name, lower) for name in objectives]
    rows = [[_scaled(row[name], baseline[name], low) for name, low in zip(objectives, less, strict=True)]
            for row in metrics]  # fmt: skip
    return np.array(rows, dtype=float).reshape(len(rows), len(objectives))


def _volume(points: Array) -> float:
    """The share of the unit cube that points dominate."""
    if not len(points):
        return 0.0
    import moocore

    return float(moocore.hypervolume(points, ref=np.ones(points.shape[1])))


def hypervolumes(
    outcomes: Mapping[int, Outcome], objectives: Sequence[str], baseline: Metrics, lower: Names = ()
) -> dict[int, float]:
    """The hypervolume of the feasible trials after each trial, by number, by what the search saw: it only grows."""
    front = np.zeros((0, len(objectives)))
    values: dict[int, float] = {}
    value = 0.0
    for number, outcome in sorted(outcomes.items()):
        metrics = as_searched(outcome)
        if metrics is not None:
            point = _shares([metrics], objectives, baseline, lower)
            if not (front <= point).all(1).any():
                front = np.vstack([front[~(point <= front).all(1)], point])
                value = _volume(front)
        values[number] = value
    return values


def _scaled(value: float, reference: float, less: bool) -> float:
    total = reference + value
    if reference <= 0 or value < 0:
        return 1.0
    return (value if less else reference) / total


def pick(numbers: Sequence[int], metrics: Mapping[int, Metrics], how: str, quality: str, lower: Names = ()) -> int:
    """The trial of a front that is smallest, fastest, most accurate, or the knee between the three.

    The knee is the point nearest to the ideal once size (logarithmic), latency and quality are each scaled to [0, 1]
    over the front. Raises AutocompressError for another word or an empty front.
    """
    if how not in PICKS:
        raise AutocompressError(f"--pick {how}: {suggest(how, PICKS)}")
    if not numbers:
        raise AutocompressError("the front is empty: nothing meets the budget; loosen a limit or search longer")
    columns = {
        "smallest": [metrics[n]["size_bytes"] for n in numbers],
        "fastest": [metrics[n]["latency_ms"] for n in numbers],
        "most-accurate": list(costs([metrics[n] for n in numbers], [quality], lower)[:, 0]),
    }
    if how in columns:
        return numbers[int(np.argmin(columns[how]))]
    rows = np.array([np.log(columns["smallest"]), columns["fastest"], columns["most-accurate"]])
    low, span = rows.min(axis=1, keepdims=True), np.ptp(rows, axis=1, keepdims=True)
    scaled = (rows - low) / np.where(span > 0, span, 1.0)
    return numbers[int(np.argmin((scaled**2).sum(axis=0)))]


def front_document(
    study: str,
    front: Front,
    rows: Mapping[int, Mapping[str, Any]],
    baseline: Metrics,
    loosen: Sequence[Loosening] = (),
) -> dict[str, Any]:
    """What `front --json` prints; rows hold recipe, metrics, feasible and run_id of each trial by number."""
    return {
        "study": study,
        "verdict": front.verdict,
        "baseline": baseline,
        "front": [{"trial": number, **rows[number]} for number in front.trials],
        "nearest_miss": None
        if front.nearest_miss is None
        else {"trial": front.nearest_miss, **rows[front.nearest_miss]},
        "binding_limit": front.binding_limit,
        "loosen": [vars(row) for row in loosen],
        "counts": front.counts,
    }


def front_rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of `front --csv`: the baseline and the front of such a document, by case, with recipe and metrics."""
    return [
        {"case": "baseline", **document["baseline"]},
        *({"case": f"trial {row['trial']}", "recipe": recipe_line(row["recipe"]), **row["metrics"]}
          for row in document["front"]),
    ]  # fmt: skip
