"""8-bit quantization against numpy: ranges, stored weights, and what ONNX Runtime makes of the file."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from autocompress.artifacts.runtime import Model
from autocompress.errors import TechniqueError
from autocompress.techniques import Context, Decision
from autocompress.techniques.quantization.int8_static import Int8Static
from autocompress.testing.models import MODELS, make_task
from autocompress.testing.work import context_of, exported_of, given, relative_rms, task_of, teacher_of

CALIBRATIONS = ("minmax", "entropy", "percentile")


def quantized(name: str, **settings: Any) -> tuple[Decision, onnx.ModelProto]:
    step = Int8Static(**settings)
    decision = step.decide(given("encode", name), context_of(name))
    return decision, step.apply(given("encode", name), decision)


def tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def activations(name: str, context: Context, examples: int) -> dict[str, np.ndarray]:
    """Every float tensor that the exported model computes on the calibration sample, and the sample itself."""
    model = copy.deepcopy(exported_of(name))
    outputs = [output for node in model.graph.node for output in node.output if output != "output"]
    model.graph.output.extend(onnx.ValueInfoProto(name=output) for output in outputs)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    found: dict[str, list[np.ndarray]] = {}
    for batch in context.sample(examples):
        feed = {"input": batch.inputs[0].numpy()}
        for key, value in {**dict(zip(names, session.run(names, feed), strict=True)), **feed}.items():
            found.setdefault(key, []).append(value)
    return {key: np.concatenate([value.ravel() for value in values]) for key, values in found.items()}


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_minmax_ranges_are_the_extremes_of_each_activation(name: str) -> None:
    decision, _ = quantized(name, calibration="minmax", examples=64)
    values = activations(name, context_of(name), 64)
    assert {"input", "output"} <= decision["ranges"].keys()
    for key, edges in decision["ranges"].items():
        assert edges == pytest.approx([values[key].min(), values[key].max()], rel=1e-5)


def test_percentile_ranges_leave_out_a_thousandth_of_a_percent_of_the_magnitudes() -> None:
    context = Context(make_task(MODELS["plain"], examples=256), teacher_of("plain"), 0)
    step = Int8Static(calibration="percentile", examples=256)
    ranges = step.decide(given("encode", "plain"), context)["ranges"]
    found = activations("plain", context, 256)
    sizes = np.sort(np.abs(found["conv2d"]))
    assert sizes.size == 256 * 16 * 10 * 10  # a thousandth of a percent of these is 4
    assert ranges["conv2d"][1] == pytest.approx(float(sizes[-5]), abs=2 * float(sizes[-1]) / 2048)
    assert ranges["conv2d"][1] < sizes[-4]
    for name, (low, high) in ranges.items():
        # Edges are those of a histogram in double precision of values in single.
        slack = 1e-6 * max(abs(low), abs(high))
        assert found[name].min() - slack <= low < high <= found[name].max() + slack


def with_outlier(value: float) -> Context:
    """The task with one pixel of one training image far out."""
    inputs, targets = task_of("plain").train
    inputs = inputs.clone()
    inputs[0, 0, 0, 0] = value
    context = context_of("plain")
    return Context(replace(task_of("plain"), train=(inputs, targets)), context.teacher, context.seed)


def test_entropy_cuts_an_outlier_that_minmax_keeps() -> None:
    widest = {
        calibration: Int8Static(calibration=calibration).decide(
            given("encode", "plain"), with_outlier(60.0)
        )["ranges"]["input"][1]
        for calibration in ("minmax", "entropy")
    }  # fmt: skip
    assert widest["minmax"] == 60.0
    assert widest["entropy"] < 30.0


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_every_calibration_keeps_the_outputs_close_and_standard_output_clean(
    calibration: str, capfd: pytest.CaptureFixture[str]
) -> None:
    _, encoded = quantized("plain", calibration=calibration)
    inputs = task_of("plain").validation[0]
    actual = Model(encoded.SerializeToString())(inputs.numpy())
    expected = teacher_of("plain")(inputs).detach().numpy()
    assert relative_rms(actual, expected) < 0.1
    assert capfd.readouterr().out == ""  # the command line prints its documents there


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_stored_in_8_bits_and_come_back_to_within_half_a_step(per_channel: bool) -> None:
    decision, encoded = quantized("plain", per_channel=per_channel)
    assert decision["per_channel"] is per_channel
    stored, original = tensors(encoded), tensors(exported_of("plain"))
    for name in ("conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"):
        codes, scale = stored[f"{name}_quantized"], stored[f"{name}_scale"]
        assert codes.dtype == np.int8
        assert (stored[f"{name}_zero_point"] == 0).all()
        assert name not in stored
        values = original[name]
        if per_channel:
            assert scale.shape == (len(values),)
            scale = scale.reshape(-1, *(1,) * (values.ndim - 1))
            # The codes of a channel reach from -127 to 127, so that its largest weight is one of them.
            np.testing.assert_allclose(scale.ravel(), np.abs(values).reshape(len(values), -1).max(1) / 127, rtol=1e-5)
        else:
            assert scale.size == 1
            np.testing.assert_allclose(scale, np.abs(values).max() / 127, rtol=1e-5)
        assert (np.abs(codes * scale - values) <= scale * (0.5 + 1e-4)).all()


def test_onnxruntime_runs_the_file_in_integer_operators(tmp_path: Path) -> None:
    _, encoded = quantized("plain")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    ort.InferenceSession(encoded.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node]
    assert operators.count("QLinearConv") == 2
    assert operators.count("QGemm") == 2
    assert "Conv" not in operators
    assert "Gemm" not in operators


def test_the_sample_follows_the_seed_and_the_number_of_examples() -> None:
    def edges(seed: int, examples: int) -> Any:
        step = Int8Static(examples=examples)
        task = task_of("plain")
        many = replace(task, train=tuple(part.repeat_interleave(4, 0) for part in task.train))
        context = Context(many, teacher_of("plain"), seed)
        return step.decide(given("encode", "plain"), context)["ranges"]["linear"]

    assert edges(0, 64) == edges(0, 64)
    assert edges(0, 64) != edges(1, 64)
    assert edges(0, 256) == edges(1, 256)  # all of it, in another order


def broken(bad: float) -> onnx.ModelProto:
    """The plain model with weights of its first layer that overflow, or are no numbers."""
    model = given("encode", "plain")
    for tensor in model.graph.initializer:
        if tensor.name in ("conv1.weight", "conv2.weight"):
            values = numpy_helper.to_array(tensor) * np.float32(bad)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("bad", [1e38, float("nan")], ids=["overflow", "nan"])
def test_activations_that_are_no_numbers_are_refused(calibration: str, bad: float) -> None:
    with pytest.raises(TechniqueError, match=r"int8_static: activation.*on training data.*check the model"):
        Int8Static(calibration=calibration).decide(broken(bad), context_of("plain"))


def test_what_the_recipe_keeps_stays_in_float_and_all_else_is_quantized() -> None:
    decision, encoded = quantized("plain", keep=("first", "fc2"))
    assert decision["skipped"] == dict.fromkeys(("conv1", "fc2"), "kept in float by the recipe")
    stored, original = tensors(encoded), tensors(exported_of("plain"))
    for name in ("conv1.weight", "fc2.weight"):
        assert np.array_equal(stored[name], original[name])
    for name in ("conv2.weight", "fc1.weight"):
        assert stored[f"{name}_quantized"].dtype == np.int8
        assert name not in stored
    with pytest.raises(TechniqueError, match=r"int8_static: keep: 'fc3' is no layer .*did you mean 'fc2'\?"):
        Int8Static(keep=("fc3",)).decide(given("encode", "plain"), context_of("plain"))
    with pytest.raises(TechniqueError, match="int8_static: keep leaves no layer to quantize: keep fewer"):
        Int8Static(keep=("*",)).decide(given("encode", "plain"), context_of("plain"))


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_what_reads_or_writes_an_activation_without_a_range_stays_in_float(calibration: str) -> None:
    model = given("encode", "plain")
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "conv1.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(16, -100, np.float32), bias.name))  # the activation is 0 throughout
    step = Int8Static(calibration=calibration)
    decision = step.decide(model, context_of("plain"))
    assert decision["ranges"]["relu"] == [0, 0]
    assert decision["skipped"]["conv2"] == "activation 'max_pool2d' is always 0 on training data"
    assert not {"conv1", "fc1", "fc2"} & decision["skipped"].keys()
    encoded = step.apply(model, decision)
    names = tensors(encoded)
    assert "conv2.weight" in names
    assert "conv1.weight_quantized" in names
    values = {node.output[0]: node for node in encoded.graph.node}
    conv = next(node for node in encoded.graph.node if "conv2.weight" in node.input)
    assert values[conv.input[0]].op_type == "MaxPool"  # and not what was rounded to a scale that nothing says
