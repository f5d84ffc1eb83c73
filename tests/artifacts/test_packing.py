"""Packed weights: equal to the bit when ONNX Runtime decodes them, never larger, and dense again once loaded."""

import heapq
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from autocompress.artifacts import decoders
from autocompress.artifacts.coding import code_lengths
from autocompress.artifacts.export import strip
from autocompress.artifacts.packing import LEAST, choose, float_weights, pack, packed, smallest, ways, weights
from autocompress.artifacts.runtime import Model
from autocompress.techniques.quantization.float16 import Float16
from autocompress.techniques.quantization.int8_static import Int8Static
from autocompress.testing.work import context_of

Array = np.ndarray[Any, Any]
DECODERS = {
    "CumSum",
    "ScatterElements",
    "Gather",
    "BitwiseAnd",
    "Sign",
    "Split",
    "CastLike",
    "Expand",
    "Concat",
    "Slice",
}
TYPES = [np.float32, np.float16, np.int8]


def holding(*tensors: Array) -> onnx.ModelProto:
    """A file whose outputs are its weights, beside an input that they do not depend on."""
    kinds = [(helper.np_dtype_to_tensor_dtype(tensor.dtype), tensor.shape) for tensor in tensors]
    outputs = [helper.make_tensor_value_info(f"y{i}", *kind) for i, kind in enumerate(kinds)]
    nodes = [helper.make_node("Identity", [f"w{i}"], [f"y{i}"]) for i in range(len(tensors))]
    stored = [numpy_helper.from_array(tensor, f"w{i}") for i, tensor in enumerate(tensors)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])]
    return finished(helper.make_graph(nodes, "holding", inputs, outputs, stored))


def product(weight: Array) -> onnx.ModelProto:
    """y = x @ weight as a file."""
    rows, columns = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", columns])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return finished(graph)


def finished(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def decoded(model: onnx.ModelProto) -> list[Array]:
    """The outputs of a file that holds weights, by ONNX Runtime."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": np.zeros(1, np.float32)}))


def functions(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.domain == "p"]


def loaded(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The graph that ONNX Runtime runs."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "loaded.onnx")


def assert_equal_bits(actual: Array, expected: Array) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.tobytes() == expected.tobytes()


def sparse(shape: tuple[int, ...], share: float, kind: Any = np.float32, seed: int = 0) -> Array:
    """Random numbers, a share of which is zero."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape) if kind != np.int8 else rng.integers(1, 128, shape)
    return np.where(rng.random(shape) < share, 0, values).astype(kind)


def at(length: int, positions: list[int], kind: Any = np.float32) -> Array:
    """A row of zeros but at some positions."""
    row = np.zeros(length, kind)
    row[positions] = np.arange(1, len(positions) + 1)
    return row


shapes = st.sampled_from([(257,), (1, 301), (19, 33), (7, 5, 3, 3), (2, 2, 2, 2, 31), (40, 40), (16, 1, 16)])


@settings(max_examples=60, deadline=None)
@given(
    shape=shapes,
    share=st.sampled_from([0.0, 0.3, 0.5, 0.8, 0.95, 0.99, 1.0]),
    kind=st.sampled_from(TYPES),
    seed=st.integers(0, 9),
)
@example((40, 40), 1.0, np.float32, 0)
@example((40, 40), 1.0, np.int8, 0)
def test_what_is_decoded_is_equal_to_the_bit_and_the_file_never_larger(
    shape: tuple[int, ...], share: float, kind: Any, seed: int
) -> None:
    tensor = sparse(shape, share, kind, seed)
    model = holding(tensor)
    small = pack(model)
    assert strip(small).ByteSize() <= strip(model).ByteSize()
    assert_equal_bits(decoded(small)[0], tensor)


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.sampled_from([0, 1, 13, 14, 15, 16, 29, 30, 31, 45, 254, 255, 256, 510, 511, 765]), max_size=12),
    after=st.sampled_from([0, 1, 14, 15, 255, 400]),
    kind=st.sampled_from(TYPES),
)
def test_gaps_of_every_length_are_decoded_to_the_bit(gaps: list[int], after: int, kind: Any) -> None:
    """Around the escapes of 15 and 255, in the front, in the middle and at the end, in every way of packing."""
    positions = [int(place) for place in np.cumsum([gap + 1 for gap in gaps]) - 1]
    row = at(2048 + (positions[-1] if positions else 0) + after, positions, kind)
    row = row[: max(LEAST, (positions[-1] + 1 if positions else 0) + after)]
    small = pack(holding(np.concatenate([row, np.zeros(4096, kind)])))
    assert functions(small)
    assert_equal_bits(decoded(small)[0], np.concatenate([row, np.zeros(4096, kind)]))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("share", "expected"), [(0.6, "m"), (0.93, "g"), (0.998, "g")])
def test_each_way_of_packing_is_chosen_where_it_is_smallest(kind: Any, share: float, expected: str) -> None:
    """By hand, bits a number at a share s of zeros: a mask 1, gaps of 4 or 8 bits as many times 1 - s, and escapes.

    At 0.6 these are 1, 1.6 and 3.2; at 0.93 they are 1, 0.4 and 0.56; at 0.998, where the mean gap is 500, an escape
    of 15 stands for 15 zeros, so that all zeros take 4 / 15 = 0.27, and one of 255 for 8 / 255 = 0.03.
    """
    tensor = sparse((200, 201), share, kind)
    chosen = smallest(ways(numpy_helper.from_array(tensor, "w")), frozenset("mg"))
    assert chosen is not None
    assert chosen.function == expected
    small = pack(holding(tensor))
    assert_equal_bits(decoded(small)[0], tensor)


def test_sizes_by_hand() -> None:
    """1,600 numbers of 4 bytes, of which 160 are not zero: a mask of 200 bytes, or 160 gaps of half a byte."""
    row = at(1600, list(range(9, 1600, 10)))
    found = smallest(ways(numpy_helper.from_array(row, "w")), frozenset("mg"))
    assert found is not None
    assert found.function == "g"
    assert [len(found.inputs[0].raw_data), len(found.inputs[2].raw_data)] == [80, 640]


@pytest.mark.parametrize("kind", TYPES)
def test_tensors_of_one_symbol_and_of_zeros_alone(kind: Any) -> None:
    one = np.full((50, 50), 3, kind)
    nothing = np.zeros((50, 50), kind)
    symbol = np.where(np.arange(2500).reshape(50, 50) % 7 == 0, 3, 0).astype(kind)
    model = holding(one, nothing, symbol)
    small = pack(model)
    assert len({node.output[0] for node in small.graph.node if node.domain == "p"} & {"w0", "w1", "w2"}) == 3
    assert small.ByteSize() < model.ByteSize() / 2
    for actual, expected in zip(decoded(small), (one, nothing, symbol), strict=True):
        assert_equal_bits(actual, expected)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_minus_zero_and_odd_numbers_are_kept(kind: Any) -> None:
    row = at(4000, [5, 6, 700, 3000, 3999], kind)
    row[5], row[6], row[700], row[3000] = -0.0, np.inf, np.nan, np.finfo(kind).smallest_subnormal
    small = pack(holding(row))
    assert functions(small)
    assert_equal_bits(decoded(small)[0], row)
    assert np.signbit(decoded(small)[0][5])


def test_small_tensors_other_types_and_dense_ones_are_left_alone() -> None:
    dense = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    model = holding(np.zeros(LEAST - 1, np.float32), np.zeros(5000, np.int64), dense)
    assert pack(model) is model


def test_packing_leaves_the_model_that_it_is_given() -> None:
    model = product(sparse((64, 64), 0.9))
    before = model.SerializeToString(deterministic=True)
    assert pack(model).ByteSize() < len(before)
    assert model.SerializeToString(deterministic=True) == before


def few(count: int, symbols: int, share: float, kind: Any, seed: int, flat: float = 1.0) -> Array:
    """Numbers of few values, a share of them zero; flat 1 for values that occur equally often, less for others."""
    rng = np.random.default_rng(seed)
    book = rng.permutation(np.arange(-128, 128))[:symbols] if kind == np.int8 else rng.normal(size=symbols)
    weight = flat ** np.arange(symbols)
    values = book.astype(kind)[rng.choice(symbols, count, p=weight / weight.sum())]
    values[rng.random(count) < share] = 0
    return values


@settings(max_examples=120, deadline=None)
@given(
    count=st.sampled_from([LEAST, LEAST + 1, 777, 4099]),
    symbols=st.sampled_from([1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 64, 100, 128, 200, 256]),
    share=st.sampled_from([0.0, 0.2, 0.9, 0.99, 1.0]),
    kind=st.sampled_from(TYPES),
    flat=st.sampled_from([1.0, 0.8, 0.3]),
    allowed=st.sampled_from(decoders.FAMILIES),
    seed=st.integers(0, 9),
)
def test_few_values_are_decoded_to_the_bit_by_every_family_of_decoders(
    count: int, symbols: int, share: float, kind: Any, flat: float, allowed: frozenset[str], seed: int
) -> None:
    tensor = few(count, symbols, share, kind, seed, flat)
    model = holding(tensor)
    small = packed(model, choose({"w0": ways(model.graph.initializer[0])}, allowed))
    assert_equal_bits(decoded(small)[0], tensor)
    # Sizes are compared before names and lengths are written, which move them by bytes.
    assert strip(pack(model)).ByteSize() <= strip(small).ByteSize() + 4


def test_decoders_that_cost_more_than_they_save_are_left_out_for_all_tensors_together() -> None:
    """Prefix codes would make the larger tensors smaller, but by less than their decoders take."""
    rng = np.random.default_rng(0)
    tensors = [sparse((2, 1, 5, 5), 0.65), few(576, 8, 0.65, np.float32, 1), few(6000, 8, 0.65, np.float32, 2)]
    model = holding(*tensors, rng.normal(size=300).astype(np.float32))
    found = {tensor.name: ways(tensor) for tensor in model.graph.initializer}
    sizes = {allowed: strip(packed(model, choose(found, allowed))).ByteSize() for allowed in decoders.FAMILIES}
    small = pack(model)
    assert strip(small).ByteSize() == min(sizes.values()) < sizes[max(decoders.FAMILIES, key=len)]
    for actual, expected in zip(decoded(small), tensors, strict=False):
        assert_equal_bits(actual, expected)


@pytest.mark.parametrize("allowed", [frozenset("bm"), frozenset("bg"), max(decoders.FAMILIES, key=len)])
def test_packed_weights_are_equal_to_the_bit_by_the_reference_implementation_of_onnx(allowed: frozenset[str]) -> None:
    """Which takes nothing that the operators' documents do not allow."""
    tensors = [few(2000, 9, share, kind, 0, 0.7) for share in (0.6, 0.95) for kind in TYPES]
    model = holding(*tensors)
    small = packed(model, choose({tensor.name: ways(tensor) for tensor in model.graph.initializer}, allowed))
    found = ReferenceEvaluator(small).run(None, {"x": np.zeros(1, np.float32)})
    for actual, expected in zip(found, tensors, strict=True):
        assert_equal_bits(actual, expected)


def test_one_decoder_of_prefix_codes_serves_codes_of_all_depths() -> None:
    tensors = [few(50_000, symbols, 0.5, np.float32, symbols, 0.7) for symbols in (3, 8, 30)]
    small = pack(holding(*tensors))
    assert sum(decoders.levels_of(function.name) > 0 for function in small.functions) == 1
    for actual, expected in zip(decoded(small), tensors, strict=True):
        assert_equal_bits(actual, expected)


@pytest.mark.parametrize(("symbols", "bits"), [(2, 1), (4, 2), (8, 3), (16, 4), (32, 5), (64, 6), (128, 7)])
def test_as_many_bits_are_stored_as_equally_frequent_values_need(symbols: int, bits: int) -> None:
    tensor = few(80_000, symbols, 0.0, np.float32, 0)
    size = pack(holding(tensor)).ByteSize()
    assert bits * 10_000 <= size <= bits * 10_000 + 4 * symbols + 1500


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_a_file_is_near_the_entropy_of_its_weights(share: float) -> None:
    tensor = few(400_000, 16, share, np.float32, 0, flat=0.8)
    counts = np.unique(tensor, return_counts=True)[1] / tensor.size
    bound = -(counts * np.log2(counts)).sum() * tensor.size / 8 + 16 * 4
    assert pack(holding(tensor)).ByteSize() < 1.08 * bound


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 10_000), min_size=2, max_size=40), limit=st.integers(6, 15))
def test_code_lengths_are_those_of_a_complete_code_and_no_longer_than_huffmans(counts: list[int], limit: int) -> None:
    lengths = code_lengths(np.array(counts), limit)
    assert sum(Fraction(1, 2 ** int(length)) for length in lengths) == 1
    assert lengths.max() <= limit
    free = code_lengths(np.array(counts), 64)
    heap = sorted(counts)
    total = 0
    while len(heap) > 1:  # Huffman's own way: the cost is the sum of all merged weights
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    assert (free * counts).sum() == total <= (lengths * counts).sum()


def test_weights_are_given_back_dense_whether_packed_or_not() -> None:
    tensors = [sparse((64, 65), 0.9), sparse((70, 30), 0.97, np.float16), sparse((64, 64), 0.6, np.int8)]
    tensors += [np.ones((3, 3), np.float32), np.arange(4), sparse((300,), 1.0)]
    small = pack(holding(*tensors))
    assert len(functions(small)) == 4
    found = dict(weights(small))
    assert found.keys() == {f"w{index}" for index in range(len(tensors))}
    for index, tensor in enumerate(tensors):
        assert_equal_bits(found[f"w{index}"], tensor)


def test_weights_of_a_stripped_file_are_given_back_as_well() -> None:
    tensor = sparse((64, 65), 0.9)
    [(_, found)] = weights(strip(pack(product(tensor))))
    assert_equal_bits(found, tensor)


@pytest.mark.parametrize("share", [0.6, 0.93, 0.998])
def test_what_runs_is_the_dense_model(share: float, tmp_path: Path) -> None:
    tensor = sparse((200, 201), share)
    model = product(tensor)
    small = strip(pack(model))
    graph = loaded(small, tmp_path).graph
    assert [node.op_type for node in graph.node] == ["MatMul"]
    assert max(int(np.prod(stored.dims)) for stored in graph.initializer) == tensor.size
    x = np.random.default_rng(1).normal(size=(3, 200)).astype(np.float32)
    np.testing.assert_array_equal(Model(small.SerializeToString())(x), Model(model.SerializeToString())(x))


def test_weights_in_half_stay_packed_and_their_casts_are_folded(tmp_path: Path) -> None:
    tensor = sparse((200, 201), 0.93)
    model = product(tensor)
    dense = len(strip(model).SerializeToString())
    step, context = Float16(), context_of("plain")
    halved = step.apply(model, step.decide(model, context))
    small = strip(pack(halved))
    assert functions(small) == ["g"]
    nonzero = int(np.count_nonzero(tensor))
    assert len(small.SerializeToString()) < 2.6 * nonzero + 2500 < dense / 2
    assert {node.op_type for node in loaded(small, tmp_path).graph.node} == {"MatMul"}
    x = np.random.default_rng(1).normal(size=(3, 200)).astype(np.float32)
    np.testing.assert_array_equal(Model(small.SerializeToString())(x), Model(halved.SerializeToString())(x))


def test_packed_integers_still_run_as_integer_operators(tmp_path: Path) -> None:
    tensor = sparse((432, 150), 0.93)
    nodes = [helper.make_node("Flatten", ["input"], ["x"]), helper.make_node("MatMul", ["x", "weight"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "images",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 150])],
        [numpy_helper.from_array(tensor, "weight")],
    )
    model = finished(graph)
    step, context = Int8Static(examples=32), context_of("plain")
    quantized = step.apply(model, step.decide(model, context))
    small = strip(pack(quantized))
    assert functions(small)
    assert len(small.SerializeToString()) < len(strip(quantized).SerializeToString()) / 2
    operators = {node.op_type for node in loaded(small, tmp_path).graph.node}
    assert not operators & DECODERS
    assert operators & {"QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger"}
    inputs = context.example[0].numpy()
    np.testing.assert_array_equal(
        Model(small.SerializeToString())(inputs), Model(quantized.SerializeToString())(inputs)
    )


def test_weights_that_stay_in_float_are_named() -> None:
    tensors = [sparse((64, 65), 0.9), sparse((70, 30), 0.0), sparse((64, 64), 0.6, np.int8)]
    tensors += [few(4096, 16, 0.0, np.float32, 0).reshape(64, 64), few(4096, 16, 0.9, np.float32, 0).reshape(64, 64)]
    tensors += [np.ones(300, np.float32), sparse((50, 50), 0.0, np.float16)]
    assert float_weights(pack(holding(*tensors))) == ["w0", "w1"]
    assert float_weights(holding(*tensors)) == ["w0", "w1", "w3", "w4"]


def test_eight_bit_weights_of_which_few_reach_far_take_fewer_bits() -> None:
    values = np.random.default_rng(0).normal(size=(500, 200))
    values[0, 0] = 20.0  # the only one near the end of the range: the others lie within 30 of 127
    whole = np.rint(values * 127 / np.abs(values).max()).astype(np.int8)
    size = pack(holding(whole)).ByteSize()
    assert 0.5 * whole.size < size < 0.7 * whole.size


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("length", "codes", "bits"), [(2, 16, 4), (4, 16, 4), (3, 200, 8), (8, 256, 8)])
def test_blocks_that_share_codes_take_the_bits_of_a_code(kind: Any, length: int, codes: int, bits: int) -> None:
    """4,096 blocks that differ in one place at least: half a byte or a byte each, and the codes once."""
    rng = np.random.default_rng(0)
    book = rng.integers(-100, 100, (codes, length)).astype(kind)
    book[:, 0] = np.arange(codes) - 100 if codes <= 200 else (np.arange(codes) - 128)
    which = rng.permutation(np.arange(4096) % codes)
    tensor = book[which].reshape(64, -1)
    small = pack(holding(tensor))
    assert_equal_bits(decoded(small)[0], tensor)
    plain = strip(holding(tensor)).ByteSize() - tensor.nbytes
    assert strip(small).ByteSize() - plain <= 4096 * bits // 8 + book.nbytes + 200


def test_blocks_in_a_prefix_code_come_nearer_to_the_entropy_than_single_symbols() -> None:
    """Of a source that is zero nine times of ten a symbol has 0.47 bits, and takes one at least where it is alone."""
    rng = np.random.default_rng(0)
    tensor = np.where(rng.random((400, 200)) < 0.9, 0, 1).astype(np.float32)
    calls = ways(numpy_helper.from_array(tensor, "w"))
    small = smallest(calls, max(decoders.FAMILIES, key=len))
    assert small is not None
    entropy = -(0.9 * np.log2(0.9) + 0.1 * np.log2(0.1))
    assert 1.0 < small.size_bytes / (tensor.size * entropy / 8) < 1.15
    gaps = smallest([call for call in calls if call.function == "g"], max(decoders.FAMILIES, key=len))
    assert gaps is not None
    assert small.size_bytes < 0.9 * gaps.size_bytes
    assert_equal_bits(decoded(pack(holding(tensor)))[0], tensor)
