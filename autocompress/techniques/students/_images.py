"""Lightweight networks made for the images and outputs of a task."""

from collections import OrderedDict
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ._networks import NETWORKS, Form, Reductions, reductions_of

FEWEST = 8  # pixels of an image's shorter side
LEFT = 4  # at least so many of them are left at the last feature map


def kept_halvings(side: int, most: int) -> int:
    """How many of a network's halvings an image is large enough for: as many as leave LEFT of its shorter side.

    Each rounds up, since all of them are padded.
    """
    kept = 0
    while kept < most and ceil(side / 2) >= LEFT:
        side, kept = ceil(side / 2), kept + 1
    return kept


def student(name: str, form: Form, size: tuple[int, int], side: int) -> nn.Module:
    """A network by name for images of a size (height, width), seen at a shorter side of `side` pixels.

    Of its halvings the first ones are left out that the image is too small for.
    """
    network = NETWORKS[name](form)
    reductions = reductions_of(network)
    _keep_size(reductions[: len(reductions) - kept_halvings(side, len(reductions))])
    if side == min(size):
        return network
    seen = tuple(max(1, round(pixels * side / min(size))) for pixels in size)
    return nn.Sequential(OrderedDict(resized=Resized(seen), network=network))


class Resized(nn.Module):
    """Images (N, C, height, width) in another size, by lines between pixels."""

    def __init__(self, size: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """The images as they are seen by what follows."""
        return interpolate(x, self.size, mode="bilinear", align_corners=False)


class Flat(nn.Module):
    """A network of one output an image, as (N,) rather than (N, 1)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """One number an image."""
        return torch.flatten(self.network(x))


def _keep_size(reductions: Reductions) -> None:
    for layer in (layer for layers in reductions for layer in layers):
        layer.stride = (1, 1) if isinstance(layer, nn.Conv2d) else 1  # type: ignore[assignment]
