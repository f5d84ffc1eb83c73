"""Channels that must go together, found by torch-pruning's dependency graph, and their removal (Fang et al., 2023).

The graph is only read. What is removed is written down for each layer in the positions of the network as it stands,
so that the removal itself needs no graph, and can be held against the same network with those channels masked.
"""

import contextlib
import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.conv import _ConvTransposeNd as Transposed
from torch.utils._pytree import tree_flatten, tree_unflatten

from ._views import map_positions, shuffles

Row = list[Any]  # a layer's or parameter's name, whether its outputs, positions
OPAQUE = (nn.RNNBase, nn.MultiheadAttention)
TOLERANCE = 1e-4  # of the largest output: rounding stays below, a channel that was taken for another does not
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
    """Channels of a layer with everything coupled to them; each of `copies` equal parts must lose the same ones."""

    channels: int
    copies: int
    parts: list[Part]

    @property
    def name(self) -> str:
        """The layer that the group is named after."""
        return self.parts[0].name

    @property
    def producers(self) -> list[Part]:
        """The layers whose outputs the channels are."""
        return [part for part in self.parts if part.outputs and is_layer(part.module)]

    def without(self, units: Sequence[int]) -> list[Row]:
        """The rows that remove these units, which are the channels of one copy."""
        size = self.channels // self.copies
        gone = {unit + size * index for unit in units for index in range(self.copies)}
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
                    found[f"{parent}.{key}".lstrip(".")] = self.channels - units * self.copies
        return found


def is_layer(module: Any) -> bool:
    """Whether a module mixes channels: a convolution that is not depthwise, a linear or a recurrent layer."""
    return isinstance(module, _ConvNd | nn.Linear | nn.RNNBase) and not is_depthwise(module)


def is_depthwise(module: Any) -> bool:
    """Whether a convolution has one filter a channel, as torch-pruning sees it."""
    return isinstance(module, _ConvNd) and 1 < module.groups == module.out_channels


def width_of(module: Any) -> int:
    """How many output channels a layer has."""
    if isinstance(module, nn.RNNBase):
        return module.hidden_size * (1 + module.bidirectional)
    return int(module.weight.shape[1] * module.groups if isinstance(module, Transposed) else len(module.weight))


def find_groups(
    model: nn.Module, example: tuple[Tensor, ...], ignored: list[nn.Module]
) -> tuple[list[Group], dict[str, str]]:
    """All groups without an ignored layer's outputs, and the layers that are left alone, with the reason."""
    import torch_pruning as tp

    pruners = {kind: Recurrent() for kind in (nn.LSTM, nn.GRU, nn.RNN)}
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
            reason = _obstacle(items, group)
            if reason:
                skipped[group.name] = reason
            elif group.channels // group.copies > 1:
                found.append(group)
    return found, skipped


def _as_group(graph: Any, items: Any, names: dict[int, str]) -> Group:
    parts, copies = [], 1
    for item in items:
        module = item.dep.target.module
        if id(module) not in names:
            continue
        outputs = bool(graph.is_out_channel_pruning_fn(item.dep.handler))
        parts.append(Part(names[id(module)], module, outputs, list(item.idxs), list(item.root_idxs)))
        copies = math.lcm(copies, _copies(module, outputs))
    return Group(len(items[0].idxs), copies, parts)


def _copies(module: Any, outputs: bool) -> int:
    """How many equal parts of a layer's channels must keep the same number."""
    if isinstance(module, nn.RNNBase):
        return 1 + module.bidirectional if outputs else 1
    if isinstance(module, nn.MultiheadAttention):
        return module.num_heads
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    return module.groups if isinstance(module, _ConvNd) and not is_depthwise(module) else 1


def _obstacle(items: Any, group: Group) -> str | None:
    if any(channel is None for part in group.parts for channel in part.channels):
        return "its channels cannot be told apart"
    if group.channels % group.copies:
        return f"its {group.channels} channels do not part into {group.copies} equal shares"
    if any(shuffles(item.dep.target) for item in items):
        return "its channels are shuffled with others"
    return None


def _with_positions(build: Any, kinds: Any) -> Any:
    def built(nodes: Any) -> None:
        build(nodes)
        map_positions(list(nodes.values()), kinds)

    return built


class _Opaque(torch.autograd.Function):
    """One node in the place of all operations inside a layer."""

    @staticmethod
    def forward(ctx: Any, outputs: list[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(output.clone() for output in outputs)


@contextlib.contextmanager
def thawed(model: nn.Module) -> Iterator[None]:
    """The model with gradients for all of its parameters, for a while."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    try:
        with torch.enable_grad():
            for parameter in frozen:
                parameter.requires_grad_(True)
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


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
        with torch.no_grad():
            outputs, form = tree_flatten(forward(*args, **kwargs))
        inputs = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        kept = [index for index, output in enumerate(outputs) if isinstance(output, Tensor)]
        made = _Opaque.apply([outputs[index] for index in kept], own, *inputs)  # type: ignore[no-untyped-call]
        for index, value in zip(kept, made, strict=True):
            outputs[index] = value
        return tree_unflatten(outputs, form)

    return opaque


class Recurrent:
    """How torch-pruning is to see an LSTM, GRU or RNN: its outputs are the hidden units of the last layer."""

    pruning_dim = -1

    def prune_out_channels(self, layer: nn.RNNBase, positions: list[int]) -> None:
        """Remove hidden units from all layers and directions, which share one hidden size."""
        kept = _rest(layer.hidden_size, [p for p in positions if p < layer.hidden_size])
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
        kept = _rest(layer.input_size, positions)
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


def first_weights(layer: nn.RNNBase) -> list[tuple[str, Tensor]]:
    """The weights by which a recurrent layer reads its inputs."""
    return [(name, weight) for name, weight in layer.named_parameters() if name.startswith("weight_ih_l0")]


def _rest(width: int, gone: Sequence[int]) -> Tensor:
    return torch.tensor(sorted(set(range(width)) - set(gone)), dtype=torch.long)


def merged(rows: Sequence[Row]) -> list[Row]:
    """The rows with one for each layer and side."""
    positions: dict[tuple[str, bool], set[int]] = {}
    for name, outputs, where in rows:
        positions.setdefault((name, outputs), set()).update(where)
    return [[name, outputs, sorted(where)] for (name, outputs), where in positions.items()]


def remove(model: nn.Module, rows: Sequence[Row], widths: dict[str, int]) -> nn.Module:
    """The model without the positions in the rows, of which there is one for each layer and side."""
    import torch_pruning as tp

    box, kinds = tp.pruner.function.PrunerBox, tp.ops
    parameters = dict(model.named_parameters())
    frozen = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    for name, outputs, where in rows:
        if name in parameters:
            _remove_from_parameter(model, name, where)
            continue
        module = model.get_submodule(name)
        pruner = Recurrent() if isinstance(module, nn.RNNBase) else box[kinds.module2type(module)]
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
    kept = _rest(parameter.shape[dimension], where)
    setattr(model.get_submodule(parent), key, nn.Parameter(parameter.detach().index_select(dimension, kept)))


def sound(model: nn.Module, example: tuple[Tensor, ...], chosen: list[tuple[Group, list[int]]]) -> str | None:
    """None when the model can do without the chosen units, else why not.

    It must run, give outputs of the same shape, and compute what it does when nothing reads those channels. The last
    is not asked of groups with a normalization over channels or with attention, which see the channels of others.
    """
    with torch.no_grad():
        expected = model(*example)
        free = [(group, units) for group, units in chosen if not _entangled(group)]
        for subset, exact in [(free, True)] * bool(free) + [(chosen, False)] * (len(free) < len(chosen)):
            work = copy.deepcopy(model)
            rows = merged([row for group, units in subset for row in group.without(units)])
            for row in rows:
                _mask(work, *row)
            masked = work(*example) if exact else expected
            try:
                found = remove(work, rows, widths_of(model, subset))(*example)
            except (RuntimeError, ZeroDivisionError, AssertionError, IndexError, ValueError, TypeError) as error:
                return f"the model does not run without them ({' '.join(str(error).split())[:120]})"
            if found.shape != expected.shape:
                return "the model's outputs would change their shape"
            if exact and not (found - masked).abs().max() <= TOLERANCE * masked.abs().max():
                return "they cannot be followed through the model"
    return None


def widths_of(model: nn.Module, chosen: list[tuple[Group, list[int]]]) -> dict[str, int]:
    """The attributes that hold the width of a chosen group, with their new values."""
    return {name: width for group, units in chosen for name, width in group.widths(model, len(units)).items()}


def _entangled(group: Group) -> bool:
    return any(isinstance(part.module, nn.LayerNorm | nn.GroupNorm | nn.MultiheadAttention) for part in group.parts)


def _mask(model: nn.Module, name: str, outputs: bool, where: list[int]) -> None:
    """Let a layer read nothing from these positions."""
    module: Any = dict(model.named_modules()).get(name)
    if isinstance(module, nn.RNNBase):
        for key, weight in module.named_parameters():
            if outputs and key.startswith("weight_hh"):
                weight[:, [p for p in where if p < module.hidden_size]] = 0
            elif key.startswith("weight_ih") and outputs is ("_l0" not in key):
                weight[:, where] = 0
    elif not outputs and is_layer(module):
        if isinstance(module, Transposed):
            module.weight[where] = 0
        else:
            groups = getattr(module, "groups", 1)
            size = module.weight.shape[1]
            grouped = module.weight.view(groups, -1, size, *module.weight.shape[2:])
            for position in where:
                grouped[position // size, :, position % size] = 0
