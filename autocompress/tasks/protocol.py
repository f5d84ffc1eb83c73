"""What a task is, and the one that most tasks are: classification."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from ..data import Augmented
from ..errors import TaskError
from ..training import Training
from .blame import blaming
from .class_metrics import classification_metrics

Array = NDArray[Any]
NO_CLASS = -100  # what no target is
Run = Callable[..., Array]  # an exported file, or another function of the same arrays


@runtime_checkable
class Task(Protocol):
    """A model, its data, its loss and its metrics.

    quality names the metric that searches improve and budgets bound. baseline says how to train the model
    first; None means that model() returns trained weights. A train split may have an attribute `train_transform`, which
    takes the inputs of a batch (N, ...) and returns what to train on, each time anew. More attributes may be there:
    `lower_is_better`, the names of metrics of which less is better; `classifies = True` where outputs are logits,
    classes on axis 1; `learning_rate`, at which a model that comes trained is trained further; `output`, which of
    several outputs counts; `inputs`, how each input is made, in words for whoever runs the exported file; and a method
    `rollout(run, split)`, where the exported file has to act to be measured: run takes and returns arrays as the file
    does, with the batch first, and what rollout returns stands among the metrics. It must return the same numbers for
    the same function.
    """

    quality: str
    baseline: Training | None

    def model(self) -> nn.Module:
        """The uncompressed model: the same architecture at every call."""

    def split(self, name: str) -> Dataset[Any]:
        """The "train", "validation" or "test" split, which yields what autocompress.data.batches takes."""

    def loss(self, output: Tensor, target: Any) -> Tensor:
        """A scalar to minimize, for one batch; target is a tensor, or a mapping of them where a split yields such."""

    def metrics(self, output: Array, target: Any) -> dict[str, float]:
        """Measures of a whole split, numpy arrays of the exported file's outputs and the targets; holds `quality`."""


def task_metrics(task: Task, split: str, output: Array, target: Any) -> dict[str, float]:
    """What a task measures on a split. Raises TaskError, naming where, for what it raises or what is no number."""
    with blaming(f"task.metrics() on the {split} split", "it gets numpy arrays, where loss() gets tensors"):
        found = task.metrics(output, target)
    return _numbers(found, "task.metrics()")


def task_rollout(task: Task, split: str, run: Run) -> dict[str, float]:
    """What comes of letting a file, or another function of the same arrays, act on a task; nothing for most tasks.

    Raises TaskError as task_metrics does.
    """
    if not hasattr(task, "rollout"):
        return {}
    with blaming(f"task.rollout() on the {split} split"):
        found = task.rollout(run, split)
    return _numbers(found, "task.rollout()")


def _numbers(found: Any, what: str) -> dict[str, float]:
    if not isinstance(found, dict) or not all(isinstance(value, int | float | np.number) for value in found.values()):
        raise TaskError(f"{what} returned {found!r}: return a dictionary of names to numbers")
    return {name: float(value) for name, value in found.items()}


def classifies(task: Task) -> bool:
    """Whether outputs are logits with their classes on axis 1, so that they can be compared as distributions.

    A Classification's are; another task says so by an attribute `classifies = True`.
    """
    return bool(getattr(task, "classifies", False))


def training_loss(task: Task, output: Tensor, target: Any) -> Tensor:
    """What is minimized in training: the task's loss, with its baseline's label smoothing where there is some."""
    own, share = task.loss(output, target), 0.0 if task.baseline is None else task.baseline.label_smoothing
    if not share:
        return own
    alike = -output.log_softmax(dim=1).mean(dim=1)
    ignored = getattr(task, "ignore", None)
    counted = alike if ignored is None else alike[target != ignored]
    return (1 - share) * own + share * (counted.sum() / max(counted.numel(), 1))


def lower_is_better(task: Task) -> tuple[str, ...]:
    """The task's own metrics of which less is better, as its attribute `lower_is_better` names them."""
    return tuple(getattr(task, "lower_is_better", ()))


def learning_rate(task: Task, usual: float) -> float:
    """The rate at which a task's model is trained: its baseline's, or as its attribute `learning_rate` says."""
    if task.baseline is not None:
        return task.baseline.learning_rate
    return float(getattr(task, "learning_rate", usual))


@dataclass(frozen=True)
class Supervised:
    """A task over arrays in memory, or datasets of pairs: make_model returns the model, and each split is a pair of
    inputs (N, ...) and targets (N, ...), with a tuple of several inputs where the model takes several, or a dataset.
    train_transform takes the inputs of a batch (N, ...) and returns what to train on; it is called in training alone,
    and each time anew. preparation is what exported files keep, so that they take raw inputs.
    """

    make_model: Callable[[], nn.Module]
    train: Any
    validation: Any
    test: Any
    baseline: Training | None = field(default_factory=lambda: Training())
    train_transform: Callable[..., Any] | None = field(default=None, kw_only=True)
    preparation: Any = field(default=None, kw_only=True)

    def model(self) -> nn.Module:
        """A new model."""
        return self.make_model()

    def split(self, name: str) -> Dataset[Any]:
        """One of the three splits as a dataset."""
        dataset, change = self._split(name), self.train_transform
        return Augmented(dataset, change) if name == "train" and change is not None else dataset

    def _split(self, name: str) -> Dataset[Any]:
        data = getattr(self, name)
        if isinstance(data, Dataset):
            return data
        if not isinstance(data, list | tuple) or len(data) != 2:
            raise TaskError(f"split {name!r} is a {type(data).__name__}: give (inputs, targets) or a Dataset")
        given, targets = data[0], _array(data[1], f"the targets of split {name!r}")
        inputs = [
            _array(part, f"input {place} of split {name!r}")
            for place, part in enumerate(given if isinstance(given, tuple) else (given,))
        ]
        for found in inputs:
            if len(found) != len(targets):
                raise TaskError(f"split {name!r} has {len(found)} inputs but {len(targets)} targets: give one each")
        return TensorDataset(*inputs, targets)


def _array(given: Any, what: str) -> Tensor:
    try:
        found = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TaskError(
            f"{what} are no array of numbers ({error}): give an array, or a tuple of several inputs"
        ) from None
    if not found.dim():
        raise TaskError(f"{what} are a single number: give an array with one row an example")
    return found


@dataclass(frozen=True)
class Classification(Supervised):
    """A classification task over arrays in memory: cross-entropy, accuracy, and what classes of few examples need.

    Targets are integer classes (N,). Subclass it, or write a Task of your own, for other losses and metrics. quality is
    any of its metrics. classes are the names of the classes in the order of outputs; class_weights, how much each
    weighs in the loss; notes, what is said of the data before a search.
    """

    quality: str = "accuracy"
    classifies: ClassVar[bool] = True
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    class_weights: tuple[float, ...] = ()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of logits (N, classes) against classes (N,), a mean by the weights of classes."""
        weight = output.new_tensor(self.class_weights) if self.class_weights else None
        return nn.functional.cross_entropy(output, target, weight)

    def metrics(self, output: Array, target: Array) -> dict[str, float]:
        """Accuracy, and means over classes of precision, recall, F1 and area under the ROC."""
        return classification_metrics(output, target)


@dataclass(frozen=True)
class Segmentation(Supervised):
    """A task of naming the class of every pixel, over arrays in memory: cross-entropy and the mean IoU.

    Outputs are logits (N, classes, H, W), targets classes (N, H, W), of which `ignore` stands for pixels that count in
    neither loss nor metrics. classes are the names of the classes in the order of outputs; notes, what is said of the
    data before a search.
    """

    quality: str = "mean_iou"
    classifies: ClassVar[bool] = True
    classes: tuple[str, ...] = ()
    ignore: int | None = None
    notes: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy over the pixels that count, 0 where none does.

        Raises TaskError for logits of another shape.
        """
        _check_pixels(tuple(output.shape), tuple(target.shape), len(self.classes))
        wanted, ignore = target.long(), NO_CLASS if self.ignore is None else self.ignore
        total = nn.functional.cross_entropy(output, wanted, ignore_index=ignore, reduction="sum")
        return total / (wanted != ignore).sum().clamp(min=1)

    def metrics(self, output: Array, target: Array) -> dict[str, float]:
        """Intersection over union, the mean of classes that occur in targets or outputs, and the share of right pixels.

        Both are of all pixels of a split that count. Raises TaskError for logits of another shape.
        """
        _check_pixels(output.shape, target.shape, len(self.classes))
        pairs = np.zeros((output.shape[1], output.shape[1]), np.int64)
        for rows in zip(output, target, strict=True):
            pairs += self._pairs(*rows)
        right = np.diag(pairs)
        union = pairs.sum(axis=0) + pairs.sum(axis=1) - right
        there = union > 0
        return {
            "mean_iou": float(np.mean(right[there] / union[there])) if there.any() else float("nan"),
            "pixel_accuracy": float(right.sum() / pairs.sum()) if there.any() else float("nan"),
        }

    def _pairs(self, output: Array, target: Array) -> NDArray[np.int64]:
        """How many pixels of an image have each pair of target (rows) and output (columns)."""
        count = len(output)
        named, wanted = output.argmax(axis=0).ravel(), target.astype(np.int64).ravel()
        if self.ignore is not None:
            named, wanted = named[wanted != self.ignore], wanted[wanted != self.ignore]
        return np.bincount(wanted * count + named, minlength=count**2).reshape(count, count)


def _check_pixels(output: tuple[int, ...], target: tuple[int, ...], classes: int) -> None:
    if len(output) != 4 or (output[0], *output[2:]) != target or output[1] < 2 or classes not in (0, output[1]):
        wanted = f"{classes} classes" if classes else "two classes or more"
        raise TaskError(
            f"the model's output has shape {output} for targets {target}: segmentation needs logits (N, classes, H, W) "
            f"of as many pixels and {wanted}"
        )


@dataclass(frozen=True)
class Regression(Supervised):
    """A task of predicting numbers, over arrays in memory: squared error, R2, and errors in the targets' own units.

    Outputs and targets are (N, outputs). scale is about how large the targets' deviations are, by which the loss is
    divided; notes, what is said of the data before a search.
    """

    quality: str = "r2"
    lower_is_better: ClassVar[tuple[str, ...]] = ("mae", "rmse")
    scale: float = 1.0
    notes: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean squared error, in units of the scale."""
        return nn.functional.mse_loss(output / self.scale, target / self.scale)

    def metrics(self, output: Array, target: Array) -> dict[str, float]:
        """R2 over all outputs together, mean absolute error and root mean squared error."""
        wrong = output.astype(np.float64) - target
        spread = np.square(target - target.mean(axis=0, dtype=np.float64)).sum()
        return {
            "r2": float(1 - np.square(wrong).sum() / spread) if spread else float("nan"),
            "mae": float(np.abs(wrong).mean()),
            "rmse": float(np.sqrt(np.square(wrong).mean())),
        }
