"""Quantization of weights with a width for each layer."""

import hashlib
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import numpy as np
import onnx
import torch
from pydantic import Field
from torch import Tensor

from ...errors import TechniqueError
from ...recipe import Choice, Kind, Range
from ...tasks.protocol import classifies
from ..base import Context, Decision, Technique
from ..teacher import distillation_loss
from . import _uniform

SCANNED = (2, 3, 4, 5, 6, 7, 8)
PARTS = 4  # steps from one scanned width to the next, in which more and more scales of a weight take the wider one
WIDTHS = tuple(SCANNED[0] + step / PARTS for step in range((len(SCANNED) - 1) * PARTS + 1))
MOST_PRODUCTS = 2e12  # multiplications in a scan, about a minute of a core: large models are scanned more coarsely
FEWEST = 8  # examples in a scan of all widths
LOOKED_AT = 1  # the place among SCANNED of the one width that a coarse scan looks at
HIDDEN = -1e4  # a score that softmax makes zero of, and that is finite
Grid = dict[str, Any]
Costs = dict[str, list[float]]


class MixedPrecision(Technique):
    """Store weights in 2 to 8 bits, as many for each layer as a scan of sensitivity says under a limit for all.

    bits is the limit: the mean over all quantized weights (Dong et al., 2020: HAWQ-V2 and Yao et al., 2021, section
    3.4, choose widths by an integer program as this does). The scan takes one weight at a time to each width and
    measures how far outputs move on training data. A layer with more than a quarter of all weights may also have a
    quarter, half or three quarters of its scales at one bit more than the others, those that gain most: a whole bit
    of it is too much or too little for most limits. Where a scan would take too long it takes fewer examples, and then
    one width, from which the others follow as squared errors do. group, rate and keep are
    those of low_bit.
    """

    technique: ClassVar[str] = "mixed_precision"
    family: ClassVar[str] = "quantization"
    kind: ClassVar[Kind] = "encode"
    by_layer: ClassVar[bool] = True

    bits: Annotated[float, Range(2.5, 6, step=0.5)] = Field(4.0, ge=2, le=8)
    group: Annotated[int, Choice(0, 32, 128)] = Field(0, ge=-1)
    rate: float = Field(0.0, ge=0, le=1)
    keep: tuple[str, ...] = ()
    examples: int = Field(128, ge=1)

    def decide(self, model: onnx.ModelProto, context: Context) -> Decision:
        """The width and the scales of each weight, and why others stay in float."""
        found, skipped = _uniform.weights_of(model, self, self.keep, context)
        grids = {n: [_uniform.grid(weight, bits, self.group) for bits in SCANNED] for n, weight in found.items()}
        # The same sample whatever the limit, so that one scan of a model does for all limits.
        known = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
        costs = context.cached(
            f"{self.technique} {known} {self.group} {self.keep} {self.layers} {self.examples}",
            lambda: scan(model, found, grids, replace(context, seed=0), self.examples),
        )
        sizes = {name: weight.values.size for name, weight in found.items()}
        large = {name for name, size in sizes.items() if size * PARTS > sum(sizes.values())}
        finer = {n: in_parts(w.values, grids[n], costs[n], n in large) for n, w in found.items()}
        widths = best_widths({name: prices for name, (_, prices) in finer.items()}, sizes, self.bits)
        chosen = {name: finer[name][0][WIDTHS.index(width)] for name, width in widths.items()}
        rated = {name: _uniform.rated(found[name].values, grid, self.rate) for name, grid in chosen.items()}
        return {"grids": rated, "skipped": skipped}

    def apply(self, model: onnx.ModelProto, decision: Decision) -> onnx.ModelProto:
        """Store the weights by the recorded grids."""
        return _uniform.apply_grids(model, decision["grids"])


def scan(
    model: onnx.ModelProto,
    weights: dict[str, _uniform.Weight],
    grids: dict[str, list[Grid]],
    context: Context,
    examples: int,
) -> Costs:
    """How far outputs move with one weight at a time on each grid: the divergence from those of the file as it is."""
    run, logits = _uniform.Variable(model, list(weights)), classifies(context.task)
    count, coarse = extent(len(weights) * context.products, examples)
    batches = [tuple(tensor.numpy() for tensor in batch.inputs) for batch in context.sample(count, min(64, count))]
    whole = [torch.from_numpy(run(inputs, {})) for inputs in batches]
    if any(bool(output.isnan().any()) for output in whole):
        raise TechniqueError("mixed_precision: the model's output is not a number on training data: check the model")

    def moved(name: str, found: Grid) -> float:
        """The divergence with one weight on one grid, averaged over the sample."""
        changed = {name: _uniform.dequantized(weights[name].values, found)}
        pairs = zip(batches, whole, strict=True)
        outputs = ((torch.from_numpy(run(x, changed)), y) for x, y in pairs)
        rows = [float(distillation_loss(_shown(made, y), _shown(y, y), 1.0, logits)) for made, y in outputs]
        return sum(rows) / len(rows)

    if not coarse:
        return {name: [moved(name, found) for found in choices] for name, choices in grids.items()}
    found = {}
    for name, choices in grids.items():
        errors = [float(_uniform.lost(weights[name].values, each).sum()) for each in choices]
        one = moved(name, choices[LOOKED_AT]) / max(errors[LOOKED_AT], _uniform.TINY)
        found[name] = [one * error for error in errors]
    return found


def extent(products: float, examples: int) -> tuple[int, bool]:
    """How many examples a scan takes, of so many products each for one width, and whether it looks at one alone."""
    affordable = int(MOST_PRODUCTS / products)
    if affordable >= min(FEWEST, examples) * len(SCANNED):
        return min(examples, affordable // len(SCANNED)), False
    return max(1, min(examples, affordable)), True


def _shown(output: Tensor, whole: Tensor) -> Tensor:
    """An output without what is infinite in that of the whole model, such as the scores of classes that are masked."""
    return torch.where(whole.isinf(), HIDDEN, output)


def in_parts(
    values: _uniform.Array, grids: list[Grid], costs: list[float], split: bool
) -> tuple[list[Grid], list[float]]:
    """The grids of a weight for each of WIDTHS, and what they cost, from those for each of SCANNED.

    Between two scanned widths the cost falls as the squared error does; without `split` it is the narrower of them.
    """
    errors = [_uniform.lost(values, found) for found in grids]
    made, prices = [], []
    steps = zip(pairwise(grids), pairwise(costs), pairwise(errors), strict=True)
    for (low, high), (worst, best), (before, after) in steps:
        gains = before - after
        order = np.argsort(-gains, kind="stable")
        for step in range(PARTS):
            wide = np.zeros(len(gains), bool)
            wide[order[: split * len(gains) * step // PARTS]] = True
            share = gains[wide].sum() / max(gains.sum(), _uniform.TINY)
            made.append(_uniform.blended(low, high, wide) if wide.any() else low)
            prices.append(float(worst + (best - worst) * np.clip(share, 0, 1)))
    return [*made, grids[-1]], [*prices, costs[-1]]


def best_widths(costs: Costs, sizes: dict[str, int], mean_bits: float) -> dict[str, float]:
    """The width of each weight with the least sum of costs under a mean of bits, exactly (an integer program).

    costs: those of each of WIDTHS, for each weight. sizes: how many numbers each weight has.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    names = list(costs)
    rows, options = len(names), len(WIDTHS)
    one_each = np.kron(np.eye(rows), np.ones(options))
    bits = np.concatenate([np.array(WIDTHS) * float(sizes[name]) for name in names])
    limit = mean_bits * sum(sizes[name] for name in names)
    # A width more costs nothing where the scan finds nothing: of equals the narrowest is taken.
    price = np.concatenate([np.maximum(costs[name], 0) for name in names]) + 1e-12 * bits / bits.sum()
    found = milp(
        price,
        integrality=np.ones(rows * options),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(bits / limit, -np.inf, 1 + 1e-9)],
        options={"mip_rel_gap": 0.0},
    )
    assert found.x is not None, found.message  # the narrowest width is always within the limit
    chosen = found.x.reshape(rows, options).argmax(1)
    return {name: WIDTHS[index] for name, index in zip(names, chosen, strict=True)}
