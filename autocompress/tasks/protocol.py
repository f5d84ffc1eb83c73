"""What a task is, and the one that most tasks are: classification."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from ..errors import TaskError
from ..training import Training

Array = NDArray[Any]


@runtime_checkable
class Task(Protocol):
    """A model, its data, its loss and its metrics.

    quality names the metric that searches maximize and budgets bound. baseline says how to train the model
    first; None means that model() returns trained weights.
    """

    quality: str
    baseline: Training | None

    def model(self) -> nn.Module:
        """The uncompressed model: the same architecture at every call."""

    def split(self, name: str) -> Dataset[Any]:
        """The "train", "validation" or "test" split: (input, target) pairs; an input may be a tuple of tensors."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """A scalar to minimize, for one batch."""

    def metrics(self, output: Array, target: Array) -> dict[str, float]:
        """Measures of a whole split, from the outputs of the exported file; holds at least `quality`."""


@dataclass(frozen=True)
class Classification:
    """A classification task over arrays in memory: cross-entropy and accuracy.

    make_model returns the model. train, validation and test are pairs of inputs (N, ...) and integer classes
    (N,), or datasets of such pairs. Subclass it, or write a Task of your own, for other losses and metrics.
    """

    make_model: Callable[[], nn.Module]
    train: Any
    validation: Any
    test: Any
    baseline: Training | None = field(default_factory=lambda: Training())
    quality: str = "accuracy"

    def model(self) -> nn.Module:
        """A new model."""
        return self.make_model()

    def split(self, name: str) -> Dataset[Any]:
        """One of the three splits as a dataset."""
        data = getattr(self, name)
        if isinstance(data, Dataset):
            return data
        if not isinstance(data, list | tuple) or len(data) != 2:
            raise TaskError(f"split {name!r} is a {type(data).__name__}: give (inputs, targets) or a Dataset")
        inputs, targets = (torch.as_tensor(part) for part in data)
        if len(inputs) != len(targets):
            raise TaskError(f"split {name!r} has {len(inputs)} inputs but {len(targets)} targets: give one each")
        return TensorDataset(inputs, targets)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of logits (N, classes) against classes (N,)."""
        return nn.functional.cross_entropy(output, target)

    def metrics(self, output: Array, target: Array) -> dict[str, float]:
        """Share of examples whose largest logit is the right class."""
        return {"accuracy": float(np.mean(output.argmax(axis=1) == target))}
