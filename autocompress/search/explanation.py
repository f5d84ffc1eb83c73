"""What `explain` answers, as plain values: of a study, and of one trial."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..front import pick
from ..outcome import Completed, Failed, Metrics, Outcome
from ..tracking.steps import After, StepsPicture
from .explain import (
    Found,
    Neighbour,
    closest_limits,
    dominated,
    dominators,
    gaps,
    neighbours,
    picks,
    rejections,
    runner_up,
    slacks,
    spending,
)
from .importance import ENOUGH, settings_that_mattered
from .lessons import facts_off
from .prefixes import Around, Known, Prefix, effects, measured_of, speeds_differ, transfer_of
from .repeats import alike
from .results import Results


def found_of(results: Results) -> Found:
    """A study as it is explained."""
    store = results.store
    return Found(
        results.records,
        results.front,
        tuple(store.objectives),
        results.quality,
        results.baseline,
        results.limits,
        tuple(store.lower),
    )


def explain_study(results: Results) -> dict[str, Any]:
    """Verdict, limits, time and settings of a study, and each member of its front in a row."""
    found, document = found_of(results), results.document()
    names = picks(found)
    front = [
        {**row, "picks": names[row["trial"]], "limits": _limits(found, row["metrics"])} for row in document["front"]
    ]
    closest = closest_limits(found)
    return {
        **document,
        "front": front,
        "binding_limit": closest[0].label if closest else document["binding_limit"],
        "closest": [asdict(row) for row in closest],
        "past": [asdict(row) for row in rejections(found.outcomes)],
        "spent": [asdict(row) for row in spending(found.outcomes)],
        "facts_off": facts_off(found.outcomes.values()),
        "failures": _failures(found),
        "measured": len(found.measured),
        "enough": ENOUGH,
        "settings": _settings(results, found),
    }


def _failures(found: Found) -> list[dict[str, Any]]:
    """The reasons that trials failed for, that of most trials first."""
    failed = {number: outcome for number, outcome in found.outcomes.items() if isinstance(outcome, Failed)}
    rows = sorted(alike(failed.items()).values(), key=lambda numbers: (-len(numbers), numbers))
    return [{"trials": numbers, "reason": failed[numbers[0]].reason} for numbers in rows]


def _settings(results: Results, found: Found) -> dict[str, Any]:
    """The settings that mattered for each objective; none at all where there are too few trials to tell."""
    if len(found.measured) < ENOUGH:
        return {}
    trials = {number: trial for number, trial in results.store.drawn().items() if number in found.measured}
    numbers = list(found.measured)
    costs = found.costs([found.measured[number] for number in numbers])
    return {
        name: [
            asdict(row)
            for row in settings_that_mattered(trials, dict(zip(numbers, costs[:, index].tolist(), strict=True)))
        ]
        for index, name in enumerate(found.objectives)
    }


def _limits(found: Found, metrics: Metrics) -> list[dict[str, Any]]:
    return [asdict(row) for row in slacks(found.limits, metrics, found.baseline)]


def explain_trial(results: Results, number: int, around: Around) -> dict[str, Any]:
    """Why a trial is on the front or not, what each of its steps did, and what came of recipes beside it.

    around: what is known of the model after each step, and of its network trained from scratch. Raises StudyError for
    a trial that did not end.
    """
    found, record = found_of(results), results.record(number)
    outcome, metrics = record.outcome, measured_of(record)
    on_front = number in found.front.trials
    limits = _limits(found, metrics) if metrics else _known_limits(found, outcome)
    return {
        "study": results.name,
        "trial": number,
        **results.row(number),
        "outcome": getattr(outcome, "type", None),
        "reason": getattr(outcome, "reason", None),
        "doing": getattr(outcome, "doing", ""),
        "on_front": on_front,
        "nearest_miss": number == found.front.nearest_miss,
        "picks": picks(found)[number] if on_front else [],
        "baseline": found.baseline,
        "quality": found.quality,
        "objectives": list(found.objectives),
        "steps": _steps(record.recipe_data, around.prefixes),
        "from_scratch": transfer_of(results, number, around.scratch),
        "limits": limits,
        "binding_limit": limits[0]["label"] if limits else None,
        "dominates": dominated(number, found) if metrics else [],
        "dominated_by": _dominated_by(number, found) if isinstance(outcome, Completed) and not on_front else [],
        "runner_up": _runner_up(number, found) if on_front else None,
        "neighbours": [_neighbour(row, metrics or {}, found) for row in neighbours(number, found)],
    }


def _known_limits(found: Found, outcome: Outcome | None) -> list[dict[str, Any]]:
    """The limits that a trial was past before it was measured in full."""
    over = {label: value for label, value in getattr(outcome, "violations", {}).items() if value > 0}
    metrics: Metrics = getattr(outcome, "metrics", {})
    limits = [limit for limit in found.limits if limit.label in over and limit.metric in metrics]
    return [asdict(row) for row in slacks(limits, metrics, found.baseline)]


def _steps(recipe: Mapping[str, Any], prefixes: Sequence[Prefix]) -> list[dict[str, Any]]:
    """A row for each step: what is known after it, and since which step what lies between is known."""
    changes = {effect.last: effect for effect in effects(prefixes)}
    rows = []
    for prefix, step in zip(prefixes[1:], recipe["steps"], strict=True):
        effect = changes.get(prefix.steps)
        rows.append(
            {
                "step": prefix.steps,
                "technique": step["technique"],
                "settings": {key: value for key, value in step.items() if key != "technique"},
                "metrics": prefix.metrics or {},
                "since": effect and effect.first - 1,
                "change": effect.change if effect else {},
                "speed_changed": effect and effect.speed_changed,
                "note": prefix.note,
            }
        )
    return rows


def _dominated_by(number: int, found: Found) -> list[dict[str, Any]]:
    """The members of the front that beat a trial, and by what; by nothing where they equal it."""
    own = found.measured[number]
    return [
        {"trial": other, "better_in": [asdict(gap) for gap in _beaten(own, found.measured[other], found)]}
        for other in dominators(number, found)
    ]


def _beaten(here: Metrics, there: Metrics, found: Found) -> list[Any]:
    return [type(gap)(gap.metric, gap.there, gap.here) for gap in gaps(there, here, found)]


def _runner_up(number: int, found: Found) -> dict[str, Any] | None:
    second = runner_up(number, found)
    if second is None:
        return None
    return {
        **asdict(second),
        "recipe": found.records[second.trial].recipe_data,
        "metrics": found.measured[second.trial],
    }


def _neighbour(row: Neighbour, own: Metrics, found: Found) -> dict[str, Any]:
    metrics = found.measured.get(row.trial, {})
    return {
        "trial": row.trial,
        "differs": [asdict(difference) for difference in row.differs],
        "outcome": row.outcome.type,
        "reason": getattr(row.outcome, "reason", None),
        "metrics": metrics,
        "speed_changed": speeds_differ(own, metrics),
    }


def steps_picture(title: str, recipe: Mapping[str, Any], prefixes: Sequence[Prefix], found: Found) -> StepsPicture:
    """What a picture of a recipe's steps shows: the uncompressed model, and what is known after steps."""
    names = [step["technique"] for step in recipe["steps"]]
    rows = [After("uncompressed", found.baseline)]
    rows += [After("\n".join(names[row.first - 1 : row.last]), row.after) for row in effects(prefixes)]
    return StepsPicture(title, found.quality, rows, found.limits)


def knee_picture(study: str, found: Found, known: Known) -> StepsPicture | None:
    """The steps of the front's knee as far as they are known; None without a front, or with nothing in between."""
    numbers = found.front.trials
    if not numbers:
        return None
    knee = pick(numbers, {number: found.measured[number] for number in numbers}, "knee", found.quality, found.lower)
    prefixes, recipe = known.prefixes(knee, found.baseline), found.records[knee].recipe_data
    if len(effects(prefixes)) < min(2, len(recipe["steps"])):
        return None
    return steps_picture(f"{study}: trial {knee}, the knee of the front", recipe, prefixes, found)
