"""Rounding to a wide grid, with errors made up for by what the layers' inputs say."""

import copy
import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...data import Batch
from ...errors import NothingToDo, TechniqueError
from ...recipe import Kind, Range
from ...tasks.protocol import classifies
from ...training import STATISTICS_EXAMPLES, place_of, placed, renew_statistics
from ..base import Context, Decision, Technique
from ..masks import deflated, inflated, prunable
from ..teacher import distillation_loss
from ._compensation import Moments, Weight, largest, moments_of, rounded, weights_of
from ._kept import REASON, left_alone

LEAST = 64  # numbers of a weight
FEWEST, MOST_PRODUCTS = 8, 3e11  # examples of a scan, and multiplications in it
TINY = 1e-30
ENOUGH = 256  # examples to tell means and variances by
FINE = 0.5  # deviations, a step of which the loss grows as the square


class Gptq(Technique):
    """Round weights to whole multiples of a step, each error made up for by weights after it (Frantar et al., 2023).

    How far the others of a row move against an error is told by what they are multiplied with on training data; where
    that is not seen, as of a table of embeddings, the nearest numbers are taken. step is the distance of two values in
    standard deviations of a layer's weights, on average: wide steps leave most weights at zero and few values, which
    take a fraction of a bit a weight in the file. Layers that outputs hang on take finer steps, by a scan in which each
    is rounded alone, so that one more bit saves as much loss in each. rate is what a bit of a number costs, in squared
    steps (Conzelmann and Bamler, 2025: CERWU). Statistics of batch normalization are taken anew. Training after it
    moves each value as one number. Weights that are zero in a layer that was pruned stay zero. keep names layers to
    leave alone: names, patterns such as `head.*`, `first` or `last`.
    """

    technique: ClassVar[str] = "gptq"
    needs: ClassVar[str] = "a layer with many weights for each of its values"
    family: ClassVar[str] = "quantization"
    kind: ClassVar[Kind] = "structure"
    by_layer: ClassVar[bool] = True

    step: Annotated[float, Range(0.5, 6, log=True)] = Field(2.0, ge=0.05, le=32)
    rate: float = Field(0.0, ge=0, le=1)
    keep: tuple[str, ...] = ()
    examples: int = Field(256, ge=1)

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The step of each weight and its numbers, and why others stay as they are."""
        weights, skipped = self._weights(model, context)
        if not weights:
            seen = next((f" ({name}: {reason})" for name, reason in skipped.items()), "")
            raise NothingToDo(f"gptq finds no weight to round: leave the step out{seen}")
        moments = self._moments(model, weights, context)
        steps = self._steps(model, weights, context)
        codes = {n: packed(rounded(weights[n], moments.get(n), step, self.rate)) for n, step in steps.items()}
        found: Decision = {"steps": steps, "codes": codes, "skipped": skipped}
        return found | {"statistics": self._statistics(model, found, context)}

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Give each weight its number times its step."""
        with torch.no_grad():
            for name, step in decision["steps"].items():
                weight = model.get_parameter(name)
                numbers = unpacked(decision["codes"][name], tuple(weight.shape), name)
                weight.copy_(torch.from_numpy(numbers).to(weight.dtype) * step)
            for name, text in decision.get("statistics", {}).items():
                norm: Any = model.get_submodule(name)
                mean, var = unpacked(text, (2, len(norm.running_mean)), name, np.float32)
                norm.running_mean.copy_(torch.from_numpy(mean))
                norm.running_var.copy_(torch.from_numpy(var))
        return model

    def _statistics(self, model: nn.Module, decision: Decision, context: Context) -> dict[str, str]:
        """What batch normalization sees of the rounded model on training data, where that is enough to tell."""
        examples = context.affordable(STATISTICS_EXAMPLES)
        if min(examples, len(context.train)) < ENOUGH:  # type: ignore[arg-type]
            return {}
        work = placed(self.apply(copy.deepcopy(model), decision).eval())
        renew_statistics(work, context.train, 64, examples=examples)
        norms = {name: norm for name, norm in work.named_modules() if isinstance(norm, _BatchNorm)}
        known = {
            name: (norm.running_mean, norm.running_var) for name, norm in norms.items() if norm.track_running_stats
        }
        return {name: packed(torch.stack(both).float().cpu().numpy()) for name, both in known.items()}  # type: ignore[arg-type]

    def _weights(self, model: nn.Module, context: Context) -> tuple[dict[str, Weight], dict[str, str]]:
        """The weights to round, and why others stay as they are."""
        found = weights_of(model, prunable(model))
        layers = {name: name.rpartition(".")[0] or name for name in found}
        kept = left_alone(self, self.keep, layers.values(), context)
        skipped = {name: REASON for name, layer in layers.items() if layer in kept}
        for name, weight in found.items():
            if name in skipped:
                continue
            values = weight.values
            if not values.isfinite().all():
                raise TechniqueError(f"gptq: weight {name!r} is not finite: check the model")
            if values.numel() < LEAST:
                skipped[name] = f"only {values.numel()} weights"
            elif not values.any():
                skipped[name] = "all of its weights are zero"
        return {name: weight for name, weight in found.items() if name not in skipped}, skipped

    def _moments(self, model: nn.Module, weights: dict[str, Weight], context: Context) -> dict[str, Moments]:
        """What the weights are multiplied with on training data."""
        # With gradients to be taken, since without them transformers call other code than their layers.
        work = placed(copy.deepcopy(model).eval().requires_grad_(True))
        batches = list(context.sample(self.examples))
        found = moments_of(work, weights_of(work, weights), lambda: _passes(work, batches))
        for name, moments in found.items():
            if not all(sums.isfinite().all() for sums in moments.sums):
                raise TechniqueError(
                    f"gptq: what weight {name!r} is multiplied with on training data is not finite: check the model"
                )
        return found

    def _steps(self, model: nn.Module, weights: dict[str, Weight], context: Context) -> dict[str, float]:
        """The step of each weight: at the same loss a squared step and number in all, `step` deviations on average."""
        values = {name: weight.values.detach() for name, weight in weights.items()}
        spreads = {name: float(each.std(correction=0)) or 1.0 for name, each in values.items()}
        lost = _scan(model, {name: FINE * spread for name, spread in spreads.items()}, context)
        # The loss grows as the squared step: by theory it is to be alike for all in proportion to their numbers.
        wide = {name: math.log(spreads[name] * math.sqrt(each.numel() / lost[name])) for name, each in values.items()}
        count = sum(each.numel() for each in values.values())
        mean = sum(each.numel() * (wide[name] - math.log(spreads[name])) for name, each in values.items()) / count
        finest = {name: float(each.abs().max()) / largest(weights[name]) for name, each in values.items()}
        return {name: max(self.step * math.exp(wide[name] - mean), finest[name]) for name in weights}


def _scan(model: nn.Module, steps: dict[str, float], context: Context) -> dict[str, float]:
    """How far outputs move when each weight alone is rounded to a step: their divergence, with a floor."""
    affordable = int(MOST_PRODUCTS / (context.products * len(steps)))
    batches = list(context.sample(min(128, max(FEWEST, affordable))))
    work, logits = placed(copy.deepcopy(model).eval()), classifies(context.task)
    with torch.no_grad():
        whole = list(_passes(work, batches))
        found = {}
        for name, step in steps.items():
            weight = work.get_parameter(name)
            before = weight.detach().clone()
            weight.copy_((before / step).round() * step)
            pairs = zip(_passes(work, batches), whole, strict=True)
            found[name] = sum(float(distillation_loss(made, known, 1.0, logits)) for made, known in pairs)
            weight.copy_(before)
    floor = max((value for value in found.values() if math.isfinite(value)), default=0.0) * 1e-6 + TINY
    return {name: max(value, floor) if math.isfinite(value) else floor for name, value in found.items()}


def _passes(model: nn.Module, batches: list[Batch]) -> Iterator[Tensor]:
    """A model's outputs."""
    for batch in batches:
        yield model(*batch.to(place_of(model)).inputs)


def packed(values: NDArray[Any]) -> str:
    """Numbers of 8 bits, or floats of 32, as text."""
    return deflated(values.tobytes(), 1)


def unpacked(text: str, shape: tuple[int, ...], name: str, kind: type[np.generic] = np.int8) -> NDArray[Any]:
    """The numbers that `packed` made text of. Raises TechniqueError where they are not as many as are needed."""
    try:
        data = inflated(text, math.prod(shape) * np.dtype(kind).itemsize)
        return np.frombuffer(data, kind).reshape(shape).copy()
    except ValueError as error:
        raise TechniqueError(f"gptq: the decision does not fit {name!r} of shape {shape}: {error}") from error
