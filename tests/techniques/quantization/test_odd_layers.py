"""Layers that quantizers stumble over: transposed, in groups, shared, recurrent, in double; and samples of any size."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from autocompress.artifacts.export import export_onnx
from autocompress.artifacts.runtime import Model
from autocompress.errors import TechniqueError
from autocompress.techniques import Context
from autocompress.techniques.quantization.float16 import Float16
from autocompress.techniques.quantization.int8_dynamic import Int8Dynamic
from autocompress.techniques.quantization.int8_static import Int8Static
from autocompress.techniques.quantization.log2_quantization import Log2Quantization
from autocompress.techniques.quantization.low_bit import LowBit
from autocompress.techniques.quantization.mixed_precision import MixedPrecision
from autocompress.testing.models import MODELS, make_task, seeded
from autocompress.testing.work import given, relative_rms, task_of, teacher_of

from .test_masks import given as text

CALIBRATIONS = ("minmax", "entropy", "percentile")


class Up(nn.Module):
    """A transposed convolution in groups, over images of 3 channels."""

    def __init__(self, groups: int, outputs: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, outputs, 3, 2, groups=groups)
        self.head = nn.Linear(outputs, 4)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(torch.relu(self.up(torch.relu(self.stem(x)))).mean((2, 3)))
        return made


class Tied(nn.Module):
    """An autoencoder whose decoder has the encoder's weight, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.bias = nn.Linear(432, 24), nn.Parameter(torch.linspace(-1, 1, 432))

    def forward(self, x: Tensor) -> Tensor:
        code = torch.relu(self.encoder(x.flatten(1)))
        return nn.functional.linear(code, self.encoder.weight.T, self.bias)


class TiedEmbedding(nn.Module):
    """An embedding that is the head too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(40, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(torch.relu(self.hidden(self.embedding(x).mean(1))), self.embedding.weight)


class Stacked(nn.Module):
    """A product with a weight for each row of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(12, 36, 16) / 6), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 1, 3).flatten(2)[:, :, None]
        made: Tensor = self.head(torch.relu(rows @ self.weight)[:, :, 0].mean(1))
        return made


class Recurrent(nn.Module):
    """A recurrent layer alone."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(36, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1, :4]


class InDouble(nn.Module):
    """A product that forward computes in 64 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(432, 4)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        return nn.functional.linear(x.flatten(1).double(), layer.weight.double(), layer.bias.double()).float()


def odd(make: Any, examples: int = 64) -> tuple[nn.Module, onnx.ModelProto, Context]:
    task, model = make_task(make, examples), seeded(make).requires_grad_(False)
    return (
        model,
        export_onnx(model, (task.validation[0][:3] if examples > 5 else task.train[0].repeat(3, 1, 1, 1),)),
        (Context(task, model, 0)),
    )


def error_of(step: Any, make: Any) -> float:
    """How far the file with a step is from the model, by the root mean square."""
    model, exported, context = odd(make)
    encoded = step.apply(exported, step.decide(exported, context))
    inputs = make_task(make).validation[0]
    return relative_rms(Model(encoded.SerializeToString())(inputs.numpy()), model(inputs).numpy())


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(
    "make", [lambda: Up(1), lambda: Up(4), lambda: Up(8, 8), Tied, Stacked],
    ids=["transposed", "grouped", "depthwise", "tied", "stacked"],
)  # fmt: skip
def test_int8_static_takes_weights_whatever_axis_counts_their_outputs(make: Any, per_channel: bool) -> None:
    assert error_of(Int8Static(per_channel=per_channel), make) < 0.05


def test_a_transposed_convolution_has_a_scale_for_each_output_of_each_group() -> None:
    _, exported, context = odd(lambda: Up(4, 32))  # 2 inputs and 8 outputs a group
    weight = next(tensor for tensor in exported.graph.initializer if tensor.name == "up.weight")
    values = numpy_helper.to_array(weight).copy()
    values[2:4] *= 100  # the second group alone
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    step = LowBit(bits=8)
    found = step.decide(exported, context)["grids"]["up.weight"]
    assert found["sizes"] == [4, 1, 8, 1]
    tops = np.abs(values.reshape(4, 2, 8, 9)).max((1, 3)).ravel()
    np.testing.assert_allclose(np.abs(found["scales"]), tops / 128, rtol=0.01)
    before = Model(exported.SerializeToString())(context.task.split("train").tensors[0].numpy())  # type: ignore[attr-defined]
    after = Model(step.apply(exported, step.decide(exported, context)).SerializeToString())
    assert relative_rms(after(context.task.split("train").tensors[0].numpy()), before) < 0.01  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "step", [Int8Static(), Int8Static(per_channel=False), Int8Dynamic(), LowBit(bits=8), Float16()]
)
def test_an_embedding_that_is_the_head_too_is_stored_once(step: Any) -> None:
    words = torch.randint(0, 40, (64, 6), generator=torch.Generator().manual_seed(0))
    model, exported, context = text(TiedEmbedding, words)
    decision = step.decide(exported, context)
    assert ("stored twice" in " ".join(decision["skipped"].values())) is (step.technique == "int8_dynamic")
    size = exported.ByteSize()
    encoded = step.apply(exported, decision)
    tables = [tensor for tensor in encoded.graph.initializer if sorted(tensor.dims) == [16, 40]]
    assert len(tables) == 1
    assert encoded.ByteSize() < size
    actual = Model(encoded.SerializeToString())(words.numpy())
    assert relative_rms(actual, model(words).numpy()) < 0.05


@pytest.mark.parametrize("step", [Int8Static(), Int8Dynamic()], ids=lambda step: step.technique)
@pytest.mark.parametrize(
    ("make", "why"),
    [(Recurrent, "rnn: ONNX Runtime has no GRU in 8 bits"), (InDouble, "it does not compute in floats of 32 bits")],
)
def test_a_file_in_which_nothing_would_be_quantized_is_refused(step: Any, make: Any, why: str) -> None:
    _, exported, context = odd(make)
    with pytest.raises(TechniqueError, match=rf"{step.technique} finds no .* to quantize \(.*{why}"):
        step.decide(exported, context)


@pytest.mark.parametrize("step", [Float16(), LowBit(), Log2Quantization(), MixedPrecision()], ids=lambda s: s.technique)
def test_weights_of_64_bits_are_named_where_there_are_no_others(step: Any) -> None:
    _, exported, context = odd(InDouble)
    with pytest.raises(TechniqueError, match=rf"{step.technique} finds no weight .*'.+' is of 64-bit floats: let forw"):
        step.decide(exported, context)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("examples", [1, 2, 65, 162])
def test_ranges_are_found_on_any_number_of_examples(examples: int, calibration: str) -> None:
    whole = make_task(MODELS["plain"], 162)
    task = replace(whole, train=tuple(part[:examples] for part in whole.train))
    step = Int8Static(calibration=calibration, examples=examples)
    model = given("encode", "plain")
    ranges = step.decide(model, Context(task, teacher_of("plain"), 0))["ranges"]
    low, high = (float(edge) for edge in task.train[0].aminmax())
    if calibration == "minmax":
        assert ranges["input"] == [low, high]
    assert low <= ranges["input"][0] < 0 < ranges["input"][1] <= high
    assert relative_rms(
        Model(step.apply(model, step.decide(model, Context(task, teacher_of("plain"), 0))).SerializeToString())(
            task_of("plain").validation[0].numpy()
        ),
        teacher_of("plain")(task_of("plain").validation[0]).detach().numpy(),
    ) < 0.6  # fmt: skip


def test_inputs_that_the_file_does_not_take_are_told_with_their_shapes() -> None:
    task = make_task(MODELS["plain"])
    other = replace(task, train=(torch.zeros(8, 5, 12, 12), task.train[1][:8]))
    with pytest.raises(
        TechniqueError, match=r"int8_static: ONNX Runtime cannot run .* of shapes \(1, 5, 12, 12\): check"
    ):
        Int8Static().decide(given("encode", "plain"), Context(other, teacher_of("plain"), 0))
