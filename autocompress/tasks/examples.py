"""Inputs to trace, compare and time a model with."""

from typing import Any

import torch
from torch import Tensor

from ..data import batches, seed_all
from .protocol import Task

EXAMPLES = 4  # how many examples an export is traced with and compared on


def example_inputs(task: Task, count: int = EXAMPLES) -> tuple[Tensor, ...]:
    """The inputs of the first validation examples; a single example is repeated, since exports need two."""
    seed_all(0)
    inputs = next(batches(task.split("validation"), count)).inputs
    return tuple(torch.cat([tensor, tensor]) if len(tensor) == 1 else tensor for tensor in inputs)


def model_inputs(task: Task, batch_size: int) -> tuple[Any, ...]:
    """Arrays of the first validation inputs, repeated to the batch size: what latency is measured on."""
    seed_all(0)
    inputs = next(batches(task.split("validation"), batch_size)).inputs
    repeat = [torch.cat([tensor] * (1 + batch_size // len(tensor)))[:batch_size] for tensor in inputs]
    return tuple(tensor.numpy() for tensor in repeat)
