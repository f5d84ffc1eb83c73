"""Values of a file that may hold the fill of a mask, whatever a sample shows: minus infinity, or far below zero."""

import numpy as np
import onnx
from onnx import numpy_helper

from ._uniform import Array

FILL = -1e4  # a number that models add or write where nothing is to be seen
# What hands a fill on, as it is or next to other numbers; all else, such as Softmax, makes small numbers of it.
CARRYING = {"Where", "Add", "Sub", "Mul", "Neg", "Min", "Identity", "Cast", "Expand", "Reshape", "Transpose", "Squeeze"}
CARRYING |= {"Unsqueeze", "Slice", "Concat", "Split", "Tile", "Gather", "Flatten", "Trilu", "Pad", "ConstantOfShape"}


def filled(model: onnx.ModelProto) -> set[str]:
    """The values that a file computes which hold the numbers of a mask's fill."""
    stored = {tensor.name for tensor in model.graph.initializer}
    found = {tensor.name for tensor in model.graph.initializer if _is_fill(tensor)}
    for node in model.graph.node:
        constants = [a.t for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
        made = node.op_type in ("Constant", "ConstantOfShape") and any(map(_is_fill, constants))
        if made or (node.op_type in CARRYING and found.intersection(node.input)):
            found.update(node.output)
    return found - stored


def _is_fill(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
        return False
    values: Array = numpy_helper.to_array(tensor)
    return bool(values.size and (values.min() <= FILL or np.isinf(values).any()))
