"""Which layers make a model's outputs: their channels are what the task reads, and stay."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def output_layers(model: nn.Module, example: tuple[Tensor, ...]) -> list[nn.Module]:
    """The layers whose output channels are the model's outputs, found by walking back the autograd graph."""
    owners = {
        id(parameter): module
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name == "weight" and parameter.dim() > 1
    }
    with thawed(model):
        todo: list[Any] = [model(*example).grad_fn]
    seen, found = set(), []
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        layers = [owners[id(v)] for v in _leaf_variables(node) if id(v) in owners]
        found += layers
        if not layers:
            todo += [child for child, _ in node.next_functions]
    return found


def _leaf_variables(node: Any) -> list[Tensor]:
    """Parameters that enter an operation, directly or transposed (as those of a linear layer do)."""
    direct = [child for child, _ in node.next_functions if child is not None]
    transposed = [c for child in direct if child.name().startswith("TBackward") for c, _ in child.next_functions]
    return [child.variable for child in direct + transposed if hasattr(child, "variable")]


@contextlib.contextmanager
def thawed(model: nn.Module) -> Iterator[None]:
    """The model with gradients for all of its parameters, for a while."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    try:
        with torch.enable_grad():
            for parameter in frozen:
                parameter.requires_grad_(True)
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
