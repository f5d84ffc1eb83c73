"""From a chosen trial, or a recipe, to an artifact directory."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..artifacts.devices import named_files
from ..artifacts.directory import Contents, check_sums, check_target, processor
from ..artifacts.program import export_program
from ..artifacts.runtime import Model
from ..config import SearchConfig
from ..errors import ArtifactError, AutocompressError, StudyError
from ..executors import InlineExecutor
from ..front import pick
from ..measure.latency import measure_latency
from ..measure.quality import measure_quality
from ..measure.size import compare_size, measure_size
from ..outcome import Baseline, Candidate, Failed, Metrics, latency_now, violations
from ..recipe import Recipe
from ..tasks.examples import example_inputs, input_signature, model_inputs, size_notes
from ..tasks.models import build_model
from ..tasks.preparation import preparation_of
from ..techniques import expanded
from ..trial.stages import rebuild
from ..trial.trial import confirm, prepare
from .card import card
from .files import write_folder
from .plan import check_limits, obtain_baseline
from .results import Results
from .setup import Setup, changed, set_up

TASK = ("settings", "data", "model")  # by what a task is known again; its code may have been tidied


def choose(results: Results, trial: int | None, how: str | None) -> int:
    """The trial that the user means: by number, or picked from the front. Raises StudyError or AutocompressError."""
    if trial is not None and how is not None:
        raise AutocompressError("--trial and --pick both choose a trial: give one of them")
    if trial is not None:
        results.record(trial)
        return trial
    metrics = {number: results.metrics(number) for number in results.front.trials}
    return pick(results.front.trials, metrics, how or "knee", results.quality, results.store.lower)


@dataclass(frozen=True)
class Extras:
    """What is written beside the model file where it is asked for: a torch program, a file for each device."""

    pt2: bool = False
    devices: bool = False


NO_EXTRAS = Extras()


@dataclass(frozen=True)
class Made:
    """A recipe carried out, with a torch program and files of single devices where they were asked for."""

    recipe: Recipe
    candidate: Candidate
    program: bytes | None = None
    devices: dict[str, bytes] = field(default_factory=dict)


def export_trial(
    results: Results, number: int, out: Path, extras: Extras = NO_EXTRAS, config: SearchConfig | None = None
) -> dict[str, Any]:
    """Write the artifact directory of a trial, measured anew; returns its measurement.

    A trial whose file is not kept is run again, which gives the same weights. config: where the task lies now, if no
    longer where it was. Raises ArtifactError or StudyError.
    """
    check_target(out)
    setup = set_up(config or results.config())
    check_task(results, setup)
    baseline = results.kept_baseline() or obtain_baseline(setup, InlineExecutor())
    record = results.record(number)
    if isinstance(record.outcome, Failed):
        raise StudyError(f"trial {number} failed ({record.outcome.reason}): export a trial of the front")
    candidate = results.candidate(number) or _run(record.recipe, setup, baseline)
    return _write(_made(record.recipe, candidate, setup, extras), setup, baseline, out, results.metrics(number))


def check_task(results: Results, setup: Setup) -> None:
    """Raise StudyError where the task is another than the one that was searched on: its numbers would be others."""
    other = [name for name in changed(results.store.get("made_of") or {}, setup.identity) if name in TASK]
    if other:
        raise StudyError(
            f"the {' and the '.join(other)} of study {results.name!r} are others now than when it was searched: put "
            "them back, or search again"
        )


def apply_recipe(recipe: Recipe, config: SearchConfig, out: Path, extras: Extras = NO_EXTRAS) -> dict[str, Any]:
    """Run one recipe on a config's task and write its artifact directory; returns its measurement.

    Raises ArtifactError.
    """
    check_target(out)
    setup = set_up(config)
    baseline = obtain_baseline(setup, InlineExecutor())
    check_limits(setup, baseline.metrics)
    return _write(_made(recipe, _run(recipe, setup, baseline), setup, extras), setup, baseline, out, {})


def _run(recipe: Recipe, setup: Setup, baseline: Baseline) -> Candidate:
    made = prepare(setup.trial(0, recipe), baseline)
    if isinstance(made, Candidate):
        return made
    raise ArtifactError(f"the recipe could not be carried out: {getattr(made, 'reason', made)}")


def _made(recipe: Recipe, candidate: Candidate, setup: Setup, extras: Extras) -> Made:
    program = _program(recipe, candidate, setup) if extras.pt2 else None
    return Made(
        recipe, candidate, program, named_files(candidate.onnx, model_inputs(setup.task, 1)) if extras.devices else {}
    )


def _program(recipe: Recipe, candidate: Candidate, setup: Setup) -> bytes:
    """The compressed model as a torch program. Raises ArtifactError."""
    try:
        model = rebuild(
            build_model(setup.task, setup.config.search.seed), expanded(recipe), candidate.decisions, candidate.weights
        )
    except Exception as error:
        first = (str(error).splitlines() or [repr(error)])[0]
        raise ArtifactError(
            f"model.pt2 cannot be made: the task's model is no longer the one that was compressed ({first}): "
            "search again, or leave out --pt2"
        ) from error
    return export_program(model, example_inputs(setup.task), input_signature(setup.task))


def _write(made: Made, setup: Setup, baseline: Baseline, out: Path, claimed: Metrics) -> dict[str, Any]:
    candidate = made.candidate
    found = remeasure(candidate.onnx, setup, baseline)
    measurement = {
        "study": setup.config.study,
        "quality": setup.quality,
        "seed": setup.config.search.seed,
        "claimed": claimed or found,
        "measured": found,
        "baseline": {
            **baseline.metrics,
            **confirm(baseline.onnx, setup.reference, setup.config.target),
            **latency_now(baseline.metrics, found["latency_ms"] * found["speedup"]),  # in the bursts of the artifact's
        },
        "target": setup.config.target.model_dump(mode="json"),
        "processor": processor(),
        "float_weights": candidate.float_weights,
        "violations": violations(check_limits(setup, baseline.metrics), found),
        **({} if made.program is None else {"pt2_bytes": len(made.program)}),
        **({"devices": {name: len(data) for name, data in made.devices.items()}} if made.devices else {}),
        **({"classes": list(classes)} if (classes := getattr(setup.task, "classes", ())) else {}),
        **({"remarks": candidate.remarks} if candidate.remarks else {}),
        **({"inputs": list(said)} if (said := getattr(setup.task, "inputs", ())) else {}),
        **({"sizes": sizes[0]} if (sizes := size_notes(setup.task, setup.config.target.batch_size)) else {}),
    }
    names, example = Model(candidate.onnx).inputs, example_inputs(setup.task)
    shapes = [(list(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch.")) for tensor in example]
    inputs = dict(zip(names, shapes, strict=True))
    preparation = preparation_of(setup.task)
    text = card(made.recipe, measurement, inputs, None if preparation is None else preparation.example)
    kept = None if preparation is None else preparation.model_dump_json()
    contents = Contents(
        candidate.onnx, made.recipe.to_yaml(), candidate.decisions, measurement, text, made.program, kept, made.devices
    )
    write_folder(out, contents.files())
    check_sums(out)
    return measurement


def remeasure(data: bytes, setup: Setup, baseline: Baseline | None) -> Metrics:
    """Size, quality on validation and test, and latency of a file, measured here and now."""
    target = setup.config.target
    model = Model(data, target)
    found: Metrics = {**measure_size(data), **measure_quality(model, setup.task, "validation")}
    found |= confirm(data, setup.reference, target)
    if baseline is None:
        return found
    return {**found, **compare_size(found, baseline.metrics), **time_again(data, setup, baseline)}


def time_again(data: bytes, setup: Setup, baseline: Baseline) -> Metrics:
    """Latency of a file and its speed-up over the uncompressed model, here and now."""
    target = setup.config.target
    return measure_latency(baseline.onnx, data, model_inputs(setup.task, target.batch_size), 2.0, target)
