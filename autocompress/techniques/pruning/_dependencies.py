"""Channels that must go together, found by torch-pruning's dependency graph, and their removal (Fang et al., 2023).

The graph is only read. What is removed is written down for each layer in the positions of the network as it stands,
so that the removal itself needs no graph, and can be held against the same network with those channels masked.
"""

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..layers import Sealed
from ..outputs import thawed
from ._modules import Recurrent, Whole, is_depthwise, is_layer
from ._torch_pruning import torch_pruning
from ._views import heads_of, map_positions, shuffles

Row = list[Any]  # a layer's or parameter's name, whether its outputs, positions
OPAQUE = (nn.RNNBase, nn.MultiheadAttention, Sealed)
# Where models write down their width for their own use, beside the layers that have it.
WIDTHS = ("hidden_dim", "embed_dim", "hidden_size", "d_model")


@dataclass(frozen=True)
class Part:
    """What one layer or parameter has of a group: which of its positions belong to which of the group's channels."""

    name: str
    module: Any
    outputs: bool
    positions: list[int]
    channels: list[int]


@dataclass(frozen=True)
class Group:
    """Channels of a layer with everything coupled to them, which go in units.

    A unit is one channel of each of `copies` equal parts, which must lose the same ones; where `whole`, it is one of as
    many `heads`, each a run of channels that attention keeps by itself.
    """

    channels: int
    copies: int
    parts: list[Part]
    heads: int = 1
    whole: bool = False

    @property
    def name(self) -> str:
        """The layer that the group is named after."""
        return self.parts[0].name

    @property
    def producers(self) -> list[Part]:
        """The layers whose outputs the channels are."""
        return [part for part in self.parts if part.outputs and is_layer(part.module)]

    @property
    def unit(self) -> int:
        """How many channels go together."""
        return self.channels // self.heads if self.whole else self.copies

    def in_units(self, values: Tensor) -> Tensor:
        """Values of channels (N,) as (units, channels of each)."""
        return values.view(self.heads, -1) if self.whole else values.view(self.copies, -1).T

    def without(self, units: Sequence[int]) -> list[Row]:
        """The rows that remove these units."""
        gone = set(self.in_units(torch.arange(self.channels))[list(units)].flatten().tolist())
        rows = []
        for part in self.parts:
            where = {p for p, channel in zip(part.positions, part.channels, strict=True) if channel in gone}
            rows += [[part.name, part.outputs, sorted(where)]] if where else []
        return rows

    def widths(self, model: nn.Module, units: int) -> dict[str, int]:
        """The attributes in which modules hold the group's width, with what they are after losing `units`."""
        found = {}
        for part in self.parts:
            parent = part.name.rpartition(".")[0]
            for key in WIDTHS if part.outputs and not isinstance(part.module, _BatchNorm) else ():
                if vars(model.get_submodule(parent)).get(key) == self.channels:
                    found[f"{parent}.{key}".lstrip(".")] = self.channels - units * self.unit
        return found


def find_groups(
    model: nn.Module, example: tuple[Tensor, ...], ignored: list[nn.Module]
) -> tuple[list[Group], dict[str, str]]:
    """All groups without an ignored layer's outputs, and the layers that are left alone, with the reason."""
    tp = torch_pruning()
    pruners: dict[type[nn.Module], Any] = {kind: Recurrent() for kind in (nn.LSTM, nn.GRU, nn.RNN)}
    pruners |= {type(module): Whole() for module in model.modules() if isinstance(module, Sealed)}
    found: list[Group] = []
    skipped: dict[str, str] = {}
    with _traceable(model):
        graph = tp.DependencyGraph()
        graph._build_dependency = _with_positions(graph._build_dependency, tp.ops.OPTYPE)
        graph.build_dependency(model, example, customized_pruners=pruners, verbose=False)
        roots = (_ConvNd, nn.Linear, nn.RNNBase)
        names = {id(parameter): name for parameter, name in graph._param_to_name.items()}
        names |= {id(module): name for name, module in model.named_modules()}
        for items in graph.get_all_groups(ignored_layers=ignored, root_module_types=roots):
            group = _as_group(graph, items, names)
            reason = _obstacle(graph, items, group)
            if reason:
                skipped[group.name] = reason
            elif group.channels > group.unit:
                found.append(group)
    return found, skipped


def _as_group(graph: Any, items: Any, names: dict[int, str]) -> Group:
    parts, copies, heads = [], 1, 1
    for item in items:
        heads = math.lcm(heads, heads_of(item.dep.target))
        module = item.dep.target.module
        if id(module) not in names:
            continue
        outputs = bool(graph.is_out_channel_pruning_fn(item.dep.handler))
        parts.append(Part(names[id(module)], module, outputs, list(item.idxs), list(item.root_idxs)))
        copies = math.lcm(copies, _copies(module, outputs))
    return Group(len(items[0].idxs), copies, parts, heads)


def _copies(module: Any, outputs: bool) -> int:
    """How many equal parts of a layer's channels must keep the same number."""
    if isinstance(module, nn.RNNBase):
        return 1 + int(module.bidirectional) if outputs else 1
    if isinstance(module, nn.MultiheadAttention):
        return int(module.num_heads)
    if isinstance(module, nn.GroupNorm):
        return int(module.num_groups)
    return int(module.groups) if isinstance(module, _ConvNd) and not is_depthwise(module) else 1


def _obstacle(graph: Any, items: Any, group: Group) -> str | None:
    if any(channel is None for part in group.parts for channel in part.channels):
        return "its channels cannot be told apart"
    if group.channels % group.copies:
        return f"its {group.channels} channels do not part into {group.copies} equal shares"
    sealed = next((part.name for part in group.parts if isinstance(part.module, Sealed)), None)
    if sealed is not None:
        return f"its channels are those of {sealed}, which stays whole"
    if any(shuffles(item.dep.target) for item in items):
        return "its channels are shuffled with others"
    if any(
        isinstance(part.module, nn.MultiheadAttention) and part.module.in_proj_weight is None for part in group.parts
    ):
        return "it is read by attention whose keys or values have widths of their own"
    return next((f"its channels are none of {part.name}" for part in group.parts if _past_the_end(graph, part)), None)


def _past_the_end(graph: Any, part: Part) -> bool:
    """Whether a group has more channels than the layer that it is taken to end in."""
    if not isinstance(part.module, nn.Module):
        return False
    pruner = graph.get_pruner_of_module(part.module)
    width = (pruner.get_out_channels if part.outputs else pruner.get_in_channels)(part.module)
    return width is not None and max(part.positions, default=0) >= width


def _with_positions(build: Any, kinds: Any) -> Any:
    def built(nodes: Any) -> None:
        """Build as torch-pruning does, then say how positions map."""
        build(nodes)
        map_positions(list(nodes.values()), kinds)

    return built


class _Opaque(torch.autograd.Function):
    """One node in the place of all operations inside a layer."""

    @staticmethod
    def forward(ctx: Any, outputs: list[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs as they are, now made from the inputs alone."""
        return tuple(output.clone() for output in outputs)


@contextlib.contextmanager
def _traceable(model: nn.Module) -> Iterator[None]:
    """The model as the graph can follow it: recurrent and attention layers are in one piece."""
    opaque = [module for module in model.modules() if isinstance(module, OPAQUE)]
    for module in opaque:
        module.forward = _in_one_piece(module)  # type: ignore[method-assign]
    try:
        with thawed(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for module in opaque:
            del module.forward


def _in_one_piece(module: nn.Module) -> Any:
    forward, own = module.forward, next(module.parameters())  # one parameter, for where the inputs have no gradient

    def opaque(*args: Any, **kwargs: Any) -> Any:
        """The layer's own forward pass, seen as one operation."""
        with torch.no_grad():
            outputs, form = tree_flatten(forward(*args, **kwargs))
        inputs = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        kept = [index for index, output in enumerate(outputs) if isinstance(output, Tensor)]
        made = _Opaque.apply([outputs[index] for index in kept], own, *inputs)
        for index, value in zip(kept, made, strict=True):
            outputs[index] = value
        return tree_unflatten(outputs, form)

    return opaque
