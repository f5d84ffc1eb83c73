"""Quantization of weights to powers of two."""

from typing import Annotated, ClassVar

import numpy as np
import onnx
from onnx import numpy_helper
from pydantic import Field

from ...recipe import Kind, Range
from ..base import Context, Decision, Technique
from . import _uniform


class Log2Quantization(Technique):
    """Round weights to zero and powers of two, with a sign (Miyashita et al., 2016; Zhou et al., 2017: INQ).

    bits counts the sign: of 2**bits values one is zero, and 2**(bits - 1) - 1 are powers on either side, from the one
    nearest to the layer's largest weight down. keep names layers that stay in float: names, patterns such as `head.*`,
    `first` or `last`.
    """

    technique: ClassVar[str] = "log2_quantization"
    family: ClassVar[str] = "quantization"
    kind: ClassVar[Kind] = "encode"
    by_layer: ClassVar[bool] = True

    bits: Annotated[int, Range(3, 6, step=1)] = Field(4, ge=2, le=8)
    keep: tuple[str, ...] = ()

    def decide(self, model: onnx.ModelProto, context: Context) -> Decision:
        """The largest exponent of each weight, and why others stay in float."""
        found, skipped = _uniform.weights_of(model, self, self.keep, context)
        tops = {name: float(np.abs(weight.values).max()) for name, weight in found.items()}
        skipped |= {name: "all of it is zero" for name, top in tops.items() if top == 0}
        exponents = {name: int(np.floor(np.log2(4 * top / 3))) for name, top in tops.items() if top}
        return {"bits": self.bits, "exponents": exponents, "skipped": skipped}

    def apply(self, model: onnx.ModelProto, decision: Decision) -> onnx.ModelProto:
        """Round the recorded weights."""
        for tensor in model.graph.initializer:
            top = decision["exponents"].get(tensor.name)
            if top is not None:
                rounded = powers_of_two(numpy_helper.to_array(tensor), top, decision["bits"])
                tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
        return model


def powers_of_two(values: _uniform.Array, top: int, bits: int) -> _uniform.Array:
    """The nearest of zero and sign * 2**e, e from `top` down through 2**(bits - 1) - 1 exponents (Zhou et al., eq. 4).

    A size from 3/4 to 3/2 of a power is nearest to it, and below half of the smallest power zero is.
    """
    lowest = top - (2 ** (bits - 1) - 1) + 1
    size = np.abs(values).astype(np.float64)
    exponent = np.clip(np.floor(np.log2(np.maximum(size, 1e-300) * 4 / 3)), lowest, top)
    rounded = np.where(size < 2.0 ** (lowest - 1), 0.0, np.exp2(exponent))
    return np.asarray(np.copysign(rounded, np.where(rounded == 0, 1.0, values)).astype(np.float32))
