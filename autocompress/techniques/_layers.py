"""What factorizations share: ranks, what another layer costs, and putting layers in the place of one."""

from typing import Any

import torch
from torch import Tensor, nn

LAYER_BYTES = 180  # at most what one more convolution adds to a file besides its weights: node, names and shapes


def rank_by_energy(singular_values: Tensor, energy: float) -> int:
    """The smallest rank that keeps a share `energy` of the squared singular values, and at least 1."""
    squares = singular_values.double() ** 2
    return min(int((squares.cumsum(0) < energy * squares.sum()).sum()) + 1, len(squares))


def shrinks(before: int, after: int, layers: int) -> bool:
    """Whether `layers` layers with `after` weights together take less of a float file than one with `before`."""
    return 4 * after + LAYER_BYTES * (layers - 1) < 4 * before


def window(module: nn.Conv2d) -> dict[str, Any]:
    """How a convolution's window moves, as keywords for one that is to move alike."""
    return {key: getattr(module, key) for key in ("stride", "padding", "dilation", "padding_mode")}


def chain(module: nn.Module, layers: list[Any], weights: list[Tensor]) -> nn.Sequential:
    """Layers in a row with these weights, the last of them with the bias of the one that they stand for."""
    with torch.no_grad():
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.copy_(weight.reshape(layer.weight.shape))
        if isinstance(module.bias, Tensor):
            layers[-1].bias.copy_(module.bias)
    return nn.Sequential(*layers).train(module.training)


def replace(model: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    """The model with new layers in the place of those whose identity they stand under, however often they occur."""
    if id(model) in made:
        return made[id(model)]
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and id(child) in made:
                setattr(parent, name, made[id(child)])
    return model
