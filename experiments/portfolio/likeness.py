"""How alike two models are by the kinds of their layers."""

import math
from collections import Counter
from collections.abc import Mapping

from torch import nn


def kind_of(layer: nn.Module) -> str:
    """A kind of layer; convolutions by their windows and groups."""
    if isinstance(layer, nn.Conv2d):
        return "depthwise" if layer.groups > 1 else "1x1" if layer.kernel_size == (1, 1) else "convolution"
    return "linear" if isinstance(layer, nn.Linear) else type(layer).__name__


def profile(model: nn.Module) -> dict[str, float]:
    """The share of a model's weights that each kind of layer holds."""
    counts: Counter[str] = Counter()
    for layer in model.modules():
        counts[kind_of(layer)] += sum(p.numel() for p in layer.parameters(recurse=False) if p.dim() > 1)
    return {kind: count / counts.total() for kind, count in counts.items() if count}


def likeness(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """The cosine between two profiles: 1 where they are the same, 0 where they have no kind in common."""
    product = sum(share * other.get(kind, 0.0) for kind, share in one.items())
    return product / (math.hypot(*one.values()) * math.hypot(*other.values()))
