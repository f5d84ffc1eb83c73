"""Making a task's model: the same one at every call, whatever its code draws from."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress import Classification
from autocompress.errors import TaskError
from autocompress.tasks.models import build_model, check_repeatable, model_notes

X, Y = torch.randn((24, 6), generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


def task_of(make: Callable[[], nn.Module]) -> Classification:
    return Classification(make, (X, Y), (X, Y), (X, Y), None)


class Projected(nn.Module):
    """A linear layer over a random projection that no state_dict holds; `draw` makes the projection."""

    def __init__(self, draw: Callable[[], Tensor], buffer: bool) -> None:
        super().__init__()
        if buffer:
            self.register_buffer("projection", draw(), persistent=False)
        else:
            self.projection = draw()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(x @ self.projection)
        return output


def anew() -> Tensor:
    """Numbers of a generator of its own, which no seed reaches."""
    return torch.from_numpy(np.random.default_rng().standard_normal((6, 6)).astype(np.float32))


@pytest.mark.parametrize("buffer", [True, False])
@pytest.mark.parametrize(
    "draw",
    [lambda: torch.randn(6, 6), lambda: torch.from_numpy(np.random.standard_normal((6, 6)).astype(np.float32))],
    ids=["torch", "numpy"],
)
def test_what_is_drawn_at_random_is_the_same_at_each_call(draw: Callable[[], Tensor], buffer: bool) -> None:
    task = task_of(lambda: Projected(draw, buffer))
    first = build_model(task, 3)
    torch.randn(5)
    np.random.standard_normal(7)
    second = build_model(task, 3)
    assert torch.equal(first.projection, second.projection)
    assert torch.equal(first(X), second(X))
    assert not torch.equal(first.projection, build_model(task, 4).projection)
    check_repeatable(task)


@pytest.mark.parametrize("buffer", [True, False])
def test_what_no_seed_reaches_is_refused_by_name(buffer: bool) -> None:
    task = task_of(lambda: nn.Sequential(Projected(anew, buffer)))
    with pytest.raises(TaskError, match=r"another network at each call.*'0.projection' is drawn anew.*fixed seed"):
        check_repeatable(task)


def test_another_architecture_at_each_call_is_refused() -> None:
    widths = iter(range(4, 100))
    task = task_of(lambda: nn.Sequential(nn.Linear(6, width := next(widths)), nn.Linear(width, 3)))
    with pytest.raises(TaskError, match=r"another network at each call: size mismatch for 0.weight"):
        check_repeatable(task)


def test_lazy_layers_are_made() -> None:
    task = task_of(lambda: nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3)))
    model = build_model(task, 0)
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(8, 6), (8,), (3, 8), (3,)]
    assert torch.equal(model[0].weight, build_model(task, 0)[0].weight)
    check_repeatable(task)


def test_a_model_of_64_bits_becomes_one_of_32_and_it_is_said() -> None:
    task = task_of(lambda: nn.Linear(6, 3).double())
    assert build_model(task, 0).weight.dtype == torch.float32
    assert model_notes(task) == ["the model's weights are 64-bit floats: they are taken as 32-bit ones"]


def test_a_frozen_model_is_thawed_and_it_is_said_but_one_that_is_partly_frozen_stays_so() -> None:
    frozen = task_of(lambda: nn.Linear(6, 3).requires_grad_(False))
    assert all(parameter.requires_grad for parameter in build_model(frozen, 0).parameters())
    assert model_notes(frozen) == ["the model came frozen: its parameters are trained all the same"]

    def partly() -> nn.Module:
        model = nn.Linear(6, 3)
        model.bias.requires_grad_(False)
        return model

    assert [parameter.requires_grad for parameter in build_model(task_of(partly), 0).parameters()] == [True, False]
    assert model_notes(task_of(partly)) == []


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TaskError, match=r"task.model\(\) returned a int: return a torch.nn.Module"):
        build_model(replace(task_of(nn.Identity), make_model=lambda: 3), 0)  # type: ignore[arg-type, return-value]
