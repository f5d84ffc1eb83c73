"""Rounding with errors made up for: as the definition has it, by brute force, and on models of many kinds."""

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from autocompress.data import batches
from autocompress.errors import NothingToDo, TechniqueError
from autocompress.held import shared_values
from autocompress.techniques.masks import prunable
from autocompress.techniques.pruning.weight_pruning import WeightPruning
from autocompress.techniques.quantization import _compensation, _inputs, gptq
from autocompress.techniques.quantization._compensation import DAMPING, Moments, Weight, rounded
from autocompress.techniques.quantization._inputs import Layer, groups_of, windows
from autocompress.techniques.quantization.gptq import Gptq, packed, unpacked
from autocompress.techniques.training.finetune import Finetune
from autocompress.testing.work import context_of, example_of, teacher_of

Array = NDArray[Any]


def linear(outputs: int, inputs: int, seed: int = 0, rows: int = 200) -> tuple[nn.Linear, Tensor]:
    """A layer, and inputs of it of which each is much like the one before."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(outputs, inputs, generator=generator))
    return layer, torch.randn(rows, inputs, generator=generator).cumsum(1) / inputs**0.5


def seen(layer: Layer, inputs: Tensor) -> Moments:
    moments = Moments(Weight(layer.weight))
    moments.see([windows(layer, inputs)])
    return moments


def numbers_of(layer: nn.Linear, given: Tensor, step: float, rate: float = 0.0) -> Array:
    """The numbers of a layer that is given these inputs."""
    return rounded(Weight(layer.weight), seen(layer, given), step, rate)


def metric(inputs: Tensor) -> Array:
    """The second moments of inputs, damped as documented."""
    found = (inputs.double().T @ inputs.double()).numpy()
    return found + DAMPING * np.diag(found).mean() * np.eye(len(found))


def by_definition(weights: Array, moments: Array, step: float) -> Array:
    """Optimal brain surgery on each row (Hassibi and Stork, 1993, equation 5), a weight after the other."""
    found = np.zeros_like(weights)
    for row, values in enumerate(weights / step):
        left, inverse = values.copy(), np.linalg.inv(moments)
        for at in range(len(left)):
            found[row, at] = np.rint(left[at])
            left = left - (left[at] - found[row, at]) / inverse[at, at] * inverse[at]
            inverse = inverse - np.outer(inverse[:, at], inverse[at]) / inverse[at, at]
            inverse[at, at] = 1.0  # done with, and never read again
    return found


@pytest.mark.parametrize(("inputs", "block"), [(12, 64), (40, 8)])
def test_numbers_are_those_of_optimal_brain_surgery(inputs: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compensation, "BLOCK", block)
    layer, given = linear(6, inputs)
    found = numbers_of(layer, given, 0.7)
    wanted = by_definition(layer.weight.detach().double().numpy(), metric(given), 0.7)
    np.testing.assert_array_equal(found, wanted)


def test_of_inputs_that_say_nothing_of_each_other_the_nearest_numbers_are_taken() -> None:
    layer, _ = linear(64, 16)
    found = numbers_of(layer, torch.eye(16), 0.3)
    np.testing.assert_array_equal(found, (layer.weight / 0.3).round().detach().numpy())


def test_outputs_err_less_than_with_the_nearest_numbers_and_not_less_than_with_the_best() -> None:
    layer, given = linear(8, 6)
    moments, weights = metric(given), layer.weight.detach().double().numpy() / 0.9

    def lost(numbers: Array) -> Array:
        return np.asarray(np.einsum("ri,ij,rj->r", numbers - weights, moments, numbers - weights))

    ours = lost(numbers_of(layer, given, 0.9).astype(float))
    choices = np.array(list(itertools.product((-1, 0, 1), repeat=6)))
    best = np.array([min(lost(np.rint(weights) + choice)[row] for choice in choices) for row in range(8)])
    assert (ours >= best - 1e-9).all()
    assert ours.sum() < 0.6 * lost(np.rint(weights)).sum()
    assert ours.sum() < 2.0 * best.sum()


def test_a_price_of_bits_takes_numbers_of_fewer_bits() -> None:
    layer, given = linear(64, 32)

    def bits(rate: float) -> float:
        counts = np.unique(numbers_of(layer, given, 0.4, rate), return_counts=True)[1]
        return float(-(counts / counts.sum() * np.log2(counts / counts.sum())).sum())

    assert bits(1.0) < bits(0.1) < bits(0.0)
    assert bits(1.0) < 0.9 * bits(0.0)


CONVOLUTIONS = [
    (nn.Conv2d(4, 6, 3), (4, 7, 8)),
    (nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=(1, 2)), (4, 9, 9)),
    (nn.Conv2d(4, 8, 3, padding="same", groups=2), (4, 6, 7)),
    (nn.Conv2d(6, 6, 3, padding=1, groups=6, padding_mode="reflect"), (6, 6, 6)),
    (nn.Conv1d(3, 4, 5, stride=2, padding=2, padding_mode="circular"), (3, 20)),
    (nn.Conv3d(2, 3, 2, padding=1), (2, 3, 3, 2)),
    (nn.Linear(7, 3), (5, 7)),
    (nn.Linear(7, 3), (7,)),
]


@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS, ids=str)
def test_a_layer_is_its_weight_times_what_its_outputs_see(
    layer: Layer, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_inputs, "POSITIONS", 1000)
    inputs = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    weight = Weight(layer.weight, groups_of(layer, "weight")).rows
    found = (windows(layer, inputs) @ weight.mT).transpose(1, 2).flatten(0, 1)  # outputs, examples and positions
    with torch.no_grad():
        made = layer(inputs) - (0 if isinstance(layer, nn.Linear) else layer.bias.reshape(-1, *[1] * (len(shape) - 1)))
        made = made - layer.bias if isinstance(layer, nn.Linear) else made.movedim(1, -1)
    torch.testing.assert_close(found, made.flatten(0, -2).T, atol=1e-5, rtol=1e-5)


def test_of_large_maps_some_positions_are_looked_at_all_over() -> None:
    inputs = torch.arange(60.0 * 60).reshape(1, 1, 60, 60)
    found = windows(nn.Conv2d(1, 1, 1), inputs)[0, :, 0]
    assert 16 <= len(found) <= 25
    assert found.min() < 60 * 15
    assert found.max() > 60 * 45


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 5000))
def test_parts_of_a_row_are_of_alike_length_and_all_of_it(length: int) -> None:
    found = _compensation.parts(length)
    lengths = [part.stop - part.start for part in found]
    assert sum(lengths) == length
    assert max(lengths) <= min(_compensation.MOST, min(lengths) + 1)
    assert [part.start for part in found] == [0, *np.cumsum(lengths)[:-1]]


def test_a_row_in_parts_is_each_part_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, given = linear(4, 20)
    monkeypatch.setattr(_compensation, "MOST", 10)
    found = numbers_of(layer, given, 0.7)
    weights = layer.weight.detach().double().numpy()
    each = [by_definition(weights[:, part], metric(given[:, part]), 0.7) for part in (slice(10), slice(10, 20))]
    np.testing.assert_array_equal(found, np.concatenate(each, 1))


# Whole models


def quantized(model: nn.Module, name: str = "plain", **settings: Any) -> tuple[nn.Module, dict[str, Any]]:
    step, made = Gptq(**settings), copy.deepcopy(model)
    decision = step.decide(made, context_of(name))
    return step.apply(made, decision), decision


def test_weights_are_whole_multiples_of_a_step_and_outputs_near_those_of_before() -> None:
    teacher, steps = teacher_of("plain"), (0.3, 1.0)
    offs = []
    for step in steps:
        model, decision = quantized(teacher, step=step)
        assert decision["steps"]
        for name, width in decision["steps"].items():
            numbers = model.get_parameter(name).detach() / width
            torch.testing.assert_close(numbers, numbers.round(), atol=1e-4, rtol=0)
        with torch.no_grad():
            before, after = (each(*example_of("plain", 32)) for each in (teacher, model))
        offs.append(float((after - before).square().mean() / before.square().mean()))
    assert offs[0] < 0.3 * offs[1] < 0.01


def test_steps_are_as_wide_as_asked_for_on_average_and_finer_where_outputs_hang_on_it() -> None:
    teacher = teacher_of("plain")
    _, decision = quantized(teacher, step=4.0)
    layers = {name: teacher.get_parameter(name).detach() for name in decision["steps"]}
    wide = {name: decision["steps"][name] / float(weight.std(correction=0)) for name, weight in layers.items()}
    count = sum(weight.numel() for weight in layers.values())
    mean = sum(weight.numel() * np.log(wide[name]) for name, weight in layers.items()) / count
    assert np.exp(mean) == pytest.approx(4.0, rel=0.02)  # where none is held to few values
    assert len(set(wide.values())) == len(wide)


def test_what_was_pruned_stays_zero_and_training_moves_each_value_as_one() -> None:
    prune, model = WeightPruning(ratio=0.6), copy.deepcopy(teacher_of("plain"))
    model = prune.apply(model, prune.decide(model, context_of("plain")))
    zero = {name: weight == 0 for name, weight in model.named_parameters() if weight.dim() > 1}
    made, decision = quantized(model, step=0.5)
    for name in decision["steps"]:
        assert not made.get_parameter(name)[zero[name]].any()
    before = copy.deepcopy(made.state_dict())
    Finetune(epochs=1, learning_rate=5e-3, batch_size=16).train(made, context_of("plain"))
    for name in decision["steps"]:
        groups = shared_values(before[name])
        assert groups is not None
        both = torch.stack([before[name].flatten(), made.state_dict()[name].flatten()], 1)
        assert len(both.unique(dim=0)) == len(groups.unique())


ATTENTIONS: list[dict[str, Any]] = [
    {"batch_first": True},
    {"bias": False},
    {"kdim": 6, "vdim": 10, "batch_first": True},
]


@pytest.mark.parametrize("settings", ATTENTIONS, ids=str)
def test_attention_is_its_weights_times_what_they_are_given(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_inputs, "POSITIONS", 1000)
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, **settings)
    sizes = 8, settings.get("kdim", 8), settings.get("vdim", 8)
    query, key, value = (torch.randn(4, 4, size) for size in sizes)
    before = copy.deepcopy(layer.state_dict())
    made = layer(query, key, value=value)[0]
    found = dict(_inputs.fed(layer, (query, key), {"value": value}))
    for name, kept in layer.state_dict().items():
        torch.testing.assert_close(kept, before[name], rtol=0, atol=0)

    def flat(x: Tensor) -> Tensor:
        return (x if layer.batch_first else x.transpose(0, 1)).flatten(0, 1)

    seen = found["in_proj_weight"] if "kdim" not in settings else [found[f"{n}_proj_weight"][0] for n in "qkv"]
    for ours, theirs in zip(seen, (query, key, value), strict=True):
        torch.testing.assert_close(ours[0], flat(theirs))
    last = layer.out_proj
    torch.testing.assert_close(nn.functional.linear(found["out_proj.weight"][0][0], last.weight, last.bias), flat(made))
    assert groups_of(layer, "in_proj_weight") == 3
    assert groups_of(layer, "q_proj_weight") == groups_of(last, "weight") == 1


def states_of(layer: nn.GRU, inputs: Tensor, at: int, end: str) -> Tensor:
    """All states of one layer and direction, a step after the other: (N, steps, states)."""
    cell = nn.GRUCell(inputs.shape[-1], layer.hidden_size)
    for name, values in cell.named_parameters():
        values.data = layer.get_parameter(f"{name}_l{at}{end}").detach()
    found, state = [], torch.zeros(len(inputs), layer.hidden_size)
    for step in inputs.unbind(1)[:: -1 if end else 1]:
        state = cell(step, state)
        found.append(state)
    return torch.stack(found[:: -1 if end else 1], 1)


@pytest.mark.parametrize("packed_up", [False, True])
def test_recurrent_weights_are_multiplied_with_inputs_and_states(packed_up: bool) -> None:
    torch.manual_seed(0)
    layer = nn.GRU(3, 5, num_layers=2, bidirectional=True, batch_first=True)
    given = torch.randn(4, 6, 3)
    inputs = pack_padded_sequence(given, torch.full((4,), 6), batch_first=True) if packed_up else given
    found = dict(_inputs.fed(layer, (inputs,), {}))
    below = given
    for at in range(2):
        states = [states_of(layer, below, at, end) for end in ("", "_reverse")]
        for state, end in zip(states, ("", "_reverse"), strict=True):
            for which, wanted in (("ih", below), ("hh", state)):
                (seen,) = found[f"weight_{which}_l{at}{end}"]
                rows = (wanted.transpose(0, 1) if packed_up else wanted).flatten(0, 1)
                torch.testing.assert_close(seen[0], rows, atol=1e-6, rtol=1e-5)
        below = torch.cat(states, 2)


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize("layer", [nn.LSTM(3, 5, 2, proj_size=2), nn.RNN(3, 5, nonlinearity="relu", bias=False)])
def test_other_recurrent_layers_have_inputs_as_wide_as_their_weights(layer: nn.RNNBase) -> None:
    for name, (seen,) in _inputs.fed(layer, (torch.randn(6, 4, 3),), {}):
        assert seen.shape == (1, 24, layer.get_parameter(name).shape[1])


class Heads(nn.MultiheadAttention):
    """Attention with a signature of its own."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x)[0]


def test_of_subclasses_that_are_called_in_other_ways_nothing_is_seen() -> None:
    assert list(_inputs.fed(Heads(8, 2), (torch.randn(3, 2, 8),), {})) == []


@pytest.mark.parametrize(("name", "share"), [("sentences", 1.0), ("recurrent", 0.8)])
def test_attention_and_recurrent_layers_are_rounded_whole_and_better_than_to_the_nearest(
    name: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, offs = teacher_of(name), []
    for blind in (False, True):
        if blind:
            monkeypatch.setattr(gptq, "moments_of", lambda *_: {})
        model, decision = quantized(teacher, name, step=1.0)
        large = {key for key, weight in prunable(teacher).items() if weight.numel() >= 64}
        assert decision["steps"].keys() == large
        with torch.no_grad():
            before, after = (each(*example_of(name, 64)) for each in (teacher, model))
        offs.append(float((after - before).square().mean() / before.square().mean()))
    assert offs[0] < share * offs[1]


def test_small_layers_have_few_values_and_the_smallest_are_left() -> None:
    layer = nn.Linear(16, 8)
    assert _compensation.largest(Weight(layer.weight)) == 15  # 31 values for 128 weights
    model, decision = quantized(teacher_of("plain"), step=0.05)
    for name in decision["steps"]:
        weight = model.get_parameter(name)
        assert len(weight.unique()) * 4 <= weight.numel()
    step, small = Gptq(), nn.Sequential(nn.Flatten(), nn.Linear(144 * 3, 4), nn.Linear(4, 6))
    decision = step.decide(small, context_of("plain"))
    assert (list(decision["steps"]), decision["skipped"]) == (["1.weight"], {"2.weight": "only 24 weights"})
    with pytest.raises(
        NothingToDo, match=r"gptq finds no weight to round: leave the step out \(0\.weight: only 24 weights\)"
    ):
        Gptq().decide(nn.Sequential(nn.Linear(4, 6)), context_of("plain"))


def test_weights_that_are_not_finite_are_named() -> None:
    model = copy.deepcopy(teacher_of("plain"))
    name, layer = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        layer.weight[0] = torch.nan
    with pytest.raises(TechniqueError, match=rf"gptq: weight '{name}.weight' is not finite"):
        quantized(model)


class Named(nn.Module):
    """Calls its layer by the name of its input, on what may be too large to square."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.layer = factor, nn.Linear(144 * 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(input=x.flatten(1) * self.factor)


def test_a_layer_that_is_called_by_names_is_rounded_and_inputs_that_are_not_finite_are_named() -> None:
    assert list(quantized(Named(1.0))[1]["steps"]) == ["layer.weight"]
    with pytest.raises(TechniqueError, match=r"what weight 'layer\.weight' is multiplied with on training data is not"):
        quantized(Named(1e38))


def test_batch_normalization_knows_the_rounded_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, context = teacher_of("residual"), context_of("residual")
    monkeypatch.setattr(gptq, "ENOUGH", 1)
    model, decision = quantized(teacher, "residual", step=2.0)
    norms = {name: norm for name, norm in model.named_modules() if isinstance(norm, nn.BatchNorm2d)}
    assert decision["statistics"].keys() == norms.keys() != set()
    seen: dict[str, list[Tensor]] = {name: [] for name in norms}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(lambda _, x, name=name: seen[name].append(x[0].transpose(0, 1).flatten(1)))
    whole = next(batches(context.train, len(context.train)))
    with torch.no_grad():
        model.train()(*whole.inputs)  # normalized by the batch's own, as where they were taken
    for name, norm in norms.items():
        fresh = quantized(teacher, "residual", step=2.0)[0].get_submodule(name)
        torch.testing.assert_close(fresh.running_mean, seen[name][0].mean(1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(fresh.running_var, seen[name][0].var(1), atol=1e-5, rtol=1e-2)
        assert norm.eps == fresh.eps
    monkeypatch.setattr(gptq, "ENOUGH", 10_000)
    model, decision = quantized(teacher, "residual", step=2.0)
    assert decision["statistics"] == {}
    for name in norms:
        torch.testing.assert_close(model.get_submodule(name).running_mean, teacher.get_submodule(name).running_mean)


def test_a_decision_for_another_shape_is_refused() -> None:
    text = packed(np.zeros((3, 4), np.int8))
    assert unpacked(text, (3, 4), "layer").shape == (3, 4)
    for wrong in (text[:-8], "no text of ours", packed(np.zeros(5, np.int8))):
        with pytest.raises(TechniqueError, match=r"gptq: the decision does not fit 'layer' of shape \(3, 4\)"):
            unpacked(wrong, (3, 4), "layer")
