"""What would go wrong in training, or in the last measurement, is found before either."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from autocompress import Classification
from autocompress.errors import TaskError
from autocompress.tasks.checks import check_trainable

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn((24, 6), generator=GENERATOR), torch.arange(24) % 2


def task_of(model: Any, test: Any = (X, Y), kind: type[Classification] = Classification) -> Classification:
    return kind(model, (X, Y), (X, Y), test, None)


class Auxiliary(nn.Linear):
    """Two outputs in training, one when it is evaluated, as Inception has it."""

    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return (y, y) if self.training else y


class Closed(nn.Linear):
    """A forward pass without gradients."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class InPlace(nn.Linear):
    """Normalizes its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5).div_(2.0))


def mixing() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2))


@dataclass(frozen=True)
class Ranking(Classification):
    """A metric that is not defined where there is one class."""

    quality: str = "auroc"

    def metrics(self, output: Any, target: Any) -> dict[str, float]:
        if len(set(target.tolist())) < 2:
            raise ValueError("only one class")
        return {"auroc": float(roc_auc_score(target, output[:, 1]))}


@dataclass(frozen=True)
class Tensors(Classification):
    """Metrics that take what they get for tensors, as loss() does."""

    def metrics(self, output: Any, target: Any) -> dict[str, float]:
        return {"accuracy": float((output.argmax(dim=1) == target).float().mean())}


BAD = {
    "auxiliary outputs": (
        task_of(lambda: Auxiliary(6, 2)),
        r"in training the model returns a tuple: return one tensor",
    ),
    "no gradients": (task_of(lambda: Closed(6, 2)), r"the loss has no gradients: forward\(\) or loss\(\) runs under"),
    "mixing examples": (task_of(mixing), r"depends on the others in its batch: layer '1' has track_running_stats=Fa"),
    "one class on test": (
        task_of(lambda: nn.Linear(6, 2), (X, torch.zeros_like(Y)), Ranking),
        r"task.metrics\(\) on the test split raised ValueError: only one class \(test_checks.py, line \d+\)",
    ),
    "metrics of tensors": (
        task_of(lambda: nn.Linear(6, 2), kind=Tensors),
        r"task.metrics\(\) on the validation split raised TypeError: .*\(test_checks.py, line \d+\); it gets numpy arr",
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_what_would_end_every_trial_is_found_first(case: str) -> None:
    task, message = BAD[case]
    with pytest.raises(TaskError, match=message):
        check_trainable(task, 0)


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 2), lambda: InPlace(6, 2)], ids=["plain", "in place"])
def test_a_model_that_trains_is_accepted_and_left_alone(make: Any) -> None:
    before = X.clone()
    assert check_trainable(task_of(make), 0) is None
    assert torch.equal(X, before)
