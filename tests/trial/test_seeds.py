"""One seed, one file: also where the user's code draws random numbers of its own."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from autocompress import Classification, Training
from autocompress.outcome import Candidate
from autocompress.tasks import TaskReference, refer
from autocompress.trial.baseline import make_baseline
from autocompress.trial.trial import TrialSpec, prepare

RECIPE = {"version": 1, "steps": [{"technique": "svd"}, {"technique": "finetune", "epochs": 2, "batch_size": 8}]}


class Augmented(Dataset[Any]):
    """Examples with noise that is drawn anew at every reading, by numpy and by Python."""

    def __init__(self, seed: int, count: int = 96) -> None:
        self.x = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
        self.y = self.x[:, :3].argmax(1)

    def __getitem__(self, index: int) -> Any:
        noise = np.random.standard_normal(8).astype(np.float32) * 0.3 * random.random()
        return self.x[index] + torch.from_numpy(noise), self.y[index]

    def __len__(self) -> int:
        return len(self.y)


def task() -> Classification:
    net = nn.Sequential
    return Classification(
        lambda: net(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 3)),
        Augmented(0),
        Augmented(1),
        Augmented(2),
        Training(epochs=12, learning_rate=1e-2, batch_size=8),
    )


@pytest.fixture
def reference() -> TaskReference:
    return refer("test_seeds.py:task", Path(__file__).parent)


def stir(seed: int) -> None:
    """Leave every generator somewhere else, as other trials of a worker do."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def made(reference: TaskReference, seed: int, stirred: int) -> Candidate:
    stir(stirred)
    baseline = make_baseline(reference, seed)
    stir(stirred + 1)
    found = prepare(TrialSpec(number=0, recipe=RECIPE, task=reference, seed=seed), baseline)
    assert isinstance(found, Candidate), found
    return found


def test_the_same_seed_gives_the_same_file_whatever_was_drawn_before(reference: TaskReference) -> None:
    one, other = made(reference, 5, stirred=100), made(reference, 5, stirred=200)
    assert one.weights == other.weights
    assert one.onnx == other.onnx
    assert one.metrics["accuracy"] == other.metrics["accuracy"]
    assert made(reference, 6, stirred=100).weights != one.weights
