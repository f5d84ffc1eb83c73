"""Dynamic quantization against numpy: stored weights, products of integers, and what stays in float."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.runtime import Model
from autocompress.errors import TechniqueError
from autocompress.techniques import Decision
from autocompress.techniques.quantization.int8_dynamic import Int8Dynamic
from autocompress.testing.work import context_of, exported_of, given, relative_rms


class Words(nn.Module):
    """An embedding, recurrent layers of two kinds and linear layers over all steps."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 48)
        self.lstm = nn.LSTM(48, 64, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(128, 32, batch_first=True)
        self.each = nn.Linear(32, 40)
        self.head = nn.Linear(40, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gru(self.lstm(self.table(x))[0])[0]
        return self.head(torch.relu(self.each(x)).mean(1))


WORDS = torch.arange(42).reshape(3, 14) % 50


@pytest.fixture(scope="module")
def words() -> tuple[nn.Module, onnx.ModelProto]:
    torch.manual_seed(0)
    model = Words().eval()
    return model, export_onnx(model, (WORDS,))


def quantized(model: onnx.ModelProto, **settings: Any) -> tuple[Decision, onnx.ModelProto]:
    step = Int8Dynamic(**settings)
    decision = step.decide(model, context_of("mlp"))
    return decision, step.apply(model, decision)


def tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def operators(model: onnx.ModelProto, path: Path) -> list[str]:
    """The operators that ONNX Runtime runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path).graph.node]


def codes(values: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.float32, int]:
    """Values in unsigned 8 bits over a range, as the ONNX operator DynamicQuantizeLinear defines them."""
    scale = np.float32((high - low) / 255)
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    return np.clip(np.rint(values / scale) + zero, 0, 255).astype(np.int64), scale, zero


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_linear_layer_is_the_product_of_integers(per_channel: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 24)
    with torch.no_grad():
        layer.weight *= torch.logspace(-2, 0, 24)[:, None]
    x = torch.randn(5, 64)
    _, encoded = quantized(export_onnx(layer.eval(), (x,)), per_channel=per_channel)
    weight = layer.weight.detach().numpy()
    step = (np.abs(weight).max(1, keepdims=True) if per_channel else np.abs(weight).max()) / 127
    whole = np.rint(weight / step).astype(np.int64)
    stored = next(v for v in tensors(encoded).values() if v.dtype == np.int8 and v.size == weight.size)
    assert np.abs(stored.T.astype(int) - whole).max() <= 1
    assert np.mean(whole == stored.T) > 0.999
    inputs, scale, zero = codes(x.numpy(), min(0.0, float(x.min())), float(x.max()))
    expected = ((inputs - zero) @ whole.T) * scale * np.ravel(step) + layer.bias.detach().numpy()
    np.testing.assert_allclose(
        Model(encoded.SerializeToString())(x.numpy()), expected, atol=2e-3 * np.abs(step).max() * 127
    )


def test_linear_layers_and_lstms_run_in_integers_and_all_else_in_float(
    words: tuple[nn.Module, onnx.ModelProto], tmp_path: Path
) -> None:
    model, exported = words
    decision, encoded = quantized(exported)
    assert decision["skipped"] == {"gru": "ONNX Runtime has no GRU in 8 bits"}
    assert len(decision["quantized"]) == 4  # both layers of the LSTM, and two linear ones
    found = operators(encoded, tmp_path / "loaded.onnx")
    assert found.count("DynamicQuantizeLSTM") == 2
    assert found.count("DynamicQuantizeMatMul") == 2
    assert found.count("GRU") == 1
    assert not {"LSTM", "MatMul", "Gemm"} & set(found)
    with torch.no_grad():
        assert relative_rms(Model(encoded.SerializeToString())(WORDS.numpy()), model(WORDS).numpy()) < 0.05
    assert len(strip(encoded).SerializeToString()) < 0.45 * len(strip(exported).SerializeToString())


def test_what_the_recipe_keeps_stays_in_float(words: tuple[nn.Module, onnx.ModelProto], tmp_path: Path) -> None:
    decision, encoded = quantized(words[1], keep=("first", "he*"))
    assert decision["skipped"] == {
        "lstm": "kept in float by the recipe",
        "gru": "ONNX Runtime has no GRU in 8 bits",
        "head": "kept in float by the recipe",
    }
    found = operators(encoded, tmp_path / "loaded.onnx")
    assert found.count("LSTM") == 2
    assert found.count("DynamicQuantizeMatMul") == 1
    assert "DynamicQuantizeLSTM" not in found
    stored = tensors(encoded)
    original = tensors(words[1])["head.weight"]
    assert any(v.shape == original.shape and np.array_equal(v, original) for v in stored.values())


def test_convolutions_stay_in_float_with_the_reason(tmp_path: Path) -> None:
    decision, encoded = quantized(given("encode", "plain"))
    assert decision["skipped"].keys() == {"conv1", "conv2"}
    assert "use int8_static" in decision["skipped"]["conv1"]
    found = operators(encoded, tmp_path / "loaded.onnx")
    assert found.count("DynamicQuantizeMatMul") == 2
    assert "ConvInteger" not in found
    for name in ("conv1.weight", "conv2.weight"):
        assert np.array_equal(tensors(encoded)[name], tensors(exported_of("plain"))[name])


def test_a_file_without_linear_layers_is_refused_with_the_fix() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval()
    exported = export_onnx(model, (torch.randn(2, 3, 6, 6),))
    with pytest.raises(TechniqueError, match=r"int8_dynamic finds no linear layer or LSTM.*0: convol.*use int8_static"):
        Int8Dynamic().decide(exported, context_of("plain"))
    with pytest.raises(TechniqueError, match=r"fc1: kept in float by the recipe.*use int8_static"):
        Int8Dynamic(keep=("fc*",)).decide(given("encode", "plain"), context_of("plain"))


def test_standard_output_and_error_stay_clean(capfd: pytest.CaptureFixture[str]) -> None:
    quantized(given("encode", "plain"))
    assert capfd.readouterr() == ("", "")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(TechniqueError, match=r"int8_dynamic: keep: 'fc3' is no layer .*did you mean 'fc2'\?"):
        Int8Dynamic(keep=("fc3",)).decide(given("encode", "plain"), context_of("plain"))
