"""Which axis of a stored weight counts the outputs of the operators that read it, for scales of quantizers."""

from collections import defaultdict

import onnx


def of_one_scale(model: onnx.ModelProto) -> list[str]:
    """The weights that can have only one scale: those read along several axes, as an embedding that is a head too is.

    And those of transposed convolutions in groups, whose outputs no one axis counts.
    """
    stored = {t.name: len(t.dims) for t in model.graph.initializer if len(t.dims) > 1}
    axes: dict[str, set[int | None]] = defaultdict(set)
    single = set()
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if name not in stored:
                continue
            axis = _axis(node, position, stored[name])
            axes[name].add(axis)
            if axis is None and node.op_type in ("ConvTranspose", "MatMul"):
                single.add(name)
    return [name for name in stored if name in single or len(axes[name]) > 1]


def _axis(node: onnx.NodeProto, position: int, dims: int) -> int | None:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if position != 1:
        return None
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if attributes.get("group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if attributes.get("transB", 0) else 1
    return 1 if node.op_type == "MatMul" and dims == 2 else None
