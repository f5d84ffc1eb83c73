"""Weights stored packed in a plain ONNX file, and decoded by standard operators that ONNX Runtime folds at load.

A weight tensor with many zeros is kept as its other values and their positions: a bit a number (`mask`), or the gap
to the position before, in 4 or 8 bits (`gaps`; Han et al., 2016, section 2, with an escape for long gaps). One
model-local function decodes all tensors of a kind; it is inlined and folded, so that what runs is the dense model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser

Array = NDArray[Any]
DOMAIN = "p"
CALL_BYTES = 90  # about what one call adds to a file: the node, two names, two headers and the shape
PACKABLE = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8}
LEAST = 256  # below as many numbers no packing pays for its call


@dataclass(frozen=True)
class Packed:
    """One tensor in parts: which function decodes it, and that function's inputs in order."""

    function: str
    parts: tuple[TensorProto, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes that the parts and the call take in a file."""
        return CALL_BYTES + sum(len(part.raw_data) for part in self.parts)


# Every function takes the parts and the tensor's shape. Positions come from cumulative sums, since NonZero is never
# folded. An escape moves on without a value: it leaves a zero where it lands, which the next value lies beyond.
_MASK = """
<opset_import: ["" : 21], domain: "p">
m (bits, values, shape) => (out) {
    one = Constant <value = uint8[1] {1}> ()
    places = Constant <value = uint8[8] {7, 6, 5, 4, 3, 2, 1, 0}> ()
    axis = Constant <value = int64[1] {1}> ()
    flat = Constant <value = int64[1] {-1}> ()
    zero = Constant <value = int64[1] {0}> ()
    first = Constant <value = int64 {0}> ()
    column = Unsqueeze (bits, axis)
    shifted = BitShift <direction = "RIGHT"> (column, places)
    each = BitwiseAnd (shifted, one)
    row = Reshape (each, flat)
    whole = Cast <to = 7> (row)
    count = ReduceProd <keepdims = 0> (shape)
    counts = Reshape (count, flat)
    used = Slice (whole, zero, counts)
    rank = CumSum (used, first)
    place = Mul (rank, used)
    nothing = CastLike (zero, values)
    table = Concat <axis = 0> (nothing, values)
    dense = Gather (table, place)
    out = Reshape (dense, shape)
}
"""
_GAPS = """
<opset_import: ["" : 21], domain: "p">
%s (gaps, values, shape) => (out) {
    escape = Constant <value = int64 {%d}> ()
    one = Constant <value = int64 {1}> ()
    first = Constant <value = int64 {0}> ()
    zero = Constant <value = int64[1] {0}> ()
    flat = Constant <value = int64[1] {-1}> ()
    steps = Cast <to = 7> (gaps)
    long = Equal (steps, escape)
    after = Add (steps, one)
    moves = Where (long, escape, after)
    ends = CumSum (moves, first)
    places = Sub (ends, one)
    skips = Cast <to = 7> (long)
    holds = Sub (one, skips)
    rank = CumSum (holds, first)
    place = Mul (rank, holds)
    nothing = CastLike (zero, values)
    table = Concat <axis = 0> (nothing, values)
    found = Gather (table, place)
    count = ReduceProd <keepdims = 0> (shape)
    counts = Reshape (count, flat)
    empty = Expand (nothing, counts)
    dense = ScatterElements <axis = 0> (empty, places, found)
    out = Reshape (dense, shape)
}
"""
_FUNCTIONS = {"m": _MASK, "g": _GAPS % ("g", 15), "h": _GAPS % ("h", 255)}


def pack(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with every sparse weight stored in the smallest way; itself where that is no smaller."""
    chosen = {tensor.name: found for tensor in model.graph.initializer if (found := choose(tensor)) is not None}
    if not chosen:
        return model
    small = onnx.ModelProto()
    small.CopyFrom(model)
    calls = []
    kept = [tensor for tensor in small.graph.initializer if tensor.name not in chosen]
    shapes = {tensor.name: tuple(tensor.dims) for tensor in small.graph.initializer}
    for name, packed in chosen.items():
        shape = numpy_helper.from_array(np.array(shapes[name], np.int64), f"{name}.shape")
        kept += [*packed.parts, shape]
        inputs = [part.name for part in (*packed.parts, shape)]
        calls.append(helper.make_node(packed.function, inputs, [name], domain=DOMAIN))
    del small.graph.initializer[:]
    small.graph.initializer.extend(kept)
    nodes = [*calls, *small.graph.node]
    del small.graph.node[:]
    small.graph.node.extend(nodes)
    used = {packed.function for packed in chosen.values()}
    small.functions.extend(parser.parse_function(_FUNCTIONS[name].strip()) for name in sorted(used))
    small.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return small if small.ByteSize() < model.ByteSize() else model


def choose(tensor: TensorProto) -> Packed | None:
    """The smallest way to store a tensor by its nonzero values and their positions; None where dense is no larger."""
    if tensor.data_type not in PACKABLE or np.prod(tensor.dims) < LEAST:
        return None
    flat = numpy_helper.to_array(tensor).ravel()
    positions = np.flatnonzero(_bits(flat))
    if len(positions) == len(flat):
        return None
    values = numpy_helper.from_array(flat[positions], f"{tensor.name}.values")
    ways = [
        Packed("m", (_raw(np.packbits(_bits(flat) != 0), TensorProto.UINT8, f"{tensor.name}.mask"), values)),
        Packed("g", (_gaps(positions, 15, TensorProto.UINT4, tensor.name), values)),
        Packed("h", (_gaps(positions, 255, TensorProto.UINT8, tensor.name), values)),
    ]
    best = min(ways, key=lambda way: way.size_bytes)
    return best if best.size_bytes < flat.nbytes else None


def _bits(values: Array) -> Array:
    """The numbers as whole ones of their width, for which -0.0 is not 0.0: what is decoded is equal to the bit."""
    return values.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[values.itemsize])


def _gaps(positions: Array, escape: int, kind: int, name: str) -> TensorProto:
    """How many numbers lie between each position and the one before it, an escape standing for `escape` of them."""
    between = np.diff(positions, prepend=-1) - 1
    escapes, rest = np.divmod(between, escape)
    ends = np.cumsum(escapes + 1) - 1
    stream = np.full(int(ends[-1]) + 1 if len(ends) else 0, escape, np.uint8)
    stream[ends] = rest
    return _raw(stream, kind, f"{name}.gaps")


def _raw(values: Array, kind: int, name: str) -> TensorProto:
    """A tensor of small whole numbers; two 4-bit ones share a byte, the first in its low half."""
    data = values
    if kind == TensorProto.UINT4:
        padded = np.append(values, np.zeros(len(values) % 2, np.uint8))
        data = padded[0::2] | (padded[1::2] << 4)
    return TensorProto(name=name, data_type=kind, dims=[len(values)], raw_data=data.astype(np.uint8).tobytes())


def weights(model: onnx.ModelProto) -> Iterator[tuple[str, Array]]:
    """Every stored tensor by name as it is when the model runs: decoded by ONNX Runtime where it is packed."""
    calls = [node for node in model.graph.node if node.domain == DOMAIN]
    parts = {name for node in calls for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name not in parts:
            yield tensor.name, numpy_helper.to_array(tensor)
    if not calls:
        return
    stored = [tensor for tensor in model.graph.initializer if tensor.name in parts]
    kinds = {tensor.name: tensor.data_type for tensor in stored}
    outputs = [helper.make_tensor_value_info(node.output[0], kinds[node.input[1]], None) for node in calls]
    graph = helper.make_graph(calls, "weights", [], outputs, stored)
    alone = helper.make_model(
        graph, opset_imports=model.opset_import, functions=model.functions, ir_version=model.ir_version
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(alone.SerializeToString(), options, providers=["CPUExecutionProvider"])
    yield from zip((node.output[0] for node in calls), session.run(None, {}), strict=True)
