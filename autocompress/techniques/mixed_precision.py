"""Quantization of weights with a width for each layer."""

import base64
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from pydantic import Field
from scipy.optimize import Bounds, LinearConstraint, milp

from ..artifacts.runtime import Model
from ..errors import TechniqueError
from ..recipe import Choice, Kind, Range
from . import _uniform
from ._distillation import distillation_loss
from .base import Context, Decision, Technique
from .low_bit import apply_uniform, grid

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
Costs = dict[str, list[float]]


class MixedPrecision(Technique):
    """Store weights in 2 to 8 bits, as many for each layer as a scan of sensitivity says under a limit for all.

    bits is the limit: the mean over all quantized weights (Dong et al., 2020: HAWQ-V2 and Yao et al., 2021, section
    3.4, choose widths by an integer program as this does). The scan takes one weight at a time to each width and
    measures how far outputs move on training data. group and keep are those of low_bit.
    """

    technique: ClassVar[str] = "mixed_precision"
    family: ClassVar[str] = "quantization"
    kind: ClassVar[Kind] = "encode"
    weight_bits: ClassVar[float] = 2

    bits: Annotated[float, Range(2.5, 6, step=0.5)] = Field(4.0, ge=2, le=8)
    group: Annotated[int, Choice(0, 32, 128)] = Field(0, ge=0)
    keep: tuple[str, ...] = ()
    examples: int = Field(256, ge=1)

    def decide(self, model: onnx.ModelProto, context: Context) -> Decision:
        """The width and the scales of each weight, and why others stay in float."""
        found, skipped = _uniform.weights_of(model, self.technique, self.keep)
        grids = {name: {bits: grid(weight, bits, self.group) for bits in WIDTHS} for name, weight in found.items()}
        costs = scan(model, found, grids, context, self.examples)
        sizes = {name: weight.values.size for name, weight in found.items()}
        widths = best_widths(costs, sizes, self.bits)
        return {"grids": {name: grids[name][bits] for name, bits in widths.items()}, "skipped": skipped}

    def apply(self, model: onnx.ModelProto, decision: Decision) -> onnx.ModelProto:
        """Store the weights by the recorded grids."""
        return apply_uniform(model, decision["grids"])
