"""Models and data as people have them: searched in the widest space, exported and verified; what cannot be is known."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import run

from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.runtime import Model
from autocompress.config import FOLDERS, Target
from autocompress.measure.size import measure_size
from autocompress.outcome import Baseline, Candidate
from autocompress.search.leaving_out import tries
from autocompress.search.space import Space
from autocompress.search.space_file import load_space
from autocompress.tasks import TaskReference, refer
from autocompress.tasks.checks import check_task, check_trainable
from autocompress.tasks.examples import example_inputs
from autocompress.tasks.models import build_model, model_notes
from autocompress.techniques import recipe_from_data
from autocompress.testing import make_task
from autocompress.testing.own_models import OWN
from autocompress.training import Training, fit
from autocompress.trial.applicable import find_obstacles
from autocompress.trial.stages import pack_weights, rebuild
from autocompress.trial.trial import TrialSpec, prepare

TASKS = """
import functools

from autocompress import Training
from autocompress.testing import make_task
from autocompress.testing.own_models import OWN

for name, model in OWN.items():
    globals()[name] = functools.partial(make_task, model)
    globals()[f"{name}_trained"] = functools.partial(make_task, model, baseline=Training(epochs=1))
"""
FACTORS = ("svd", "tucker", "cp", "kronecker", "cyclic_sparse")
WINDOWS = {"stripe_pruning", "tucker", "cp"}  # what needs a convolution in two dimensions, or in any
# What cannot be applied, by hand: no window but that of a signal, and no layer whose output is shaped like its input.
LEFT_OUT = {
    "sentences": WINDOWS,
    "recurrent": {*WINDOWS, "block_pruning"},
    "signals": {"tucker", "cp", "block_pruning"},
    "unet": {"block_pruning"},
    "attending": {*WINDOWS, "block_pruning"},
    "gated": {*WINDOWS, "block_pruning"},
    "shuffled": {"block_pruning"},
    "tied": {*WINDOWS, "block_pruning"},
    "normalized": {"block_pruning"},
    "two_inputs": {"block_pruning"},
    "mapped": {"block_pruning"},
    "in_place": {*WINDOWS, "block_pruning"},
    "lazy": {"block_pruning"},
}
SHORT = {"epochs": 1, "batch_size": 16}
# Each technique of the space at least once over the shelf, after others where it may follow them.
RECIPES = {
    "sentences": [
        ["block_pruning", "channel_pruning", "svd", "distill", "int8_dynamic"],
        ["patient_distill", "kronecker", "qat"],
    ],
    "recurrent": [["sparsify", "channel_pruning", "svd", "tucker", "binary", "float16"]],
    "signals": [["kronecker", "stripe_pruning", "weight_clustering", "finetune", "int8_static"]],
    "unet": [
        ["tucker", "channel_pruning", "cp", "attention_distill", "int8_static"],
        ["nonn", "channel_pruning", "float16"],
    ],
    "attending": [["weight_pruning", "svd", "block_pruning", "finetune", "int8_static"]],
    "gated": [["channel_pruning", "kronecker", "ternary", "low_bit"]],
    "shuffled": [["channel_pruning", "cp", "stripe_pruning", "qat"]],
    "tied": [["channel_pruning", "kronecker", "self_distill", "log2_quantization"]],
    "normalized": [
        ["stripe_pruning", "channel_pruning", "svd", "finetune", "int8_static"],
        ["cyclic_sparse"],
        ["channel_pruning", "product_quantization", "finetune"],
    ],
    "two_inputs": [["architecture", "channel_pruning", "svd", "tucker", "qat"]],
    "mapped": [["weight_pruning", "cp", "hint_distill", "low_bit"]],
    "in_place": [["channel_pruning", "svd", "gptq", "finetune", "mixed_precision"]],
    "lazy": [["tucker", "channel_pruning", "new_head", "float16"]],
}


@functools.cache
def wide() -> Space:
    return load_space(FOLDERS["search_spaces"] / "wide.yaml")


@functools.cache
def hardly_trained(name: str) -> Baseline:
    """A baseline that was trained a little and not timed."""
    task = make_task(OWN[name])
    model, settings = build_model(task, 0), Training(epochs=6, learning_rate=5e-3, batch_size=16)
    fit(model, task.split("train"), lambda output, batch: task.loss(output, batch.targets), settings, 0)
    data, weights = strip(export_onnx(model, example_inputs(task))).SerializeToString(), pack_weights(model)
    return Baseline(weights, b"", data, measure_size(data), {}, hashlib.sha256(weights).hexdigest())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("own")
    (made / "own_tasks.py").write_text(TASKS)
    return made


def reference(folder: Path, name: str) -> TaskReference:
    return refer(f"own_tasks.py:{name}", folder)


def step(name: str) -> dict[str, object]:
    """A step that is done in no time and takes little away."""
    known = fields(name)
    mild = {**SHORT, "ratio": 0.4, **({"energy": 0.5} if name in FACTORS else {})}
    return {"technique": name, **{key: value for key, value in mild.items() if key in known}}


def shortly(name: Any) -> object:
    """An option of the space that takes one epoch where it trains."""
    if not isinstance(name, str):
        return name
    given = {key: value for key, value in SHORT.items() if key in fields(name)}
    return {"technique": name, **given} if given else name


def fields(name: str) -> set[str]:
    option = wide().options().get(name)
    return set() if option is None else set(option.kind.model_fields)


def test_the_shelf_meets_every_technique_of_the_space() -> None:
    used = {name for recipes in RECIPES.values() for recipe in recipes for name in recipe}
    assert used == {option.kind.technique for option in wide().options().values()}
    assert RECIPES.keys() == LEFT_OUT.keys() == OWN.keys()


@pytest.mark.parametrize("name", list(OWN))
def test_what_cannot_be_applied_is_known_before_a_search(name: str, folder: Path) -> None:
    structure = [key for key, option in wide().options().items() if option.kind.kind == "structure"]
    asked = {key: tries(wide().options()[key]) for key in structure if key in LEFT_OUT[name]}
    found = find_obstacles(reference(folder, name), hardly_trained(name), 0, Target(), asked)
    assert found.keys() == LEFT_OUT[name]
    assert all(reason.startswith("needs a ") for reason in found.values())


@pytest.mark.parametrize("name", list(OWN))
def test_a_model_as_people_have_it_is_taken_compressed_and_rebuilt(name: str, folder: Path) -> None:
    task = make_task(OWN[name])
    check_task(task)
    check_trainable(task, 0)
    example = example_inputs(task)
    for steps in RECIPES[name]:
        recipe = {"version": 1, "steps": [step(key) for key in steps]}
        made = prepare(TrialSpec(0, recipe, reference(folder, name), 0), hardly_trained(name))
        assert isinstance(made, Candidate), made
        nothing = {key for key, decision in zip(steps, made.decisions, strict=True) if "nothing to do" in decision}
        assert nothing <= LEFT_OUT[name] | set(FACTORS), "only factors may find a layer that became too small for them"
        model = rebuild(build_model(task, 0), recipe_from_data(recipe), made.decisions, made.weights)
        assert pack_weights(model) == made.weights
        assert Model(made.onnx)(*(tensor.numpy() for tensor in example)).shape == (4, 4)


def test_weights_that_are_computed_become_plain_ones_and_that_is_said() -> None:
    task = make_task(OWN["normalized"])
    model = build_model(task, 0)
    assert {name for name, _ in model.named_parameters()} == {
        f"{layer}.{kind}" for layer in ("old", "new", "pruned", "head") for kind in ("weight", "bias")
    }
    assert not list(model.named_buffers())
    assert int((model.get_parameter("pruned.weight") == 0).sum()) == round(0.3 * 32 * 96)
    (note,) = model_notes(task)
    assert note.startswith("weights that are computed from others (old.weight, new.weight, pruned.weight, ...) are")


@pytest.mark.parametrize(("name", "trials"), [("sentences", 2), ("recurrent", 3)])
def test_a_search_in_the_widest_space_fails_no_trial_and_its_export_holds(name: str, trials: int, folder: Path) -> None:
    space = yaml.safe_load((FOLDERS["search_spaces"] / "wide.yaml").read_text())
    space["steps"] = [{how: list(map(shortly, keys))} for group in space["steps"] for how, keys in group.items()]
    # The first trial takes little away, so that there is a front; it says something of what is left out, too.
    cuts = {option.name: option.name == "svd" for option in wide().groups[2].options if option is not None}
    mild = {**dict.fromkeys(("choice_0", "choice_1", "choice_3"), "none"), "choice_4": "finetune"}
    space["start"] = [{**cuts, "svd.energy": 0.5, **mild, "choice_5": "low_bit", "low_bit.bits": 8}]
    (folder / "wide.yaml").write_text(yaml.safe_dump(space))
    config = {"study": name, "task": f"own_tasks.py:{name}_trained", "search_space": "wide.yaml", "tracking": None}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**config, "search": {"trials": trials, "workers": 1}}))
    planned = run(folder, "plan", f"{name}.yaml", "--executor", "inline", "--json")
    assert planned.code == 0, planned.err
    assert LEFT_OUT[name] <= planned.json()["left_out"].keys()
    for left in LEFT_OUT[name]:
        assert f"left out of the search space: {left}: needs a " in planned.err
    searched = run(folder, "search", f"{name}.yaml", "--executor", "inline", "--json")
    assert "left out of the search space: tucker: needs a convolution" in searched.err
    assert "trying each technique" not in searched.err, "what was found is kept"
    document = searched.json()
    assert document["counts"]["failed"] == 0, searched.err
    out = str(folder / f"{name}-chosen")
    assert run(folder, "export", name, "--pick", "smallest", "--out", out).code == 0
    assert run(folder, "verify", out, "--config", f"{name}.yaml").code == 0
    kept = json.loads((Path(out) / "measurement.json").read_text())
    assert kept["measured"]["size_bytes"] < kept["baseline"]["size_bytes"]
