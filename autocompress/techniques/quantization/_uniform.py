"""Weights of a file on uniform grids: which tensors are weights, scales for a width, and the operators that decode."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ...errors import NothingToDo, TechniqueError
from ..base import Context, Technique
from ._kept import REASON, left_alone, tensor_layer
from ._rate import Line, Priced, bits_of, settled

Array = NDArray[Any]
LEAST = 256  # weights: with fewer, scales and operators would take what is saved
CHANNELS = {"ConvTranspose": 1, "LSTM": 1, "GRU": 1, "RNN": 1, "MatMul": -1}  # where a weight's outputs are counted
CLIPPED = np.linspace(1.0, 0.4, 13)  # shares of the largest weight that a narrow grid may reach to
TINY = 1e-30
NARROW = 5  # bits up to which it pays to cut off the largest weights
TURNS = 2  # of rounding by rate and finding scales anew
SAVED_BITS = 800  # at least, by a grid with prices: about what a table and a deeper code's decoder take in a file


@dataclass(frozen=True)
class Weight:
    """A weight of a file: its layer, its numbers, the axis that counts outputs, and how often it counts them anew."""

    layer: str
    values: Array
    axis: int
    groups: int = 1


def weights_of(
    model: onnx.ModelProto, step: Technique, keep: Sequence[str], context: Context
) -> tuple[dict[str, Weight], dict[str, str]]:
    """The float weights to quantize, by the name of their tensor in the order of use, and why others stay in float.

    Raises TechniqueError where there are none.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    found: dict[str, Weight] = {}
    for node in model.graph.node:
        for name in node.input:
            if name in stored and name not in found and len(stored[name].dims) > 1:
                values = numpy_helper.to_array(stored[name])
                found[name] = Weight(tensor_layer(name, node), values, _axis(node, values.ndim), _groups(node))
    kept = set(left_alone(step, keep, [weight.layer for weight in found.values()], context))
    skipped = {name: REASON for name, weight in found.items() if weight.layer in kept}
    skipped |= {
        name: "it holds infinite numbers, as a mask does"
        for name, weight in found.items()
        if "weight" not in name and np.isinf(weight.values).any() and name not in skipped
    }
    skipped |= {
        name: f"only {weight.values.size} weights"
        for name, weight in found.items()
        if weight.values.size < LEAST and name not in skipped
    }
    chosen = {name: weight for name, weight in found.items() if name not in skipped}
    if not chosen:
        raise NothingToDo(f"{step.technique} finds no weight to quantize{found_instead(model, skipped)}")
    broken = next((name for name, weight in chosen.items() if not np.isfinite(weight.values).all()), None)
    if broken is not None:
        raise TechniqueError(f"{step.technique}: weight {broken!r} is not finite: check the model")
    return chosen, skipped


def found_instead(model: onnx.ModelProto, skipped: dict[str, str]) -> str:
    """The end of a refusal: what a file holds in the place of float weights, and what to do."""
    kinds = {tensor.name: TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer}
    double = next((name for name, kind in kinds.items() if kind == "DOUBLE"), None)
    if double is not None:
        return f": {double!r} is of 64-bit floats: let forward compute in 32 bits, or leave the step out"
    return ": leave the step out" + next((f" ({name}: {reason})" for name, reason in skipped.items()), "")


def _axis(node: onnx.NodeProto, dims: int) -> int:
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return CHANNELS.get(node.op_type, 0) % dims


def _groups(node: onnx.NodeProto) -> int:
    """How many groups of outputs are counted along one axis: in transposed convolutions each group begins anew."""
    return next((a.i for a in node.attribute if node.op_type == "ConvTranspose" and a.name == "group"), 1)


def spread(weight: Weight, group: int) -> tuple[Array, tuple[int, ...]]:
    """The numbers of a weight in a form in which those that share a scale lie along whole axes, and these axes.

    group: how many weights in a row share a scale; 0 for all of an output, -1 for all. The largest divisor of the row
    up to that is taken. Weights whose outputs are counted neither first nor last have a scale for each output.
    """
    values, axis = weight.values, weight.axis
    if group < 0:
        return values, tuple(range(values.ndim))
    channels, last = values.shape[axis], values.ndim - 1
    if weight.groups > 1:
        return values.reshape(weight.groups, -1, channels, math.prod(values.shape[2:])), (1, 3)
    row = values.size // channels
    size = next(size for size in range(min(group, row), 0, -1) if row % size == 0) if group else row
    if size == row or axis not in (0, last):
        return values, tuple(a for a in range(values.ndim) if a != axis)
    if axis == 0:
        return values.reshape(channels, row // size, size), (2,)
    return values.reshape(row // size, size, channels), (1,)


def scales_for(values: Array, over: tuple[int, ...], bits: int) -> Array:
    """Scales with the least squared error on a grid of 2**bits whole numbers about zero, exact in 16 bits.

    over: the axes along which weights share a scale. A negative scale turns the grid round, which has one number more
    below zero than above.
    """
    top = np.abs(values).max(axis=over, keepdims=True)
    best, least = np.ones_like(top), np.full_like(top, np.inf)
    for share in CLIPPED if bits <= NARROW else CLIPPED[:1]:
        for reach in (2 ** (bits - 1) - 1, -(2 ** (bits - 1))):
            scale = _half(share * top / reach)
            lost = np.square(on_grid(values, scale, bits) * scale - values).sum(axis=over, keepdims=True)
            best = np.where(lost < least, scale, best)
            least = np.minimum(lost, least)
    return np.asarray(best)


def _half(scale: Array) -> Array:
    """The nearest numbers that 16 bits hold in full precision; what is smaller stays, and is never zero."""
    size = np.minimum(np.abs(scale), np.finfo(np.float16).max).astype(np.float32)
    size = np.where(size >= np.finfo(np.float16).smallest_normal, size.astype(np.float16), np.maximum(size, TINY))
    return np.asarray(np.copysign(size, scale).astype(np.float32))


def on_grid(values: Array, scale: Array, bits: int | Array) -> Array:
    """The whole numbers that are nearest to the weights in units of their scale. bits: one number, or one a scale."""
    half = np.exp2(np.asarray(bits, np.float32) - 1)
    lowest, highest = -half, half - 1
    return np.asarray(np.clip(np.rint(values / scale), lowest, highest).astype(np.int8))


def grid(weight: Weight, bits: int, group: int) -> dict[str, Any]:
    """The grid of one weight as plain values."""
    values, over = spread(weight, group)
    scales = scales_for(values, over, bits)
    return {"bits": bits, "shape": list(values.shape), "sizes": list(scales.shape), "scales": scales.ravel().tolist()}


def rated(values: Array, found: dict[str, Any], rate: float) -> dict[str, Any]:
    """A grid with all whole numbers of 8 bits, each at the price of its bits in a file.

    rate: what a bit costs in squared steps of the grid; 0 leaves the grid as it is. Steps are as wide as they may be
    for the error of the grid without a price, a twelfth of their square, and then of least squared error. Where hardly
    any bits are saved the grid stays as it is, since numbers that are few and alike need no code.
    """
    if not rate:
        return found
    form, scales = values.reshape(found["shape"]), np.array(found["scales"], np.float32).reshape(found["sizes"])
    over = tuple(axis for axis, size in enumerate(found["sizes"]) if size == 1)
    steps = np.sqrt(12 * lost(values, found) * scales.size / values.size).reshape(scales.shape)
    scales = _half(np.copysign(np.maximum(steps, np.abs(scales)), scales))
    for turn in range(TURNS):
        steps = form / scales
        numbers = np.unique(on_grid(steps, np.ones(1, np.float32), 8))
        priced = settled(Line.of(steps), numbers, rate, 8, free=False)
        if turn + 1 < TURNS:
            taken = priced.nearest(steps)
            squares = np.square(taken).sum(axis=over, keepdims=True)
            fit = (taken * steps).sum(axis=over, keepdims=True) / np.where(squares > 0, squares, 1)
            scales = _half(np.where(squares > 0, fit, 1) * scales)
    if coded_bits(priced.nearest(steps)) > coded_bits(_numbers(values, found)[0]) - SAVED_BITS:
        return found
    prices = {"numbers": priced.points.astype(int).tolist(), "costs": priced.costs.tolist()}
    return {**found, "scales": scales.ravel().tolist(), **prices}


def coded_bits(numbers: Array) -> float:
    """What whole numbers of 8 bits take in an ideal code with a book of those that occur."""
    counts = np.bincount(numbers.astype(np.int8).view(np.uint8).ravel())
    counts = counts[counts > 0]
    return float((counts * bits_of(counts)).sum() + 8 * len(counts))


def blended(low: dict[str, Any], high: dict[str, Any], wide: Array) -> dict[str, Any]:
    """The grid with scales and bits of `high` where `wide` is true, else of `low`. wide: one for each scale."""
    bits = np.where(wide, high["bits"], low["bits"]).tolist()
    return {**low, "bits": bits, "scales": np.where(wide, high["scales"], low["scales"]).tolist()}


def lost(values: Array, found: dict[str, Any]) -> Array:
    """The squared error of what shares each scale of a grid, in the order of its scales."""
    square = np.square(dequantized(values, found) - values).reshape(found["shape"])
    over = tuple(axis for axis, size in enumerate(found["sizes"]) if size == 1)
    return np.asarray(square.sum(axis=over)).ravel()


def apply_grids(model: onnx.ModelProto, grids: dict[str, dict[str, Any]]) -> onnx.ModelProto:
    """Store the weights of a file by their grids."""
    stored = {}
    for tensor in model.graph.initializer:
        if (found := grids.get(tensor.name)) is not None:
            stored[tensor.name] = _numbers(numpy_helper.to_array(tensor), found)
    return store_on_grids(model, stored)


def dequantized(values: Array, found: dict[str, Any]) -> Array:
    """The numbers that a weight has on its grid."""
    numbers, scales = _numbers(values, found)
    return np.asarray((numbers * scales).reshape(values.shape))


def _numbers(values: Array, found: dict[str, Any]) -> tuple[Array, Array]:
    scales = np.array(found["scales"], np.float32).reshape(found["sizes"])
    if "costs" in found:
        priced = Priced(np.array(found["numbers"], np.float64), np.array(found["costs"]))
        return priced.nearest(values.reshape(found["shape"]) / scales).astype(np.int8), scales
    bits = np.array(found["bits"])
    bits = bits.reshape(found["sizes"]) if bits.ndim else bits
    return on_grid(values.reshape(found["shape"]), scales, bits), scales


def store_on_grids(model: onnx.ModelProto, grids: dict[str, tuple[Array, Array]]) -> onnx.ModelProto:
    """The model with weights as whole numbers of 8 bits and scales of 16, multiplied at load.

    grids: numbers and scales of each weight, of sizes that spread over each other.
    """
    nodes, kept = [], []
    for tensor in model.graph.initializer:
        if tensor.name not in grids:
            kept.append(tensor)
            continue
        name, shape = tensor.name, list(tensor.dims)
        numbers, scales = grids[name]
        halves = scales.astype(np.float16)
        units = halves if np.array_equal(halves.astype(np.float32), scales) else scales
        kept += [numpy_helper.from_array(numbers, f"{name}.numbers"), numpy_helper.from_array(units, f"{name}.scales")]
        same = list(numbers.shape) == shape
        nodes += [
            helper.make_node("Cast", [f"{name}.numbers"], [f"{name}.whole"], to=TensorProto.FLOAT),
            helper.make_node("Cast", [f"{name}.scales"], [f"{name}.units"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.whole", f"{name}.units"], [name if same else f"{name}.spread"]),
        ]
        if not same:
            kept.append(
                TensorProto(name=f"{name}.shape", data_type=TensorProto.INT64, dims=[len(shape)], int64_data=shape)
            )
            nodes.append(helper.make_node("Reshape", [f"{name}.spread", f"{name}.shape"], [name]))
    later = list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend([*nodes, *later])
    return model


class Variable:
    """A file of which some stored tensors can be given other numbers in each call, on one thread."""

    def __init__(self, model: onnx.ModelProto, names: Sequence[str]) -> None:
        made = onnx.ModelProto()
        made.CopyFrom(model)
        stored = {tensor.name: tensor for tensor in made.graph.initializer}
        given = {value.name for value in made.graph.input}
        made.graph.input.extend(
            helper.make_tensor_value_info(name, stored[name].data_type, stored[name].dims)
            for name in names
            if name not in given
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._inputs = [value.name for value in self._session.get_inputs()]

    def __call__(self, inputs: Sequence[Array], tensors: dict[str, Array]) -> Array:
        """The output for inputs in the order of the file, with these tensors in the place of stored ones."""
        feed = {**dict(zip(self._inputs, inputs, strict=True)), **tensors}
        return np.asarray(self._session.run(None, feed)[0])
