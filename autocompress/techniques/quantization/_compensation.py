"""Rounding in which later weights make up for the errors of earlier ones, by what a layer's inputs say.

A layer's output errs by the error of its weights times its inputs; so its square is that error in the metric of the
inputs' second moments, and what is lost by rounding one weight is least when those not yet rounded move against it
(Hassibi and Stork, 1993: optimal brain surgeon; Frantar et al., 2023: GPTQ, algorithm 1).
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._inputs import FED, fed, groups_of

Array = NDArray[Any]
MOST = 1024  # weights of a row that make up for each other; longer rows are taken in parts
DAMPING = 0.1  # of the mean second moment, added to each, so that few examples do not say too much
BLOCK = 64  # weights of a row between two updates of all others
LARGEST = 127
PER_VALUE = 4  # weights, with fewer of which a value would save next to nothing


@dataclass(frozen=True)
class Weight:
    """A weight, and how many groups of outputs it has that see other inputs."""

    values: Tensor
    groups: int = 1

    @property
    def rows(self) -> Tensor:
        """The values as (groups, outputs of a group, weights of an output)."""
        return self.values.detach().reshape(self.groups, len(self.values) // self.groups, -1)


class Moments:
    """Second moments of what a weight is multiplied with, summed over examples: (groups, c, c) a part of its rows."""

    def __init__(self, weight: Weight) -> None:
        self._parts = parts(weight.rows.shape[2])
        self.sums: list[Tensor] = []

    def see(self, inputs: list[Tensor]) -> None:
        """Add what outputs see, as tensors (some groups, how many, weights of an output)."""
        whole = [each.detach().float() for each in inputs]
        found = [torch.cat([_squared(each[..., part]) for each in whole]).cpu() for part in self._parts]
        self.sums = [a.add_(b) for a, b in zip(self.sums, found, strict=True)] if self.sums else found


def _squared(seen: Tensor) -> Tensor:
    return seen.transpose(1, 2) @ seen


def parts(length: int) -> list[slice]:
    """A row's parts of alike length, as few as may be of at most MOST each."""
    count = -(-length // MOST)
    edges = [length * index // count for index in range(count + 1)]
    return [slice(*edge) for edge in itertools.pairwise(edges)]


def weights_of(model: nn.Module, names: Mapping[str, Any]) -> dict[str, Weight]:
    """The weights of a model by these names."""
    found = {name: model.get_parameter(name) for name in names}
    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in names}
    return {name: Weight(values, groups_of(owners[name], name.rpartition(".")[2])) for name, values in found.items()}


def moments_of(model: nn.Module, weights: Mapping[str, Weight], run: Callable[[], Iterator[Any]]) -> dict[str, Moments]:
    """The moments of what these weights of a model are multiplied with, of those where that is seen.

    run: passes data through the model.
    """
    found = {name: Moments(weight) for name, weight in weights.items()}
    owners = {id(weight.values): found[name] for name, weight in weights.items()}
    hooks = []
    for module in (module for module in model.modules() if isinstance(module, FED)):
        own = {name: owners[id(values)] for name, values in module.named_parameters() if id(values) in owners}
        if own:
            hooks.append(module.register_forward_pre_hook(partial(_watch, own), with_kwargs=True))
    try:
        for _ in run():
            pass
    finally:
        for each in hooks:
            each.remove()
    return {name: moments for name, moments in found.items() if moments.sums}


def _watch(own: dict[str, Moments], module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
    for name, inputs in fed(module, given, named):
        if name in own:
            own[name].see(inputs)


def largest(weight: Weight) -> int:
    """The largest whole number that a weight may hold: of 8 bits, and with few values for their number."""
    return min(LARGEST, max(1, weight.values.numel() // (2 * PER_VALUE) - 1))


def rounded(weight: Weight, moments: Moments | None, step: float, rate: float) -> Array:
    """Whole numbers, of the weight's shape, which times `step` stand for it with little error of the outputs.

    moments: without them the nearest numbers. rate: what a bit of a number costs, in squared steps times the mean
    second moment of the inputs; 0 counts none. What is zero stays zero in a weight that was pruned.
    """
    wide = weight.rows.float().cpu().numpy().transpose(2, 0, 1)  # by what is rounded together
    pruned = (wide == 0) & bool((wide == 0).any() and (wide != 0).any())
    factors = [_factor(sums) for sums in moments.sums] if moments else []
    bits = np.zeros(2 * largest(weight) + 1, np.float32)
    for price in (0.0, rate) if rate else (0.0,):
        left = wide / np.float32(step)
        if moments:
            each = zip(parts(len(wide)), factors, strict=True)
            numbers = [_part(left[part], pruned[part], factor, price * bits) for part, factor in each]
        else:
            numbers = [np.where(pruned, 0, _cheapest(left, np.ones(1, np.float32), price * bits))]
        found = np.concatenate(numbers).astype(np.int8)
        counts = np.bincount(found.ravel().astype(int) + len(bits) // 2, minlength=len(bits)).clip(0.5)
        bits = np.log2(counts.sum() / counts).astype(np.float32)
    return found.transpose(1, 2, 0).reshape(weight.values.shape)


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
