"""The removal of channels: rows of positions, carried out without a graph, and held against a masked network."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from ...data import copied
from ._dependencies import Group, Row
from ._modules import Recurrent, is_depthwise, is_layer, rest, width_of
from ._torch_pruning import torch_pruning

# What a model or torch-pruning may raise where too much is gone.
BROKEN = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
SHARPER = 10.0
TOLERANCE = 1e-4  # of the largest output: rounding stays below, a channel that was taken for another does not
Chosen = list[tuple[Group, list[int]]]


def merged(rows: Sequence[Row]) -> list[Row]:
    """The rows with one for each layer and side."""
    positions: dict[tuple[str, bool], set[int]] = {}
    for name, outputs, where in rows:
        positions.setdefault((name, outputs), set()).update(where)
    return [[name, outputs, sorted(where)] for (name, outputs), where in positions.items()]


def remove(model: nn.Module, rows: Sequence[Row], widths: dict[str, int]) -> nn.Module:
    """The model without the positions in the rows, of which there is one for each layer and side."""
    tp = torch_pruning()
    box, kinds = tp.pruner.function.PrunerBox, tp.ops
    parameters = dict(model.named_parameters())
    frozen = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    for name, outputs, where in rows:
        if name in parameters:
            _remove_from_parameter(model, name, where)
            continue
        module = model.get_submodule(name)
        pruner: Any = Recurrent() if isinstance(module, nn.RNNBase) else box[kinds.module2type(module)]
        pruner.pruning_dim = -1
        (pruner.prune_out_channels if outputs else pruner.prune_in_channels)(module, list(where))
    for name, width in widths.items():
        parent, _, key = name.rpartition(".")
        setattr(model.get_submodule(parent), key, width)
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return model


def _remove_from_parameter(model: nn.Module, name: str, where: list[int]) -> None:
    parent, _, key = name.rpartition(".")
    parameter = model.get_parameter(name)
    dimension = max(index for index, size in enumerate(parameter.shape) if size > 1)  # as torch-pruning takes it
    kept = rest(parameter.shape[dimension], where)
    setattr(model.get_submodule(parent), key, nn.Parameter(parameter.detach().index_select(dimension, kept)))


def possible(model: nn.Module, example: tuple[Tensor, ...], chosen: Chosen, skipped: dict[str, str]) -> Chosen:
    """What the model can do without, found by halves; why the rest is left alone is added to `skipped`."""
    reason = _obstacle(model, example, chosen) if chosen else None
    if reason is None:
        return chosen
    if len(chosen) == 1:
        skipped[chosen[0][0].name] = reason
        return []
    middle = len(chosen) // 2
    halves = [possible(model, example, half, skipped) for half in (chosen[:middle], chosen[middle:])]
    if len(halves[0]) + len(halves[1]) < len(chosen) and _obstacle(model, example, halves[0] + halves[1]) is None:
        return halves[0] + halves[1]
    less, more = sorted(halves, key=len)
    skipped.update({group.name: "it cannot go together with the others" for group, _ in less})
    return more


def in_heads(model: nn.Module, example: tuple[Tensor, ...], groups: Sequence[Group]) -> list[Group]:
    """Groups with units that attention can lose: whole heads (Michel et al., 2019), or as much of each head.

    Which of them is a matter of the model's code: it may count on the width of heads, or on their number.
    """
    wholes = [replace(group, whole=True) for group in groups if group.heads > 1 == group.copies]
    first: Chosen = [(group, [0]) for group in wholes if group.channels > group.unit]
    known = {group.name: group for group, _ in possible(_sharpened(model, wholes), example, first, {})}
    alike = (replace(group, copies=math.lcm(group.copies, group.heads)) for group in groups)
    return [known.get(group.name, group) for group in alike]


def _sharpened(model: nn.Module, groups: Sequence[Group]) -> nn.Module:
    """A copy whose heads look at unlike places, as those of a model that was never trained hardly do."""
    if not groups:
        return model
    work = copy.deepcopy(model)
    with torch.no_grad():
        for name in {part.name for group in groups for part in group.producers}:
            work.get_submodule(name).weight.mul_(SHARPER)  # type: ignore[operator]
    return work


def _obstacle(model: nn.Module, example: tuple[Tensor, ...], chosen: Chosen) -> str | None:
    """None when the model can do without the chosen units, else why not.

    It must run, give outputs of the same shape, and compute what it does when nothing reads those channels. The last
    is not asked of groups with a normalization over channels or with attention, which see the channels of others.
    """
    with torch.no_grad():
        expected = model(*copied(example))
        free = [(group, units) for group, units in chosen if not _entangled(group)]
        for subset, exact in [(free, True)] * bool(free) + [(chosen, False)] * (len(free) < len(chosen)):
            work = copy.deepcopy(model)
            rows = merged([row for group, units in subset for row in group.without(units)])
            modules = dict(work.named_modules())
            for name, outputs, where in rows:
                _mask(modules.get(name), outputs, where)
            for name, outputs, where in merged(_of_heads(subset)):
                _silence(modules.get(name), outputs, where)
            masked = work(*copied(example)) if exact else expected
            try:
                found = remove(work, rows, widths_of(model, subset))(*copied(example))
            except BROKEN as error:
                return f"the model does not run without them ({' '.join(str(error).split())[:120]})"
            if found.shape != expected.shape:
                return "the model's outputs would change their shape"
            if exact and not (found - masked).abs().max() <= TOLERANCE * masked.abs().max():
                return "they cannot be followed through the model"
    return None


def widths_of(model: nn.Module, chosen: Chosen) -> dict[str, int]:
    """The attributes that hold the width of a chosen group, with their new values."""
    return {name: width for group, units in chosen for name, width in group.widths(model, len(units)).items()}


def _entangled(group: Group) -> bool:
    return any(isinstance(part.module, nn.LayerNorm | nn.GroupNorm | nn.MultiheadAttention) for part in group.parts)


def _of_heads(chosen: Chosen) -> list[Row]:
    return [row for group, units in chosen if group.heads > 1 for row in group.without(units)]


def _silence(module: Any, outputs: bool, where: list[int]) -> None:
    """Let a layer give zeros at these positions: attention reads them by no layer."""
    if outputs and isinstance(module, nn.Linear):
        module.weight[where] = 0
        if module.bias is not None:
            module.bias[where] = 0


def _mask(module: Any, outputs: bool, where: list[int]) -> None:
    """Let a layer read nothing from these positions."""
    if isinstance(module, nn.RNNBase):
        for key, weight in module.named_parameters():
            if outputs and key.startswith("weight_hh"):
                weight[:, [p for p in where if p < module.hidden_size]] = 0
            elif key.startswith("weight_ih") and outputs is ("_l0" not in key):
                weight[:, where] = 0
    elif not outputs and is_layer(module):
        if isinstance(module, _ConvTransposeNd):
            module.weight[where] = 0
        else:
            groups = getattr(module, "groups", 1)
            size = module.weight.shape[1]
            grouped = module.weight.view(groups, -1, size, *module.weight.shape[2:])
            at = torch.tensor(where)
            grouped[at // size, :, at % size] = 0


def changes(model: nn.Module, history: list[Any]) -> dict[str, str]:
    """The width of each layer that loses outputs, before and after."""
    found, modules = {}, dict(model.named_modules())
    for name, outputs, where in history:
        module: Any = modules.get(name)
        if outputs and (is_layer(module) or is_depthwise(module)):
            weights = [key for key, value in module.named_parameters(recurse=False) if value.dim() > 1]
            width = width_of(module)
            found[f"{name}.{weights[0]}" if name else weights[0]] = f"{width} -> {width - len(where)}"
    return found
