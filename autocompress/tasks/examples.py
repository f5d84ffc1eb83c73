"""Inputs to trace, compare and time a model with."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from ..data import Varying, batches, may_vary, seed_all
from .protocol import Task

EXAMPLES = 4  # how many examples an export is traced with and compared on
LOOKED_AT = 64  # how many are looked at for axes whose sizes vary


def example_inputs(task: Task, count: int = EXAMPLES) -> tuple[Tensor, ...]:
    """The inputs of the first validation examples; a single example is repeated, since exports need two."""
    seed_all(0)
    inputs = next(batches(task.split("validation"), count)).inputs
    return tuple(torch.cat([tensor, tensor]) if len(tensor) == 1 else tensor for tensor in inputs)


def varying_axes(task: Task) -> Varying:
    """The axes of each input that vary from batch to batch, such as the length of sentences; () where none do."""
    shapes = [[tensor.shape for tensor in inputs] for inputs in _alone(task)[1]]
    axes = tuple(
        frozenset(axis for axis in range(1, len(each[0])) if len({shape[axis] for shape in each}) > 1)
        for each in zip(*shapes, strict=True)
    )
    return axes if any(axes) else ()


def model_inputs(task: Task, batch_size: int) -> tuple[Any, ...]:
    """Arrays of the first validation inputs, repeated to the batch size: what latency is measured on.

    Where sizes vary from batch to batch, they are those of middling size.
    """
    seed_all(0)
    split = task.split("validation")
    if varying_axes(task):
        split = Subset(split, _middling(task, batch_size))
    inputs = next(batches(split, batch_size)).inputs
    repeat = [torch.cat([tensor] * (1 + batch_size // len(tensor)))[:batch_size] for tensor in inputs]
    return tuple(tensor.numpy() for tensor in repeat)


def extremes(task: Task) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The inputs of the smallest example that was looked at: alone, and first in a batch with the largest one."""
    positions, inputs = _alone(task)
    order = sorted(range(len(inputs)), key=lambda index: sum(tensor.numel() for tensor in inputs[index]))
    both = Subset(task.split("validation"), [positions[order[0]], positions[order[-1]]])
    return inputs[order[0]], next(batches(both, 2)).inputs


def _alone(task: Task) -> tuple[list[int], list[tuple[Tensor, ...]]]:
    """Some validation examples, each in a batch of its own, and their positions; none of data of equal shapes."""
    split = task.split("validation")
    if not may_vary(split):
        return [], []
    seed_all(0)
    count = len(split)  # type: ignore[arg-type]
    positions = list(range(0, count, -(-count // LOOKED_AT)))
    return positions, [batch.inputs for batch in batches(Subset(split, positions), 1)]


def _middling(task: Task, count: int) -> list[int]:
    """Positions of so many validation examples whose sizes are nearest the middle."""
    positions, inputs = _alone(task)
    order = sorted(range(len(inputs)), key=lambda index: sum(tensor.numel() for tensor in inputs[index]))
    first = max(0, len(order) // 2 - count // 2)
    return [positions[index] for index in order[first : first + count]]
