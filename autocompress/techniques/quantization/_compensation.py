"""Rounding in which later weights make up for the errors of earlier ones, by what a layer's inputs say.

A layer's output errs by the error of its weights times its inputs; so its square is that error in the metric of the
inputs' second moments, and what is lost by rounding one weight is least when those not yet rounded move against it
(Hassibi and Stork, 1993: optimal brain surgeon; Frantar et al., 2023: GPTQ, algorithm 1).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

Array = NDArray[Any]
Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
MOST = 1024  # weights of a row that make up for each other; longer rows are taken in parts
POSITIONS = 16  # of a feature map or a sequence that are looked at, an example
DAMPING = 0.1  # of the mean second moment, added to each, so that few examples do not say too much
BLOCK = 64  # weights of a row between two updates of all others
LARGEST = 127
PER_VALUE = 4  # weights, with fewer of which a value would save next to nothing


class Moments:
    """Second moments of a layer's inputs, summed over examples: (groups, c, c) for each part of its rows."""

    def __init__(self, layer: Layer) -> None:
        self._layer, self._parts = layer, parts(rows(layer.weight, layer).shape[2])
        self.sums: list[Tensor] = []

    def see(self, inputs: Tensor) -> None:
        """Add what the layer is given."""
        seen = windows(self._layer, inputs.detach().float())
        found = [seen[..., part].transpose(1, 2) @ seen[..., part] for part in self._parts]
        found = [moment.cpu() for moment in found]
        self.sums = [a.add_(b) for a, b in zip(self.sums, found, strict=True)] if self.sums else found


def parts(length: int) -> list[slice]:
    """A row's parts of alike length, as few as may be of at most MOST each."""
    count = -(-length // MOST)
    edges = [length * index // count for index in range(count + 1)]
    return [slice(*edge) for edge in itertools.pairwise(edges)]


def rows(weight: Tensor, layer: Layer) -> Tensor:
    """A weight as (groups, outputs of a group, weights of an output)."""
    groups = getattr(layer, "groups", 1)
    return weight.detach().reshape(groups, len(weight) // groups, -1)


def windows(layer: Layer, inputs: Tensor) -> Tensor:
    """What each output of a layer sees, at some of its positions: (groups, how many, weights of an output)."""
    if isinstance(layer, nn.Linear):
        wide = inputs.reshape(-1, math.prod(inputs.shape[1:-1]), inputs.shape[-1])
        return _thinned(wide, (1,)).reshape(1, -1, inputs.shape[-1])
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


def _thinned(seen: Tensor, axes: Any) -> Tensor:
    """At most about POSITIONS positions along some axes, evenly spread."""
    every = math.ceil((math.prod(seen.shape[axis] for axis in axes) / POSITIONS) ** (1 / len(axes)))
    for axis in axes if every > 1 else ():
        size = seen.shape[axis]
        step = min(every, size)
        seen = seen.narrow(axis, (step - 1) // 2, size - (step - 1) // 2)
        seen = seen.index_select(axis, torch.arange(0, seen.shape[axis], step, device=seen.device))
    return seen


def moments_of(model: nn.Module, layers: dict[str, Layer], run: Callable[[], Iterator[Any]]) -> dict[str, Moments]:
    """The moments of the inputs of these layers of a model, of those that are called as layers.

    run: passes data through the model. Layers that share a weight share moments.
    """
    owners = {id(layer.weight): name for name, layer in reversed(layers.items())}
    found = {name: Moments(layers[name]) for name in owners.values()}
    same = ((module, owners.get(id(module.weight))) for module in model.modules() if isinstance(module, LAYERS))
    hooks = [
        module.register_forward_pre_hook(
            lambda _, given, named, of=found[owner]: of.see((*given, *named.values())[0]), with_kwargs=True
        )
        for module, owner in same
        if owner is not None
    ]
    try:
        for _ in run():
            pass
    finally:
        for hook in hooks:
            hook.remove()
    return {name: moments for name, moments in found.items() if moments.sums}


def largest(layer: Layer) -> int:
    """The largest whole number that a layer's weights may have: of 8 bits, and with few values for their number."""
    return min(LARGEST, max(1, layer.weight.numel() // (2 * PER_VALUE) - 1))


def rounded(layer: Layer, moments: Moments, step: float, rate: float) -> Array:
    """Whole numbers, of the weight's shape, which times `step` stand for it with little error of the outputs.

    rate: what a bit of a number costs, in squared steps times the mean second moment of the inputs; 0 counts none.
    What is zero stays zero in a weight that was pruned.
    """
    wide = rows(layer.weight, layer).float().cpu().numpy().transpose(2, 0, 1)  # by what is rounded together
    pruned = (wide == 0) & bool((wide == 0).any() and (wide != 0).any())
    factors = [_factor(sums) for sums in moments.sums]
    bits = np.zeros(2 * largest(layer) + 1, np.float32)
    for price in (0.0, rate) if rate else (0.0,):
        each = zip(parts(len(wide)), factors, strict=True)
        numbers = [_part(wide[part] / np.float32(step), pruned[part], factor, price * bits) for part, factor in each]
        found = np.concatenate(numbers).astype(np.int8)
        counts = np.bincount(found.ravel().astype(int) + len(bits) // 2, minlength=len(bits)).clip(0.5)
        bits = np.log2(counts.sum() / counts).astype(np.float32)
    return found.transpose(1, 2, 0).reshape(layer.weight.shape)


def _factor(sums: Tensor) -> Array:
    """The upper Cholesky factor of the inverse of the moments, in units of their mean: (groups, c, c)."""
    sums = sums.double()
    mean = sums.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    scaled = torch.where(mean > 0, sums / mean.clamp_min(torch.finfo(sums.dtype).tiny), 0.0)
    scaled = scaled + DAMPING * torch.eye(sums.shape[1], dtype=sums.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(scaled))
    upper = torch.linalg.cholesky(inverse, upper=True).float().numpy()
    return np.ascontiguousarray(upper)


def _part(left: Array, pruned: Array, factor: Array, costs: Array) -> Array:
    """Whole numbers for a part of all rows (c, groups, outputs), in steps; costs: of each number, in squared steps.

    left is used up.
    """
    found = np.empty_like(left)
    across = factor.transpose(1, 2, 0)[..., None]  # (c, c, groups, 1)
    for begin in range(0, len(left), BLOCK):
        end = min(begin + BLOCK, len(left))
        errors = np.empty_like(left[begin:end])
        for at in range(begin, end):
            scale = across[at, at]
            found[at] = number = np.where(pruned[at], 0, _cheapest(left[at], scale, costs))
            errors[at - begin] = error = (left[at] - number) / scale
            left[at + 1 : end] -= across[at, at + 1 : end] * error
        # (groups, c - end, block) by (groups, block, outputs)
        left[end:] -= (factor[:, begin:end, end:].transpose(0, 2, 1) @ errors.transpose(1, 0, 2)).transpose(1, 0, 2)
    return found


def _cheapest(values: Array, scale: Array, costs: Array) -> Array:
    """The whole number for each value with the least of error and cost: the nearest, the next one inwards, or zero."""
    most = len(costs) // 2
    nearest = np.clip(np.rint(values), -most, most)
    if not costs.any():
        return np.asarray(nearest)
    choices = np.stack([nearest, nearest - np.sign(nearest), np.zeros_like(nearest)])
    paid = ((values - choices) / scale) ** 2 + costs[choices.astype(int) + most]
    return np.asarray(np.take_along_axis(choices, paid.argmin(0)[None], 0)[0])
