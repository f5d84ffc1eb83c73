"""Inputs to trace, compare and time a model with."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from ..data import Signature, batches, input_names, may_vary, seed_all
from .protocol import Task

EXAMPLES = 4  # how many examples an export is traced with and compared on
LOOKED_AT = 64  # how many are looked at for axes whose sizes vary


def example_inputs(task: Task, count: int = EXAMPLES) -> tuple[Tensor, ...]:
    """The inputs of the first validation examples; a single example is repeated, since exports need two."""
    seed_all(0)
    inputs = next(batches(task.split("validation"), count)).inputs
    return tuple(torch.cat([tensor, tensor]) if len(tensor) == 1 else tensor for tensor in inputs)


def input_signature(task: Task) -> Signature:
    """What inputs and output are called, and the axes that vary from batch to batch, such as sentences' length."""
    output = getattr(task, "output", None)
    named = output if isinstance(output, str) else ""
    varying = _varying(_by_size(task))
    sizes = extremes(task) if varying else ()
    return Signature(varying, input_names(task.split("validation")), named, sizes)


def model_inputs(task: Task, batch_size: int) -> tuple[Any, ...]:
    """Arrays of the first validation inputs, repeated to the batch size: what latency is measured on.

    Where sizes vary from batch to batch, they are those of middling size.
    """
    split, known = task.split("validation"), _by_size(task)
    if _varying(known):
        first = max(0, len(known) // 2 - batch_size // 2)
        split = Subset(split, [position for position, _ in known[first : first + batch_size]])
    seed_all(0)
    inputs = next(batches(split, batch_size)).inputs
    repeat = [torch.cat([tensor] * (1 + batch_size // len(tensor)))[:batch_size] for tensor in inputs]
    return tuple(tensor.numpy() for tensor in repeat)


def size_notes(task: Task, batch_size: int) -> list[str]:
    """What inputs latency is measured on, where their sizes vary."""
    known = _by_size(task)
    varying = _varying(known)
    if not varying:
        return []
    names = input_names(task.split("validation")) or [f"input {index}" for index in range(len(varying))]
    axes = ", ".join(
        f"axis {axis} of {name}" for name, each in zip(names, varying, strict=True) for axis in sorted(each)
    )
    shapes = ", ".join(str(array.shape) for array in model_inputs(task, batch_size))
    return [f"sizes vary along {axes}; latency is of inputs {shapes}, the middle of {len(known)} validation examples"]


def extremes(task: Task) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The inputs of the smallest example that was looked at: alone, and first in a batch with the largest one."""
    (small, inputs), *_, (large, _) = _by_size(task)
    return inputs, next(batches(Subset(task.split("validation"), [small, large]), 2)).inputs


def _varying(known: Sequence[tuple[int, tuple[Tensor, ...]]]) -> tuple[frozenset[int], ...]:
    shapes = [[tensor.shape for tensor in inputs] for _, inputs in known]
    axes = tuple(
        frozenset(axis for axis in range(1, len(each[0])) if len({shape[axis] for shape in each}) > 1)
        for each in zip(*shapes, strict=True)
    )
    return axes if any(axes) else ()


def _by_size(task: Task) -> list[tuple[int, tuple[Tensor, ...]]]:
    """Positions and inputs of some validation examples, each in a batch of its own, smallest first.

    None of data of equal shapes.
    """
    split = task.split("validation")
    if not may_vary(split):
        return []
    seed_all(0)
    count = len(split)  # type: ignore[arg-type]
    positions = range(0, count, -(-count // LOOKED_AT))
    alone = [batch.inputs for batch in batches(Subset(split, positions), 1)]
    return sorted(zip(positions, alone, strict=True), key=lambda pair: sum(tensor.numel() for tensor in pair[1]))
