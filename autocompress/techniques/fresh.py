"""Fresh weights for layers that have been trained."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def reset_of(module: nn.Module) -> Callable[[], Any] | None:
    """What draws a layer's own weights as they were drawn when it was made; None where it has no such method."""
    for name in ("reset_parameters", "_reset_parameters"):  # the latter of nn.MultiheadAttention and nn.Transformer
        found = getattr(module, name, None)
        if callable(found):
            return found  # type: ignore[no-any-return]
    return None


def begin_anew(model: nn.Module, every: bool = False) -> None:
    """Fresh weights for the layers of a model that say how theirs are drawn; zeros among other numbers stay zero.

    every: also for parameters that no layer says it of, from the normal distribution with their mean and deviation.
    """
    pruned = [(weight, weight == 0) for weight in model.parameters() if weight.dim() > 1 and bool((weight != 0).any())]
    with torch.no_grad():
        for module in model.modules():
            reset = reset_of(module)
            if reset is not None:
                reset()
            elif every:
                for parameter in module.parameters(recurse=False):
                    _redraw(parameter)
        for weight, zero in pruned:
            weight.masked_fill_(zero, 0.0)


def _redraw(parameter: nn.Parameter) -> None:
    if parameter.is_floating_point() and parameter.numel() > 1:
        parameter.normal_(float(parameter.mean()), float(parameter.std()))
