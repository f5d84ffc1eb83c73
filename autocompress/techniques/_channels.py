"""How much a channel counts: scores of a group's channels, by weights, gradients, normalizations or attribution."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.conv import _ConvTransposeNd as Transposed

from ..errors import TechniqueError
from ._dependencies import Group, Part, first_weights, thawed
from .base import Context

Score = Callable[[Group], Tensor | None]
FISHER_EXAMPLES = 128  # a gradient each
CONDUCTANCE_EXAMPLES = 32
CONDUCTANCE_STEPS = 8


def by_weights(measure: Callable[[Tensor], Tensor]) -> Score:
    """The sum, over all weights that make or read a channel, of a measure of each (Fang et al., 2023, section 3.2)."""

    def score(group: Group) -> Tensor | None:
        found = [(part, slices(part, measure)) for part in group.parts]
        return _total(group, [(part, rows.sum(1)) for part, rows in found if rows is not None])

    return score


def geometric_median(group: Group) -> Tensor | None:
    """The sum of distances to the other filters of the layer: small near their geometric median (He et al., 2019)."""
    found = [(part, slices(part, lambda weight: weight)) for part in group.producers]
    return _total(group, [(part, torch.cdist(rows, rows).sum(1)) for part, rows in found if rows is not None])


def batch_norm_scale(group: Group) -> Tensor | None:
    """The size of a channel's factors in batch normalization; None without one (Liu et al., 2017: Network Slimming)."""
    norms = [part for part in group.parts if isinstance(part.module, _BatchNorm) and part.module.affine]
    return _total(group, [(part, part.module.weight.detach().abs()[part.positions]) for part in norms])


def by_output(values: dict[str, Tensor]) -> Score:
    """The sum over the layers that make a channel of a value of each layer's outputs."""

    def score(group: Group) -> Tensor | None:
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
    return total.view(group.copies, -1).sum(0)


def slices(part: Part, of: Callable[[Tensor], Tensor]) -> Tensor | None:
    """A function of the weights that make (or read) each position of a part: a row each; None where there are none."""
    found = _matrix(part.module, part.outputs, lambda weight: of(weight).detach())
    return None if found is None else found[part.positions]


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
    """The gradient of the loss by each weight, summed over batches of a sample; by the weight's identity."""
    return _accumulated(model, context, examples, 64, lambda gradient: gradient)


def fisher(model: nn.Module, context: Context, examples: int) -> dict[int, Tensor]:
    """The mean over examples of each weight's squared gradient: the diagonal of the empirical Fisher matrix, which
    stands for the second derivative (LeCun et al., 1990: Optimal Brain Damage; Theis et al., 2018)."""
    count = min(examples, FISHER_EXAMPLES)
    return _accumulated(model, context, count, 1, lambda gradient: gradient**2 / count)


def _accumulated(
    model: nn.Module, context: Context, examples: int, batch_size: int, part: Callable[[Tensor], Tensor]
) -> dict[int, Tensor]:
    weights = list(model.parameters())
    totals = [torch.zeros_like(weight, requires_grad=False) for weight in weights]
    for batch in context.sample(examples, batch_size):
        with thawed(model):
            loss = context.task.loss(model(*batch.inputs), batch.targets)
            parts = torch.autograd.grad(loss, weights, allow_unused=True)
        for total, gradient in zip(totals, parts, strict=True):
            total += 0 if gradient is None else part(gradient)
    return {id(weight): total for weight, total in zip(weights, totals, strict=True)}


def conductance(model: nn.Module, context: Context, examples: int, layers: set[str]) -> dict[str, Tensor]:
    """How much of the largest output flows through each output channel of each layer (Dhamdhere et al., 2019).

    Absolute values, summed over positions and a sample. Raises TechniqueError for inputs that are no numbers.
    """
    from captum.attr import LayerConductance

    batch = next(context.sample(min(examples, CONDUCTANCE_EXAMPLES), min(examples, CONDUCTANCE_EXAMPLES)))
    if not all(tensor.is_floating_point() for tensor in batch.inputs):
        raise TechniqueError(
            "channel_pruning with importance conductance needs inputs that can be scaled, and this model's are whole "
            "numbers: use importance taylor"
        )

    def outputs(*inputs: Tensor) -> Tensor:
        return model(*inputs).flatten(1)

    found = {}
    target = outputs(*batch.inputs).argmax(1).detach()
    for name in sorted(layers):
        module = model.get_submodule(name)
        with thawed(model):
            flow = LayerConductance(outputs, module).attribute(batch.inputs, target=target, n_steps=CONDUCTANCE_STEPS)
        flow = flow[0] if isinstance(flow, tuple) else flow
        axis = 1 if isinstance(module, _ConvNd) else flow.dim() - 1
        found[name] = flow.detach().abs().transpose(0, axis).flatten(1).sum(1)
    return found
