"""Layers by their channels: which make any, how many, and recurrent layers as torch-pruning is to see them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ..layers import Sealed


def is_layer(module: Any) -> bool:
    """Whether a module mixes channels: a convolution that is not depthwise, a linear or a recurrent layer."""
    return isinstance(module, _ConvNd | nn.Linear | nn.RNNBase) and not is_depthwise(module)


def has_channels(module: Any) -> bool:
    """Whether a module makes channels of its own, rather than passing on those that it reads."""
    return is_layer(module) or isinstance(module, nn.MultiheadAttention | nn.Embedding)


def is_depthwise(module: Any) -> bool:
    """Whether a convolution has one filter a channel, as torch-pruning sees it."""
    return isinstance(module, _ConvNd) and 1 < module.groups == module.out_channels


def width_of(module: Any) -> int:
    """How many output channels a layer has."""
    if isinstance(module, nn.RNNBase):
        return module.hidden_size * (1 + module.bidirectional)
    return int(module.weight.shape[1] * module.groups if isinstance(module, _ConvTransposeNd) else len(module.weight))


def first_weights(layer: nn.RNNBase) -> list[tuple[str, Tensor]]:
    """The weights by which a recurrent layer reads its inputs."""
    return [(name, weight) for name, weight in layer.named_parameters() if name.startswith("weight_ih_l0")]


def rest(width: int, gone: Sequence[int]) -> Tensor:
    """The positions of a width that are not gone."""
    return torch.tensor(sorted(set(range(width)) - set(gone)), dtype=torch.long)


class Recurrent:
    """How torch-pruning is to see an LSTM, GRU or RNN: its outputs are the hidden units of the last layer."""

    pruning_dim = -1

    def prune_out_channels(self, layer: nn.RNNBase, positions: list[int]) -> None:
        """Remove hidden units from all layers and directions, which share one hidden size."""
        kept = rest(layer.hidden_size, [p for p in positions if p < layer.hidden_size])
        hidden = layer.hidden_size
        both = torch.cat([kept + hidden * direction for direction in range(1 + layer.bidirectional)])
        for name, weight in list(layer.named_parameters()):
            gates = torch.cat([kept + start for start in range(0, len(weight), hidden)])
            weight = nn.Parameter(weight.detach()[gates], weight.requires_grad)
            if (name.startswith("weight") and "_l0" not in name) or name.startswith("weight_hh"):
                columns = kept if name.startswith("weight_hh") else both
                weight = nn.Parameter(weight.detach()[:, columns], weight.requires_grad)
            setattr(layer, name, weight)
        layer.hidden_size = len(kept)

    def prune_in_channels(self, layer: nn.RNNBase, positions: list[int]) -> None:
        """Remove inputs of the first layer."""
        kept = rest(layer.input_size, positions)
        for name, weight in first_weights(layer):
            setattr(layer, name, nn.Parameter(weight.detach()[:, kept], weight.requires_grad))
        layer.input_size = len(kept)

    def get_out_channels(self, layer: nn.RNNBase) -> int | None:
        """Hidden units of all directions; None where a projection follows them, which cannot be cut."""
        return None if layer.proj_size else width_of(layer)

    def get_in_channels(self, layer: nn.RNNBase) -> int:
        """The input size."""
        return layer.input_size

    def get_in_channel_groups(self, layer: nn.RNNBase) -> int:
        """One: inputs are free of one another."""
        return 1

    get_out_channel_groups = get_in_channel_groups


class Whole:
    """How torch-pruning is to see a layer that is not cut: by its widths."""

    pruning_dim = -1

    def prune_out_channels(self, layer: Sealed, positions: list[int]) -> None:
        """Nothing: a group that reaches it is left alone."""

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Sealed) -> int:
        """How many outputs it has."""
        return layer.outputs

    def get_in_channels(self, layer: Sealed) -> int:
        """How many inputs it has."""
        return layer.inputs

    def get_in_channel_groups(self, layer: Sealed) -> int:
        """One."""
        return 1

    get_out_channel_groups = get_in_channel_groups
