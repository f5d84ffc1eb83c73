"""Applying a recipe elsewhere, and what it says of what was decided otherwise; and the torch program of an artifact."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import Ran, configure, make_project, run
from torch import Tensor, nn

import autocompress
from autocompress.artifacts.runtime import Model
from autocompress.terminal.changes import Artifact, artifact_beside, change_parts, changes, step_lines

# Weights that come from the search's seed, and a sibling with a wider first layer.
NETWORKS = """

def deep(hidden):
    first, second = nn.Linear(64, hidden), nn.Linear(hidden, 32)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), nn.Linear(32, 4))


def narrow():
    return tiny(lambda: deep(48))


def wide():
    return tiny(lambda: deep(64))


def images():
    return tiny(lambda: nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 4)))
"""
RECIPE = """
version: 1
steps:
  - {technique: channel_pruning, ratio: 0.5, importance: l1, scope: global}
  - {technique: finetune, epochs: 1}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two configs and a recipe; `first` is the artifact of the recipe on the narrow network."""
    folder = make_project(tmp_path_factory.mktemp("apply"))
    (folder / "task.py").write_text((folder / "task.py").read_text() + NETWORKS)
    configure(folder / "narrow.yaml", task="task.py:narrow")
    configure(folder / "images.yaml", study="images", task="task.py:images")
    configure(folder / "wide.yaml", study="sibling", task="task.py:wide")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "half.yaml").write_text(RECIPE + "  - float16\n")
    ran = apply(folder, "recipe.yaml", "narrow.yaml", "first", "--pt2")
    assert (ran.code, ran.json()["changed"]) == (0, None), ran.err
    return folder


def apply(folder: Path, recipe: str, config: str, out: str, *more: str) -> Ran:
    return run(folder, "apply", recipe, "--config", config, "--out", out, "--json", *more)


def kept(folder: Path) -> dict[str, tuple[int, int]]:
    """The width of every pruned layer, before and after, as the artifact recorded it."""
    layers = json.loads((folder / "decisions.json").read_text())[0]["layers"]
    pairs = {name: text.split(" -> ") for name, text in layers.items()}
    return {name: (int(before), int(after)) for name, (before, after) in pairs.items()}


def inputs(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(count).standard_normal((count, 1, 8, 8)).astype(np.float32)


PROGRAM = """
import sys
import numpy, torch

program = torch.export.load(sys.argv[1]).module()
for path in sys.argv[2:]:
    with torch.no_grad():
        output = program(torch.from_numpy(numpy.load(path)))
    numpy.save(path, output.numpy())
assert "autocompress" not in sys.modules
"""


def run_program(file: Path, folder: Path, counts: tuple[int, ...]) -> list[np.ndarray[Any, Any]]:
    """The program's outputs in a process that knows torch alone."""
    paths = [folder / f"{count}.npy" for count in counts]
    for path, count in zip(paths, counts, strict=True):
        np.save(path, inputs(count))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", PROGRAM, str(file), *map(str, paths)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [np.load(path) for path in paths]


def program_of(file: Path, count: int) -> np.ndarray[Any, Any]:
    """The same in this process."""
    with torch.no_grad():
        output: Tensor = torch.export.load(file).module()(torch.from_numpy(inputs(count)))
    return output.numpy()


# The torch program


def test_the_program_runs_with_torch_alone_and_computes_what_the_onnx_file_does(project: Path, tmp_path: Path) -> None:
    counts = (1, 2, 5)
    model = autocompress.load(project / "first")
    for count, found in zip(counts, run_program(project / "first" / "model.pt2", tmp_path, counts), strict=True):
        np.testing.assert_allclose(found, model(inputs(count)), rtol=1e-4, atol=1e-4)


def test_the_program_is_smaller_than_the_uncompressed_one(project: Path) -> None:
    (project / "none.yaml").write_text("version: 1\nsteps: []\n")
    whole = apply(project, "none.yaml", "narrow.yaml", "whole", "--pt2").json()
    # Half of 48 + 32 channels take at least 64 * 16 weights of 4 bytes with them.
    measurement = json.loads((project / "first" / "measurement.json").read_text())
    assert measurement["pt2_bytes"] == (project / "first" / "model.pt2").stat().st_size
    assert measurement["pt2_bytes"] < whole["pt2_bytes"] - 64 * 16 * 4


def test_the_program_is_listed_and_a_flipped_byte_of_it_is_found(project: Path, tmp_path: Path) -> None:
    rows = dict(reversed(row.split("  ")) for row in (project / "first" / "SHA256SUMS").read_text().splitlines())
    assert rows["model.pt2"] == hashlib.sha256((project / "first" / "model.pt2").read_bytes()).hexdigest()
    assert run(project, "verify", "first").code == 0
    damaged = tmp_path / "damaged"
    shutil.copytree(project / "first", damaged)
    data = bytearray((damaged / "model.pt2").read_bytes())
    data[len(data) // 2] ^= 1
    (damaged / "model.pt2").write_bytes(data)
    ran = run(project, "verify", str(damaged))
    assert ran.code == 2
    assert "model.pt2: differs from SHA256SUMS" in ran.err
    (damaged / "model.pt2").unlink()
    assert "model.pt2: is missing" in run(project, "verify", str(damaged)).err


def test_encode_steps_leave_the_program_in_float_and_the_card_says_so(project: Path) -> None:
    ran = apply(project, "half.yaml", "narrow.yaml", "half", "--pt2")
    assert ran.code == 0, ran.err
    half, whole = (program_of(project / name / "model.pt2", 4) for name in ("half", "first"))
    np.testing.assert_array_equal(half, whole)
    rounded = autocompress.load(project / "half")(inputs(4))
    assert 0 < np.abs(rounded - half).max() < 1e-2
    card = (project / "half" / "MODEL_CARD.md").read_text()
    assert "`model.pt2` is the compressed model for torch, in float: before `float16`" in card
    assert "float16`" not in (project / "first" / "MODEL_CARD.md").read_text().split("model.pt2")[1].split(".")[0]


def test_without_the_option_there_is_no_program_and_an_old_one_goes(project: Path) -> None:
    shutil.copytree(project / "first", project / "again")
    ran = apply(project, "recipe.yaml", "narrow.yaml", "again")
    assert ran.code == 0, ran.err
    assert not (project / "again" / "model.pt2").exists()
    assert "pt2_bytes" not in ran.json()
    assert "model.pt2" not in (project / "again" / "MODEL_CARD.md").read_text()


def test_an_exported_trial_has_its_program_too(project: Path) -> None:
    configure(project / "searched.yaml", study="searched")
    assert run(project, "search", "searched.yaml", "--executor", "inline", "--trials", "1").code == 0
    ran = run(project, "export", "searched", "--out", "trial", "--pt2")
    assert ran.code == 0, ran.err
    assert "model.pt2: " in ran.out
    found = program_of(project / "trial" / "model.pt2", 3)
    np.testing.assert_allclose(found, autocompress.load(project / "trial")(inputs(3)), atol=1e-2)  # float16, perhaps


STUDENTS = """
version: 1
steps:
  - {technique: nonn, students: 2, epochs: 1}
"""


def test_a_network_of_networks_comes_as_one_file_a_device_too(project: Path) -> None:
    (project / "students.yaml").write_text(STUDENTS)
    ran = run(project, "apply", "students.yaml", "--config", "images.yaml", "--out", "divided", "--devices")
    assert ran.code == 0, ran.err
    assert "a device each: student_0.onnx " in ran.out
    folder, x = project / "divided", np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    features = [Model((folder / f"student_{index}.onnx").read_bytes())(x) for index in range(2)]
    joined = Model((folder / "join.onnx").read_bytes())(*features)
    np.testing.assert_allclose(joined, autocompress.load(folder)(x), atol=1e-5)
    said = json.loads((folder / "measurement.json").read_text())["devices"]
    assert said == {name: (folder / name).stat().st_size for name in ("student_0.onnx", "student_1.onnx", "join.onnx")}
    assert "`student_0.onnx`, `student_1.onnx` each take the inputs" in (folder / "MODEL_CARD.md").read_text()
    (folder / "student_1.onnx").write_bytes(b"another")
    assert "student_1.onnx: differs from SHA256SUMS" in run(project, "verify", "divided").err
    # Written again without, none of them is left.
    assert run(project, "apply", "students.yaml", "--config", "images.yaml", "--out", "divided").code == 0
    assert not (folder / "join.onnx").exists()


def test_files_of_devices_of_another_recipe_are_refused(project: Path) -> None:
    ran = apply(project, "recipe.yaml", "narrow.yaml", "undivided", "--devices")
    assert ran.code == 2
    assert "joins no students: it is not one of a recipe with `nonn`, leave out --devices" in ran.err
    assert not (project / "undivided").exists()


def test_a_model_that_torch_export_cannot_save_leaves_nothing_behind(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("no schema for this operator")

    monkeypatch.setattr(torch.export, "save", refuse)
    ran = apply(project, "recipe.yaml", "narrow.yaml", "refused", "--pt2")
    assert (ran.code, ran.out) == (2, "")
    assert "error: torch.export cannot save this model: no schema for this operator: leave out --pt2" in ran.err
    assert not (project / "refused").exists()


# Deciding anew


def test_the_same_seed_and_model_decide_the_same(project: Path) -> None:
    changed = apply(project, "first/recipe.yaml", "narrow.yaml", "same").json()["changed"]
    assert changed["steps"] == []
    assert changed["same_processor"] is True
    for name in ("size_bytes", "params", "accuracy", "test_accuracy"):
        assert changed["metrics"][name]["there"] == changed["metrics"][name]["here"]
    assert list(changed["metrics"]) == ["size_bytes", "params", "accuracy", "test_accuracy", "speedup", "latency_ms"]


def test_another_seed_decides_anew_and_says_how_many_channels_each_layer_kept(project: Path) -> None:
    ran = apply(project, "first/recipe.yaml", "narrow.yaml", "seeded", "--seed", "5")
    assert ran.code == 0, ran.err
    changed = ran.json()["changed"]
    old, new = kept(project / "first"), kept(project / "seeded")
    assert old != new
    (step,) = changed["steps"]
    assert (step["step"], step["technique"], step["more"]) == (1, "channel_pruning", 0)
    assert [line for line in step["lines"] if line.startswith("layers ")] == [
        f"layers {name}: {old[name][1]} -> {new[name][1]} kept of {new[name][0]}"
        for name in new
        if old[name] != new[name]
    ]
    for name, row in changed["metrics"].items():
        for side, folder in (("there", "first"), ("here", "seeded")):
            assert row[side] == json.loads((project / folder / "measurement.json").read_text())["measured"][name]
    seeds = [json.loads((project / name / "measurement.json").read_text())["seed"] for name in ("first", "seeded")]
    assert seeds == [0, 5]


def test_a_sibling_model_decides_anew(project: Path) -> None:
    ran = run(project, "apply", "first/recipe.yaml", "--config", "wide.yaml", "--out", "sibling")
    assert ran.code == 0, ran.err
    (old, new) = (kept(project / name)["1.weight"] for name in ("first", "sibling"))
    assert (old[0], new[0]) == (48, 64)
    assert "step 1, channel_pruning, decided otherwise:" in ran.out
    assert f"  layers 1.weight: there 48 -> {old[1]}, here 64 -> {new[1]}" in ran.out
    there, here = (json.loads((project / n / "measurement.json").read_text())["measured"] for n in ("first", "sibling"))
    rows = [line.split() for line in ran.out.splitlines() if line.split()[:1] == ["params"]]
    assert ["params", f"{there['params']:,.0f}", f"{here['params']:,.0f}"] in rows


def test_another_checkpoint_decides_anew(tmp_path: Path) -> None:
    make_project(tmp_path)
    layers = "nn.Linear(3 * 32 * 32, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4)"
    code = f"from torch import nn\n\n\ndef deep():\n    return nn.Sequential(nn.Flatten(), {layers})\n"
    (tmp_path / "net.py").write_text(code)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x=pixels, y=np.arange(40) % 4)
    task = {"kind": "image_classification", "model": "net.py:deep", "data": "npz:data.npz", "input_size": 32}
    for index, name in enumerate(("old", "new")):
        torch.manual_seed(index)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU())
        save_file(model.append(nn.Linear(16, 4)).state_dict(), tmp_path / f"{name}.safetensors")
        configure(tmp_path / f"{name}.yaml", task={**task, "weights": f"{name}.safetensors"})
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("  - {technique: finetune, epochs: 1}\n", ""))
    first = apply(tmp_path, "recipe.yaml", "old.yaml", "old")
    again = apply(tmp_path, "old/recipe.yaml", "new.yaml", "new")
    assert (first.code, again.code) == (0, 0), first.err + again.err
    (step,) = again.json()["changed"]["steps"]
    assert step["technique"] == "channel_pruning"
    old, new = kept(tmp_path / "old"), kept(tmp_path / "new")
    shown = [line.split(": ")[0].removeprefix("layers ") for line in step["lines"] if line.startswith("layers ")]
    assert shown == [name for name in new if old[name] != new[name]]


def test_an_artifact_can_be_replaced_by_its_own_recipe_applied_anew(project: Path) -> None:
    shutil.copytree(project / "first", project / "own")
    changed = apply(project, "own/recipe.yaml", "narrow.yaml", "own", "--seed", "5").json()["changed"]
    assert changed["metrics"]["size_bytes"]["here"] == (project / "own" / "model.onnx").stat().st_size
    assert len(changed["steps"]) == 1


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("decisions.json", "[{", "decisions.json: differs from SHA256SUMS"),
        ("recipe.yaml", "version: 1\nsteps: [float16]\n", "recipe.yaml: differs from SHA256SUMS"),
    ],
)
def test_a_damaged_neighbour_is_not_compared_with_and_the_recipe_is_applied(
    project: Path, tmp_path: Path, name: str, text: str, reason: str
) -> None:
    beside = tmp_path / "beside"
    shutil.copytree(project / "first", beside)
    (beside / name).write_text(text)
    ran = apply(project, str(beside / "recipe.yaml"), "narrow.yaml", str(tmp_path / "out"))
    assert (ran.code, ran.json()["changed"]) == (0, None)
    assert f"not compared with the artifact beside the recipe: {beside}/{reason}" in ran.err


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("decisions.json", "[{", "decisions.json: holds no decisions"),
        ("decisions.json", '["x"]', "decisions.json: holds no decisions"),
        ("decisions.json", "[" * 100_000, "decisions.json: holds no decisions"),
        ("decisions.json", "[{}]", "has 1 decisions for 2 steps"),
        ("measurement.json", "{}", "measurement.json: holds no measurement"),
        ("measurement.json", "[" * 100_000, "measurement.json: holds no measurement"),
    ],
)
def test_a_neighbour_that_is_no_artifact_s_though_its_sums_agree_is_left_out_too(
    project: Path, tmp_path: Path, name: str, text: str, reason: str
) -> None:
    beside = tmp_path / "beside"
    shutil.copytree(project / "first", beside)
    old = hashlib.sha256((beside / name).read_bytes()).hexdigest()
    (beside / name).write_text(text)
    sums = (beside / "SHA256SUMS").read_text()
    (beside / "SHA256SUMS").write_text(sums.replace(old, hashlib.sha256(text.encode()).hexdigest()))
    notes: list[str] = []
    assert artifact_beside(beside / "recipe.yaml", notes.append) is None
    (note,) = notes
    assert reason in note


def test_a_recipe_of_its_own_is_compared_with_nothing(project: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    assert artifact_beside(project / "recipe.yaml", notes.append) is None
    assert notes == []


# What is said of two decisions


def test_what_only_one_side_did_is_said() -> None:
    there = {"ranks": {"a": 3, "b": 4}, "skipped": {"c": "too small"}}
    here = {"ranks": {"a": 3, "c": 2}, "skipped": {}}
    assert step_lines(there, here) == [
        "ranks c: only here (2)", "ranks b: only there (4)", "skipped c: only there (too small)",
    ]  # fmt: skip


def test_other_positions_of_as_many_channels_are_a_line() -> None:
    there, here = ({"layers": {"a": "8 -> 4"}, "history": [["a", True, where]]} for where in ([0, 1], [2, 3]))
    assert step_lines(there, here) == ["as much of the same layers, but other parts or values of them"]


def test_ten_lines_of_a_step_are_shown_and_the_rest_counted() -> None:
    sides = [
        Artifact("accuracy", {"params": 1.0}, None, [("svd", {"ranks": dict.fromkeys(map(str, range(13)), rank)})])
        for rank in (1, 2)
    ]
    changed = changes(*sides)
    assert (len(changed["steps"][0]["lines"]), changed["steps"][0]["more"]) == (10, 3)
    assert changed["metrics"]["accuracy"] == {"there": None, "here": None}
    assert list(change_parts(changed))[-1] == "  and 3 more"
