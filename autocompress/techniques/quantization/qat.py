"""Quantization-aware training."""

import copy
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from ...errors import NothingToDo, TechniqueError
from ...recipe import Choice, Kind, Range
from ...training import fit
from ..base import Context, Decision, Technique
from ..replacing import replace_layers
from ..teacher import TEMPERATURE, blended
from ._grids import INPUTS, IntegerModel, Quantized
from ._integers import find_layers, find_norms, find_spans, find_values, fold, layer_order, traced
from ._kept import left_alone
from ._spans import Span

EXAMPLES = 128  # of the training split, for the ranges from which training starts


class Qat(Technique):
    """Train the model on the grid of integers that its file computes with (Jacob et al., 2018; Esser et al., 2020).

    Batch normalization is folded first; scales of weights (each output channel) and activations are learned. bits are
    those of weights; activation_bits 32 leaves activations in float. alpha is the share of distillation in the loss.
    sharpness is the radius of a sharpness-aware step, 0 for none (Foret et al., 2021; Wang et al., 2022: SQuAT). keep
    names layers that stay in float: exact names, patterns such as head.*, or first and last.
    """

    technique: ClassVar[str] = "qat"
    needs: ClassVar[str] = "a linear layer or convolution"
    family: ClassVar[str] = "quantization"
    kind: ClassVar[Kind] = "train"
    by_layer: ClassVar[bool] = True
    leaves: ClassVar[Kind | None] = "encode"
    # Integer operators round sums where the module rounds floats: one step of a grid off, here and there.
    parity: ClassVar[float] = 0.1

    epochs: Annotated[int, Range(4, 24, step=4)] = Field(3, ge=1, le=10_000)
    learning_rate: Annotated[float, Range(2e-4, 5e-3, log=True)] = Field(1e-3, gt=0, lt=10)
    batch_size: int = Field(64, ge=1)
    bits: Annotated[int, Range(3, 8, step=1)] = Field(8, ge=2, le=8)
    activation_bits: Literal[8, 32] = 8
    alpha: Annotated[float, Choice(0.0, 0.7)] = Field(0.0, ge=0, le=1)
    sharpness: float = Field(0.0, ge=0, le=1)
    keep: tuple[str, ...] = ()

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """Layers with what they read, norms to fold, values with their ranges, and what stays in float and why."""
        work, example = copy.deepcopy(model).eval(), context.example
        if len(example) > INPUTS:
            raise TechniqueError(f"qat takes models of up to {INPUTS} inputs, not {len(example)}: use int8_static")
        found = traced(work, example)
        kept = left_alone(self, self.keep, layer_order(work, found), context)
        layers, skipped = find_layers(work, found, example, kept)
        if not layers:
            why = "; ".join(f"{name}: {reason}" for name, reason in skipped.items()) or "it has none with weights"
            raise NothingToDo(f"qat finds no convolution or linear layer to quantize ({why}): leave it out")
        norms = find_norms(work, found, layers)
        work = fold(work, norms)
        inputs, values, moved = find_values(traced(work, example), layers)
        if self.activation_bits == 32:
            inputs, values, moved = {name: [] for name in layers}, [], {}
        spans = find_spans(work, values, context.sample(EXAMPLES))
        read = {name for names in inputs.values() for name in names}
        ranges, unclear = _ranges(spans, read)
        moved = {name: root for name, root in moved.items() if root in ranges}
        decision = {"bits": self.bits, "layers": inputs, "norms": norms, "ranges": ranges, "moved": moved}
        return {**decision, "skipped": skipped, "unclear": unclear}

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Fold the norms, and put layers and values on their grids."""
        fold(model, decision["norms"])
        wrapped = IntegerModel(nn.Identity(), decision["ranges"], decision["moved"])
        scales = wrapped.scales()
        made: dict[nn.Module, nn.Module] = {}
        for name, reads in decision["layers"].items():
            layer: Any = model.get_submodule(name)
            read = {value: float(scales[value]) for value in reads}
            made[layer] = Quantized(layer, decision["bits"], read).train(layer.training)
        wrapped.model = replace_layers(model, made)
        return wrapped.train(model.training)

    def train(self, model: nn.Module, context: Context) -> None:
        """Run the epochs on the training split, by the task's loss, the teacher's logits, or both."""
        settings = context.training(self, sharpness=self.sharpness)
        fit(model, context.train, blended(context, self.alpha, TEMPERATURE), settings, context.seed)


def _ranges(spans: dict[str, Span], read: set[str]) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Where the grid of each value starts, and what is unclear about it; read: what layers read, and so has a grid."""
    ranges, unclear = {}, {}
    for name, span in spans.items():
        if name in read and (span.infinite or span.undefined):
            raise TechniqueError(f"qat: value {name!r} is not finite on training data: check the model")
        why = span.obstacle(*span.edges)
        if why is None or name in read:
            ranges[name] = list(span.edges)
        if why is not None:
            unclear[name] = why if name in read else f"{why}: it stays in float"
        elif not any(span.edges):
            unclear[name] = "always 0 on training data: its range starts as 0 to 1"
    return ranges, unclear
