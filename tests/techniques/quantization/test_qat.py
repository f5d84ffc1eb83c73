"""Quantization-aware training: the grid that is trained is the grid of the file, and the file runs in integers."""

import copy
import functools
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from plain import plain_baseline, trial_spec
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from autocompress import Classification, Training
from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.packing import pack
from autocompress.artifacts.parity import check_parity
from autocompress.artifacts.runtime import Model
from autocompress.errors import RecipeError, TechniqueError
from autocompress.measure.quality import measure_quality
from autocompress.outcome import Candidate
from autocompress.recipe import Recipe
from autocompress.techniques import Context, Decision, technique
from autocompress.techniques.factorization.svd import Svd
from autocompress.techniques.pruning.channel_pruning import ChannelPruning
from autocompress.techniques.pruning.weight_pruning import WeightPruning
from autocompress.techniques.quantization._calls import trace
from autocompress.techniques.quantization._grids import Quantized, first_scales, rounded
from autocompress.techniques.quantization._integers import fold
from autocompress.techniques.quantization.qat import Qat
from autocompress.testing.models import CLASSES, MODELS, make_task, seeded
from autocompress.testing.work import context_of, damaged, task_of, teacher_of
from autocompress.training import fit
from autocompress.trial.stages import pack_weights, rebuild

QUICK = {"epochs": 2, "batch_size": 16}


def applied(name: str, **settings: Any) -> tuple[Decision, nn.Module]:
    """A trained odd model on its grids, before any training there."""
    step = Qat(**{**QUICK, **settings})
    model = copy.deepcopy(teacher_of(name))
    decision = step.decide(model, context_of(name))
    return decision, step.apply(model, decision).eval()


def trained(name: str, **settings: Any) -> nn.Module:
    _, model = applied(name, **settings)
    Qat(**{**QUICK, **settings}).train(model, context_of(name))
    return model


def exported(model: nn.Module, inputs: Tensor) -> onnx.ModelProto:
    return export_onnx(model, (inputs[:3],))


def inputs_of(name: str) -> Tensor:
    return task_of(name).validation[0]


def operators(model: onnx.ModelProto, path: Path) -> Counter[str]:
    """The operators that ONNX Runtime runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path / "loaded.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path / "loaded.onnx").graph.node)


def tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def quantized_layers(model: nn.Module) -> dict[str, Quantized]:
    return {n.removeprefix("model."): m for n, m in model.named_modules() if isinstance(m, Quantized)}


@pytest.mark.parametrize(("zero", "low", "high"), [(0, -127, 127), (0, -1, 1), (93, 0, 255), (0, 0, 255)])
def test_rounding_is_that_of_torch_and_so_are_its_gradients(zero: int, low: int, high: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = (3 * torch.randn(500, generator=generator)).requires_grad_()
    scale = torch.tensor([0.02], requires_grad=True)
    zeros, slopes = torch.tensor([float(zero)], requires_grad=True), torch.randn(500, generator=generator)
    expected = torch._fake_quantize_learnable_per_tensor_affine(values, scale, zeros, low, high, 1.0)
    wanted = torch.autograd.grad(expected, (values, scale), slopes)
    actual = rounded(values, scale, float(zero), float(low), float(high))
    found = torch.autograd.grad(actual, (values, scale), slopes)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-4)


def test_each_channel_has_the_gradient_of_its_own_scale() -> None:
    torch.manual_seed(0)
    weight, scale = torch.randn(3, 4, 2), torch.tensor([0.5, 0.1, 0.02], requires_grad=True)
    rounded(weight, scale[:, None, None], 0.0, -7.0, 7.0).square().sum().backward()
    for row in range(3):
        own = scale.detach()[row].clone().requires_grad_()
        rounded(weight[row], own, 0.0, -7.0, 7.0).square().sum().backward()
        assert scale.grad is not None
        torch.testing.assert_close(scale.grad[row], own.grad)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_scales_start_where_rounding_costs_least(bits: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 6, 3, 3) * torch.logspace(-3, 1, 5)[:, None, None, None]
    weight[4] = 0
    found, most = first_scales(weight, bits).numpy(), 2 ** (bits - 1) - 1
    rows = weight.flatten(1).numpy()

    def error(row: np.ndarray, scale: float) -> float:
        return float(((np.clip(np.rint(row / scale), -most, most) * scale - row) ** 2).sum())

    for row, scale in zip(rows[:4], found, strict=False):
        whole = np.abs(row).max() / most
        if bits == 8:
            assert scale == pytest.approx(whole)
        best = min(error(row, whole * share) for share in np.linspace(0.1, 1.0, 400))
        assert error(row, scale) <= 1.1 * best + (np.inf if bits == 8 else 0)
    assert found[4] > 0  # zeros are zeros on any grid, and a scale of nothing is no number


@pytest.mark.parametrize("name", ["residual", "plain"])
def test_folded_norms_leave_the_outputs_as_they_are(name: str) -> None:
    model = copy.deepcopy(teacher_of(name))
    decision = Qat().decide(model, context_of(name))
    assert len(decision["norms"]) == (6 if name == "residual" else 0)
    folded = fold(copy.deepcopy(model), decision["norms"])
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(inputs_of(name)), model(inputs_of(name)), rtol=1e-4, atol=1e-4)


def test_the_decision_says_what_is_read_where_and_from_which_range() -> None:
    model = teacher_of("residual")
    decision = Qat().decide(model, context_of("residual"))
    assert decision["layers"]["inner2.0.0"] == decision["layers"]["project.0"] == [":relu.0"]
    assert decision["norms"]["project.0"] == "project.1"
    assert "stem.0:conv2d.0" not in decision["ranges"]  # its activation function is joined to it
    assert {"inner1.2.0:conv2d.0", "project.0:conv2d.0"} <= decision["ranges"].keys()  # what is added up
    seen: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, made, at=name: seen.update({at: made}))
        for name in ("stem", "inner1", "project")
    ]
    with torch.no_grad():
        model(task_of("residual").train[0])
    for hook in hooks:
        hook.remove()
    for name, value in (
        ("stem", "stem.2:relu.0"),
        ("inner1", "inner1.2.0:conv2d.0"),
        ("project", "project.0:conv2d.0"),
    ):
        expected = [float(seen[name].min()), float(seen[name].max())]
        assert decision["ranges"][value] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_calls_are_named_after_the_module_that_makes_them() -> None:
    found = trace(teacher_of("called_twice"), (inputs_of("called_twice")[:2],))
    convolutions = [call for call in found.calls if call.function == "conv2d"]
    assert [call.makes[0] for call in convolutions] == ["stem:conv2d.0", "again:conv2d.0", "again:conv2d.1"]
    assert [call.first for call in convolutions] == ["input.0", ":relu.0", ":relu.1"]
    assert found.outputs == {"head:linear.0"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", {"QLinearConv": 2, "QGemm": 2}),
        ("mlp", {"QGemm": 3}),
        ("residual", {"QLinearConv": 6, "QLinearAdd": 2, "QGemm": 1}),
        ("concat", {"QLinearConv": 3, "QLinearConcat": 2, "QGemm": 1}),
        ("grouped", {"QLinearConv": 4, "QGemm": 1}),
        ("called_twice", {"QLinearConv": 3, "QGemm": 1}),
        ("two_names", {"QGemm": 4}),
    ],
)
def test_onnxruntime_runs_every_layer_in_integers(name: str, expected: dict[str, int], tmp_path: Path) -> None:
    _, model = applied(name)
    found = operators(exported(model, inputs_of(name)), tmp_path)
    assert {key: found[key] for key in expected} == expected
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "Add", "Relu"} & found.keys()


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_the_file_holds_the_integers_of_the_trained_weights(bits: int) -> None:
    model = trained("plain", bits=bits)
    stored = tensors(exported(model, inputs_of("plain")))
    most = 2 ** (bits - 1) - 1
    for name, layer in quantized_layers(model).items():
        scale = (layer.start * torch.exp2(layer.stretch)).detach().numpy()
        assert not np.allclose(scale, layer.start.numpy())  # it was learned
        weight = layer.layer.weight.detach().numpy()
        wide = scale.reshape(-1, *(1,) * (weight.ndim - 1))
        expected = np.clip(np.rint(weight / wide), -most, most)
        codes = stored[f"model.{name}.codes"]
        assert codes.dtype == np.int8
        assert np.array_equal(codes, expected)
        assert np.unique(codes).size > min(most, 64)


class DigitsNet(nn.Module):
    """A small residual network with batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12))
        self.wide = nn.Sequential(nn.Conv2d(12, 24, 3, stride=2, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(24 * 9, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.inner(x))
        return self.head(self.drop(self.wide(x).flatten(1)))


@functools.cache
def digits() -> tuple[Classification, nn.Module]:
    """scikit-learn's digits, and a network that was trained on them."""
    pixels, labels = load_digits(return_X_y=True)
    images, targets = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    parts = [(images[part], targets[part]) for part in (slice(0, 800), slice(800, 1800), slice(0, 10))]
    task, model = Classification(DigitsNet, *parts), seeded(DigitsNet)
    settings = Training(epochs=6, learning_rate=5e-3)
    fit(model, task.split("train"), lambda output, batch: task.loss(output, batch.targets), settings, 0)
    return task, model.eval()


def on_digits(**settings: Any) -> tuple[nn.Module, nn.Module]:
    """The network on its grids, before and after the training there."""
    task, teacher = digits()
    step, context = Qat(**{"epochs": 2, **settings}), Context(task, teacher, 0)
    decision = step.decide(teacher, context)
    before = step.apply(copy.deepcopy(teacher), decision).eval()
    after = step.apply(copy.deepcopy(teacher), decision)
    step.train(after, context)
    return before, after


def accuracy(model: nn.Module) -> float:
    inputs, targets = digits()[0].validation
    with torch.no_grad():
        return float((model(inputs).argmax(1) == targets).float().mean())


@pytest.mark.parametrize("bits", [3, 8])
def test_the_file_is_as_accurate_as_the_model_that_was_trained(bits: int, tmp_path: Path) -> None:
    _, after = on_digits(bits=bits)
    task, teacher = digits()
    inputs = task.validation[0]
    file = exported(after, inputs)
    assert operators(file, tmp_path)["QLinearConv"] == 3
    run = Model(strip(pack(file)).SerializeToString())
    with torch.no_grad():
        same = run(inputs.numpy()).argmax(1) == after(inputs).argmax(1).numpy()
    assert same.mean() >= 0.998
    assert measure_quality(run, task, "validation")["accuracy"] == pytest.approx(accuracy(after), abs=1e-3)
    assert accuracy(after) > accuracy(teacher) - (0.01 if bits == 8 else 0.03)


def test_training_on_the_grid_wins_back_what_few_bits_cost() -> None:
    before, after = on_digits(bits=2, epochs=4)
    assert accuracy(before) < accuracy(digits()[1]) - 0.02
    assert accuracy(after) > accuracy(before) + 0.02


def test_a_dropout_in_the_way_hides_no_grid(tmp_path: Path) -> None:
    before, _ = on_digits()
    assert operators(exported(before, digits()[0].validation[0]), tmp_path)["QGemm"] == 1


def test_a_rebuilt_model_computes_the_same_to_the_bit_after_json_and_other_weights() -> None:
    model, decision = trained("residual"), Qat().decide(teacher_of("residual"), context_of("residual"))
    again = rebuild(seeded(MODELS["residual"], 5), Recipe((Qat(),)), [decision], pack_weights(model))
    with torch.no_grad():
        assert torch.equal(again(inputs_of("residual")), model(inputs_of("residual")))
    assert exported(again, inputs_of("residual")) == exported(model, inputs_of("residual"))


def test_pruned_weights_stay_zero_in_training_and_are_zeros_of_the_file() -> None:
    model, context = copy.deepcopy(teacher_of("plain")), context_of("plain")
    prune = WeightPruning(ratio=0.7)
    model = prune.apply(model, prune.decide(model, context))
    zeros = {name: (module.weight == 0).numpy() for name, module in model.named_modules() if hasattr(module, "weight")}
    step = Qat(**QUICK)
    model = step.apply(model, step.decide(model, context))
    step.train(model, context)
    stored = tensors(exported(model, inputs_of("plain")))
    for name in ("conv2", "fc1"):
        assert zeros[name].mean() > 0.3
        assert (stored[f"model.{name}.codes"][zeros[name]] == 0).all()
        assert (quantized_layers(model)[name].layer.weight.detach().numpy()[zeros[name]] == 0).all()


@pytest.mark.parametrize("step", [ChannelPruning(ratio=0.4), Svd(energy=0.7)], ids=lambda step: str(step.technique))
@pytest.mark.parametrize("name", ["residual", "grouped", "mlp"])
def test_what_was_pruned_or_factorized_trains_on_its_grid_too(step: Any, name: str, tmp_path: Path) -> None:
    model, context = copy.deepcopy(teacher_of(name)), context_of(name)
    try:
        model = step.apply(model, step.decide(model, context))
    except TechniqueError:
        assert name != "residual"
        return
    qat = Qat(**QUICK)
    decision = qat.decide(model, context)
    assert decision["skipped"] == {}
    model = qat.apply(model, decision)
    qat.train(model, context)
    file = exported(model, inputs_of(name))
    check_parity(model, file, (inputs_of(name)[:4],), Qat.parity)
    found = operators(file, tmp_path)
    assert found["QLinearConv"] + found["QGemm"] == sum(len(read) for read in decision["layers"].values())


@pytest.mark.parametrize("name", ["residual", "called_twice", "two_names"])
def test_activations_may_stay_in_float(name: str, tmp_path: Path) -> None:
    decision, model = applied(name, activation_bits=32, bits=4)
    assert decision["ranges"] == {}
    file = exported(model, inputs_of(name))
    check_parity(model, file, (inputs_of(name)[:4],))
    found = operators(file, tmp_path)
    assert not any("Q" in kind or "Quantize" in kind or kind in ("Cast", "Mul") for kind in found)  # folded at load
    stored = tensors(file)
    assert not any(value.dtype == np.float32 and value.ndim > 1 and value.size > 99 for value in stored.values())
    codes = [value for value in stored.values() if value.dtype == np.int8]
    assert len(codes) == len(decision["layers"])
    assert max(int(np.abs(value).max()) for value in codes) == 7


def test_what_the_recipe_keeps_stays_in_float() -> None:
    decision, model = applied("residual", keep=("first", "inner2.*"))
    kept = {"stem.0", "inner2.0.0", "inner2.2.0"}
    assert decision["skipped"] == dict.fromkeys(kept, "kept in float by the recipe")
    assert not kept & (decision["layers"].keys() | decision["norms"].keys())
    assert quantized_layers(model).keys() == {"inner1.0.0", "inner1.2.0", "project.0", "head"}
    stored = tensors(exported(model, inputs_of("residual")))
    floats = [value for value in stored.values() if value.dtype == np.float32 and value.ndim == 4]
    assert len(floats) == 3
    with pytest.raises(TechniqueError, match=r"qat: keep: 'inner3.\*' is no layer of this model; "):
        applied("residual", keep=("inner3.*",))


class Words(nn.Module):
    """Recurrent and attention layers, and convolutions of a kind that integers cannot compute."""

    def __init__(self) -> None:
        super().__init__()
        self.wrap = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")
        self.rnn = nn.LSTM(48, 8, batch_first=True)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.token = nn.Parameter(torch.randn(1, 8))
        self.shift = nn.Linear(8, 8)
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rnn(self.wrap(x).transpose(1, 2).flatten(2))[0]
        x = self.attend(x, x, x, need_weights=False)[0] + self.shift(self.token)
        return self.head(x.mean(1))


def test_what_stays_in_float_is_listed_with_the_reason(tmp_path: Path) -> None:
    task, model = make_task(Words), seeded(Words)
    step, context = Qat(**QUICK), Context(task, seeded(Words), 0)
    decision = step.decide(model, context)
    assert decision["layers"].keys() == {"head"}
    assert {name: reason.split()[-1] for name, reason in decision["skipped"].items()} == {
        "wrap": "zeros",
        "rnn": "LSTM",
        "attend": "MultiheadAttention",
        "attend.out_proj": "of",
        "shift": "model",
        "unused": "it",
    }
    model = step.apply(model, decision)
    step.train(model, context)
    file = exported(model, task.validation[0])
    check_parity(model, file, (task.validation[0][:4],), Qat.parity)
    assert operators(file, tmp_path)["QGemm"] == 1


def test_a_model_without_a_layer_to_quantize_is_refused_with_the_reasons() -> None:
    with pytest.raises(
        TechniqueError, match=r"qat finds no .* layer to quantize \(conv1: kept.*fc2: kept.*leave it out"
    ):
        applied("plain", keep=("*",))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_activations_that_are_no_numbers_are_refused(bad: float) -> None:
    model = copy.deepcopy(teacher_of("plain"))
    with torch.no_grad():
        model.conv1.bias[0] = bad
    with pytest.raises(TechniqueError, match=r"qat: value ':relu\.0' is not finite on training data: check the model"):
        Qat().decide(model, context_of("plain"))


def test_an_activation_that_is_always_zero_is_named_and_gets_a_range() -> None:
    model = copy.deepcopy(teacher_of("plain"))
    with torch.no_grad():
        model.conv1.bias.fill_(-100.0)
    step = Qat(**QUICK)
    decision = step.decide(model, context_of("plain"))
    assert decision["unclear"] == {":relu.0": "always 0 on training data: its range starts as 0 to 1"}
    after = step.apply(model, decision).eval()
    check_parity(after, exported(after, inputs_of("plain")), (inputs_of("plain")[:4],), Qat.parity)


def test_a_dead_channel_keeps_its_bias() -> None:
    model = copy.deepcopy(teacher_of("plain"))
    with torch.no_grad():
        model.conv1.weight[3] *= 1e-12
        model.conv1.bias[3] = 2.0
    step = Qat()
    after = step.apply(copy.deepcopy(model), step.decide(model, context_of("plain"))).eval()
    with torch.no_grad():
        actual, expected = after(inputs_of("plain")), model(inputs_of("plain"))
    assert (actual - expected).abs().max() < 0.05 * expected.abs().max()


def test_distillation_alone_asks_for_no_labels() -> None:
    context = context_of("plain")
    inputs, targets = task_of("plain").train
    other = Context(replace(task_of("plain"), train=(inputs, targets.flip(0))), context.teacher, context.seed)

    def weights(alpha: float, at: Context) -> bytes:
        step, model = Qat(**QUICK, alpha=alpha), damaged("plain")
        model = step.apply(model, step.decide(model, context))
        step.train(model, at)
        return pack_weights(model)

    assert weights(1.0, context) == weights(1.0, other)
    assert weights(0.5, context) != weights(0.5, other)
    assert weights(0.0, context) != weights(0.5, context)


def test_sharpness_changes_where_training_ends() -> None:
    assert pack_weights(trained("plain", sharpness=0.05)) != pack_weights(trained("plain"))
    assert pack_weights(trained("plain", sharpness=0.05)) == pack_weights(trained("plain", sharpness=0.05))


class Gated(nn.Module):
    """What EfficientNet is made of: gates, squeezed channels, and blocks that training leaves out at random."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.SiLU(inplace=True))
        self.inner = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.SiLU())
        self.squeeze, self.gate = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.skip = StochasticDepth(0.5, "row")
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.inner(x)
        y = y * torch.sigmoid(self.gate(torch.relu(self.squeeze(nn.functional.adaptive_avg_pool2d(y, 1)))))
        return self.head((x + self.skip(y)).mean((2, 3)))


def test_gates_run_in_integers_and_blocks_may_be_left_out_in_training(tmp_path: Path) -> None:
    task, model = make_task(Gated), seeded(Gated)
    step, context = Qat(**QUICK), Context(task, seeded(Gated), 0)
    plain = copy.deepcopy(model)
    model = step.apply(model, step.decide(model, context)).eval()
    inputs = task.validation[0]
    with torch.no_grad():
        assert (model(inputs) - plain(inputs)).abs().max() < 0.1 * plain(inputs).abs().max()
    step.train(model, context)
    file = exported(model, inputs)
    check_parity(model, file, (inputs[:4],), Qat.parity)
    found = operators(file, tmp_path)
    expected = {"QLinearConv": 4, "QLinearSigmoid": 3, "QLinearMul": 3, "QLinearAdd": 1, "QGemm": 1}
    assert {name: found[name] for name in expected} == expected


class Moody(nn.Module):
    """A model that goes another way when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.other = False
        self.stem, self.head = nn.Linear(432, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x.flatten(1)))
        return self.head(torch.tanh(x) if self.other else x)


def test_a_model_that_goes_another_way_than_before_is_refused() -> None:
    task, model = make_task(Moody), seeded(Moody)
    step = Qat()
    after = step.apply(model, step.decide(model, Context(task, seeded(Moody), 0))).eval()
    after(task.validation[0])
    after.model.other = True
    with pytest.raises(TechniqueError, match=r"qat: a layer reads nothing .* ':relu\.0' before.*leave qat out"):
        after(task.validation[0])


@pytest.mark.parametrize("name", ["svd", "finetune", "float16", "qat", "weight_pruning"])
def test_nothing_follows_it(name: str) -> None:
    with pytest.raises(RecipeError, match=f"step 2 '{name}' follows step 1 'qat': "):
        Recipe((Qat(), technique(name)()))
    with pytest.raises(RecipeError, match="step 2 'qat' follows step 1 'int8_static'"):
        Recipe((technique("int8_static")(), Qat()))


def test_a_trial_delivers_it_and_goes_on_from_the_cached_stage(tmp_path: Path) -> None:
    from autocompress.trial.trial import prepare

    steps = ({"technique": "channel_pruning", "ratio": 0.3}, {"technique": "qat", **QUICK})
    spec = trial_spec(*steps, cache=str(tmp_path / "stages"))
    first = prepare(spec, plain_baseline())
    second = prepare(spec, plain_baseline())
    assert isinstance(first, Candidate)
    assert isinstance(second, Candidate)
    assert second.onnx == first.onnx
    assert second.seconds["train"] == 0
    assert operators(onnx.load_from_string(first.onnx), tmp_path)["QLinearConv"] == 2
    assert first.metrics["size_bytes"] < 0.5 * plain_baseline().metrics["size_bytes"]
