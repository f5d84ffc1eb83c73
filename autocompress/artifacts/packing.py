"""Weights stored packed in a plain ONNX file, and decoded by standard operators that ONNX Runtime folds at load.

A tensor with few different values is kept as a book of them and the numbers of its entries, of a fixed width or in a
prefix code; one with many zeros as its other values and their positions, by a mask or by gaps (Han et al., 2016,
sections 2 to 4). Whatever is smallest is taken, and what is decoded is equal to the bit.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from . import decoders
from .coding import distinct, encode
from .decoders import DOMAIN
from .export import strip

Array = NDArray[Any]
PACKABLE = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8}
BLOCKS = range(1, 9)  # numbers in a row that one entry of a book may stand for
LEAST = 32  # below as many numbers no packing pays for its call
LARGEST_BOOK = 256
SAMPLED = 4096  # a sample of as many numbers tells most tensors that no book could hold
ESCAPES = {15: TensorProto.UINT4, 255: TensorProto.UINT8}  # gaps of 4 and of 8 bits
# About what a call adds to a file, what each of its inputs does, and what a tensor does beside type, shape and data.
CALL_BYTES, INPUT_BYTES, TENSOR_BYTES = 11, 3, 5
DECODED = 3_000_000  # how many bits of prefix codes a tensor may have: they take some 100 ns each at load
CLOSE = 64  # bytes, by which the estimate of a file is never off
EVERY = LARGEST_BOOK  # an end of a level that no code passes
VALUES = {"b": 1, "m": 1, "g": 2}  # which input of a decoder gives its output's type


@dataclass(frozen=True)
class Call:
    """A tensor as a decoder would make it from stored parts, or from what other decoders make."""

    function: str
    inputs: tuple["TensorProto | Call", ...]

    @functools.cached_property
    def size_bytes(self) -> int:
        """About how many bytes it takes in a file, functions aside."""
        total = CALL_BYTES + INPUT_BYTES * len(self.inputs)
        for part in self.inputs:
            total += int(part.size_bytes) if isinstance(part, Call) else TENSOR_BYTES + part.ByteSize()
        return total

    @functools.cached_property
    def functions(self) -> frozenset[str]:
        """The decoders that it calls."""
        return frozenset({self.function}).union(*(part.functions for part in self.inputs if isinstance(part, Call)))

    def at_depth(self, name: str) -> "Call":
        """The same with all prefix codes decoded by one function, which decodes none that are deeper."""
        inputs = tuple(part.at_depth(name) if isinstance(part, Call) else part for part in self.inputs)
        spare = decoders.levels_of(name) - decoders.levels_of(self.function)
        if not decoders.levels_of(self.function) or not spare:
            return Call(self.function, inputs)
        bits, table, shape = inputs
        assert isinstance(table, TensorProto)
        ends = [*table.int32_data, *[EVERY] * spare]
        return Call(name, (bits, _whole(np.array(ends), TensorProto.INT32), shape))


def pack(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with every weight stored in the smallest way; itself where that, stripped, is no smaller."""
    plain = {tensor.name: tensor.ByteSize() - len(tensor.name) for tensor in model.graph.initializer}
    found = {tensor.name: ways(tensor) for tensor in model.graph.initializer}

    def estimate(chosen: dict[str, Call]) -> int:
        """Bytes that the file would have less, as a negative number, counting the decoders that these calls need."""
        saved: int = sum(plain[name] - call.size_bytes for name, call in chosen.items())
        return decoders.size_bytes(functions_of(chosen)) - saved

    chosen = min((choose(found, allowed) for allowed in decoders.FAMILIES), key=estimate)
    if not chosen:
        return model
    small = packed(model, chosen)
    if estimate(chosen) < -CLOSE:
        return small
    # Long names, which are in a packed file more often, are not counted: strip takes them.
    return min((model, small), key=lambda candidate: strip(candidate).ByteSize())


def choose(found: dict[str, list[Call]], allowed: frozenset[str]) -> dict[str, Call]:
    """For every tensor that has one, the smallest way by these decoders, with one function for all prefix codes."""
    each = {name: call for name, calls in found.items() if (call := smallest(calls, allowed)) is not None}
    deepest = max(functions_of(each), key=decoders.levels_of, default="b")
    return {name: call.at_depth(deepest) for name, call in each.items()}


def functions_of(chosen: dict[str, Call]) -> frozenset[str]:
    """The decoders that all of them call."""
    return frozenset[str]().union(*(call.functions for call in chosen.values()))


def packed(model: onnx.ModelProto, chosen: dict[str, Call]) -> onnx.ModelProto:
    """A copy with these tensors as calls of decoders."""
    small = onnx.ModelProto()
    small.CopyFrom(model)
    parts: dict[bytes, TensorProto] = {}
    calls: list[onnx.NodeProto] = []
    for name, call in chosen.items():
        _write(call, name, parts, calls)
    kept = [tensor for tensor in small.graph.initializer if tensor.name not in chosen]
    nodes = [*calls, *small.graph.node]
    del small.graph.initializer[:], small.graph.node[:]
    small.graph.initializer.extend([*kept, *parts.values()])
    small.graph.node.extend(nodes)
    small.functions.extend(decoders.function(name) for name in decoders.needed(functions_of(chosen)))
    small.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return small


def _write(call: Call, name: str, parts: dict[bytes, TensorProto], calls: list[onnx.NodeProto]) -> None:
    """Append a call, those that it needs, and their parts; equal parts are stored once."""
    inputs = []
    for index, part in enumerate(call.inputs):
        if isinstance(part, Call):
            inputs.append(f"{name}.{index}")
            _write(part, inputs[-1], parts, calls)
            continue
        stored = TensorProto()
        stored.CopyFrom(part)
        stored.name = f"{name}.{index}"
        inputs.append(parts.setdefault(part.SerializeToString(deterministic=True), stored).name)
    calls.append(helper.make_node(call.function, inputs, [name], domain=DOMAIN))


def smallest(calls: list[Call], allowed: frozenset[str]) -> Call | None:
    """The smallest of the ways that need no other decoders than these."""
    return min((call for call in calls if call.functions <= allowed), key=lambda call: call.size_bytes, default=None)


def ways(tensor: TensorProto) -> list[Call]:
    """Every way to store a tensor that takes less than its numbers do."""
    if tensor.data_type not in PACKABLE or np.prod(tensor.dims) < LEAST:
        return []
    flat = numpy_helper.to_array(tensor).ravel()
    shape = _whole(np.array(tensor.dims), TensorProto.INT64)
    found = _of_few_values(flat, shape)
    mask = _bits(flat) != 0
    if not mask.all():
        count = _whole(np.array([mask.sum()]), TensorProto.INT64)
        rows: list[TensorProto | Call] = [numpy_helper.from_array(flat[mask]), *_of_few_values(flat[mask], count)]
        found += [Call("m", (_column(np.packbits(mask)), values, shape)) for values in rows]
        found += [
            Call("g", (gaps, _whole(np.array(escape), TensorProto.INT32), values, shape))
            for escape in ESCAPES
            for gaps in _gaps(np.flatnonzero(mask), escape)
            for values in rows
        ]
    return [call for call in found if call.size_bytes < flat.nbytes]


def _of_few_values(flat: Array, shape: TensorProto) -> list[Call]:
    """A tensor by a book of its values, or of blocks of them in a row (Gong et al., 2014: product quantization)."""
    numbers = _bits(flat)
    single = _few_rows(numbers[:, None])
    if single is not None:
        numbers = single[1]  # which are as different, and compared faster
    found = []
    for length in (length for length in BLOCKS if len(flat) and len(flat) % length == 0):
        rows = single if length == 1 else _few_rows(numbers.reshape(-1, length))
        if rows is not None:
            first, which = rows
            book = flat[first] if length == 1 else flat.reshape(-1, length)[first]
            found += _by_book(book, which, shape, length == 1)
    return found


def _few_rows(rows: Array) -> tuple[Array, Array] | None:
    """Where each of the different rows is, and which of them each row is; None where a book would not hold them."""
    if len(np.unique(rows[:: len(rows) // SAMPLED + 1], axis=0)) > LARGEST_BOOK:
        return None
    which: Array = np.zeros(len(rows), np.int64)
    for column in rows.T:
        known, numbers = distinct(column)
        if len(known) > LARGEST_BOOK:
            return None
        which = which * len(known) + numbers
        there = np.bincount(which) > 0
        if there.sum() > LARGEST_BOOK:
            return None
        which = (np.cumsum(there) - 1)[which]
    first = np.zeros(int(which.max(initial=-1)) + 1, np.int64)
    first[which[::-1]] = np.arange(len(rows))[::-1]
    return first, which.astype(np.uint8)


def _by_book(book: Array, numbers: Array, shape: TensorProto, whole: bool) -> list[Call]:
    """Entries of a book by their numbers: of 4 or 8 bits, of any width, and in a prefix code.

    whole: whether there are as many as the shape says, each one number.
    """
    width = max(int(len(book) - 1).bit_length(), 1)
    plain, count = numpy_helper.from_array(book), shape
    if not whole:
        count = _whole(np.array([len(numbers)]), TensorProto.INT64)
    found = [Call("b", (_raw(numbers, TensorProto.UINT4 if width <= 4 else TensorProto.UINT8), plain, shape))]
    if width not in (4, 8):
        places = np.arange(width)[::-1]
        padded = np.append(numbers, np.zeros(-len(numbers) % 8, numbers.dtype))  # then no byte is shared at the end
        each = (padded[:, None] >> places) & 1
        powers = _whole(2**places, TensorProto.INT32)
        found.append(Call("b", (Call("f", (_column(np.packbits(each.astype(bool))), powers, count)), plain, shape)))
    return found + (_in_prefix_code(numbers, book, shape, count) if len(numbers) <= DECODED else [])


def _in_prefix_code(numbers: Array, book: Array, shape: TensorProto, count: TensorProto) -> list[Call]:
    coded = encode(numbers, decoders.DEEPEST)
    if 8 * len(coded.bits) > DECODED:
        return []
    name = decoders.prefix_name(len(coded.complete))
    table = _whole(np.array(coded.complete), TensorProto.INT32)
    entries = numpy_helper.from_array(book[coded.order])
    return [Call("b", (Call(name, (_column(coded.bits), table, count)), entries, shape))]


def _bits(values: Array) -> Array:
    """The numbers as whole ones of their width, for which -0.0 is not 0.0: what is decoded is equal to the bit."""
    return values.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[values.itemsize])


def _gaps(places: Array, escape: int) -> list[TensorProto | Call]:
    """How far each place lies from the one before it, a zero standing for `escape` steps to no place."""
    escapes, rest = np.divmod(np.diff(places, prepend=-1) - 1, escape)
    ends = np.cumsum(escapes + 1) - 1
    stream = np.zeros(int(ends[-1]) + 1 if len(ends) else 0, np.uint8)
    stream[ends] = rest + 1
    plain = _raw(stream, ESCAPES[escape])
    if not len(stream):
        return [plain]
    known, numbers = distinct(stream)
    count = _whole(np.array([len(stream)]), TensorProto.INT64)
    return [plain, *_in_prefix_code(numbers, known, count, count)]


def _column(values: Array) -> TensorProto:
    """Bytes below each other, as they are taken apart."""
    return TensorProto(data_type=TensorProto.UINT8, dims=[len(values), 1], raw_data=values.tobytes())


def _raw(values: Array, kind: int = TensorProto.UINT8) -> TensorProto:
    """A row of small whole numbers; two 4-bit ones share a byte, the first in its low half."""
    data: Array = values.astype(np.uint8)
    if kind == TensorProto.UINT4:
        padded = np.append(data, np.zeros(len(data) % 2, np.uint8))
        data = padded[0::2] | (padded[1::2] << 4)
    return TensorProto(data_type=kind, dims=[len(values)], raw_data=data.tobytes())


def _whole(values: Array, kind: int) -> TensorProto:
    """A few whole numbers, which take as many bytes as they need."""
    numbers = [int(value) for value in values.ravel()]
    if kind == TensorProto.INT64:
        return TensorProto(data_type=kind, dims=values.shape, int64_data=numbers)
    return TensorProto(data_type=kind, dims=values.shape, int32_data=numbers)


def float_weights(model: onnx.ModelProto) -> list[str]:
    """The weights that a file holds as floats of 32 bits, all of them or those that are not zero, by name."""
    calls = {node.output[0]: node for node in model.graph.node if node.domain == DOMAIN}
    parts = {name for node in calls.values() for name in node.input}
    floats = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    plain = [name for name, tensor in floats.items() if name not in parts and len(tensor.dims) > 1]
    # Few values in a book are not what a tensor holds for each weight, but rows of values are.
    rows = [name for name, node in calls.items() if node.op_type in "mg" and node.input[VALUES[node.op_type]] in floats]
    return sorted([*plain, *rows])


def weights(model: onnx.ModelProto) -> Iterator[tuple[str, Array]]:
    """Every stored tensor by name as it is when the model runs: decoded by ONNX Runtime where it is packed."""
    calls = {node.output[0]: node for node in model.graph.node if node.domain == DOMAIN}
    parts = {name for node in calls.values() for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name not in parts:
            yield tensor.name, numpy_helper.to_array(tensor)
    if not calls:
        return
    stored = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in parts}

    def kind(name: str) -> int:
        """The type of a value: that of the tensor which it comes from."""
        return kind(calls[name].input[VALUES[calls[name].op_type]]) if name in calls else stored[name].data_type

    names = [name for name in calls if name not in parts]
    outputs = [helper.make_tensor_value_info(name, kind(name), None) for name in names]
    graph = helper.make_graph(list(calls.values()), "weights", [], outputs, list(stored.values()))
    alone = helper.make_model(
        graph, opset_imports=model.opset_import, functions=model.functions, ir_version=model.ir_version
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(alone.SerializeToString(), options, providers=["CPUExecutionProvider"])
    yield from zip(names, session.run(None, {}), strict=True)
