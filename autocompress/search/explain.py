"""Why a recipe won or lost: what it beats, the runner-up, its neighbours and the limit that binds. Pure functions."""

import functools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import Names
from ..front import PICKS, Front, binding_limit, costs, pick
from ..outcome import Infeasible, Limit, Metrics, Outcome, measured
from .records import Record

NEIGHBOURS = 3
APART = 2  # steps that a neighbour may have more or fewer: one in the place of another


@dataclass(frozen=True)
class Found:
    """A study as it is explained: its trials by their last measurements, their front, and what it was searched for.

    lower: the task's own metrics of which less is better.
    """

    records: Mapping[int, Record]
    front: Front
    objectives: tuple[str, ...]
    quality: str
    baseline: Metrics
    limits: tuple[Limit, ...] = ()
    lower: Names = ()

    @functools.cached_property
    def outcomes(self) -> dict[int, Outcome]:
        """How each trial ended."""
        return {number: row.outcome for number, row in self.records.items() if row.outcome is not None}

    @functools.cached_property
    def measured(self) -> dict[int, Metrics]:
        """The metrics of each trial that was measured in full."""
        found = {number: measured(outcome) for number, outcome in self.outcomes.items()}
        return {number: metrics for number, metrics in found.items() if metrics is not None}

    def costs(self, metrics: Sequence[Metrics]) -> Any:
        """Objectives as costs to minimize: (points, objectives)."""
        return costs(metrics, self.objectives, self.lower)


# Limits


@dataclass(frozen=True)
class Slack:
    """What is left of a limit, as a share; negative where a trial is past it, then as a share of the bound."""

    label: str
    metric: str
    sense: str
    bound: float
    value: float | None
    left: float


def slacks(limits: Sequence[Limit], metrics: Metrics, baseline: Metrics) -> list[Slack]:
    """What is left of each limit, the tightest first.

    Where the uncompressed model is within a limit, as with accuracy, the whole is what lies between the two, and the
    bound elsewhere: half of an allowed drop is 50%, and so is half of an allowed size.
    """
    rows = [
        Slack(
            limit.label,
            limit.metric,
            limit.sense,
            limit.bound,
            metrics.get(limit.metric),
            _left(limit, metrics, baseline),
        )
        for limit in limits
    ]
    return sorted(rows, key=lambda row: row.left)


def _left(limit: Limit, metrics: Metrics, baseline: Metrics) -> float:
    past = limit.violation(metrics)
    if past > 0:
        return -past
    room = abs(baseline[limit.metric] - limit.bound) if limit.violation(baseline) < 0 else abs(limit.bound)
    return abs(metrics[limit.metric] - limit.bound) / max(room, 1e-12)


@dataclass(frozen=True)
class Closeness:
    """How many members of a front have least left of a limit, the one of them that has least, and how much that is."""

    label: str
    members: int
    trial: int
    left: float


def closest_limits(found: Found) -> list[Closeness]:
    """The limits that members of the front are closest to; the one of most members, which binds, first."""
    tightest = {
        number: slacks(found.limits, found.measured[number], found.baseline)[0]
        for number in found.front.trials
        if found.limits
    }
    counts = Counter(slack.label for slack in tightest.values())
    rows = []
    for label, members in counts.items():
        trial = min((n for n in tightest if tightest[n].label == label), key=lambda n: (tightest[n].left, n))
        rows.append(Closeness(label, members, trial, tightest[trial].left))
    return sorted(rows, key=lambda row: (-row.members, row.left))


@dataclass(frozen=True)
class Past:
    """How many trials were past a limit, how many past no other, and the seconds of those furthest past it."""

    label: str
    trials: int
    alone: int
    seconds: float


def rejections(outcomes: Mapping[int, Outcome]) -> list[Past]:
    """The limits that trials were past, that of most trials first; seconds count once, with the limit missed most."""
    trials, alone, seconds = Counter[str](), Counter[str](), defaultdict[str, float](float)
    for outcome in outcomes.values():
        if isinstance(outcome, Infeasible):
            over = [label for label, value in outcome.violations.items() if value > 0]
            trials.update(over)
            alone.update(over if len(over) == 1 else ())
            seconds[binding_limit(outcome) or ""] += sum(outcome.seconds.values())
    return [Past(label, count, alone[label], seconds[label]) for label, count in trials.most_common()]


@dataclass(frozen=True)
class Spent:
    """Trials that ended alike, and the seconds of workers that went into them."""

    kind: str
    trials: int
    seconds: float


def spending(outcomes: Mapping[int, Outcome]) -> list[Spent]:
    """Where the workers' time went: completed, past a limit, rejected early, stopped and failed; most seconds first."""
    rows: dict[str, Spent] = {}
    for outcome in outcomes.values():
        kind = outcome.type.replace("infeasible", "past a limit" if measured(outcome) else "rejected early")
        known = rows.get(kind, Spent(kind, 0, 0.0))
        rows[kind] = Spent(kind, known.trials + 1, known.seconds + sum(outcome.seconds.values()))
    return sorted(rows.values(), key=lambda row: -row.seconds)


# The front


def picks(found: Found) -> dict[int, list[str]]:
    """What `export --pick` would take each member of the front for: smallest, fastest, most-accurate, knee."""
    numbers = found.front.trials
    metrics = {number: found.measured[number] for number in numbers}
    names: dict[int, list[str]] = {number: [] for number in numbers}
    for how in PICKS if numbers else ():
        names[pick(numbers, metrics, how, found.quality, found.lower)].append(how)
    return names


def dominated(number: int, found: Found) -> list[int]:
    """The measured trials that a measured trial dominates: nowhere better, and somewhere worse."""
    own = found.costs([found.measured[number]])[0]
    rows = {other: found.costs([metrics])[0] for other, metrics in found.measured.items()}
    return [other for other, row in rows.items() if (row >= own).all() and (row > own).any()]


def dominators(number: int, found: Found) -> list[int]:
    """The members of the front that dominate a measured trial, or equal it in every objective."""
    own = found.costs([found.measured[number]])[0]
    rows = {other: found.costs([found.measured[other]])[0] for other in found.front.trials if other != number}
    return [other for other, row in rows.items() if (row <= own).all()]


@dataclass(frozen=True)
class Gap:
    """A metric of a trial, and of the other that is held against it."""

    metric: str
    here: float
    there: float


def gaps(here: Metrics, there: Metrics, found: Found) -> list[Gap]:
    """The objectives in which the other is worse."""
    past = (found.costs([there]) > found.costs([here]))[0]
    return [Gap(n, here[n], there[n]) for n, worse in zip(found.objectives, past, strict=True) if worse]


@dataclass(frozen=True)
class RunnerUp:
    """The trial that came nearest to beating another: where it is worse, and the limits that it is past, by share."""

    trial: int
    lost_by: list[Gap]
    past: dict[str, float]


def runner_up(number: int, found: Found) -> RunnerUp | None:
    """The measured trial off the front that lacks least to dominate a member of it; None where there is no other.

    What it lacks is the sum of what it is worse by, each objective as a share of the front's span (of its own value
    where the front has none), and of the shares by which it is past limits.
    """
    own = found.costs([found.measured[number]])
    span = np.ptp(found.costs([found.measured[n] for n in found.front.trials]), axis=0)
    span = np.where(span > 0, span, np.maximum(np.abs(own[0]), 1e-12))
    lacks: dict[int, float] = {}
    for other, metrics in found.measured.items():
        if other != number and other not in found.front.trials:
            worse = np.maximum((found.costs([metrics]) - own)[0], 0.0)
            lacks[other] = float((worse / span).sum()) + sum(_past(found.outcomes[other]).values())
    if not lacks:
        return None
    nearest = min(lacks, key=lambda other: (lacks[other], other))
    there = found.measured[nearest]
    return RunnerUp(nearest, gaps(found.measured[number], there, found), _past(found.outcomes[nearest]))


def _past(outcome: Outcome) -> dict[str, float]:
    """The limits that an outcome is past, by share of the bound."""
    return {label: value for label, value in getattr(outcome, "violations", {}).items() if value > 0}


# Neighbours


@dataclass(frozen=True)
class Difference:
    """What two recipes do otherwise: a setting of a step, the order of the steps, or a step that one of them lacks.

    setting is None for a step that only one has: here or there is then its settings and the other None.
    """

    technique: str
    setting: str | None
    here: Any
    there: Any


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[Difference]:
    """How the second recipe differs from the first, both as plain values."""
    pairs, only_here, only_there = _paired(here["steps"], there["steps"])
    rows = [Difference(step["technique"], None, _settings(step), None) for step in only_here]
    rows += [Difference(step["technique"], None, None, _settings(step)) for step in only_there]
    order = [position for _, _, position in pairs]
    if order != sorted(order):
        names = [step["technique"] for step, _, _ in pairs]
        rows.append(Difference("", "order", names, [names[index] for index in np.argsort(order)]))
    for one, other, _ in pairs:
        for key in dict.fromkeys((*one, *other)):
            if one.get(key) != other.get(key):
                rows.append(Difference(one["technique"], key, one.get(key), other.get(key)))
    return rows


def _settings(step: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in step.items() if key != "technique"}


def _paired(
    here: Sequence[Mapping[str, Any]], there: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[Any, Any, int]], list[Any], list[Any]]:
    """Steps of the same technique in pairs, first with first, with where the second stands; and those of one alone."""
    waiting = list(enumerate(there))
    pairs, only_here = [], []
    for step in here:
        match = next((row for row in waiting if row[1]["technique"] == step["technique"]), None)
        if match is None:
            only_here.append(step)
        else:
            waiting.remove(match)
            pairs.append((step, match[1], match[0]))
    return pairs, only_here, [step for _, step in waiting]


@dataclass(frozen=True)
class Neighbour:
    """A trial whose recipe differs little, in what, and what came of it."""

    trial: int
    differs: list[Difference]
    outcome: Outcome


def neighbours(number: int, found: Found, most: int = NEIGHBOURS) -> list[Neighbour]:
    """The trials whose recipes differ least: first in which steps they have, then in how many settings."""
    rows = []
    for other, outcome in found.outcomes.items():
        if other != number:
            differs = differences(found.records[number].recipe_data, found.records[other].recipe_data)
            apart = sum(row.setting is None for row in differs)
            if apart <= APART:
                rows.append((apart, len(differs), other, Neighbour(other, differs, outcome)))
    return [row[-1] for row in sorted(rows, key=lambda row: row[:3])[:most]]
