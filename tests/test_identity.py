"""What a baseline and a study are kept under: what the task is made of, and never where it lies."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import configure, run
from torch import nn

NET = """
from torch import nn


def net(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, num_classes))
"""
FACTORY = """
from helper import network, numbers

from autocompress import Classification


def tiny():
    return Classification(network, numbers(0, 64), numbers(1, 32), numbers(2, 32), None)
"""
HELPER = """
import torch
from torch import nn

WIDTH, LABELS, ACTIVATION = 8, 0, nn.ReLU


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), ACTIVATION(), nn.Linear(WIDTH, 4))


def numbers(seed, count):
    pixels = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return pixels, (pixels.flatten(1)[:, :4].argmax(1) + LABELS) % 4
"""
IMAGES = {"kind": "image_classification", "model": "net.py:net", "data": "npz:data.npz", "input_size": 8, "channels": 1}
QUICK = {"study": "tiny", "search_space": "space.yaml", "search": {"trials": 1, "workers": 1}}


def write_numbers(path: Path, seed: int, swapped: bool = False) -> None:
    """Sixty images of three classes, told apart by their brightness."""
    generator = np.random.default_rng(seed)
    labels = np.arange(60) % 3
    pixels = (generator.integers(0, 60, (60, 8, 8)) + 80 * labels[:, None, None]).astype(np.uint8)
    np.savez(path, x=pixels, y=labels[::-1] if swapped else labels)


def write_weights(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    save_file(nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 3)).state_dict(), path)


def make_images(folder: Path) -> Path:
    """A task of the README's kind: a mapping that names a model, weights and data."""
    folder.mkdir()
    (folder / "net.py").write_text(NET)
    write_weights(folder / "weights.safetensors", 0)
    write_numbers(folder / "data.npz", 0)
    return configured(folder, task={**IMAGES, "weights": "weights.safetensors"})


def make_factory(folder: Path) -> Path:
    """A task of one file that imports another."""
    folder.mkdir()
    (folder / "task.py").write_text(FACTORY)
    (folder / "helper.py").write_text(HELPER)
    return configured(folder, task="task.py:tiny")


def configured(folder: Path, **changes: Any) -> Path:
    (folder / "space.yaml").write_text("version: 1\nsteps: [{one_of: [float16, none]}]\n")
    configure(folder / "search.yaml", **{**QUICK, **changes})
    return folder


def search(folder: Path, *more: str) -> Any:
    return run(folder, "search", "search.yaml", "--executor", "inline", *more)


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        """Edit one file."""
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def reseed(folder: Path) -> None:
    """Another seed in the config, and all else as it was."""
    configured(folder, task="task.py:tiny", search={"trials": 1, "workers": 1, "seed": 4})


HEAD = "WIDTH, LABELS, ACTIVATION = "
CHANGES: list[tuple[str, Callable[[Path], Path], Callable[[Path], None], str]] = [
    ("retrained weights", make_images, lambda folder: write_weights(folder / "weights.safetensors", 1), "model"),
    ("other images", make_images, lambda folder: write_numbers(folder / "data.npz", 5), "data"),
    ("other labels", make_images, lambda folder: write_numbers(folder / "data.npz", 0, swapped=True), "data"),
    ("an edited model file", make_images, edit("net.py", "nn.ReLU", "nn.Hardsigmoid"), "code, model"),
    ("a wider helper", make_factory, edit("helper.py", f"{HEAD}8", f"{HEAD}16"), "code, model"),
    ("another activation", make_factory, edit("helper.py", "0, nn.ReLU", "0, nn.Tanh"), "code, model"),
    ("relabelled examples", make_factory, edit("helper.py", "8, 0, nn", "8, 1, nn"), "code, data"),
    ("another seed", make_factory, reseed, "model, target"),
]


@pytest.mark.parametrize(("make", "change", "names"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_what_makes_another_task_makes_a_new_baseline_and_ends_the_study(
    tmp_path: Path, make: Callable[[Path], Path], change: Callable[[Path], None], names: str
) -> None:
    folder = make(tmp_path / "project")
    first = run(folder, "plan", "search.yaml", "--json")
    assert "measuring the baseline" in first.err
    assert search(folder).code == 0
    change(folder)
    resumed = search(folder, "--resume")
    assert resumed.code == 2
    assert f"was begun with another {names}: " in resumed.err.replace("config, ", "")
    planned = run(folder, "plan", "search.yaml", "--json")
    assert f"the baseline is made anew: {names} changed" in planned.err
    assert planned.json()["baseline"] != first.json()["baseline"]
    again = run(folder, "plan", "search.yaml", "--json")
    assert again.json()["baseline"] == planned.json()["baseline"]
    assert "measuring" not in again.err  # it is kept now


@pytest.mark.parametrize("make", [make_images, make_factory])
def test_a_study_is_exported_and_gone_on_with_wherever_its_folder_lies(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    folder = make(tmp_path / "project")
    assert search(folder).code == 0
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    shutil.move(folder, moved)
    refused = run(moved, "export", "tiny", "--out", "chosen")
    assert refused.code == 2
    assert "is gone: put it back, or give --config" in refused.err
    assert run(moved, "export", "tiny", "--out", "chosen", "--config", "search.yaml").code == 0
    assert run(moved, "verify", "chosen", "--config", "search.yaml").code == 0
    gone_on = search(moved, "--resume", "--trials", "2")
    assert gone_on.code == 0
    assert "measuring" not in gone_on.err


def test_a_study_whose_data_changed_is_not_exported_as_if_they_had_not(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "project")
    assert search(folder).code == 0
    assert run(folder, "export", "tiny", "--out", "chosen").code == 0
    write_numbers(folder / "data.npz", 5)
    ended = run(folder, "export", "tiny", "--out", "other")
    assert ended.code == 2
    assert "the data of study 'tiny' are others now than when it was searched" in ended.err
