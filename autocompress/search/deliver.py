"""From a chosen trial, or a recipe, to an artifact directory."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from ..techniques import expanded
from ..trial.stages import rebuild
from ..trial.trial import confirm, prepare
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
class Made:
    """A recipe carried out, and the torch program of its model where one was asked for."""

    recipe: Recipe
    candidate: Candidate
    program: bytes | None


def export_trial(
    results: Results, number: int, out: Path, pt2: bool = False, config: SearchConfig | None = None
) -> dict[str, Any]:
    """Write the artifact directory of a trial, measured anew; returns its measurement.

    A trial whose file is not kept is run again, which gives the same weights. pt2: with a torch program. config: where
    the task lies now, if no longer where it was. Raises ArtifactError or StudyError.
    """
    check_target(out)
    setup = set_up(config or results.config())
    check_task(results, setup)
    baseline = results.kept_baseline() or obtain_baseline(setup, InlineExecutor())
    record = results.record(number)
    if isinstance(record.outcome, Failed):
        raise StudyError(f"trial {number} failed ({record.outcome.reason}): export a trial of the front")
    candidate = results.candidate(number) or _run(record.recipe, setup, baseline)
    return _write(_made(record.recipe, candidate, setup, pt2), setup, baseline, out, results.metrics(number))


def check_task(results: Results, setup: Setup) -> None:
    """Raise StudyError where the task is another than the one that was searched on: its numbers would be others."""
    other = [name for name in changed(results.store.get("made_of") or {}, setup.identity) if name in TASK]
    if other:
        raise StudyError(
            f"the {' and the '.join(other)} of study {results.name!r} are others now than when it was searched: put "
            "them back, or search again"
        )


def apply_recipe(recipe: Recipe, config: SearchConfig, out: Path, pt2: bool = False) -> dict[str, Any]:
    """Run one recipe on a config's task and write its artifact directory; returns its measurement.

    pt2: with a torch program. Raises ArtifactError.
    """
    check_target(out)
    setup = set_up(config)
    baseline = obtain_baseline(setup, InlineExecutor())
    check_limits(setup, baseline.metrics)
    return _write(_made(recipe, _run(recipe, setup, baseline), setup, pt2), setup, baseline, out, {})


def _run(recipe: Recipe, setup: Setup, baseline: Baseline) -> Candidate:
    made = prepare(setup.trial(0, recipe), baseline)
    if isinstance(made, Candidate):
        return made
    raise ArtifactError(f"the recipe could not be carried out: {getattr(made, 'reason', made)}")


def _made(recipe: Recipe, candidate: Candidate, setup: Setup, pt2: bool) -> Made:
    if not pt2:
        return Made(recipe, candidate, None)
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
    return Made(recipe, candidate, export_program(model, example_inputs(setup.task), input_signature(setup.task)))


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
            **confirm(baseline.onnx, setup.reference, setup.config.target.threads),
            **latency_now(baseline.metrics, found["latency_ms"] * found["speedup"]),  # in the bursts of the artifact's
        },
        "target": setup.config.target.model_dump(mode="json"),
        "processor": processor(),
        "float_weights": candidate.float_weights,
        "violations": violations(check_limits(setup, baseline.metrics), found),
        **({} if made.program is None else {"pt2_bytes": len(made.program)}),
        **({"classes": list(classes)} if (classes := getattr(setup.task, "classes", ())) else {}),
        **({"remarks": candidate.remarks} if candidate.remarks else {}),
        **({"inputs": list(said)} if (said := getattr(setup.task, "inputs", ())) else {}),
        **({"sizes": sizes[0]} if (sizes := size_notes(setup.task, setup.config.target.batch_size)) else {}),
    }
    names, example = Model(candidate.onnx).inputs, example_inputs(setup.task)
    shapes = [(list(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch.")) for tensor in example]
    inputs = dict(zip(names, shapes, strict=True))
    preparation = getattr(setup.task, "preparation", None)
    text = card(made.recipe, measurement, inputs, None if preparation is None else preparation.example)
    kept = None if preparation is None else preparation.model_dump_json()
    contents = Contents(
        candidate.onnx, made.recipe.to_yaml(), candidate.decisions, measurement, text, made.program, kept
    )
    write_folder(out, contents.files())
    check_sums(out)
    return measurement


def remeasure(data: bytes, setup: Setup, baseline: Baseline | None) -> Metrics:
    """Size, quality on validation and test, and latency of a file, measured here and now."""
    threads = setup.config.target.threads
    model = Model(data, threads)
    found: Metrics = {**measure_size(data), **measure_quality(model, setup.task, "validation")}
    found |= confirm(data, setup.reference, threads)
    if baseline is None:
        return found
    return {**found, **compare_size(found, baseline.metrics), **time_again(data, setup, baseline)}


def time_again(data: bytes, setup: Setup, baseline: Baseline) -> Metrics:
    """Latency of a file and its speed-up over the uncompressed model, here and now."""
    target = setup.config.target
    return measure_latency(baseline.onnx, data, model_inputs(setup.task, target.batch_size), 2.0, target.threads)


def card(
    recipe: Recipe, measurement: dict[str, Any], inputs: dict[str, tuple[list[int], str]], raw: str | None = None
) -> str:
    """The model card: what it is, how to run it, what was measured and where it came from.

    inputs: by name in their order, the shape of one example and its type, such as float32. raw: a raw input as Python
    writes it, where the file comes with what it takes to prepare some.
    """
    found, base, quality = measurement["measured"], measurement["baseline"], measurement["quality"]
    given = (f"{json.dumps(name)}: np.zeros({[1, *shape]}, np.{kind})" for name, (shape, kind) in inputs.items())
    feed = f"{{{', '.join(given)}}}"
    steps = "\n".join(f"{index}. `{step}`" for index, step in enumerate(recipe.steps, 1)) or "(none)"
    rows = "\n".join(f"| {name} | {_shown(base.get(name))} | {_shown(found.get(name))} |" for name in (
        "size_bytes", "params", quality, f"test_{quality}", "latency_ms", "speedup"))  # fmt: skip
    return f"""# Compressed model from study `{measurement["study"]}`

Made by autocompress with this recipe ({recipe.fingerprint}):

{steps}

## Run it

```python
import numpy as np, onnxruntime as ort
session = ort.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
feed = {feed}
output = session.run(None, feed)[0]
print(output.shape)
```
{"" if raw is None else _raw_text(raw)}{_program_text(recipe) if "pt2_bytes" in measurement else ""}
## Measured on the exported file

On {measurement["processor"]["name"]}, {measurement["target"]["threads"]} thread(s), batch size
{measurement["target"]["batch_size"]}. Validation split unless the name starts with `test_`. The speed-up has the 95%
interval {_shown(found.get("speedup_low"))} to {_shown(found.get("speedup_high"))}.

| metric | uncompressed | this file |
|---|---|---|
{rows}

Inputs are what the task's data yields: apply the same preprocessing. `decisions.json` says what was done to each layer.
{_said(measurement, list(inputs))}"""


def _cut(text: str, most: int = 2000) -> str:
    return text if len(text) <= most else f"{text[:most]} ... (all of it in `measurement.json`)"


def _said(measurement: dict[str, Any], names: list[str], most: int = 20) -> str:
    """Paragraphs on how inputs are made, on what outputs stand for, and on what the metrics do not tell."""
    classes: list[str] = measurement.get("classes", [])
    more = f", ... ({len(classes)} in `measurement.json`)" if len(classes) > most else ""
    shown = ", ".join(f"{index} {name!r}" for index, name in enumerate(classes[:most])) + more
    paragraphs = [f"`{name}`: {_cut(text)}." for name, text in zip(names, measurement.get("inputs", ()), strict=False)]
    paragraphs += [f"Inputs: {measurement['sizes']}."] if "sizes" in measurement else []
    paragraphs += [f"Outputs stand for: {shown}."] if classes else []
    paragraphs += [f"Warning: it {text}." for text in measurement.get("remarks", ())]
    return "".join(f"\n{text}\n" for text in paragraphs)


def _raw_text(raw: str) -> str:
    return f"""
With autocompress installed it takes raw inputs, prepared as in training by what `preparation.json` says:

```python
import autocompress
print(autocompress.load(".").predict({raw}))
```
"""


def _program_text(recipe: Recipe) -> str:
    encoded = ", ".join(f"`{step.technique}`" for step in recipe.steps if step.kind == "encode")
    before = f"before {encoded}, which the ONNX file alone has" if encoded else "which the ONNX file is too"
    return f"""
`model.pt2` is the compressed model for torch, in float: {before}. Like any file that torch loads, it is for those who
trust its maker: `torch.export.load("model.pt2").module()` gives a function of tensors.
"""


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
