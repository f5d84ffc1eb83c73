"""How much a channel counts: scores of a group's channels, by weights, gradients, normalizations or attribution."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.conv import _ConvTransposeNd as Transposed

from ...errors import TechniqueError
from ...tasks.models import add_weights
from ...training import place_of, placed
from ..base import Context
from ..outputs import thawed
from ._dependencies import Group, Part
from ._modules import first_weights

Score = Callable[[Group], Tensor | None]
FISHER_EXAMPLES = 128  # a gradient each
CONDUCTANCE_EXAMPLES = 32
CONDUCTANCE_STEPS = 8
KEPT = 1e10  # multiplications of a sample, half a second of a core, from which its gradients are kept


def by_weights(measure: Callable[[Tensor], Tensor]) -> Score:
    """The sum, over all weights that make or read a channel, of a measure of each (Fang et al., 2023, section 3.2)."""

    def score(group: Group) -> Tensor | None:
        """The measure of a group's channels; None where nothing in it has weights."""
        found = [(part, weights_of(part, measure)) for part in group.parts]
        return _total(group, [(part, rows.sum(1)[part.positions]) for part, rows in found if rows is not None])

    return score


def geometric_median(group: Group) -> Tensor | None:
    """The sum of distances to the other filters of the layer: small near their geometric median (He et al., 2019)."""
    found = [(part, weights_of(part, torch.Tensor.detach)) for part in group.producers]
    return _total(group, [(part, _distances(rows)[part.positions]) for part, rows in found if rows is not None])


def _distances(rows: Tensor) -> Tensor:
    return torch.cdist(rows.double(), rows.double()).sum(1)


def batch_norm_scale(group: Group) -> Tensor | None:
    """The size of a channel's factors in batch normalization; None without one (Liu et al., 2017: Network Slimming)."""
    norms = [part for part in group.parts if isinstance(part.module, _BatchNorm) and part.module.affine]
    return _total(group, [(part, part.module.weight.detach().abs()[part.positions]) for part in norms])


def by_output(values: dict[str, Tensor]) -> Score:
    """The sum over the layers that make a channel of a value of each layer's outputs."""

    def score(group: Group) -> Tensor | None:
        """The value of a group's channels; None where no layer that makes them has one."""
        makers = [part for part in group.producers if part.name in values]
        return _total(group, [(part, values[part.name][part.positions]) for part in makers])

    return score


def lamp(scores: Tensor) -> Tensor:
    """Each score's share of all that are not below it (Lee et al., 2021, equation 1)."""
    order = scores.argsort(stable=True)
    left = scores[order].flip(0).cumsum(0).flip(0)
    return torch.empty_like(scores).scatter_(0, order, (scores[order] / left).nan_to_num(0))


def relative(scores: Tensor) -> Tensor:
    """Scores in units of their mean, so that those of unlike layers compare."""
    return (scores / scores.mean()).nan_to_num(0)


def _total(group: Group, scores: list[tuple[Part, Tensor]]) -> Tensor | None:
    if not scores:
        return None
    total = torch.zeros(group.channels, dtype=torch.float64)
    for part, values in scores:
        total.index_add_(0, torch.tensor(part.channels), values.double())
    return group.in_units(total).sum(1)


def weights_of(part: Part, measure: Callable[[Tensor], Tensor]) -> Tensor | None:
    """A measure of the weights that make (or read) each position of a part's layer, a row each; None without any."""
    with torch.no_grad():
        return _matrix(part.module, part.outputs, measure)


def _matrix(module: Any, outputs: bool, of: Callable[[Tensor], Tensor]) -> Tensor | None:
    match module:
        case _ConvNd():
            return _conv(of(module.weight), module.groups, outputs != isinstance(module, Transposed))
        case nn.Linear():
            return of(module.weight) if outputs else of(module.weight).T
        case nn.RNNBase():
            if outputs:
                return _hidden(module, of)
            return torch.cat([of(weight) for _, weight in first_weights(module)]).T
        case nn.MultiheadAttention() if module.in_proj_weight is not None:
            inner, outer = of(module.in_proj_weight), of(module.out_proj.weight)
            rows = inner.view(3, module.embed_dim, -1).permute(1, 0, 2).flatten(1)
            return torch.cat([rows, inner.T, outer, outer.T], 1)
        case nn.Embedding():
            return of(module.weight).T
        case _BatchNorm() | nn.LayerNorm() | nn.GroupNorm() | nn.InstanceNorm1d() | nn.InstanceNorm2d():
            return None if module.weight is None else of(module.weight).unsqueeze(1)
    return None


def _conv(weight: Tensor, groups: int, first: bool) -> Tensor:
    """A convolution's weight by the channels of its first dimension, or by those that its second has in each group."""
    if first:
        return weight.flatten(1)
    return weight.view(groups, len(weight) // groups, *weight.shape[1:]).transpose(1, 2).flatten(0, 1).flatten(1)


def _hidden(module: nn.RNNBase, of: Callable[[Tensor], Tensor]) -> Tensor:
    """The weights that make each hidden unit of each direction, in all layers and gates, and those within them."""
    rows = []
    for suffix in ("", "_reverse")[: 1 + module.bidirectional]:
        own = [(name, of(weight)) for name, weight in module.named_parameters() if name.startswith("weight")]
        own = [(name, weight) for name, weight in own if name.endswith("_reverse") is bool(suffix)]
        made = [w.view(-1, module.hidden_size, w.shape[1]).transpose(0, 1).flatten(1) for _, w in own]
        rows.append(torch.cat([*made, *[weight.T for name, weight in own if "hh" in name]], 1))
    return torch.cat(rows)


def gradients(model: nn.Module, context: Context, examples: int) -> dict[int, Tensor]:
    """The gradient of the loss by each weight, summed over batches of a sample; by the weight's identity.

    Where they take long they are kept until another model's are asked for: all recipes that begin alike ask for the
    same.
    """
    if context.affordable(examples) * context.products < KEPT:
        return _accumulated(model, context, examples, 64, lambda gradient: gradient)
    contents = hashlib.blake2b(digest_size=16)
    add_weights(contents, model)
    key = examples, contents.hexdigest()
    if context.cache.get("slopes", (None,))[0] != key:
        # The same sample whatever the recipe.
        found = _accumulated(model, replace(context, seed=0), examples, 64, lambda gradient: gradient)
        context.cache["slopes"] = key, [found[id(weight)] for weight in model.parameters()]
    return {id(w): slopes for w, slopes in zip(model.parameters(), context.cache["slopes"][1], strict=True)}


def fisher(model: nn.Module, context: Context, examples: int) -> dict[int, Tensor]:
    """The mean over examples of each weight's squared gradient: the diagonal of the empirical Fisher matrix, which
    stands for the second derivative (LeCun et al., 1990: Optimal Brain Damage; Theis et al., 2018)."""
    count = min(examples, FISHER_EXAMPLES)
    return _accumulated(model, context, count, 1, lambda gradient: gradient**2 / count)


def _accumulated(
    model: nn.Module, context: Context, examples: int, batch_size: int, part: Callable[[Tensor], Tensor]
) -> dict[int, Tensor]:
    there = placed(model)
    weights = list(there.parameters())
    totals = [torch.zeros_like(weight, requires_grad=False) for weight in weights]
    for batch in context.sample(examples, batch_size):
        given = batch.to(place_of(there))
        with thawed(there):
            loss = context.task.loss(there(*given.inputs), given.targets)
            parts = torch.autograd.grad(loss, weights, allow_unused=True)
        for total, gradient in zip(totals, parts, strict=True):
            total += 0 if gradient is None else part(gradient)
    return {id(weight): total.cpu() for weight, total in zip(model.parameters(), totals, strict=True)}


def conductance(model: nn.Module, context: Context, examples: int, layers: set[str]) -> dict[str, Tensor]:
    """How much of each example's largest output flows through each channel of a layer (Dhamdhere et al., 2019, eq. 3).

    The path leads from zero inputs to a sample; absolute values, summed over the sample. Returns a value a channel.
    Raises TechniqueError for inputs that cannot be scaled.
    """
    count = min(examples, CONDUCTANCE_EXAMPLES)
    model = placed(model)
    inputs = next(context.sample(count, count)).to(place_of(model)).inputs
    if not all(tensor.is_floating_point() for tensor in inputs):
        raise TechniqueError(
            "channel_pruning with importance conductance needs inputs that can be scaled, and this model's are whole "
            "numbers: use importance taylor"
        )
    modules = {name: model.get_submodule(name) for name in sorted(layers)}
    target = model(*inputs).flatten(1).argmax(1, keepdim=True)
    total: dict[str, Tensor] = {}
    before: dict[str, tuple[Tensor, Tensor]] = {}
    for point in np.polynomial.legendre.leggauss(CONDUCTANCE_STEPS + 1)[0]:
        scaled = tuple(tensor * float(1 + point) / 2 for tensor in inputs)
        now = _flow(model, modules, scaled, target)
        for name, (value, _) in now.items() if before else ():
            flow = before[name][1] * (value - before[name][0])
            total[name] = total[name] + flow if name in total else flow
        before = now
    return {name: _by_channel(modules[name], flow).cpu() for name, flow in total.items()}


def _flow(
    model: nn.Module, modules: dict[str, nn.Module], inputs: tuple[Tensor, ...], target: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """The outputs of layers, and the gradient of the target outputs by them."""
    values: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Any, Any, Any], Any]:
        """A hook that keeps the outputs of one layer."""

        def hook(module: Any, args: Any, output: Any) -> Any:
            """Keep the first output, and hand on a copy."""
            first, *others = output if isinstance(output, tuple) else (output,)
            values[name] = first
            copied = first.clone()  # what follows may change its input in place
            return (copied, *others) if isinstance(output, tuple) else copied

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        with thawed(model):
            reached = model(*inputs).flatten(1).gather(1, target).sum()
            gradients = torch.autograd.grad(reached, list(values.values()), materialize_grads=True)
    finally:
        for handle in hooks:
            handle.remove()
    return {name: (value.detach(), slope) for (name, value), slope in zip(values.items(), gradients, strict=True)}


def _by_channel(module: nn.Module, flow: Tensor) -> Tensor:
    flow = flow.movedim(1 if isinstance(module, _ConvNd) else -1, 1).flatten(2) if flow.dim() > 2 else flow
    return (flow.sum(2) if flow.dim() > 2 else flow).abs().sum(0)
