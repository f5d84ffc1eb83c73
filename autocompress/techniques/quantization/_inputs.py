"""What the weights of layers are multiplied with, from what the layers are given."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import PackedSequence

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
FED = (*LAYERS, nn.MultiheadAttention, nn.RNNBase)
POSITIONS = 16  # of a feature map or a sequence that are looked at, an example
KINDS = (nn.LSTM, nn.GRU, nn.RNN)


def groups_of(layer: nn.Module, weight: str) -> int:
    """How many groups of outputs a weight of a layer has that see other inputs: queries, keys and values are three."""
    if isinstance(layer, nn.MultiheadAttention) and weight == "in_proj_weight":
        return 3
    return layer.groups if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) else 1


def fed(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Iterator[tuple[str, list[Tensor]]]:
    """The weights of a layer with what they are multiplied with: groups as (some, how many, weights of an output).

    Nothing for subclasses of attention and recurrent layers, which may be called in other ways.
    """
    inputs: Any = given[0] if given else named.get("input", next(iter(named.values()), None))
    if isinstance(layer, LAYERS):
        yield "weight", [windows(layer, inputs)]
    elif type(layer) is nn.MultiheadAttention:
        yield from _attention(layer, given, named)
    elif isinstance(layer, nn.RNNBase) and type(layer) in KINDS:
        yield from _recurrent(layer, inputs)


def windows(layer: Layer, inputs: Tensor) -> Tensor:
    """What each output of a layer sees, at some of its positions: (groups, how many, weights of an output)."""
    if isinstance(layer, nn.Linear):
        return _positions(inputs.reshape(-1, math.prod(inputs.shape[1:-1]), inputs.shape[-1]))
    spatial = len(layer.kernel_size)
    if inputs.dim() == spatial + 1:
        inputs = inputs[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    seen = pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    for axis, (size, stride, dilation) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), 2
    ):
        seen = seen.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    places = range(2, 2 + spatial)
    seen = _thinned(seen, places).movedim(1, 1 + spatial)  # (N, places, channels, window)
    channels = inputs.shape[1] // layer.groups
    seen = seen.flatten(0, spatial).reshape(-1, layer.groups, channels * math.prod(layer.kernel_size))
    return seen.transpose(0, 1)


def _attention(
    layer: nn.MultiheadAttention, given: tuple[Any, ...], named: dict[str, Any]
) -> Iterator[tuple[str, list[Tensor]]]:
    """Queries, keys and values, and what they come to, which goes into a last layer that is not called."""
    known = dict(zip(("query", "key", "value"), given, strict=False)) | named
    seen = [_sequence(layer, known[name]) for name in ("query", "key", "value")]
    if layer._qkv_same_embed_dim:
        yield "in_proj_weight", seen
    else:
        yield from ((f"{which}_proj_weight", [inputs]) for which, inputs in zip(("q", "k", "v"), seen, strict=True))
    last = layer.out_proj
    kept = {name: value.detach().clone() for name, value in last.named_parameters()}
    with torch.no_grad():
        last.weight.copy_(torch.eye(len(last.weight)))
        if last.bias is not None:
            last.bias.zero_()
    try:
        found = layer.forward(*given, **named)[0]
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                last.get_parameter(name).copy_(value)
    yield "out_proj.weight", [_sequence(layer, found)]


def _recurrent(layer: nn.RNNBase, inputs: Tensor | PackedSequence) -> Iterator[tuple[str, list[Tensor]]]:
    """The inputs of each layer, and its states, which are its outputs too; from states of zero."""
    ends = ("", "_reverse") if layer.bidirectional else ("",)
    for at in range(layer.num_layers):
        seen = _sequence(layer, inputs)
        inputs = _single(layer, at)(inputs)[0]
        states = _sequence(layer, inputs).chunk(len(ends), 2)
        for end, state in zip(ends, states, strict=True):
            yield f"weight_ih_l{at}{end}", [seen]
            yield f"weight_hh_l{at}{end}", [state]


def _single(layer: nn.RNNBase, at: int) -> nn.RNNBase:
    """One layer of several, both directions of it."""
    kind: Any = type(layer)
    weight = layer.get_parameter(f"weight_ih_l{at}")
    more: dict[str, Any] = {"nonlinearity": layer.nonlinearity} if kind is nn.RNN else {}
    more |= {"proj_size": layer.proj_size} if kind is nn.LSTM else {}
    single: nn.RNNBase = kind(
        weight.shape[1],
        layer.hidden_size,
        bias=layer.bias,
        batch_first=layer.batch_first,
        bidirectional=layer.bidirectional,
        **more,
    ).to(weight)
    with torch.no_grad():
        for name, value in single.named_parameters():
            value.copy_(layer.get_parameter(name.replace("_l0", f"_l{at}")))
    return single


def _sequence(layer: Any, inputs: Tensor | PackedSequence) -> Tensor:
    """Some positions of each sequence, as (1, how many, features)."""
    if isinstance(inputs, PackedSequence):
        return inputs.data[None]
    if inputs.dim() == 3 and not layer.batch_first:
        inputs = inputs.transpose(0, 1)
    return _positions(inputs if inputs.dim() == 3 else inputs[None])


def _positions(wide: Tensor) -> Tensor:
    """Some positions of examples (N, positions, features), as (1, how many, features)."""
    return _thinned(wide, (1,)).reshape(1, -1, wide.shape[-1])


def _thinned(seen: Tensor, axes: Any) -> Tensor:
    """At most about POSITIONS positions along some axes, evenly spread."""
    every = math.ceil((math.prod(seen.shape[axis] for axis in axes) / POSITIONS) ** (1 / len(axes)))
    for axis in axes if every > 1 else ():
        size = seen.shape[axis]
        step = min(every, size)
        seen = seen.narrow(axis, (step - 1) // 2, size - (step - 1) // 2)
        seen = seen.index_select(axis, torch.arange(0, seen.shape[axis], step, device=seen.device))
    return seen
