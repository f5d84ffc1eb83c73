"""Measure every recipe of space.yaml once, on two tasks. Writes table.csv.gz.

Steps decide, apply and train as in a search, and files are encoded, packed and loaded as there. Of each structure one
file is exported, which the weights of the other models of that structure are put into; the file is then held against
its module. Latency is modelled, and so is how far it is off before training: see README.md.

Usage: python experiments/recipe_table/table.py   (about ten minutes on one core)
"""

import itertools
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import torch
from onnx import numpy_helper
from torch import nn

from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.packing import pack
from autocompress.artifacts.parity import check_parity
from autocompress.artifacts.runtime import Model
from autocompress.measure.quality import measure_quality
from autocompress.outcome import Baseline
from autocompress.recipe import Recipe, digest
from autocompress.search.facts_first import distributions
from autocompress.search.space import Space
from autocompress.search.space_file import load_space
from autocompress.search.terrain import Terrain
from autocompress.tasks import Task, TaskReference, refer
from autocompress.tasks.examples import example_inputs
from autocompress.tasks.models import build_model
from autocompress.techniques import expanded
from autocompress.training import Training, fit
from autocompress.trial.baseline import make_baseline
from autocompress.trial.run import Run, TrialSpec
from autocompress.trial.worker import Clock

HERE = Path(__file__).parent
TABLE, SPACE = HERE / "table.csv.gz", HERE / "space.yaml"
TASKS = ("mlp", "cnn")
# A slow processor without a cache: what a call takes, a layer, and a thousand products.
CALL_MS, LAYER_MS, KMAC_MS = 0.02, 0.005, 0.01
EPOCHS = 5  # of which the seconds of one are the mean
SPEED_NOISE = 0.08  # the standard deviation of the logarithm of a speed measured shortly, beside other work
MEASURED = ("size_bytes", "latency_ms", "accuracy", "test_accuracy", "facts_size_bytes", "facts_latency_ms",
            "first_seconds", "second_seconds", "file_seconds", "facts_seconds")  # fmt: skip

Row = dict[str, Any]


def rows_of(space: Space) -> list[Row]:
    """A row of parameters for each recipe of a space; those that it does not use are the first of their domain."""
    terrain = Terrain(distributions(space), space.active, space.leaves)
    values = [getattr(domain, "choices", None) or terrain.grids[name] for name, domain in terrain.domains.items()]
    found: dict[Any, Row] = {}
    for row in (dict(zip(terrain.domains, each, strict=True)) for each in itertools.product(*values)):
        found.setdefault(terrain.key(row), row)
    return list(found.values())


def trunk_of(recipe: Recipe) -> Recipe:
    """A recipe without its encoding."""
    return Recipe(tuple(step for step in recipe.steps if step.kind != "encode"))


def latency_ms(model: nn.Module, example: torch.Tensor) -> float:
    """The modelled latency of a network, from its layers and products for one example."""
    total = CALL_MS

    def count(module: Any, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        weight = module.weight
        total += LAYER_MS + KMAC_MS / 1000 * weight.numel() * output[0].numel() / len(weight)

    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model(example[:1])
    for hook in hooks:
        hook.remove()
    return total


@dataclass
class Bench:
    """Measures the recipes of one task; exports are kept by structure, and facts by what is done before training."""

    reference: TaskReference
    baseline: Baseline
    cache: str
    exports: dict[str, tuple[onnx.ModelProto, float]] = field(default_factory=dict)
    facts: dict[str, Row] = field(default_factory=dict)

    def rows(self, trunk: Recipe, recipes: list[Recipe]) -> Iterator[Row]:
        """What is measured of the recipes of one trunk."""
        run = Run.start(TrialSpec(0, trunk.to_data(), self.reference, 0, cache=self.cache), self.baseline)
        bare = Run.start(TrialSpec(0, trunk.to_data(), self.reference, 0), self.baseline).untrained()
        seconds = {"first_seconds": 0.0, "second_seconds": 0.0}
        trained = sum(step.kind == "train" for step in run.recipe.steps[: len(run.decisions)])
        while (index := run.next_step()) is not None:
            start = time.process_time()
            run.step(index, Clock())
            if run.recipe.steps[index].kind == "train":
                seconds[("first_seconds", "second_seconds")[trained]] = time.process_time() - start
                trained += 1
        file, took = self.file(run)
        speed = latency_ms(run.model, example_inputs(run.context.task)[0])
        for recipe in recipes:
            found = self.leaf(run, recipe, file)
            before = self.before(bare, recipe)
            noise = np.random.default_rng(int(digest(facts_recipe(recipe))[:8], 16)).normal() * SPEED_NOISE
            yield {
                **found, **before, **seconds, "latency_ms": speed, "facts_latency_ms": speed * float(np.exp(noise)),
                "file_seconds": found["file_seconds"] + took, "facts_seconds": before["facts_seconds"] + took,
            }  # fmt: skip

    def file(self, run: Run) -> tuple[onnx.ModelProto, float]:
        """The file of a module before it is encoded, and the seconds that its export took, or that of its structure."""
        state = run.model.state_dict()
        key = digest([str(run.model), [list(tensor.shape) for tensor in state.values()]])
        example = example_inputs(run.context.task)
        if key not in self.exports:
            start = time.process_time()
            exported = export_onnx(run.model, example)
            self.exports[key] = (exported, time.process_time() - start)
        exported, took = self.exports[key]
        made = onnx.ModelProto()
        made.CopyFrom(exported)
        for tensor in made.graph.initializer:
            if tensor.name in state:
                tensor.CopyFrom(numpy_helper.from_array(state[tensor.name].numpy(), tensor.name))
        check_parity(run.model, made, example)
        return made, took

    def leaf(self, run: Run, recipe: Recipe, file: onnx.ModelProto) -> Row:
        """Size and quality of a trunk's file in one encoding."""
        start = time.process_time()
        model = Model(data := self.encoded(run, recipe, file))
        task = run.context.task
        accuracy = measure_quality(model, task, "validation")["accuracy"]
        seconds = time.process_time() - start
        test = measure_quality(model, task, "test")["accuracy"]
        return {"size_bytes": len(data), "accuracy": accuracy, "test_accuracy": test, "file_seconds": seconds}

    def encoded(self, run: Run, recipe: Recipe, file: onnx.ModelProto) -> bytes:
        """The bytes of a file once encoded, packed and stripped."""
        made = onnx.ModelProto()
        made.CopyFrom(file)
        leaf = replace(run, recipe=expanded(recipe))
        return bytes(strip(pack(leaf.encode(made, Clock()))).SerializeToString())

    def before(self, bare: Run, recipe: Recipe) -> Row:
        """The size that is known before training, the same for all trainings."""
        key = digest(facts_recipe(recipe))
        if key not in self.facts:
            start = time.process_time()
            size = len(self.encoded(bare, recipe, self.file(bare)[0]))
            self.facts[key] = {"facts_size_bytes": size, "facts_seconds": time.process_time() - start}
        return self.facts[key]


def facts_recipe(recipe: Recipe) -> list[Any]:
    """What the facts before training depend on: all steps but the trainings."""
    return [step.to_data() for step in recipe.steps if step.kind != "train"]


def measured(task: str, rows: list[Row], space: Space, baseline: Baseline | None = None) -> pd.DataFrame:
    """The table of some rows of parameters, in their order; a case `baseline` stands first."""
    reference = refer(f"task.py:{task}", HERE)
    baseline = baseline or make_baseline(reference, 0)
    recipes = [space.recipe(row) for row in rows]
    trunks: dict[str, list[int]] = {}
    for index, recipe in enumerate(recipes):
        trunks.setdefault(trunk_of(recipe).fingerprint, []).append(index)
    found: dict[int, Row] = {-1: baseline_row(reference, baseline)}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(reference, baseline, folder)
        for number, members in enumerate(trunks.values()):
            some = [recipes[index] for index in members]
            for index, row in zip(members, bench.rows(trunk_of(some[0]), some), strict=True):
                used = {name: rows[index][name] for name in space.parameters() if name in space.active(rows[index])}
                found[index] = {"case": "recipe", "task": task, **used, **row}
            print(f"\r{task}: {number + 1} of {len(trunks)} trunks", end="", file=sys.stderr, flush=True)
    made = pd.DataFrame([{**found[-1], "task": task}, *(found[index] for index in range(len(rows)))])
    for name in ("first_seconds", "second_seconds"):
        made[name] = shared_seconds(made, name)
    return made


def baseline_row(reference: TaskReference, baseline: Baseline) -> Row:
    """The uncompressed model; first_seconds are those of one epoch."""
    run = Run.start(TrialSpec(0, {"version": 1, "steps": [{"technique": "float16"}]}, reference, 0), baseline)
    task = run.context.task
    return {
        "case": "baseline", "size_bytes": len(baseline.onnx), "accuracy": baseline.metrics["accuracy"],
        "test_accuracy": measure_quality(Model(baseline.onnx), task, "test")["accuracy"],
        "latency_ms": latency_ms(run.model, example_inputs(task)[0]),
        "first_seconds": epoch_seconds(task),
    }  # fmt: skip


def epoch_seconds(task: Task) -> float:
    """What an epoch of the uncompressed model takes, without what the first training of a process loads."""
    settings = Training(epochs=EPOCHS, batch_size=64)
    start = time.process_time()
    fit(build_model(task, 0), task.split("train"), lambda o, b: task.loss(o, b.targets), settings, 0)
    return (time.process_time() - start) / EPOCHS


def shared_seconds(rows: pd.DataFrame, name: str) -> pd.Series:
    """What a training takes for every row that holds it: the trunk that was first paid for the others."""
    if name == "second_seconds":
        return rows[name]
    stage = [column for column in rows if column.startswith(("choice_0", "choice_1", "channel", "svd", "distill"))]
    return rows.groupby(stage, dropna=False)[name].transform("max")


def columns(space: Space) -> list[str]:
    """The columns of the table: what a row is, its parameters in the order of the steps, and what was measured."""
    return ["case", "task", *distributions(space), *MEASURED]


def main() -> None:
    """Measure all rows of all tasks."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    space = load_space(SPACE)
    rows = rows_of(space)
    assert len(rows) == space.count()
    tables = [measured(task, rows, space) for task in TASKS]
    whole = pd.concat(tables)[columns(space)]
    whole.to_csv(TABLE, index=False, float_format="%.6g", compression={"method": "gzip", "mtime": 0})


def choices(row: Mapping[str, Any], space: Space) -> Row:
    """The parameters of a line of the table; those that it leaves blank are the first of their domain."""
    found: Row = {}
    for name, domain in distributions(space).items():
        value = row[name]
        first = domain.choices[0] if hasattr(domain, "choices") else domain.low
        blank = isinstance(value, float) and np.isnan(value)
        found[name] = first if blank else type(first)(value)
    return found


if __name__ == "__main__":
    main()
