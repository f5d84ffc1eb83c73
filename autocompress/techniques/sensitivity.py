"""How much each layer of the uncompressed model can lose: one scan a task and criterion, kept on the node."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..data import Batch
from ..training import place_of, placed
from .base import Context

SAMPLE = 128
STRENGTHS = (0.25, 0.5, 0.75, 0.9, 0.95)
Damage = Callable[[nn.Module, str, float], None]
Curve = list[list[float]]


def scan(context: Context, criterion: str, layers: Sequence[str], damage: Damage) -> dict[str, Curve]:
    """The damage done by each strength to each layer alone: rows of strength and lost share (Li et al., 2017, 3.2).

    damage changes a layer of a copy of the uncompressed model, in place, by a strength in (0, 1). The lost share is 0
    where the loss on training data is that of the whole model, and 1 where outputs fit no better than those of other
    examples. Strengths past a lost share of 1 are not tried.
    """
    return context.kept(f"sensitivity {criterion}", lambda: _scan(context, layers, damage))


def _scan(context: Context, layers: Sequence[str], damage: Damage) -> dict[str, Curve]:
    batch = next(context.sample(SAMPLE, SAMPLE))
    whole = _loss(context, context.original, batch)
    chance = _loss(context, context.original, batch, shuffled=True)
    known = max(chance - whole, 1e-6)
    curves: dict[str, Curve] = {}
    for layer in layers:
        curves[layer] = []
        for strength in STRENGTHS:
            model = copy.deepcopy(context.original)
            damage(model, layer, strength)
            lost = (_loss(context, model, batch) - whole) / known
            curves[layer].append([strength, max(lost, 0.0) if lost == lost else 1.0])
            if not lost < 1:
                break
    return curves


def _loss(context: Context, model: nn.Module, batch: Batch, shuffled: bool = False) -> float:
    model = placed(model.eval())
    batch = batch.to(place_of(model))
    with torch.no_grad():
        outputs = model(*batch.inputs)
        if shuffled:
            outputs = outputs.roll(len(outputs) // 2, 0)
        return float(context.task.loss(outputs, batch.targets))


def strongest(curve: Curve, tolerance: float) -> float:
    """The largest strength at which a layer alone loses at most `tolerance`, between scanned strengths by a line."""
    low, lost_low = 0.0, 0.0
    for high, lost_high in curve:
        if lost_high > tolerance:
            return low + (high - low) * (tolerance - lost_low) / (lost_high - lost_low)
        low, lost_low = high, max(lost_high, lost_low)
    return low
