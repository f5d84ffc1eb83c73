"""Rounding to a wide grid, with errors made up for by what the layers' inputs say."""

import base64
import copy
import math
import zlib
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ...data import Batch
from ...errors import NothingToDo, TechniqueError
from ...recipe import Kind, Range
from ...tasks.protocol import classifies
from ...training import place_of, placed
from ..base import Context, Decision, Technique
from ..masks import prunable
from ..teacher import distillation_loss
from ._compensation import LAYERS, Layer, Moments, largest, moments_of, rounded
from ._kept import REASON, left_alone

LEAST = 64  # weights of a layer
FEWEST, MOST_PRODUCTS = 8, 3e11  # examples of a scan, and multiplications in it
TINY = 1e-30
FINE = 0.5  # deviations, a step of which the loss grows as the square


class Gptq(Technique):
    """Round weights to whole multiples of a step, each error made up for by weights after it (Frantar et al., 2023).

    How far the others of a row move against an error is told by what the layer is given on training data. step is the
    distance of two values in standard deviations of a layer's weights, on average: wide steps leave most weights at
    zero and few values, which take a fraction of a bit a weight in the file. Layers that outputs hang on take finer
    steps, by a scan in which each is rounded alone, so that one more bit saves as much loss in each. rate is what a bit
    of a number costs, in squared steps (Conzelmann and Bamler, 2025: CERWU). Training after it moves each value as one
    number. Weights that are zero in a layer that was pruned stay zero. keep names layers to leave alone: names,
    patterns such as `head.*`, `first` or `last`.
    """

    technique: ClassVar[str] = "gptq"
    needs: ClassVar[str] = "a linear layer or convolution with many weights for each of its values"
    family: ClassVar[str] = "quantization"
    kind: ClassVar[Kind] = "structure"
    by_layer: ClassVar[bool] = True

    step: Annotated[float, Range(0.5, 6, log=True)] = Field(2.0, ge=0.05, le=32)
    rate: float = Field(0.0, ge=0, le=1)
    keep: tuple[str, ...] = ()
    examples: int = Field(256, ge=1)

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The step of each layer and its numbers, and why others stay as they are."""
        layers, skipped = self._layers(model, context)
        moments = self._moments(model, layers, context) if layers else {}
        unseen = layers.keys() - moments.keys()
        skipped |= dict.fromkeys(sorted(unseen), "it is not called as a layer, or has its weight from another")
        if not moments:
            seen = next((f" ({name}: {reason})" for name, reason in skipped.items()), "")
            raise NothingToDo(f"gptq finds no layer to round: leave the step out{seen}")
        steps = self._steps(model, {name: layers[name] for name in moments}, context)
        codes = {name: packed(rounded(layers[name], moments[name], step, self.rate)) for name, step in steps.items()}
        return {"steps": steps, "codes": codes, "skipped": skipped}

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Give each weight its number times the step of its layer."""
        with torch.no_grad():
            for name, step in decision["steps"].items():
                weight: Any = model.get_submodule(name).weight
                numbers = unpacked(decision["codes"][name], tuple(weight.shape), name)
                weight.copy_(torch.from_numpy(numbers).to(weight.dtype) * step)
        return model

    def _layers(self, model: nn.Module, context: Context) -> tuple[dict[str, Layer], dict[str, str]]:
        """The layers to round, and why others stay as they are."""
        weights = {id(weight) for weight in prunable(model).values()}
        found = {n: m for n, m in model.named_modules() if isinstance(m, LAYERS) and id(m.weight) in weights}
        others = {name.rpartition(".")[0] or name for name in prunable(model)} - set(found)
        kept = left_alone(self, self.keep, found, context)
        skipped = dict.fromkeys(kept, REASON) | dict.fromkeys(sorted(others), "neither linear nor a convolution")
        chosen = {name: layer for name, layer in found.items() if name not in skipped}
        broken = next((name for name, layer in chosen.items() if not layer.weight.isfinite().all()), None)
        if broken is not None:
            raise TechniqueError(f"gptq: weight {f'{broken}.weight'!r} is not finite: check the model")
        for name, layer in chosen.items():
            if layer.weight.numel() < LEAST:
                skipped[name] = f"only {layer.weight.numel()} weights"
            elif not layer.weight.any():
                skipped[name] = "all of its weights are zero"
        return {name: layer for name, layer in chosen.items() if name not in skipped}, skipped

    def _moments(self, model: nn.Module, layers: dict[str, Layer], context: Context) -> dict[str, Moments]:
        """What the layers are given on training data."""
        # With gradients to be taken, since without them transformers call other code than their layers.
        work = placed(copy.deepcopy(model).eval().requires_grad_(True))
        batches = list(context.sample(self.examples))
        found = moments_of(work, _of(work, layers), lambda: _passes(work, batches))
        for name, moments in found.items():
            if not all(sums.isfinite().all() for sums in moments.sums):
                raise TechniqueError(
                    f"gptq: what layer {name!r} is given on training data is not finite: check the model"
                )
        return found

    def _steps(self, model: nn.Module, layers: dict[str, Layer], context: Context) -> dict[str, float]:
        """The step of each layer: at the same loss a squared step and weight in all, `step` deviations on average."""
        spreads = {name: float(layer.weight.detach().std(correction=0)) or 1.0 for name, layer in layers.items()}
        lost = _scan(model, layers, {name: FINE * spread for name, spread in spreads.items()}, context)
        # A layer's loss grows as its squared step: by theory it is to be alike for all in proportion to their weights.
        wide = {name: math.log(spreads[name] * math.sqrt(layers[name].weight.numel() / lost[name])) for name in layers}
        count = sum(layer.weight.numel() for layer in layers.values())
        mean = sum(layers[n].weight.numel() * (wide[n] - math.log(spreads[n])) for n in layers) / max(count, 1)
        finest = {name: float(layer.weight.detach().abs().max()) / largest(layer) for name, layer in layers.items()}
        return {name: max(self.step * math.exp(wide[name] - mean), finest[name]) for name in layers}


def _scan(model: nn.Module, layers: dict[str, Layer], steps: dict[str, float], context: Context) -> dict[str, float]:
    """How far outputs move when each layer alone is rounded to a step: their divergence, with a floor."""
    affordable = int(MOST_PRODUCTS / (context.products * max(len(layers), 1)))
    batches = list(context.sample(min(128, max(FEWEST, affordable))))
    work, logits = placed(copy.deepcopy(model).eval()), classifies(context.task)
    with torch.no_grad():
        whole = list(_passes(work, batches))
        found = {}
        for name, layer in _of(work, layers).items():
            before = layer.weight.detach().clone()
            layer.weight.copy_((before / steps[name]).round() * steps[name])
            pairs = zip(_passes(work, batches), whole, strict=True)
            found[name] = sum(float(distillation_loss(made, known, 1.0, logits)) for made, known in pairs)
            layer.weight.copy_(before)
    floor = max((value for value in found.values() if math.isfinite(value)), default=0.0) * 1e-6 + TINY
    return {name: max(value, floor) if math.isfinite(value) else floor for name, value in found.items()}


def _of(model: nn.Module, layers: dict[str, Layer]) -> dict[str, Layer]:
    """The layers of another model by the same names."""
    return {name: model.get_submodule(name) for name in layers}  # type: ignore[misc]


def _passes(model: nn.Module, batches: list[Batch]) -> Iterator[Tensor]:
    """A model's outputs."""
    for batch in batches:
        yield model(*batch.to(place_of(model)).inputs)


def packed(numbers: np.ndarray) -> str:
    """Numbers of 8 bits as text."""
    return base64.b64encode(zlib.compress(numbers.astype(np.int8).tobytes(), 1)).decode()


def unpacked(text: str, shape: tuple[int, ...], name: str) -> np.ndarray:
    """The numbers that `packed` made text of. Raises TechniqueError where they are not as many as a weight has."""
    try:
        numbers = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.int8)
        return numbers.reshape(shape).copy()
    except (ValueError, zlib.error) as error:
        raise TechniqueError(f"gptq: the decision does not fit {name!r} of shape {shape}: {error}") from error
