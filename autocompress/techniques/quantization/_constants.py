"""Weights of a file that it computes from others, such as the gates of an LSTM in another order, stored as they are."""

from collections.abc import Collection, Iterable
from typing import Any

import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from ._kept import stored_values


def with_stored(model: onnx.ModelProto, wanted: Iterable[str]) -> onnx.ModelProto:
    """A copy in which the wanted values are stored tensors, where they depend on stored tensors alone.

    ONNX Runtime computes them once here, as it would whenever the file is loaded.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    stored = stored_values(model) - {tensor.name for tensor in model.graph.initializer}
    names = sorted(stored.intersection(wanted))
    if not names:
        return made
    values = _computed(made, names)
    nodes = [node for node in made.graph.node if not values.keys() & set(node.output)]
    made.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    _set_nodes(made, nodes)
    return _without_unused(made)


def _computed(model: onnx.ModelProto, names: list[str]) -> dict[str, Any]:
    nodes, needed = [], set(names)
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed.update(node.input)
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    graph = helper.make_graph(nodes[::-1], "weights", [], outputs, tensors)
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(alone.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(None, {}), strict=True))


def _without_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    read = {value.name for value in model.graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if read & set(node.output):
            nodes.append(node)
            read.update(node.input)
            read.update(_read_inside(node))
    _set_nodes(model, nodes[::-1])
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def _read_inside(node: onnx.NodeProto) -> set[str]:
    graphs = [graph for a in node.attribute for graph in ([a.g] if a.HasField("g") else a.graphs)]
    inner = [part for graph in graphs for part in graph.node]
    found = {name for part in inner for name in part.input} | {v.name for graph in graphs for v in graph.output}
    return found.union(*(_read_inside(part) for part in inner))


def _set_nodes(model: onnx.ModelProto, nodes: Collection[onnx.NodeProto]) -> None:
    copies = list(nodes)
    del model.graph.node[:]
    model.graph.node.extend(copies)
