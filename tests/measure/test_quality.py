"""Quality of a file on a split: whole, in order, by the task's own metrics."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from autocompress import Classification, Training
from autocompress.artifacts.runtime import Model
from autocompress.errors import ArtifactError
from autocompress.measure.quality import measure_quality

FLOAT = onnx.TensorProto.FLOAT


def identity(inputs: int = 1) -> Model:
    """A file whose output is its input, or the sum of its inputs."""
    names = [f"x{index}" for index in range(inputs)]
    graph = helper.make_graph(
        [helper.make_node("Sum", names, ["out"])],
        "g",
        [helper.make_tensor_value_info(name, FLOAT, ["batch", 4]) for name in names],
        [helper.make_tensor_value_info("out", FLOAT, ["batch", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return Model(model.SerializeToString())


def scores(classes: list[int]) -> Tensor:
    """Logits whose largest entry is the class."""
    return nn.functional.one_hot(torch.tensor(classes), 4).float()


def pairs(said: list[int], true: list[int]) -> tuple[Tensor, Tensor]:
    return scores(said), torch.tensor(true)


GUESSED = pairs([0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 0, 1, 2, 3])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 64])
def test_accuracy_counts_the_whole_split_whatever_the_batches(batch_size: int) -> None:
    task = Classification(nn.Identity, GUESSED, GUESSED, GUESSED)
    assert measure_quality(identity(), task, "validation", batch_size)["accuracy"] == 3 / 7


def test_each_split_is_measured_by_its_own_examples() -> None:
    task = Classification(nn.Identity, pairs([0], [0]), pairs([0, 1], [0, 2]), pairs([0, 1], [1, 0]))
    model = identity()
    found = [measure_quality(model, task, name)["accuracy"] for name in ("train", "validation", "test")]
    assert found == [1.0, 0.5, 0.0]


class TwoInputs(Dataset[Any]):
    """Examples whose input is a pair of tensors."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        whole = scores([index % 4])[0]
        return (0.25 * whole, 0.75 * whole), torch.tensor(index % 4 if index < 4 else 3)


@dataclass(frozen=True)
class Regression:
    """A task of one's own, with metrics of one's own."""

    data: Any
    quality: str = "negative_error"
    baseline: Training | None = None
    extra: dict[str, float] = field(default_factory=dict)

    def model(self) -> nn.Module:
        return nn.Identity()

    def split(self, name: str) -> Dataset[Any]:
        return self.data

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(output, target)

    def metrics(self, output: np.ndarray, target: np.ndarray) -> dict[str, float]:
        return {"negative_error": -np.abs(output - target).mean(), "rows": len(target), **self.extra}


def test_a_model_with_two_inputs_gets_both() -> None:
    data = TwoInputs()
    task = Classification(nn.Identity, data, data, data)
    # The five examples are of classes 0, 1, 2, 3 and 0, the last with the label 3.
    assert measure_quality(identity(2), task, "test", 2)["accuracy"] == 4 / 5


def test_a_task_s_own_metrics_come_as_plain_floats() -> None:
    inputs = torch.arange(12.0).view(3, 4)
    found = measure_quality(identity(), Regression(TensorDataset(inputs, inputs + 0.5)), "validation", 2)
    assert found == {"negative_error": -0.5, "rows": 3.0}
    assert {type(value) for value in found.values()} == {float}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_no_number_is_an_error_and_no_result(value: float) -> None:
    task = Regression(TensorDataset(torch.zeros(3, 4), torch.zeros(3, 4)), extra={"r2": value})
    with pytest.raises(ArtifactError, match=r"r2 of the exported model is (nan|inf) on the validation split"):
        measure_quality(identity(), task, "validation")
