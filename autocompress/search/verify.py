"""From an artifact directory back to measurements, held against what it claims."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifacts.directory import check_sums, processor, read_decisions, read_measurement, recipe_document
from ..artifacts.measurement import Measurement
from ..artifacts.runtime import Model, read_model
from ..config import find_config, load_config
from ..errors import ArtifactError, AutocompressError, StudyError
from ..measure.size import compare_size, measure_size
from ..outcome import Metrics
from ..tasks.objects import is_object
from ..techniques import expanded, recipe_from_data
from ..trial.trial import confirm
from .deliver import remeasure, time_again
from .results import Results
from .setup import Setup, set_up
from .storage import study_names
from .store import StudyStore

SIZES = ("size_bytes", "params", "nonzero_params")
RATIOS = ("compression_ratio", "space_saving")
SPEEDUPS = ("speedup", "speedup_low", "speedup_high")
LATENCIES = ("latency_ms", "latency_ms_low", "latency_ms_high", "latency_ms_p90")
ELSEWHERE = ("macs", "computation_reduction", "peak_memory_bytes", "energy_mj")  # known, but not measured here
HOW = ("measured_alone", "search_speedup", "search_latency_ms")  # how and when others were measured: not compared
OF_ANY_TASK = {*HOW, *SIZES, *RATIOS, *SPEEDUPS, *LATENCIES, *ELSEWHERE}
QUALITIES = {
    *("accuracy", "precision", "recall", "f1", "auroc", "label_loyalty", "probability_loyalty", "accuracy_gap"),
    *("adversarial_accuracy", "robustness_radius", "worst_case_error", "input_sensitivity"),
}

TOLERANCE = 0.005  # of qualities and ratios: processors differ in how they round
# Two measurements of one file on a quiet and on a busy machine differ by so many times, and by so much a call.
SPEEDUP_TIMES, LATENCY_TIMES, CALL_MS = 1.25, 1.5, 0.005
TIMINGS = 3  # at most, before a time is said not to hold: other programs may be busy during one
QUIET = " (if other programs were busy, verify again when they are not)"


@dataclass(frozen=True)
class NoTask:
    """Why there is no task to measure an artifact on."""

    reason: str


@dataclass(frozen=True)
class Again:
    """What was measured here: of the artifact's file, and of the uncompressed model where that is kept."""

    metrics: Metrics
    baseline: Metrics


@dataclass(frozen=True)
class Found:
    """What claims are held against: as measured, by the task's quality and metrics, and why some cannot be."""

    again: Again
    quality: str
    own: set[str]
    missing: dict[str, str]  # by name: why what is claimed of it is not compared


def task_of(folder: Path, config: str | None, storage: str) -> Setup | NoTask:
    """The task that an artifact directory is measured on: of a config, or of the user's own study of that name.

    The directory only says the study's name: where code is loaded from is never taken from it.
    """
    if config is not None:
        return set_up(load_config(find_config(config)))
    check_sums(folder)
    name = read_measurement(folder).study
    try:
        if name not in study_names(storage):
            return NoTask(f"no study {name!r} in the storage: give --config")
        found = Results(StudyStore.open(storage, name)).config()
        if is_object(found.task):
            return NoTask(f"the task of study {name!r} is an object of a Python program: use Study.verify() there")
        return set_up(found)
    except StudyError as error:
        return NoTask(f"{error}, or give --config")


def verify(folder: Path, task: Setup | NoTask) -> dict[str, Any]:
    """Measure an artifact directory again: claimed and measured numbers, what does not hold, what was not checked.

    Nothing in the directory is run but its model, and nothing in it says what is compared: those are the metrics of
    the caller's task, and all that it claims. Without a task, checksums, recipe, sizes and the names of claims are
    checked. Raises ArtifactError when the directory is damaged.
    """
    check_sums(folder)
    claims, data = read_measurement(folder), read_model(folder / "model.onnx")
    unfit = _unfit_decisions(folder)
    Model(data)
    try:
        again = _until_times_hold(claims, measure_again(data, task), data, task)
    except AutocompressError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArtifactError(
            f"{folder / 'model.onnx'}: cannot be measured on this task ({first}): give the config of its own task"
        ) from error
    document = compare(claims, again, task)
    return {**document, "wrong": unfit + document["wrong"]}


def measure_again(data: bytes, task: Setup | NoTask) -> Again:
    """Everything that the caller's task and the baseline that is kept for it allow to measure; sizes without one."""
    if isinstance(task, NoTask):
        return Again(measure_size(data), {})
    baseline = task.files.load_baseline(task.baseline_key)
    metrics = remeasure(data, task, baseline)
    if baseline is None:
        return Again(metrics, {})
    test = confirm(baseline.onnx, task.reference, task.config.target)
    return _timed(Again({}, {**baseline.metrics, **test}), metrics)


def _timed(again: Again, metrics: Metrics) -> Again:
    """What was measured, with times of now; those of the uncompressed model are of the same bursts."""
    kept = {name: value for name, value in metrics.items() if name not in HOW}
    latency_ms = metrics["latency_ms"] * metrics["speedup"]
    return Again({**again.metrics, **kept}, {**again.baseline, "latency_ms": latency_ms})


def _until_times_hold(claims: Measurement, again: Again, data: bytes, task: Setup | NoTask) -> Again:
    """What was measured, with times measured anew while those claimed do not hold: the last of a few says so."""
    for _ in range(TIMINGS - 1):
        outside = _outside(claims.measured, _expected(claims, _found(claims, again, task)))
        if isinstance(task, NoTask) or not {*SPEEDUPS, *LATENCIES}.intersection(outside):
            break
        baseline = task.files.load_baseline(task.baseline_key)
        if baseline is None:  # it was there a moment ago
            break
        again = _timed(again, time_again(data, task, baseline))
    return again


def compare(claims: Measurement, again: Again, task: Setup | NoTask) -> dict[str, Any]:
    """Hold claims against what was measured; the document that verify returns."""
    found = _found(claims, again, task)
    return {
        "study": claims.study,
        "quality": found.quality,
        "claimed": claims.measured,
        "measured": again.metrics,
        "wrong": _wrong(claims, found),
        "not_checked": _not_checked(claims, found),
    }


def _unfit_decisions(folder: Path) -> list[str]:
    try:
        steps = expanded(recipe_from_data(recipe_document(folder))).steps
    except ArtifactError:
        raise
    except AutocompressError as error:
        raise ArtifactError(f"{folder / 'recipe.yaml'}: {error}") from None
    decisions = read_decisions(folder)
    return [f"decisions are {len(decisions)}, for {len(steps)} steps"] if len(decisions) != len(steps) else []


def _found(claims: Measurement, again: Again, task: Setup | NoTask) -> Found:
    return _without_task(claims, again, task) if isinstance(task, NoTask) else _with_task(claims, again, task)


def _without_task(claims: Measurement, again: Again, task: NoTask) -> Found:
    # Metrics that no task vouches for are a task's as far as names go: of both splits, and nothing that all have.
    pairs = {name for name in claims.measured if f"test_{name}" in claims.measured}
    own = {claims.quality, *pairs} - OF_ANY_TASK
    names = {*OF_ANY_TASK, *QUALITIES, *own} - {*SIZES, *HOW}
    reasons = dict.fromkeys(("baseline", *names, *(f"test_{name}" for name in names)), task.reason)
    return Found(again, claims.quality, own, reasons)


def _with_task(claims: Measurement, again: Again, setup: Setup) -> Found:
    own = {name for name in again.metrics if f"test_{name}" in again.metrics}
    others = {*ELSEWHERE, *QUALITIES, *(f"test_{name}" for name in QUALITIES)} - again.metrics.keys()
    missing = dict.fromkeys(others, "is not measured here")
    if not again.baseline:
        no_baseline = "no baseline of this task is kept here: run a search, or apply a recipe"
        missing |= dict.fromkeys((*RATIOS, *SPEEDUPS, *LATENCIES, "baseline"), no_baseline)
    elif (reason := _other_machine(claims, setup)) is not None:
        missing |= dict.fromkeys((*SPEEDUPS, *LATENCIES), reason)
    return Found(again, setup.quality, own, missing)


def _other_machine(claims: Measurement, setup: Setup) -> str | None:
    """Why times cannot be compared; None where they can."""
    if claims.processor is None or claims.target is None:
        return "the artifact does not say where it was measured"
    if claims.processor.model_dump() != processor():
        return f"measured on another processor ({claims.processor.name})"
    if claims.target.model_dump() != setup.config.target.model_dump(include={"runtime", "threads", "batch_size"}):
        was = claims.target
        return f"measured by {was.runtime} with {was.threads} threads and batch size {was.batch_size}"
    return None


def _wrong(claims: Measurement, found: Found) -> list[str]:
    """What does not hold, each in a clause."""
    rows = []
    if claims.quality != found.quality:
        rows.append(f"quality is {found.quality!r}, claimed {claims.quality!r}")
    elif claims.quality in OF_ANY_TASK:
        rows.append(f"quality is said to be {claims.quality!r}, which is no metric of a task")
    known = {*OF_ANY_TASK, *(f"{split}{name}" for name in QUALITIES | found.own for split in ("", "test_"))}
    rows += [f"{name} is claimed, which is no metric" for name in {**claims.measured, **claims.claimed}
             if name not in known]  # fmt: skip
    return rows + _differences(claims.measured, _expected(claims, found))


def _expected(claims: Measurement, found: Found) -> Metrics:
    """What claims are held against: what can be compared of what was measured."""
    metrics = found.again.metrics
    base = {**claims.baseline, **found.again.baseline}.get("size_bytes", 0.0)
    ratios = compare_size(metrics, {"size_bytes": base}) if base > 0 else {}
    return {**{name: value for name, value in metrics.items() if name not in found.missing}, **ratios}


def _differences(claimed: Metrics, found: Metrics) -> list[str]:
    rows = []
    for name in _outside(claimed, found):
        hint = QUIET if name in (*SPEEDUPS, *LATENCIES) else ""
        rows.append(f"{name} is {_shown(found[name])}, claimed {_shown(claimed[name])}{hint}")
    return rows


def _outside(claimed: Metrics, found: Metrics) -> list[str]:
    """The names of claims that do not lie within the bounds of what was found."""
    bounds = {name: _bounds(name, found) for name in found if name in claimed}
    return [name for name, (low, high) in bounds.items() if not low <= claimed[name] <= high]


def _bounds(name: str, found: Metrics) -> tuple[float, float]:
    """Between what a claim must lie to hold.

    Times have the bounds of the interval that was measured here, widened: an artifact's own interval is a claim too.
    """
    value = found[name]
    if name in SIZES:
        return value, value
    if name in SPEEDUPS and "latency_ms" in found:
        times = SPEEDUP_TIMES + CALL_MS / min(found["latency_ms"], found["latency_ms"] * found["speedup"])
        return found["speedup_low"] / times, found["speedup_high"] * times
    if name in LATENCIES:
        times = LATENCY_TIMES * (2 if name == "latency_ms_p90" else 1) + CALL_MS / value  # a tail is of the moment
        ends = ("latency_ms_low", "latency_ms_high")
        low, high = (value, value) if name == "latency_ms_p90" else (found.get(end, value) for end in ends)
        return low / times, high * times
    # A metric of the task's own may be of any size.
    width = TOLERANCE * (1 if name.removeprefix("test_") in {*QUALITIES, "space_saving"} else abs(value))
    return value - width, value + width


def _not_checked(claims: Measurement, found: Found) -> dict[str, str]:
    """The names of claims that nothing was compared with, and why."""
    metrics, baseline = found.again.metrics, found.again.baseline
    rows = {name: found.missing[name] for name in claims.measured if name in found.missing}
    if not baseline and claims.baseline.get("size_bytes", 0.0) > 0:
        held = "held against the claimed size of the uncompressed file only"
        rows |= {name: f"{held}: {rows[name]}" for name in RATIOS if name in rows}
    rows |= {name: "is not claimed" for name in metrics if name not in claims.measured}
    names = (*SIZES, *QUALITIES, *found.own)
    rows |= _record("claimed", claims.claimed, metrics, names, "what the search found of the trial, not of this file")
    if claims.baseline and not baseline:
        return {**rows, "baseline": found.missing["baseline"]}
    names = names if "latency_ms" in found.missing else (*names, "latency_ms")
    reason = "the uncompressed model was made elsewhere, or anew"
    return rows | _record("baseline", claims.baseline, baseline, names, reason)


def _record(key: str, there: Metrics, here: Metrics, names: Iterable[str], reason: str) -> dict[str, str]:
    """Where the artifact's record of another file differs from what is known here, which proves nothing of its own."""
    both = [name for one in names for name in (one, f"test_{one}") if name in there]
    unlike = _differences({name: there[name] for name in both}, here)
    return {key: f"{reason}: {'; '.join(unlike)}"} if unlike else {}


def _shown(value: float) -> str:
    whole = value == int(value) and abs(value) < 1e15
    return f"{value:,.0f}" if whole else f"{value:.4g}"
