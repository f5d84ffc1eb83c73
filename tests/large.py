"""A task whose model is large for what it learns, so that lightweight networks are smaller than it."""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autocompress import Classification, Training
from autocompress.outcome import Baseline
from autocompress.tasks import TaskReference, refer
from autocompress.testing.models import CLASSES, SHAPE, make_task
from autocompress.trial.baseline import make_baseline
from autocompress.trial.trial import TrialSpec


class Large(nn.Module):
    """Two linear layers with 2,000 units between them, over images of any shape; outputs (N, n), or (N,) if flat."""

    def __init__(self, shape: tuple[int, ...] = SHAPE, outputs: int = CLASSES, flat: bool = False) -> None:
        super().__init__()
        self.hidden = nn.Linear(torch.Size(shape).numel(), 2000)
        self.last, self.flat = nn.Linear(2000, outputs), flat

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(torch.relu(self.hidden(x.flatten(1))))
        return y[:, 0] if self.flat else y


def large_task() -> Classification:
    """The large model with a baseline that is trained first."""
    return make_task(Large, baseline=Training(epochs=4, learning_rate=2e-3, batch_size=16))


def reference() -> TaskReference:
    """Where `large_task` comes from, as trials are told."""
    return refer("large:large_task", Path(__file__).parent)


@functools.cache
def large_baseline() -> Baseline:
    """Its trained, exported and measured baseline, made once."""
    return make_baseline(reference(), seed=0)


def trial_spec(*steps: dict[str, Any], **settings: Any) -> TrialSpec:
    """A trial of that task with a short latency measurement."""
    recipe = {"version": 1, "steps": list(steps)}
    return TrialSpec(
        **{"number": 0, "recipe": recipe, "task": reference(), "seed": 0, "latency_seconds": 0.05, **settings}
    )
