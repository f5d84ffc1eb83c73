"""Targets that are mappings: loss and metrics get all of them, by name, and where they cannot be taken it is said."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import run
from torch import Tensor, nn
from torch.utils.data import Dataset

import autocompress
from autocompress import Classification, Training
from autocompress.data import batches
from autocompress.errors import TaskError
from autocompress.measure.quality import judge
from autocompress.tasks.checks import check_task, check_trainable, metric_names
from autocompress.tasks.identity import _rows
from autocompress.tasks.models import as_function, build_model
from autocompress.testing import TaskContract

WEIGHED = '''
import torch
from torch import nn
from torch.utils.data import Dataset

from autocompress import Training


class Weighed(Dataset):
    """Points whose class is on which side they are; those that count nothing have the wrong one."""

    def __init__(self, count, seed):
        self.x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
        self.weight = (torch.arange(count) % 4 > 0).float()
        right = self.x[:, 0] > 0
        self.y = torch.where(self.weight > 0, right, ~right).long()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], {"y": self.y[index], "weight": self.weight[index]}


class Task:
    quality, classifies = "weighed", True
    baseline = Training(epochs=20, learning_rate=0.02, batch_size=16)

    def model(self):
        return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2))

    def split(self, name):
        return Weighed(*{"train": (256, 0), "validation": (96, 1), "test": (96, 2)}[name])

    def loss(self, output, target):
        return (nn.functional.cross_entropy(output, target["y"], reduction="none") * target["weight"]).mean()

    def metrics(self, output, target):
        right = output.argmax(1) == target["y"]
        return {"weighed": float((right * target["weight"]).sum() / target["weight"].sum()), "plain": right.mean()}
'''


def made() -> Any:
    names: dict[str, Any] = {}
    exec(WEIGHED, names)
    return names["Task"]()


class TestWeighed(TaskContract):
    @pytest.fixture
    def task(self) -> Any:
        return made()


def test_batches_of_named_targets_are_cut_moved_and_joined_as_one() -> None:
    task = made()
    check_task(task)
    check_trainable(task, 0)
    assert metric_names(task) == ("weighed", "plain")
    batch = next(batches(task.split("train"), 8))
    half = batch.to(torch.device("cpu")).part(slice(2, 5))
    assert {name: tensor.tolist() for name, tensor in half.targets.items()} == {
        name: tensor[2:5].tolist() for name, tensor in batch.targets.items()
    }
    assert half.index.tolist() == [2, 3, 4]
    model = build_model(task, 0).eval()
    split = task.split("validation")
    with torch.no_grad():
        right = (model(split.x).argmax(1) == split.y).numpy()
    found, said = judge(as_function(model), task, "validation", batch_size=40)
    assert found == {"weighed": pytest.approx(float(right[split.weight.numpy() > 0].mean())),
                     "plain": pytest.approx(float(right.mean()))}  # fmt: skip
    assert said == []


def test_which_name_a_target_has_is_part_of_what_the_data_are() -> None:
    split = made().split("test")
    before = _rows(split)
    split.y, split.weight = split.weight.long(), split.y.float()
    assert _rows(split)[0] == before[0]
    assert _rows(split)[1] != before[1]


def test_a_search_over_named_targets_trains_distils_measures_and_verifies(tmp_path: Path) -> None:
    (tmp_path / "points.py").write_text(WEIGHED)
    (tmp_path / "space.yaml").write_text(
        "version: 1\nsteps:\n  - {technique: channel_pruning, ratio: 0.5}\n  - {technique: distill, epochs: 4}\n"
    )
    (tmp_path / "search.yaml").write_text(
        "study: points\ntask: points.py:Task\nsearch_space: space.yaml\ntracking: null\n"
        "budget: {metrics: {weighed: {at_least: 0.9}}}\nsearch: {trials: 1, workers: 1}\n"
    )
    ran = run(tmp_path, "search", "search.yaml", "--executor", "inline")
    assert ran.code == 0, ran.err
    assert run(tmp_path, "export", "points", "--out", "chosen").code == 0
    assert run(tmp_path, "verify", "chosen").code == 0
    split = made().split("test")
    output = autocompress.load(tmp_path / "chosen")(split.x.numpy())
    right = (output.argmax(1) == split.y.numpy())[split.weight.numpy() > 0]
    assert json.loads((tmp_path / "chosen" / "measurement.json").read_text())["measured"]["test_weighed"] == (
        pytest.approx(float(right.mean()))
    )


@dataclass
class Yields(Dataset[Any]):
    """Examples with one target."""

    target: Any

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return torch.ones(3), self.target


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "a target is a mapping of nothing"),
        ({"y": 1}, r"targets by name \(y\): classification needs one integer class an example"),
        ({"y": 1, "weight": float("nan")}, "holds NaN or infinity, first in example 0"),
        ({"y": "cat"}, "holds a list"),
    ],
)
def test_targets_by_name_that_cannot_be_taken_are_refused(target: Any, message: str) -> None:
    splits: list[Any] = [Yields(target) for _ in range(3)]
    with pytest.raises(TaskError, match=message):
        check_task(Classification(lambda: nn.Linear(3, 2), *splits, baseline=Training(epochs=1)))


def test_a_module_with_named_targets_needs_a_loss() -> None:
    splits: Any = [Yields({"y": 1}) for _ in range(3)]
    with pytest.raises(TaskError, match="targets are mappings: give loss= and metrics="):
        autocompress.search(nn.Linear(3, 2), data=tuple(splits), trials=1)


def test_a_loss_gets_the_very_tensors_and_metrics_the_arrays() -> None:
    task = made()
    seen: dict[str, list[type]] = {"loss": [], "metrics": []}

    def loss(output: Tensor, target: Any) -> Tensor:
        seen["loss"] += map(type, target.values())
        return output.mean()

    def metrics(output: Any, target: Any) -> dict[str, float]:
        seen["metrics"] += map(type, target.values())
        return {"weighed": 1.0}

    task.loss, task.metrics = loss, metrics
    check_task(task)
    assert set(seen["loss"]) == {Tensor}
    assert set(seen["metrics"]) == {np.ndarray}
