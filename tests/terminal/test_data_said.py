"""What is said of data and of candidates: notes before a search, names of classes, and answers that are all alike."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny import CONFIG, make_project, run

# Thirty of 32 examples are of class 1, and the bias makes the model say so of every input.
ONE_SIDED = """
import torch
from torch import nn

from autocompress import Classification


def network():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        model[1].bias[1] = 100.0
    return model


def split(seed):
    pixels = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    targets = torch.ones(32, dtype=torch.long)
    targets[0], targets[1] = 0, 2
    return pixels, targets


def tiny():
    return Classification(network, split(0), split(1), split(2), None, classes=CLASSES)
"""


@pytest.mark.parametrize(("classes", "name"), [(("cat", "dog", "elk"), "dog"), ((), "1")])
def test_a_candidate_that_names_one_class_for_everything_is_not_shown_without_a_word(
    tmp_path: Path, classes: tuple[str, ...], name: str
) -> None:
    make_project(tmp_path, search={"trials": 1, "workers": 1})
    (tmp_path / "task.py").write_text(ONE_SIDED.replace("CLASSES", repr(classes)))
    ran = run(tmp_path, "search", "search.yaml", "--executor", "inline")
    assert ran.code == 0, ran.err
    shown = f"warning: trial 0 names one class, '{name}', for all 32 examples of the validation split"
    assert ran.out.count(shown) == 1
    assert run(tmp_path, "front", "tiny").out.count(shown) == 1
    assert shown.partition("0 ")[2] in run(tmp_path, "show", "tiny", "0").out
    [row] = run(tmp_path, "front", "tiny", "--json").json()["front"]
    assert row["metrics"]["accuracy"] == 30 / 32
    assert row["remarks"] == [f"names one class, '{name}', for all 32 examples of the validation split"]
    exported = run(tmp_path, "export", "tiny", "--out", "out")
    assert f"warning: it names one class, '{name}'" in exported.out
    assert json.loads((tmp_path / "out" / "measurement.json").read_text())["remarks"] == row["remarks"]
    assert f"Warning: it names one class, '{name}'" in (tmp_path / "out" / "MODEL_CARD.md").read_text()


def test_of_other_candidates_there_is_nothing_to_say(tmp_path: Path) -> None:
    make_project(tmp_path, search={"trials": 1, "workers": 1})
    ran = run(tmp_path, "search", "search.yaml", "--executor", "inline")
    assert ran.code == 0, ran.err
    assert "warning" not in ran.out + ran.err
    assert "remarks" not in run(tmp_path, "front", "tiny", "--json").json()["front"][0]
    assert run(tmp_path, "export", "tiny", "--out", "out").code == 0
    measurement = json.loads((tmp_path / "out" / "measurement.json").read_text())
    assert not {"remarks", "classes"} & measurement.keys()


NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1))
"""
IMAGES = {
    "kind": "image_classification",
    "model": "net.py:Net",
    "data": "folder:images",
    "input_size": 8,
    "channels": 1,
    "baseline": {"epochs": 1},
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of images with things in it that are left out, and a config."""
    (tmp_path / "net.py").write_text(NET)
    for label, shade in (("dark", 40), ("light", 200)):
        folder = tmp_path / "images" / label
        folder.mkdir(parents=True)
        for number in range(10):
            pixels = np.random.default_rng(number).integers(shade - 20, shade + 20, (8, 8)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "images" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "images" / "dark" / "Thumbs.db").write_bytes(b"x")
    config = {**CONFIG, "task": IMAGES, "search": {"trials": 1, "workers": 1}, "search_space": "space.yaml"}
    space = {"version": 1, "steps": [{"one_of": ["float16"]}]}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    return tmp_path


def test_plan_and_search_say_once_what_was_left_out(project: Path) -> None:
    left = f"note: task.data: left out, as it is hidden or of the system: {project / 'images' / '.ipynb_checkpoints'}"
    other = f"note: task.data: left out, as its name is not that of an image: {project / 'images/dark/Thumbs.db'}"
    for command in (("plan", "search.yaml"), ("search", "search.yaml", "--executor", "inline")):
        ran = run(project, *command)
        assert ran.code == 0, ran.err
        assert ran.err.count(left) == 1
        assert ran.err.count(other) == 1


def test_an_export_keeps_which_output_is_which_class(project: Path) -> None:
    (project / "recipe.yaml").write_text(yaml.safe_dump({"version": 1, "steps": [{"technique": "float16"}]}))
    ran = run(project, "apply", "recipe.yaml", "--config", "search.yaml", "--out", "out")
    assert ran.code == 0, ran.err
    assert json.loads((project / "out" / "measurement.json").read_text())["classes"] == ["dark", "light"]
    assert "Outputs stand for: 0 'dark', 1 'light'." in (project / "out" / "MODEL_CARD.md").read_text()
    assert run(project, "verify", "out", "--config", "search.yaml").code == 0
