"""A smaller network of a model's own kind: fewer of the blocks that it repeats, and narrower layers."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import TechniqueError
from ..replacing import replace_layers, unreplaceable

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
RECURRENT = (nn.RNN, nn.LSTM, nn.GRU)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
WIDE = (nn.Linear, *CONVOLUTIONS, *RECURRENT)  # layers with a number of units of their own
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm)
# What a model may raise whose code holds sizes or places of its own.
BROKEN = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def fewer_blocks(model: nn.Module, depth: float) -> dict[str, list[int]]:
    """The places that stay, evenly spaced with the ends, of each list that holds a row of alike blocks alone."""
    found = {}
    for name, module in model.named_modules():
        if type(module) in (nn.ModuleList, nn.Sequential) and _alike(list(module.children())):
            count, kept = len(module), max(1, round(depth * len(module)))
            if kept < count:
                found[name] = [round(place * (count - 1) / max(kept - 1, 1)) for place in range(kept)]
    # Blocks that hold such rows themselves, such as the stages of a network, stay: their rows are shorter.
    return {name: places for name, places in found.items() if not any(other.startswith(f"{name}.") for other in found)}


def _alike(blocks: list[nn.Module]) -> bool:
    """Whether there are several blocks, all of the same layers with weights."""
    looks = {(str(block), *((name, value.shape) for name, value in block.state_dict().items())) for block in blocks}
    return len(blocks) > 1 and len(looks) == 1 and any(True for _ in blocks[0].parameters())


def with_blocks(model: nn.Module, kept: Mapping[str, list[int]]) -> nn.Module:
    """The model with those blocks of its lists alone, which keep their weights; it is changed."""
    for name, places in kept.items():
        rows: Any = model.get_submodule(name)
        left = type(rows)(
            *([rows[place] for place in places],) if type(rows) is nn.ModuleList else (rows[place] for place in places)
        )
        model = replace_layers(model, {rows: left})
    return model


def narrower(model: nn.Module, width: float, example: tuple[Tensor, ...]) -> dict[str, list[int]]:
    """The inputs and units of each layer, where all but the last have a share of theirs.

    Every layer takes as many inputs as those before it leave, which is found by running the model, in eval mode, which
    is changed. Raises TechniqueError where it cannot be run so, as it holds sizes of its own or adds what is no longer
    alike.
    """
    names = [name for name, layer in model.named_modules() if type(layer) in (*WIDE, *NORMS)]
    fixed = unreplaceable(model, names, example)
    fitted = {name: Fitted(model.get_submodule(name), width) for name in names if name not in fixed}
    last = _last(model, {name: probe.layer for name, probe in fitted.items()}, example)
    if last is None:
        return {}
    fitted[last].width = 1.0
    with torch.no_grad():
        expected = model(*copy.deepcopy(example)).shape
        changed = replace_layers(model, {probe.layer: probe for probe in fitted.values()})
        try:
            found = changed(*copy.deepcopy(example)).shape
        except BROKEN as error:
            raise TechniqueError(" ".join(str(error).split())[:200]) from error
    if found != expected:
        raise TechniqueError(f"its output would have the shape {tuple(found)} where the model's has {tuple(expected)}")
    return {name: probe.sizes for name, probe in fitted.items() if probe.sizes and probe.sizes != sizes_of(probe.layer)}


def _last(model: nn.Module, layers: Mapping[str, nn.Module], example: tuple[Tensor, ...]) -> str | None:
    """The layer with units that is called last: its units are the model's outputs."""
    order: list[str] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, __, name=name: order.append(name))
        for name, layer in layers.items()
        if type(layer) in WIDE
    ]
    with torch.no_grad():
        model(*copy.deepcopy(example))
    for hook in hooks:
        hook.remove()
    return order[-1] if order else None


class Fitted(nn.Module):
    """A layer that becomes one for the inputs that it is first called with, with a share of its units."""

    def __init__(self, layer: nn.Module, width: float) -> None:
        super().__init__()
        self.layer, self.width = layer, width
        self.sizes: list[int] = []
        self.made: nn.Module | None = None

    def forward(self, x: Any, *more: Any, **named: Any) -> Any:
        """What the layer would return, with other numbers."""
        if self.made is None:
            values = x.data if isinstance(x, nn.utils.rnn.PackedSequence) else x
            last = isinstance(self.layer, nn.Linear | nn.LayerNorm | nn.RNNBase)
            self.sizes = _sizes(self.layer, values.shape[-1 if last else 1], self.width)
            self.made = with_sizes(self.layer, self.sizes)
        return self.made(x, *more, **named)


def sizes_of(layer: Any) -> list[int]:
    """A layer's inputs and units."""
    match layer:
        case nn.Linear():
            return [layer.in_features, layer.out_features]
        case nn.RNNBase():
            return [layer.input_size, layer.hidden_size]
        case nn.LayerNorm():
            return [layer.normalized_shape[-1]] * 2
        case nn.GroupNorm():
            return [layer.num_channels] * 2
        case _ if type(layer) in BATCH_NORMS:
            return [layer.num_features] * 2
    return [layer.in_channels, layer.out_channels]


def _sizes(layer: Any, inputs: int, width: float) -> list[int]:
    before, units = sizes_of(layer)
    if type(layer) in NORMS:
        return [inputs, inputs]
    groups = getattr(layer, "groups", 1)
    if groups > 1 and groups == before:  # depthwise: so many filters for each of its inputs
        return [inputs, inputs * (units // before)]
    return [inputs, max(1, round(units * width / groups)) * groups]


def with_sizes(layer: Any, sizes: list[int]) -> nn.Module:
    """A fresh layer of the same kind and settings for other inputs and units."""
    inputs, units = sizes
    made: nn.Module
    if type(layer) is nn.Linear:
        made = nn.Linear(inputs, units, layer.bias is not None)
    elif type(layer) in RECURRENT:
        same = {key: getattr(layer, key) for key in ("num_layers", "bias", "batch_first", "dropout", "bidirectional")}
        more = {"nonlinearity": layer.nonlinearity} if type(layer) is nn.RNN else {}
        made = type(layer)(inputs, units, **same, **more)
    elif type(layer) in BATCH_NORMS:
        made = type(layer)(units, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    elif type(layer) is nn.LayerNorm:
        made = nn.LayerNorm(units, layer.eps, layer.elementwise_affine, layer.bias is not None)
    elif type(layer) is nn.GroupNorm:
        made = nn.GroupNorm(math.gcd(layer.num_groups, units), units, layer.eps, layer.affine)
    else:
        keys = ["stride", "padding", "dilation", "padding_mode", *_transposed(layer)]
        depthwise = layer.groups > 1 and layer.groups == layer.in_channels
        groups = inputs if depthwise else layer.groups
        same = {key: getattr(layer, key) for key in keys}
        made = type(layer)(inputs, units, layer.kernel_size, groups=groups, bias=layer.bias is not None, **same)
    return made.train(layer.training)


def _transposed(layer: nn.Module) -> list[str]:
    return ["output_padding"] if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d) else []


def with_layers(model: nn.Module, layers: Mapping[str, list[int]]) -> nn.Module:
    """The model with fresh layers of these inputs and units; it is changed."""
    return replace_layers(
        model, {(old := model.get_submodule(name)): with_sizes(old, sizes) for name, sizes in layers.items()}
    )
