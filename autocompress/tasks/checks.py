"""Finding out, before anything is spent, whether a task's parts fit together."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from ..data import SPLITS, Batch, batches, in_memory, join_targets, map_targets, seed_all, target_tensors
from ..errors import TaskError, suggest
from ..training import Training
from .blame import blaming
from .calling import named_outputs
from .examples import example_inputs, extremes, input_signature
from .models import alike, as_function, build_model, check_repeatable
from .protocol import Classification, Task, classifies, task_metrics, task_rollout

# Datasets that are read example by example may be large; their first examples stand for the rest.
SAMPLE = 256


def check_task(task: Task) -> None:
    """Raise TaskError, with the fix, when model, data, loss and metrics do not fit together."""
    if task.baseline is not None and not isinstance(task.baseline, Training):
        raise TaskError(f"task.baseline is a {type(task.baseline).__name__}: give a Training, or None if trained")
    if task.baseline is not None and task.baseline.label_smoothing and not classifies(task):
        raise TaskError(
            "task.baseline.label_smoothing is for logits of classes: leave it out, or say `classifies = True` where "
            "outputs are some, with the classes on axis 1"
        )
    heads: dict[str, Batch] = {}
    for name in SPLITS:
        dataset = _dataset(task, name)
        with blaming(f"split {name!r}", "yield (input, target) of equal shapes"):
            sample = _sample(dataset)
        for batch in sample:
            _finite(batch, name)
            heads.setdefault(name, batch)
    model = build_model(task, 0).eval()
    classes = _outputs(task, model, heads["validation"])
    if isinstance(task, Classification):
        _named_outputs(task, classes)
        for name in SPLITS:
            for batch in _sample(task.split(name)):
                _labels(batch.targets, classes, name)
    _loss_and_metrics(task, model, heads["validation"])


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
    seed_all(0)
    if in_memory(dataset):
        return list(batches(dataset, 1024))
    return [next(batches(dataset, min(SAMPLE, len(dataset))))]  # type: ignore[arg-type]


def _finite(batch: Batch, name: str) -> None:
    for tensor in (*batch.given, *target_tensors(batch.targets)):
        if not tensor.is_floating_point():
            continue
        # Minus infinity is what masks hold that are added to attention.
        wrong = (tensor.isnan() | (tensor == torch.inf)).flatten(1).any(1) if tensor.dim() > 1 else ~tensor.isfinite()
        if bool(wrong.any()):
            position = int(batch.index[int(torch.nonzero(wrong)[0])])
            raise TaskError(f"split {name!r} holds NaN or infinity, first in example {position}: clean the data")


def _outputs(task: Task, model: nn.Module, batch: Batch) -> int:
    try:
        with torch.no_grad():
            output = model(*(tensor[:2] for tensor in batch.inputs))
    except (RuntimeError, TypeError, ValueError) as error:
        shapes = ", ".join(str(tuple(tensor.shape[1:])) for tensor in batch.inputs)
        raise TaskError(f"the model does not take the data's inputs of shape {shapes}: {_first(error)}") from error
    if not isinstance(output, Tensor):
        named = ", ".join(repr(name) for name in named_outputs(output))
        fix = f", or name one by task.output: {named}" if named else ""
        raise TaskError(f"the model returned a {type(output).__name__}: return one tensor with the batch first{fix}")
    if isinstance(task, Classification) and output.dim() != 2:
        raise TaskError(f"the model's output has shape {tuple(output.shape)}: classification needs (batch, classes)")
    return int(output.shape[-1])


def _named_outputs(task: Classification, outputs: int) -> None:
    """Outputs that no class stands for are harmless where training teaches them never to be the largest."""
    names = len(task.classes)
    if names > outputs or (0 < names < outputs and task.baseline is None):
        raise TaskError(
            f"the model has {outputs} outputs but the data {names} classes, from {task.classes[0]!r} to "
            f"{task.classes[-1]!r}: which output is which class is not known; make them as many, or take the model's "
            "data; an NPZ file may name all `classes`"
        )


def _labels(targets: Any, classes: int, name: str) -> None:
    if isinstance(targets, Mapping):
        raise TaskError(
            f"split {name!r} has targets by name ({', '.join(map(str, targets))}): classification needs one integer "
            "class an example; write a task with a loss of its own for more"
        )
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
    fits = f"it got the model's output {tuple(output.shape)} and targets {_shapes(batch.targets)}"
    with blaming("task.loss()", fits):
        loss = task.loss(output, batch.targets)
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise TaskError(f"task.loss() returned {shape}: return a scalar tensor, for example the mean over the batch")
    if not math.isfinite(float(loss.detach())):
        raise TaskError(f"task.loss() is {float(loss.detach())} on the first validation batch: check data and model")
    metrics = task_metrics(task, "validation", output.detach().numpy(), map_targets(batch.targets, Tensor.numpy))
    if not hasattr(task, "rollout"):  # which may take long, and is asked once before training
        _holds_quality(task, metrics)


def _holds_quality(task: Task, metrics: dict[str, float]) -> None:
    if task.quality not in metrics:
        where = "task.metrics() or task.rollout()" if hasattr(task, "rollout") else "task.metrics()"
        raise TaskError(f"task.quality is {task.quality!r}, not among {where}: {suggest(task.quality, metrics)}")


def check_trainable(task: Task, seed: int) -> None:
    """Raise TaskError, with the fix, for what would go wrong in training or in the last measurement, before either.

    Builds the model twice, takes one training step, and asks for the metrics of the whole validation and test splits.
    """
    check_repeatable(task, seed)
    model = build_model(task, seed)
    _independent(model.eval(), task)
    for name in ("validation", "test"):
        whole_metrics(model, task, name)
    _one_step(model, task)


def metric_names(task: Task, examples: int | None = 64) -> tuple[str, ...]:
    """The names of what a task measures, as it names them for so many examples, or all, and untrained outputs."""
    return tuple(_measured(build_model(task, 0).eval(), task, "validation", examples))


def whole_metrics(model: nn.Module, task: Task, name: str) -> None:
    """Ask for the metrics of a whole split, whose classes or values may be such that a metric is not defined."""
    _holds_quality(task, _measured(model, task, name, None))


def _measured(model: nn.Module, task: Task, name: str, examples: int | None) -> dict[str, float]:
    rows = []
    with torch.no_grad():
        for batch in batches(task.split(name), 64):
            rows.append((model(*batch.inputs).numpy(), map_targets(batch.targets, Tensor.numpy)))
            if examples is not None and 64 * len(rows) >= examples:
                break
    outputs, targets = zip(*rows, strict=True)
    found = task_metrics(task, name, np.concatenate(outputs), join_targets(targets))
    return found | task_rollout(task, name, as_function(model))


def _independent(model: nn.Module, task: Task) -> None:
    """The output for an example must not depend on the others in its batch, or every batch size is another model."""
    wrong = "the model's output for an example depends on the others in its batch"
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise TaskError(f"{wrong}: layer {name!r} has track_running_stats=False: leave that out")
    inputs = example_inputs(task)
    with torch.no_grad():
        together, alone = (model(*(part.clone()[:count] for part in inputs)) for count in (len(inputs[0]), 1))
    if not alike(together[:1], alone):
        raise TaskError(f"{wrong}: find the operation in forward() that mixes examples")
    if input_signature(task).varying:
        _ignores_padding(model, task)


def _ignores_padding(model: nn.Module, task: Task) -> None:
    """The output for an example must be the same beside a longer one, or padding would be another input."""
    with torch.no_grad():
        alone, together = (model(*inputs) for inputs in extremes(task))
    if alone.shape[1:] != together.shape[1:]:
        raise TaskError(
            f"outputs have other shapes beside longer examples, {tuple(alone.shape[1:])} and "
            f"{tuple(together.shape[1:])}: return one shape, whatever the length of inputs"
        )
    if not alike(together[:1], alone):
        raise TaskError(
            "the model's output for an example changes with its padding beside a longer one: give it a mask of what "
            "is padding, and use it wherever positions are mixed or averaged"
        )


def _one_step(model: nn.Module, task: Task) -> None:
    """One step of training on a fresh model, whose output and gradients may be others than when it is evaluated."""
    with blaming("train_transform", "it gets the inputs of a batch and returns as many"):
        batch = next(batches(task.split("train"), 8, transform=True))
    model.train()
    with blaming("one training step of the model"):
        output = model(*batch.inputs)
    if not isinstance(output, Tensor):
        raise TaskError(
            f"in training the model returns a {type(output).__name__}: return one tensor in both modes, without "
            "auxiliary outputs, or name one by task.output"
        )
    with blaming("task.loss() in training"):
        loss = task.loss(output, batch.targets)
    if not loss.requires_grad:
        raise TaskError(
            "the loss has no gradients: forward() or loss() runs under torch.no_grad(), or turns tensors into numbers; "
            "keep to tensors"
        )
    with blaming("one training step of the model, backwards,"):
        loss.backward()  # type: ignore[no-untyped-call]
    if not any(parameter.grad is not None for parameter in model.parameters()):
        raise TaskError("the loss does not depend on any parameter of the model: check forward() and loss()")


def _shapes(targets: Any) -> Any:
    """The shape of targets, or the shapes by name."""
    return map_targets(targets, lambda part: tuple(part.shape))


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
