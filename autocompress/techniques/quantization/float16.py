"""Half-precision weights."""

from typing import ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from ...errors import NothingToDo
from ...recipe import Kind
from ..base import Context, Decision, Technique
from ._kept import REASON, tensor_layer
from ._uniform import found_instead

# A cast and its names take about this many bytes in the file; smaller tensors would grow.
CAST_BYTES = 60


class Float16(Technique):
    """Store weights in 16 bits and compute in 32: the casts are folded when the file is loaded (IEEE 754 binary16)."""

    technique: ClassVar[str] = "float16"
    family: ClassVar[str] = "quantization"
    kind: ClassVar[Kind] = "encode"
    by_layer: ClassVar[bool] = True

    def decide(self, model: onnx.ModelProto, context: Context) -> Decision:
        """The tensors to store in half, and why the others stay."""
        halved, skipped = [], {}
        floats = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
        owners = {name: tensor_layer(name, node) for node in reversed(model.graph.node) for name in node.input}
        inside = set(self.within((owners.get(tensor.name, tensor.name) for tensor in floats), context))
        for tensor in floats:
            values = numpy_helper.to_array(tensor)
            if owners.get(tensor.name, tensor.name) not in inside:
                skipped[tensor.name] = REASON
            elif values.nbytes // 2 <= CAST_BYTES:
                skipped[tensor.name] = f"only {values.nbytes} bytes"
            elif np.abs(values).max(initial=0) > np.finfo(np.float16).max:
                skipped[tensor.name] = "holds values that 16 bits cannot"
            else:
                halved.append(tensor.name)
        if not halved:
            raise NothingToDo(f"float16 finds no weight to store in 16 bits{found_instead(model, skipped)}")
        return {"halved": halved, "skipped": skipped}

    def apply(self, model: onnx.ModelProto, decision: Decision) -> onnx.ModelProto:
        """Store the recorded tensors in half and cast them back at load."""
        halved = set(decision["halved"])
        casts = []
        for tensor in model.graph.initializer:
            if tensor.name not in halved:
                continue
            values = numpy_helper.to_array(tensor).astype(np.float16)
            name, stored = tensor.name, f"{tensor.name}_half"
            tensor.CopyFrom(numpy_helper.from_array(values, stored))
            casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
        nodes = [*casts, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        return model
