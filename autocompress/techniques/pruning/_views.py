"""Where the channels of one operation are among those of the next, by the exact shapes that autograd keeps.

torch-pruning infers these from the layers around an operation, which misleads it where channels are split, shuffled,
or concatenated with inputs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

Mapping = Callable[[list[Any]], list[Any]]


def map_positions(nodes: Any, kinds: Any) -> None:
    """Set how positions map along the edges at each concatenation, split and view; kinds: torch-pruning's OPTYPE."""
    for node in nodes:
        if node.type == kinds.CONCAT:
            _map_concat(node)
        elif node.type == kinds.SPLIT:
            _map_split(node)
        elif node.type == kinds.RESHAPE:
            _map_view(node)
        else:
            continue
        node.type = kinds.ELEMENTWISE  # so that torch-pruning leaves them as they are


def shuffles(node: Any) -> bool:
    """Whether an operation parts the channels of an image in two dimensions, as a channel shuffle does."""
    before, after = _shapes(node)
    return len(before) == 4 and len(after) == 5 and after[1] * after[2] == before[1]


def heads_of(node: Any) -> int:
    """Into how many heads a view parts the features of a sequence, as attention does; 1 for other operations."""
    before, after = _shapes(node)
    parts = len(before) == 3 and len(after) == 4 and after[1] == before[1] and after[2] * after[3] == before[2]
    return int(after[2]) if parts else 1


def _shapes(node: Any) -> tuple[Sequence[int], Sequence[int]]:
    """The shapes before and after a view; empty for other operations."""
    before = getattr(node.grad_fn, "_saved_self_sym_sizes", None)
    if before is None or "View" not in type(node.grad_fn).__name__:
        return (), ()
    return before, node.grad_fn._input_metadata[0].shape


def _is_channel(dimension: int, shape: Sequence[int]) -> bool:
    """Whether a dimension is that of the channels: the last of features and sequences, the second of images."""
    dimension %= 2**64  # autograd keeps negative dimensions without their sign
    if dimension >= len(shape):
        dimension -= 2**64 - len(shape)
    return dimension == (1 if len(shape) > 3 else len(shape) - 1)


def _map_concat(node: Any) -> None:
    edge, shape = node.grad_fn, node.grad_fn._input_metadata[0].shape
    if not _is_channel(edge._saved_dim, shape):
        return
    dimension = 1 if len(shape) > 3 else len(shape) - 1
    sizes = [_size(child, number, dimension) for child, number in edge.next_functions]
    missing = [index for index, size in enumerate(sizes) if size is None]
    if len(missing) == 1:  # an input of the model, of which autograd knows nothing
        sizes[missing[0]] = shape[dimension] - sum(size for size in sizes if size is not None)
    if None in sizes:
        return
    start, seen, position = 0, 0, []
    for (child, _), size in zip(edge.next_functions, sizes, strict=True):
        if child is not None and seen < len(node.inputs) and not _is_hidden(node, seen, child):
            position.append((start, size))
            seen += 1
        start += size or 0
    for index, (start, size) in enumerate(position):
        _set(node, index, _shift(start), _within(start, size or 0))


def _is_hidden(node: Any, index: int, child: Any) -> bool:
    """Whether torch-pruning has left an operand out, as it does with parameters of layers."""
    return hasattr(child, "variable") and node.inputs[index].grad_fn is not child


def _size(child: Any, number: int, dimension: int) -> int | None:
    if child is None:
        return None
    shape = child.variable.shape if hasattr(child, "variable") else child._input_metadata[number].shape
    return int(shape[dimension])


def _map_split(node: Any) -> None:
    edge = node.grad_fn
    shape = getattr(edge, "_saved_self_sym_sizes", None)
    if shape is None or not _is_channel(edge._saved_dim, shape):
        return
    width = shape[1 if len(shape) > 3 else len(shape) - 1]
    sizes = getattr(edge, "_saved_split_sizes", None) or getattr(edge, "_saved_split_sym_sizes", None)
    if sizes is None:
        each = getattr(edge, "_saved_split_size", None) or edge._saved_split_sym_size
        sizes = [min(each, width - start) for start in range(0, width, each)]
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    for consumer in {id(consumer): consumer for consumer in node.outputs}.values():
        chunks = [number for child, number in getattr(consumer.grad_fn, "next_functions", ()) if child is edge]
        places = [index for index, source in enumerate(consumer.inputs) if source is node]
        for place, chunk in zip(places, chunks, strict=False):
            _set(consumer, place, _within(starts[chunk], sizes[chunk]), _shift(starts[chunk]), True)


def _map_view(node: Any) -> None:
    before, after = _shapes(node)
    if len(before) > 2 and len(after) == 2 and math.prod(before[1:]) == after[1]:
        channels, last = (before[-1], True) if _is_sequence(node, before) else (before[1], False)
        spread, gather = _flatten(channels, after[1], last), _unflatten(channels, after[1], last)
        for index in range(len(node.inputs)):
            _set(node, index, spread, gather)
    elif len(before) == 2 and len(after) > 2 and math.prod(after[1:]) == before[1]:
        spread, gather = _flatten(after[1], before[1], False), _unflatten(after[1], before[1], False)
        for index in range(len(node.inputs)):
            _set(node, index, gather, spread)


def _is_sequence(node: Any, shape: Sequence[int]) -> bool:
    """Whether the features come last in what a view flattens, by the layer that it comes from."""
    todo, seen = list(node.inputs), set()
    while len(shape) == 3 and todo:
        near = todo.pop(0)
        if isinstance(near.module, _ConvNd | _BatchNorm):
            return False
        if isinstance(near.module, nn.RNNBase | nn.Linear | nn.LayerNorm | nn.MultiheadAttention | nn.Embedding):
            return True
        if id(near) not in seen:
            seen.add(id(near))
            todo += near.inputs
    return False


def _set(node: Any, index: int, forward: Mapping, backward: Mapping, source_first: bool = False) -> None:
    """Say how positions map from a node's operand to the node, and back.

    An edge has two maps, so that one from a split may end in a concatenation: first that of the end one starts from.
    torch-pruning lists the dependencies of a node on its inputs first, then those on its outputs, in their order.
    """
    source = node.inputs[index]
    turn = sum(other is source for other in node.inputs[:index])
    places = [place for place, target in enumerate(source.outputs) if target is node]
    there, back = source.dependencies[len(source.inputs) + places[turn]], node.dependencies[index]
    there.index_mapping[0 if source_first else 1] = forward
    back.index_mapping[1 if source_first else 0] = backward


def _shift(start: int) -> Mapping:
    return lambda indices: [index._replace(idx=index.idx + start) for index in indices]


def _within(start: int, size: int) -> Mapping:
    return lambda indices: [
        index._replace(idx=index.idx - start) for index in indices if start <= index.idx < start + size
    ]


def _flatten(channels: int, features: int, last: bool) -> Mapping:
    repeat = features // channels

    def spread(indices: list[Any]) -> list[Any]:
        """The features that channels become."""
        return [
            index._replace(idx=index.idx + channels * place if last else index.idx * repeat + place)
            for index in indices
            for place in range(repeat)
        ]

    return spread


def _unflatten(channels: int, features: int, last: bool) -> Mapping:
    repeat = features // channels

    def gather(indices: list[Any]) -> list[Any]:
        """The channels that features come from."""
        found = {(index.idx % channels if last else index.idx // repeat): index for index in reversed(indices)}
        return [index._replace(idx=channel) for channel, index in sorted(found.items())]

    return gather
