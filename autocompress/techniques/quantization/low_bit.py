"""Uniform quantization of weights to 2 to 8 bits."""

from typing import Annotated, ClassVar

import onnx
from pydantic import Field

from ...recipe import Choice, Kind, Range
from ..base import Context, Decision, Technique
from . import _uniform


class LowBit(Technique):
    """Store weights as whole numbers of 2 to 8 bits with a scale for each output, or each group of weights in it.

    Scales are those of least squared error (Banner et al., 2019, section 3.1); what is zero stays zero. group is how
    many weights in a row share a scale, 0 for all of an output and -1 for all, which with a rate is often best. rate is
    what a bit costs, in squared steps of the grid: weights then take numbers that take fewer bits in the file, on a
    grid without ends that is wider for it, as its error is that of 2**bits numbers. 0 rounds to the nearest. keep names
    layers that stay in float: names, patterns such as `head.*`, `first` or `last`. Activations are left as they are,
    and what runs are floats.
    """

    technique: ClassVar[str] = "low_bit"
    family: ClassVar[str] = "quantization"
    kind: ClassVar[Kind] = "encode"
    by_layer: ClassVar[bool] = True

    bits: Annotated[int, Range(2, 8, step=1)] = Field(4, ge=2, le=8)
    group: Annotated[int, Choice(0, 32, 128)] = Field(0, ge=-1)
    rate: float = Field(0.0, ge=0, le=1)
    keep: tuple[str, ...] = ()

    def decide(self, model: onnx.ModelProto, context: Context) -> Decision:
        """The scales of each weight, and why others stay in float."""
        found, skipped = _uniform.weights_of(model, self, self.keep, context)
        grids = {name: _uniform.grid(weight, self.bits, self.group) for name, weight in found.items()}
        return {
            "grids": {name: _uniform.rated(found[name].values, grid, self.rate) for name, grid in grids.items()},
            "skipped": skipped,
        }

    def apply(self, model: onnx.ModelProto, decision: Decision) -> onnx.ModelProto:
        """Store the weights by the recorded grids."""
        return _uniform.apply_grids(model, decision["grids"])
