"""A task from its parts as a program has them: a model, three splits, and what is lost and measured."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from ..data import SPLITS, batches
from ..errors import TaskError
from ..training import Training
from .blame import blaming
from .protocol import Array, Classification, Regression, Supervised

SAMPLE = 1024  # examples of the training split that tell what targets are


@dataclass(frozen=True, kw_only=True)
class Given(Supervised):
    """A task whose loss and metrics are functions: loss_of(output, target) of tensors, metrics_of of numpy arrays."""

    loss_of: Callable[[Tensor, Tensor], Tensor]
    metrics_of: Callable[[Array, Array], dict[str, float]]
    quality: str
    lower_is_better: tuple[str, ...] = ()
    classifies: bool = False
    notes: tuple[str, ...] = ()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """A scalar to minimize, for one batch."""
        return self.loss_of(output, target)

    def metrics(self, output: Array, target: Array) -> dict[str, float]:
        """Measures of a whole split."""
        return self.metrics_of(output, target)


def task_from(
    model: nn.Module,
    data: Sequence[Any] | None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    metrics: Callable[[Array, Array], dict[str, float]] | None = None,
    quality: str | None = None,
    lower_is_better: Sequence[str] = (),
    baseline: Training | None = None,
) -> Supervised:
    """A task from a model as it is now and data: (train, validation, test), each (inputs, targets) or a Dataset.

    Without loss and metrics, whole numbers as targets (N,) are classes (cross-entropy and accuracy), and other numbers
    are predicted by squared error (R2, mae, rmse), which is said. baseline: how the model is trained first; None takes
    it as trained. Raises TaskError.
    """
    if metrics is not None and quality is None:
        raise TaskError("task: add quality=: which of metrics the search improves")
    if lower_is_better and metrics is None:
        raise TaskError("task: lower_is_better= names metrics of your own: add metrics=")
    with blaming("copying the model", "give a Task whose model() makes it anew"):
        model = _copied(model)
    parts = {"make_model": functools.partial(_copied, model), **_splits(data), "baseline": baseline}
    usual: Any = None
    said = ""
    if loss is None or metrics is None:
        usual, said = _usual(parts)
    notes = (f"targets are {said}; give loss= and metrics= for others",) if said else ()
    if loss is None and metrics is None:
        plain: Supervised = replace(usual, quality=quality or usual.quality, notes=notes)
        return plain
    return Given(
        **parts,
        loss_of=loss or usual.loss,
        metrics_of=metrics or usual.metrics,
        quality=quality or usual.quality,
        lower_is_better=tuple(lower_is_better if metrics else getattr(usual, "lower_is_better", ())),
        classifies=_compares(loss) if loss else isinstance(usual, Classification),
        notes=notes,
    )


def _copied(model: nn.Module) -> nn.Module:
    """A model of its own on the processor: what is done to it leaves the given one as it is."""
    return copy.deepcopy(model).cpu()


def _splits(data: Any) -> dict[str, Any]:
    if not isinstance(data, list | tuple) or len(data) != len(SPLITS):
        raise TaskError(
            "task: data= takes (train, validation, test), each (inputs, targets) or a Dataset: a search chooses on the "
            "validation split, so that the test split must be another; autocompress.data.stratified_split makes three"
        )
    for name, split in zip(SPLITS, data, strict=True):
        if isinstance(split, DataLoader):
            raise TaskError(f"task: the {name} split is a DataLoader: give its dataset, as batches are made here")
        if sum(split is other for other in data) > 1:
            raise TaskError(f"task: the {name} split is also another one: no example may be in two splits")
    return dict(zip(SPLITS, data, strict=True))


def _compares(loss: Any) -> bool:
    """Whether a loss takes outputs for logits with classes on axis 1."""
    return isinstance(loss, nn.CrossEntropyLoss) or loss is nn.functional.cross_entropy


def _usual(parts: Mapping[str, Any]) -> tuple[Any, str]:
    """A classification or a regression of these parts, by what the targets are, and what that means in words."""
    dataset = Supervised(**parts).split("train")
    with blaming("split 'train'", "yield (input, target) of equal shapes"):
        targets = _targets(dataset)
    if targets is None:
        raise TaskError("task: targets are mappings: give loss= and metrics=, which get them")
    if not targets.is_floating_point():
        return Classification(**parts), "whole numbers: taken as classes, by cross-entropy and accuracy"
    if bool(((targets == 0) | (targets == 1)).all()):
        raise TaskError(
            "task: targets are 0 and 1 as floats, which may be classes or numbers: make them whole numbers with one "
            "output a class, or give loss= and metrics="
        )
    spread = float(targets.std(correction=0))
    scale = spread if 0 < spread < float("inf") else 1.0
    return Regression(**parts, scale=scale), "numbers: predicted by squared error, and measured by R2, mae and rmse"


def _targets(dataset: Dataset[Any]) -> Tensor | None:
    """Targets of the training split, evenly spaced; None where they have names."""
    count = len(dataset)  # type: ignore[arg-type]
    if not count:
        raise TaskError("split 'train' is empty: every split needs at least one example")
    spaced = Subset(dataset, range(0, count, max(1, count // SAMPLE)))
    found = [batch.targets for batch in batches(spaced, SAMPLE)]
    return torch.cat(found) if isinstance(found[0], Tensor) else None
