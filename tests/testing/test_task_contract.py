"""The contract of tasks finds what breaks it, and says how to mend it."""

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from autocompress import Classification
from autocompress.errors import ArtifactError, TaskError
from autocompress.testing import MODELS, TaskContract, make_task
from autocompress.training import Training

RULES = {name.removeprefix("test_"): rule for name, rule in vars(TaskContract).items() if name.startswith("test_")}
GOOD = make_task(MODELS["mlp"], baseline=Training())
ONE = GOOD.model()


class Growing(nn.Sequential):
    """One layer more at each call."""

    made = 0

    def __init__(self) -> None:
        Growing.made += 1
        super().__init__(nn.Flatten(), nn.Linear(432, 4), *(nn.Linear(4, 4) for _ in range(Growing.made)))


class Sharing(nn.Sequential):
    """Another module around one layer."""

    def __init__(self) -> None:
        super().__init__(ONE)


class Branching(nn.Module):
    """What is computed hangs on the data, which no exporter can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(432, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(x.flatten(1)) * (2 if bool((x.sum() > 0).item()) else 1)


class Shifting(torch.utils.data.Dataset[Any]):
    """Other examples at every reading."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return torch.randn(3, 12, 12), torch.tensor(index % 4)


class Changed(Classification):
    """A task with another loss or other metrics."""

    found: ClassVar[Any] = {"accuracy": 1.0}

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return super().loss(output, target) * self.factor(output)

    def factor(self, output: Tensor) -> Any:
        return 1

    def metrics(self, output: Any, target: Any) -> Any:
        return self.found


class Detached(Changed):
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return super().loss(output.detach(), target)


class Infinite(Changed):
    def factor(self, output: Tensor) -> Any:
        return torch.inf


class Flat(Changed):
    def factor(self, output: Tensor) -> Any:
        return 0


class Unmeasured(Changed):
    found: ClassVar[Any] = {"f1": 1.0}


class Undefined(Changed):
    found: ClassVar[Any] = {"accuracy": float("nan")}


def other(kind: type[Classification]) -> Classification:
    """The good task's model and data with another loss or other metrics."""
    return kind(GOOD.make_model, GOOD.train, GOOD.validation, GOOD.test, GOOD.baseline)


CALLS, LOSS = (
    "every_call_gives_a_model_of_its_own_and_of_one_architecture",
    "the_loss_is_a_finite_scalar_with_gradients",
)
READ, METRICS = (
    "a_split_that_is_measured_is_the_same_at_every_reading",
    "metrics_are_finite_numbers_and_hold_the_quality",
)
BROKEN = {
    "one model": (replace(GOOD, make_model=lambda: ONE), CALLS, (), "one model twice: make a new one at every call"),
    "shared": (replace(GOOD, make_model=Sharing), CALLS, (), "two models share parameters: make a new one"),
    "growing": (replace(GOOD, make_model=Growing), CALLS, (), "another architecture at its second call"),
    "untrained": (replace(GOOD, baseline=None), CALLS, (), "trained weights, the same at every call: load them"),
    "shifting": (replace(GOOD, test=Shifting()), READ, ("test",), "other examples at its second reading: fix its seed"),
    "detached": (other(Detached), LOSS, ("train",), "does not depend on the model: compute it from `output`"),
    "infinite": (other(Infinite), LOSS, ("train",), "is no finite number"),
    "flat": (other(Flat), LOSS, ("train",), "all gradients are zero"),
    "unmeasured": (other(Unmeasured), METRICS, ("test",), "lacks the quality 'accuracy': return it, or name another"),
    "undefined": (other(Undefined), METRICS, ("test",), "accuracy is no finite number on split 'test'"),
}


@pytest.mark.parametrize("case", list(BROKEN))
def test_what_breaks_a_rule_is_told_how_to_keep_it(case: str) -> None:
    task, rule, rest, message = BROKEN[case]
    with pytest.raises(AssertionError, match=message):
        RULES[rule](TaskContract(), task, *rest)


def test_parts_that_do_not_fit_are_named() -> None:
    inputs, targets = GOOD.train
    with pytest.raises(TaskError, match=r"holds label 4 but the model has 4 outputs"):
        RULES["its_parts_fit_together"](TaskContract(), replace(GOOD, train=(inputs, targets + 1)))
    with pytest.raises(AssertionError, match=r"a Task also has quality, baseline"):
        RULES["its_parts_fit_together"](TaskContract(), nn.Linear(2, 2))


def test_a_model_that_cannot_be_exported_is_found() -> None:
    with pytest.raises(ArtifactError, match=r"torch cannot export this model"):
        RULES["the_model_exports_and_the_file_computes_what_it_computes"](
            TaskContract(), replace(GOOD, make_model=Branching)
        )
