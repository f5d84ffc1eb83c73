"""Models whose masks are infinite or far below zero: what is masked stays so, and ranges are those of all else."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress.artifacts.export import export_onnx
from autocompress.artifacts.parity import check_parity
from autocompress.artifacts.runtime import Array, Model
from autocompress.errors import TechniqueError
from autocompress.techniques import Context
from autocompress.techniques.quantization._spans import Span
from autocompress.techniques.quantization.int8_dynamic import Int8Dynamic
from autocompress.techniques.quantization.int8_static import Int8Static
from autocompress.techniques.quantization.mixed_precision import MixedPrecision
from autocompress.techniques.quantization.qat import Qat
from autocompress.testing.models import seeded
from autocompress.testing.work import relative_rms

LENGTH, WIDTH, CLASSES = 6, 16, 3
FILLS = (float("-inf"), torch.finfo(torch.float32).min, -1e9, -1e4)


class Attention(nn.Module):
    """What the first of some vectors sees of those that are not masked, by booleans or by floats to add."""

    def __init__(self, fill: float = -torch.inf) -> None:
        super().__init__()
        self.fill = fill
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scores = self.query(x[:, :1]) @ self.key(x).transpose(1, 2)
        hidden = mask[:, None]
        scores = scores.masked_fill(hidden, self.fill) if mask.dtype == torch.bool else scores + hidden
        seen = torch.softmax(scores, -1) @ self.value(x)
        made: Tensor = self.head(self.norm(seen[:, 0]))
        return made


class Choosing(nn.Module):
    """Scores of classes, of which one is forbidden for some inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(WIDTH, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        forbidden = (x[:, :1] > 0) & (torch.arange(CLASSES) == CLASSES - 1)
        return self.head(torch.relu(self.hidden(x))).masked_fill(forbidden, -torch.inf)


class Task:
    """Classification of whatever inputs there are."""

    quality, baseline = "accuracy", None

    def __init__(self, make: Callable[[], nn.Module], inputs: tuple[Tensor, ...]) -> None:
        self.make, self.data = make, TensorDataset(*inputs, torch.arange(len(inputs[0])) % 2)

    def model(self) -> nn.Module:
        return seeded(self.make)

    def split(self, name: str) -> TensorDataset:
        return self.data

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, targets)

    def metrics(self, output: Array, targets: Array) -> dict[str, float]:
        return {"accuracy": float((output.argmax(1) == targets).mean())}


@functools.cache
def attention(fill: float, form: str) -> tuple[nn.Module, onnx.ModelProto, Context]:
    """The attention whose scores are filled by a mask of booleans or floats, exported once for all that is tried."""
    x, hidden = vectors()
    return given(lambda: Attention(fill), x, hidden if form == "bool" else as_floats(hidden, fill))


def given(make: Callable[[], nn.Module], *inputs: Tensor) -> tuple[nn.Module, onnx.ModelProto, Context]:
    task: Any = Task(make, inputs)
    model = task.model()
    exported = export_onnx(model, tuple(tensor[:3] for tensor in inputs))
    return model, exported, Context(task, model.requires_grad_(False), 0)


def vectors(count: int = 40) -> tuple[Tensor, Tensor]:
    """Rows of vectors, and which of them are masked: none of the first two."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, LENGTH, (count, 1), generator=generator)
    return torch.randn((count, LENGTH, WIDTH), generator=generator), torch.arange(LENGTH)[None] >= lengths


def as_floats(mask: Tensor, fill: float) -> Tensor:
    return torch.zeros(mask.shape).masked_fill(mask, fill)


def check_masked(
    model: nn.Module, file: onnx.ModelProto, x: Tensor, mask: Tensor, hidden: Tensor, near: float = 0
) -> None:
    """The file is near to the model, and what is masked has no part in its output, but for `near` of it."""
    run = Model(file.SerializeToString())
    actual = run(x.numpy(), mask.numpy())
    assert relative_rms(actual, model(x, mask).numpy()) < 0.1
    others = torch.where(hidden[..., None], x.flip(0), x)
    assert relative_rms(run(others.numpy(), mask.numpy()), actual) <= near
    assert relative_rms(run(x.flip(0).numpy(), mask.numpy()), actual) > 0.5


@pytest.mark.parametrize("calibration", ["minmax", "entropy", "percentile"])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("form", ["bool", "float"])
def test_int8_static_sees_nothing_of_what_is_masked(fill: float, form: str, calibration: str) -> None:
    x, hidden = vectors()
    mask = hidden if form == "bool" else as_floats(hidden, fill)
    model, exported, context = copy.deepcopy(attention(fill, form))
    step = Int8Static(calibration=calibration)
    decision = step.decide(exported, context)
    assert any("mask" in why for why in decision["skipped"].values())
    assert np.isfinite(list(decision["ranges"].values())).all()
    encoded = step.apply(exported, decision)
    stored = {tensor.name for tensor in encoded.graph.initializer}
    assert sum(name.endswith("_quantized") and "bias" not in name for name in stored) == 5  # and that of the norm
    check_masked(model, encoded, x, mask, hidden)


def test_a_mask_that_the_sample_shows_nothing_of_hides_all_the_same() -> None:
    x, hidden = vectors()
    model, exported, context = given(lambda: Attention(-1e9), x, torch.zeros_like(hidden))
    step = Int8Static()
    check_masked(model, step.apply(exported, step.decide(exported, context)), x, hidden, hidden)


@pytest.mark.parametrize("fill", FILLS)
def test_int8_dynamic_and_qat_see_nothing_of_what_is_masked(fill: float) -> None:
    x, hidden = vectors()
    model, exported, context = copy.deepcopy(attention(fill, "bool"))
    step = Int8Dynamic()
    # Ranges found at run time are those of masked numbers too.
    check_masked(model, step.apply(exported, step.decide(exported, context)), x, hidden, hidden, near=0.02)
    training = Qat(epochs=1)
    trained = training.apply(model, training.decide(model, context)).requires_grad_(True)
    training.train(trained, context)
    trained.eval().requires_grad_(False)
    example = (x[:3], hidden[:3])
    made = export_onnx(trained, example)
    assert check_parity(trained, made, example, Qat.parity) < Qat.parity
    check_masked(trained, made, x, hidden, hidden)


@pytest.mark.parametrize("step", [MixedPrecision(bits=6), Int8Static(), Int8Dynamic()], ids=lambda s: s.technique)
def test_scores_of_forbidden_classes_stay_infinite(step: Any) -> None:
    x = vectors()[0][:, 0]
    model, exported, context = given(Choosing, x)
    encoded = step.apply(exported, step.decide(exported, context))
    actual, expected = Model(encoded.SerializeToString())(x.numpy()), model(x).numpy()
    shown = np.isfinite(expected)
    assert not shown.all()
    assert np.array_equal(actual[~shown], expected[~shown])
    assert relative_rms(actual[shown], expected[shown]) < 0.05


def test_an_output_that_is_no_number_is_refused_by_the_scan() -> None:
    x = vectors()[0][:, 0]
    _, exported, context = given(Choosing, torch.full_like(x, torch.nan))
    with pytest.raises(TechniqueError, match="mixed_precision: the model's output is not a number on training data"):
        MixedPrecision().decide(exported, context)


def test_a_span_tells_a_fill_from_scores_and_from_an_outlier() -> None:
    scores = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    assert seen(scores, np.full(300, -1e9, np.float32)).fill == 2.0**29
    assert seen(scores, np.full(300, -np.inf, np.float32)).edges == pytest.approx((scores.min(), scores.max()))
    assert seen(scores * 1e6).fill == np.inf
    assert seen(np.array([0.0, 7e4], np.float32)).fill == np.inf  # which 8 bits hold as they are
    assert seen(scores[:20], np.full(1000, 9e4, np.float32)).fill == np.inf  # too few to be told from noise
    assert seen().edges == seen(np.array([np.inf], np.float32)).edges == (0.0, 0.0)
    assert seen(np.array([np.nan, 1], np.float32)).undefined


def seen(*batches: Array) -> Span:
    span = Span()
    for values in batches:
        span.see(values)
    return span


class Gated(nn.Module):
    """A layer over gates, of which a mask of floats shuts some."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(WIDTH, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        made: Tensor = self.head(torch.sigmoid(self.hidden(x) + mask))
        return made


@pytest.mark.parametrize("fill", [-torch.inf, -1e9])
def test_qat_has_no_grid_for_what_holds_a_fill_and_trains_the_rest(fill: float) -> None:
    x = vectors()[0][:, 0]
    mask = as_floats(torch.rand((40, 32), generator=torch.Generator().manual_seed(2)) < 0.5, fill)
    model, _, context = given(Gated, x, mask)
    step, before = Qat(epochs=1), model(x, mask).numpy()
    decision = step.decide(model, context)
    assert set(decision["layers"]) == {"hidden", "head"}
    held = "holds infinities, as masks do" if fill == -torch.inf else "holds a mask's fill of -1e+09"
    assert decision["unclear"][":add.0"].startswith(held)
    assert ":add.0" not in decision["ranges"]
    trained = step.apply(model, decision).requires_grad_(True)
    step.train(trained, context)
    trained.eval().requires_grad_(False)
    assert check_parity(trained, export_onnx(trained, (x[:3], mask[:3])), (x, mask), Qat.parity) < Qat.parity
    assert relative_rms(trained(x, mask).numpy(), before) < 0.5
