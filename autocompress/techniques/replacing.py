"""Putting a layer in the place of another, and finding those whose place nothing else can take."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def replace_layers(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The model with each layer among the keys replaced by its value; the model is changed.

    A layer that stands under several names is replaced under them all, and stays shared. Where the model itself is a
    key its replacement is returned, so go on with what is returned. A replacement may hold the layer that it stands
    for, as a wrapper does.

    What is hard: torch knows the layers that were assigned as attributes and what is called by them, nothing else. A
    model that reads the weight of a layer instead of calling it, shares that weight with another layer, or keeps the
    layer in a plain list fails later, or goes on with the old layer: ask `unreplaceable` first. torch's own
    transformers do read weights; the fast path on which they do so is closed here where it would.

    Raises ValueError for a key that is no layer of this model, such as one of a model that it was copied from.
    """
    strange = [type(old).__name__ for old in replacements.keys() - set(model.modules())]
    if strange:
        raise ValueError(f"{', '.join(strange)} to be replaced in a model without it: take layers from this very model")
    if model in replacements:
        return replacements[model]
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in replacements:
                setattr(parent, name, replacements[child])
        if isinstance(parent, nn.TransformerEncoderLayer) and not _plain(parent.linear1, parent.linear2):
            parent.activation_relu_or_gelu = 0  # its fused path reads the weights of both layers and calls neither
    return model


def _plain(*layers: nn.Module) -> bool:
    return all(isinstance(layer, nn.Linear) for layer in layers)


def unreplaceable(model: nn.Module, names: list[str], example: tuple[Tensor, ...]) -> dict[str, str]:
    """The layers among `names` that the model does not merely call, so that nothing can stand for them, and why."""
    layers = {name: model.get_submodule(name) for name in names}
    fixed = {name: "its weight is that of another layer too" for name in names if _tied(model, layers[name])}
    called = _called(model, example)
    fixed |= {name: "the model never calls it" for name in names if id(layers[name]) not in called}
    free = [name for name in names if name not in fixed]
    if not _runs_with_others(model, free, example):
        read = [name for name in free if not _runs_with_others(model, [name], example)]
        fixed |= dict.fromkeys(read, "the model reads its weight")
    return fixed


def _tied(model: nn.Module, layer: nn.Module) -> bool:
    own = {id(parameter) for parameter in layer.parameters()}
    others = (module for module in model.modules() if module is not layer)
    return any(id(p) in own for module in others for p in module._parameters.values() if p is not None)


def _called(model: nn.Module, example: tuple[Tensor, ...]) -> set[int]:
    called: set[int] = set()
    hooks = [m.register_forward_pre_hook(lambda module, _: called.add(id(module))) for m in model.modules()]
    try:
        _run(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return called


def _runs_with_others(model: nn.Module, names: list[str], example: tuple[Tensor, ...]) -> bool:
    trial = copy.deepcopy(model)
    wrapped = {layer: nn.Sequential(layer) for layer in map(trial.get_submodule, names)}
    try:
        _run(replace_layers(trial, wrapped), example)
    except (AttributeError, TypeError, RuntimeError):
        return False
    return True


def _run(model: nn.Module, example: tuple[Tensor, ...]) -> None:
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            model(*example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
