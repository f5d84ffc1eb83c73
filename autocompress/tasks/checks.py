"""Finding out, before anything is spent, whether a task's parts fit together."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from ..data import SPLITS, Batch, batches
from ..errors import TaskError, suggest
from ..training import Training
from .protocol import Classification, Task

# Datasets that are read example by example may be large; their first examples stand for the rest.
SAMPLE = 256


def check_task(task: Task) -> None:
    """Raise TaskError, with the fix, when model, data, loss and metrics do not fit together."""
    if task.baseline is not None and not isinstance(task.baseline, Training):
        raise TaskError(f"task.baseline is a {type(task.baseline).__name__}: give a Training, or None if trained")
    model = _model(task)
    heads: dict[str, Batch] = {}
    for name in SPLITS:
        dataset = _dataset(task, name)
        for batch in _sample(dataset):
            _finite(batch, name)
            heads.setdefault(name, batch)
    model.eval()
    classes = _outputs(task, model, heads["validation"])
    if isinstance(task, Classification):
        for name in SPLITS:
            for batch in _sample(task.split(name)):
                _labels(batch.targets, classes, name)
    _loss_and_metrics(task, model, heads["validation"])


def _model(task: Task) -> nn.Module:
    model = task.model()
    if not isinstance(model, nn.Module):
        raise TaskError(f"task.model() returned a {type(model).__name__}: return a torch.nn.Module")
    return model


def _dataset(task: Task, name: str) -> Dataset[Any]:
    dataset = task.split(name)
    try:
        count = len(dataset)  # type: ignore[arg-type]
    except TypeError:
        raise TaskError(f"split {name!r} has no length: give a map-style Dataset") from None
    if count == 0:
        raise TaskError(f"split {name!r} is empty: every split needs at least one example")
    return dataset


def _sample(dataset: Dataset[Any]) -> list[Batch]:
    if isinstance(dataset, TensorDataset):
        return list(batches(dataset, 1024))
    return [next(batches(dataset, min(SAMPLE, len(dataset))))]  # type: ignore[arg-type]


def _finite(batch: Batch, name: str) -> None:
    for tensor in (*batch.inputs, batch.targets):
        if not isinstance(tensor, Tensor):
            raise TaskError(f"split {name!r} yields a {type(tensor).__name__}: yield (input, target) tensors")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int(torch.nonzero(~torch.isfinite(tensor).flatten(1).all(1) if tensor.dim() > 1
                                    else ~torch.isfinite(tensor))[0])  # fmt: skip
            position = int(batch.index[bad])
            raise TaskError(f"split {name!r} holds NaN or infinity, first in example {position}: clean the data")


def _outputs(task: Task, model: nn.Module, batch: Batch) -> int:
    try:
        with torch.no_grad():
            output = model(*(tensor[:2] for tensor in batch.inputs))
    except (RuntimeError, TypeError, ValueError) as error:
        shapes = ", ".join(str(tuple(tensor.shape[1:])) for tensor in batch.inputs)
        raise TaskError(f"the model does not take the data's inputs of shape {shapes}: {_first(error)}") from error
    if not isinstance(output, Tensor):
        raise TaskError(f"the model returned a {type(output).__name__}: return one tensor with the batch first")
    if isinstance(task, Classification) and output.dim() != 2:
        raise TaskError(f"the model's output has shape {tuple(output.shape)}: classification needs (batch, classes)")
    return int(output.shape[-1])


def _labels(targets: Tensor, classes: int, name: str) -> None:
    if targets.is_floating_point() or targets.dim() != 1:
        raise TaskError(
            f"split {name!r} has targets {targets.dtype} of shape {tuple(targets.shape)}: "
            "classification needs one integer class an example"
        )
    if len(targets) and (int(targets.min()) < 0 or int(targets.max()) >= classes):
        worst = int(targets.max()) if int(targets.max()) >= classes else int(targets.min())
        raise TaskError(
            f"split {name!r} holds label {worst} but the model has {classes} outputs: labels go from 0 to {classes - 1}"
        )


def _loss_and_metrics(task: Task, model: nn.Module, batch: Batch) -> None:
    output = model(*batch.inputs)
    try:
        loss = task.loss(output, batch.targets)
    except Exception as error:
        raise TaskError(
            f"the model's output {tuple(output.shape)} does not fit the loss with targets "
            f"{tuple(batch.targets.shape)}: {_first(error)}"
        ) from error
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise TaskError(f"task.loss() returned {shape}: return a scalar tensor, for example the mean over the batch")
    if not math.isfinite(float(loss.detach())):
        raise TaskError(f"task.loss() is {float(loss.detach())} on the first validation batch: check data and model")
    metrics = task.metrics(output.detach().numpy(), batch.targets.numpy())
    if not isinstance(metrics, dict) or not all(isinstance(value, int | float) for value in metrics.values()):
        raise TaskError(f"task.metrics() returned {metrics!r}: return a dictionary of names to numbers")
    if task.quality not in metrics:
        raise TaskError(f"task.quality is {task.quality!r}, not among task.metrics(): {suggest(task.quality, metrics)}")


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
