"""Weights that torch computes from others before each call: normalized, parametrized or pruned ones, made plain."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

Remove = Callable[[], Any]


def computed_weights(model: nn.Module) -> list[str]:
    """The names of a model's tensors that are computed from others."""
    return [name for name, _ in _found(model)]


def with_plain_weights(model: nn.Module) -> nn.Module:
    """The model, changed in place, with parameters of the same values where tensors are computed from others."""
    with torch.no_grad():
        for _, remove in list(_found(model)):
            remove()
    return model


def _found(model: nn.Module) -> Iterator[tuple[str, Remove]]:
    for prefix, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                yield f"{prefix}.{name}".lstrip("."), _leaving(module, name)
        for hook in list(module._forward_pre_hooks.values()):
            removed = _of_old(module, hook)
            if removed is not None:
                yield f"{prefix}.{removed[0]}".lstrip("."), removed[1]


def _leaving(module: Any, name: str) -> Remove:
    def remove() -> None:
        """Leave what the parametrization makes; torch would leave a tensor that is no parameter of a frozen one."""
        value, made_of = getattr(module, name).detach().clone(), list(module.parametrizations[name].parameters())
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        delattr(module, name)
        if made_of:
            module.register_parameter(name, nn.Parameter(value, any(tensor.requires_grad for tensor in made_of)))
        else:
            module.register_buffer(name, value)

    return remove


def _of_old(module: nn.Module, hook: Any) -> tuple[str, Remove] | None:
    """The tensor that a hook computes, and how to make it plain; None for a hook that does something else."""
    match hook:
        case WeightNorm():
            return hook.name, lambda: remove_weight_norm(module, hook.name)
        case SpectralNorm():
            return hook.name, lambda: remove_spectral_norm(module, hook.name)
        case prune.BasePruningMethod():
            return hook._tensor_name, lambda: prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
    return None
