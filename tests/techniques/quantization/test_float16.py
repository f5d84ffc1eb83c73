"""Half-precision weights against numpy's own rounding."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.artifacts.export import strip
from autocompress.artifacts.runtime import Model
from autocompress.techniques.quantization.float16 import Float16
from autocompress.testing.work import context_of, example_of, given


def tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def halved(name: str) -> tuple[onnx.ModelProto, dict[str, list[str]], onnx.ModelProto]:
    """A float file, the decision for it, and the file in half."""
    step, model = Float16(), given("encode", name)
    decision = step.decide(model, context_of(name))
    return model, decision, step.apply(given("encode", name), decision)


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_stored_tensors_are_numpys_half_precision(name: str) -> None:
    model, decision, encoded = halved(name)
    stored = tensors(encoded)
    assert decision["halved"]
    for tensor, values in tensors(model).items():
        if tensor in decision["halved"]:
            assert stored[f"{tensor}_half"].dtype == np.float16
            np.testing.assert_array_equal(stored[f"{tensor}_half"], values.astype(np.float16))
            assert tensor not in stored
        else:
            np.testing.assert_array_equal(stored[tensor], values)


@pytest.mark.parametrize("name", ["plain", "residual", "grouped", "two_names"])
def test_the_file_computes_what_rounded_weights_compute(name: str) -> None:
    model, decision, encoded = halved(name)
    for tensor in model.graph.initializer:
        if tensor.name in decision["halved"]:
            rounded = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    inputs = [value.numpy() for value in example_of(name, 5)]
    expected = Model(model.SerializeToString())(*inputs)
    actual = Model(strip(encoded).SerializeToString())(*inputs)
    np.testing.assert_array_equal(actual, expected)


def test_the_casts_are_gone_when_the_file_is_loaded(tmp_path: Path) -> None:
    """They are constant, so ONNX Runtime computes them once: no call pays for them."""
    _, _, encoded = halved("plain")
    assert sum(node.op_type == "Cast" for node in encoded.graph.node) == 5
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    ort.InferenceSession(encoded.SerializeToString(), options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(tmp_path / "loaded.onnx")
    assert not [node for node in loaded.graph.node if node.op_type == "Cast"]


def test_half_of_the_weights_bytes_are_saved() -> None:
    model, decision, encoded = halved("mlp")
    saved = len(model.SerializeToString()) - len(encoded.SerializeToString())
    halves = sum(values.nbytes for name, values in tensors(model).items() if name in decision["halved"]) // 2
    casts = len(decision["halved"])
    assert halves - 120 * casts < saved < halves


def affine(weight: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """y = x @ weight + bias as a file."""
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["z"]), helper.make_node("Add", ["z", "bias"], ["y"])]
    rows, columns = weight.shape
    graph = helper.make_graph(
        nodes,
        "affine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", columns])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_tensor_past_the_largest_half_stays_as_it_is_and_is_listed() -> None:
    weight = np.full((16, 64), 0.5, np.float32)
    weight[3, 4] = 70_000  # the largest half is 65,504
    model = affine(weight, np.zeros(64, np.float32))
    step = Float16()
    decision = step.decide(model, context_of("plain"))
    assert decision == {"halved": ["bias"], "skipped": {"weight": "holds values that 16 bits cannot"}}
    np.testing.assert_array_equal(tensors(step.apply(model, decision))["weight"], weight)


def test_the_largest_half_itself_is_stored_in_half() -> None:
    weight = np.full((16, 16), -65_504, np.float32)
    model = affine(weight, np.zeros(16, np.float32))
    step = Float16()
    decision = step.decide(model, context_of("plain"))
    assert decision["halved"] == ["weight"]
    np.testing.assert_array_equal(tensors(step.apply(model, decision))["weight_half"].astype(np.float32), weight)


def test_integers_and_small_tensors_are_left_alone() -> None:
    model, decision, encoded = halved("plain")
    named = {*decision["halved"], *decision["skipped"]}
    for name, values in tensors(model).items():
        if values.dtype == np.int64:
            assert name not in named
        elif values.nbytes <= 120:  # a cast and its names take about 60 bytes: half of these is no more
            assert decision["skipped"][name] == f"only {values.nbytes} bytes"
    assert any(values.dtype == np.int64 for values in tensors(encoded).values()), "the example should have some"
