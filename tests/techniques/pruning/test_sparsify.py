"""Sparsifying: proximal operators against arithmetic, and what training with them leaves."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from autocompress import Classification
from autocompress.techniques import Context
from autocompress.techniques.pruning.channel_pruning import ChannelPruning
from autocompress.techniques.pruning.sparsify import Sparsify, filters, group_soft_threshold, penalized, soft_threshold
from autocompress.techniques.training.finetune import Finetune
from autocompress.testing.models import MODELS, Plain, seeded
from autocompress.testing.work import context_of, damaged, task_of, teacher_of
from autocompress.trial.stages import pack_weights

QUICK: dict[str, Any] = {"epochs": 8, "learning_rate": 1e-2, "batch_size": 8}


def sparsified(strength: float, penalty: str = "l1", model: str = "plain", **settings: Any) -> nn.Module:
    found = copy.deepcopy(teacher_of(model))
    step = Sparsify.model_validate({**QUICK, "penalty": penalty, "strength": strength, **settings})
    step.train(found, context_of(model))
    return found


def zeros(model: nn.Module) -> float:
    weights = torch.cat([parameter.flatten() for parameter in model.parameters() if parameter.dim() > 1])
    return float((weights == 0).float().mean())


def lengths(weight: Tensor) -> Tensor:
    return weight.detach().flatten(1).norm(dim=1)


def test_the_soft_threshold_by_hand() -> None:
    weight = torch.tensor([[3.0, -3.0, 1.0], [-1.0, 0.5, -0.0]])
    found = soft_threshold(weight, 1.0)
    assert torch.equal(found, torch.tensor([[2.0, -2.0, 0.0], [0.0, 0.0, 0.0]]))
    assert not torch.signbit(found[found == 0]).any()  # -0.0 would not be packed away


def test_the_group_threshold_by_hand() -> None:
    """Rows of length 5 and 1, each of two weights: they lose 1.5 * sqrt(2) = 2.12 of it."""
    found = group_soft_threshold(torch.tensor([[3.0, -4.0], [0.6, -0.8]]), 1.5)
    assert found[0].tolist() == pytest.approx([3 * (1 - 1.5 * 2**0.5 / 5), -4 * (1 - 1.5 * 2**0.5 / 5)])
    assert torch.equal(found[1], torch.zeros(2))
    assert not torch.signbit(found[1]).any()


numbers = st.lists(st.floats(-10, 10, width=32), min_size=6, max_size=6)


@given(values=numbers, other=numbers, amount=st.floats(1e-3, 3))
def test_the_operators_minimize_what_they_stand_for(values: list[float], other: list[float], amount: float) -> None:
    """prox(w) minimizes |x - w|^2 / 2 + penalty(x) over all x (Parikh and Boyd, 2014, 1.1), here for any other x."""
    weight, rival = torch.tensor(values).double().view(2, 3), torch.tensor(other).double().view(2, 3)

    def l1(x: Tensor) -> float:
        return float(((x - weight) ** 2).sum() / 2 + amount * x.abs().sum())

    def lasso(x: Tensor) -> float:
        return float(((x - weight) ** 2).sum() / 2 + amount * 3**0.5 * x.norm(dim=1).sum())

    if float(weight.abs().max()) > amount:
        found = soft_threshold(weight, amount)
        assert l1(found) <= min(l1(rival), l1(weight), l1(found + 1e-3 * rival)) + 1e-9
    if float(weight.norm(dim=1).max()) > amount * 3**0.5:
        found = group_soft_threshold(weight, amount)
        assert lasso(found) <= min(lasso(rival), lasso(weight), lasso(found + 1e-3 * rival)) + 1e-9


@given(values=numbers, amount=st.floats(0, 100))
def test_no_tensor_goes_to_zero_altogether(values: list[float], amount: float) -> None:
    weight = torch.tensor(values).view(3, 2)
    for shrink in (soft_threshold, group_soft_threshold):
        assert bool(shrink(weight, amount).any()) == bool(weight.any())
        assert torch.equal(shrink(torch.zeros(3, 2), amount), torch.zeros(3, 2))


@pytest.mark.parametrize("penalty", ["l1", "group_lasso"])
def test_more_strength_gives_more_zeros(penalty: str) -> None:
    found = [zeros(sparsified(strength, penalty)) for strength in (0.05, 0.3, 0.6)]
    assert found[0] < found[1] < found[2]
    assert found[2] > 0.2


def test_l2_makes_weights_smaller_and_none_zero() -> None:
    weak, strong = sparsified(0.05, "l2"), sparsified(1.0, "l2")
    assert zeros(weak) == zeros(strong) == 0
    norms = [
        float(torch.cat([lengths(p) for p in model.parameters() if p.dim() > 1]).norm()) for model in (weak, strong)
    ]
    assert norms[1] < 0.95 * norms[0]


def test_whatever_the_strength_every_layer_keeps_something() -> None:
    for penalty in ("l1", "group_lasso"):
        model = sparsified(1.0, penalty, learning_rate=0.1)
        assert all(bool(parameter.any()) for parameter in model.parameters() if parameter.dim() > 1)


def test_zeros_are_positive_and_of_whole_filters_with_group_lasso() -> None:
    model: Any = sparsified(0.6, "group_lasso")
    gone = 0
    for layer in (model.conv1, model.conv2, model.fc1):
        weight = layer.weight.detach()
        assert not torch.signbit(weight[weight == 0]).any()
        assert bool(((weight == 0).flatten(1).all(1) == (weight == 0).flatten(1).any(1)).all())
        gone += int((lengths(weight) == 0).sum())
    assert gone >= 3
    assert bool((lengths(model.fc2.weight) > 0).all())  # its rows are the classes


def spread(weight: Tensor) -> float:
    """The coefficient of variation of the filters' lengths."""
    found = lengths(weight)
    return float(found.std() / found.mean())


def test_lengths_of_filters_become_more_unequal_than_by_training_alone() -> None:
    alone = copy.deepcopy(teacher_of("plain"))
    Finetune(**QUICK).train(alone, context_of("plain"))
    model: Any = sparsified(0.5, "group_lasso")
    for name in ("conv1", "conv2", "fc1"):
        assert spread(model.get_submodule(name).weight) > 1.2 * spread(alone.get_submodule(name).weight)


def test_channel_pruning_removes_the_filters_that_went_to_zero_first() -> None:
    model: Any = sparsified(0.4, "group_lasso")
    step = ChannelPruning(ratio=0.5, importance="l1", scope="layer")
    small: Any = step.apply(copy.deepcopy(model), step.decide(model, context_of("plain")))
    zero = 0
    for name in ("conv1", "conv2", "fc1"):
        before, after = (lengths(found.get_submodule(name).weight) for found in (model, small))
        assert len(after) < len(before)
        zero += int((before == 0).sum())
        assert int((after > 0).sum()) == min(len(after), int((before > 0).sum()))
    assert zero >= 3


def test_what_was_pruned_stays_pruned_in_every_layer() -> None:
    model = copy.deepcopy(teacher_of("plain"))
    with torch.no_grad():
        model.conv1.weight[:, 1] = 0
        model.fc2.weight[:, ::2] = 0
    for penalty in ("l1", "l2", "group_lasso"):
        found: Any = copy.deepcopy(model)
        Sparsify(**{**QUICK, "penalty": penalty}).train(found, context_of("plain"))
        assert not found.conv1.weight[:, 1].any()
        assert not found.fc2.weight[:, ::2].any()


def test_what_has_come_to_zero_stays_there() -> None:
    """A gradient that turns: it lets a weight go to zero first, and would lift it off later."""
    seen: list[Tensor] = []

    class Turning(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(self.weight.detach().clone())
            return super().forward(x)

    model = Turning(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1e-5, 1.0]]))
    x = torch.tensor([[-1.0, 0.0]] * 4 + [[9.0, 0.0]] * 60)  # the second weight has no gradient, and holds the tensor
    task = Sums(Plain, (x, torch.zeros(64)), (x, torch.zeros(64)), (x, torch.zeros(64)))
    Sparsify(penalty="l1", strength=1.0, epochs=1, learning_rate=1e-3, batch_size=4).train(
        model, Context(task, model, 0)
    )
    first = next(index for index, weight in enumerate(seen) if float(weight[0, 0]) == 0)
    assert all(float(weight[0, 0]) == 0 for weight in seen[first:])
    assert float(model.weight[0, 0].detach()) == 0


class Sums(Classification):
    """A loss that grows with minus the outputs, so that gradients are the inputs."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return -output.mean()


def test_one_step_by_hand() -> None:
    """AdamW moves weights by the rate times the schedule's first factor, 1 / 11; the pull is of its value at the end.

    Two steps: the second at progress 1/2, where the schedule is 0.5 (1 + cos(pi 4 / 9)); pulls at 1/2 and at 1.
    """
    rate, strength = 0.11, 0.5
    half = 0.5 * (1 + np.cos(np.pi * (0.5 - 0.1) / 0.9))
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    x = torch.ones(8, 1)
    task = Sums(Plain, (x, x), (x, x), (x, x))
    step = Sparsify(penalty="l1", strength=strength, epochs=1, learning_rate=rate, batch_size=4)
    step.train(model, Context(task, model, 0))
    decay = 1e-2
    expected = 1.0 * (1 - decay * rate / 11) + rate / 11  # the gradient is -1 throughout, so that Adam moves by 1
    expected -= rate * strength * half
    expected = expected * (1 - decay * rate * half) + rate * half  # and nothing is pulled at the end
    assert float(model.weight.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", list(MODELS))
def test_the_output_layer_is_left_out_of_group_lasso(name: str) -> None:
    model = seeded(MODELS[name])
    found = {id(weight) for weight in filters(model, context_of(name).example)}
    named = {key for key, parameter in model.named_parameters() if id(parameter) in found}
    last = {"plain": "fc2", "mlp": "layers.5", "signals": "layers.8"}.get(name, "head")
    layers = {key for key, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)}
    assert named == {f"{key}.weight" for key in layers - {last}}


def test_l1_leaves_normalizations_and_frozen_weights_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm((4, 10, 10)), nn.Conv2d(4, 4, 3), nn.Embedding(5, 4))
    model[2].requires_grad_(False)
    assert [id(weight) for weight in penalized(model)] == [id(model[0].weight), id(model[3].weight)]
    assert [id(weight) for weight in filters(model[:3], (torch.randn(2, 3, 12, 12),))] == [id(model[0].weight)]


def test_the_uncompressed_model_stays_as_it_is() -> None:
    context = context_of("plain")
    before = pack_weights(context.teacher)
    Sparsify(**{**QUICK, "epochs": 1}).train(copy.deepcopy(teacher_of("plain")), context)
    assert pack_weights(context.teacher) == before


@pytest.mark.parametrize(
    "settings", [{"strength": 0}, {"strength": 1.5}, {"penalty": "l3"}, {"epochs": 0}, {"batch_size": 0}, {"ratio": 1}]
)
def test_impossible_settings_are_rejected(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Sparsify.model_validate(settings)


def test_a_share_of_the_loss_may_be_the_teachers() -> None:
    """With all of it labels say nothing; by default they say all."""
    inputs, targets = task_of("plain").train
    other = Context(replace(task_of("plain"), train=(inputs, targets.flip(0))), teacher_of("plain"), 7)
    found = {}
    for alpha in (0.0, 1.0):
        for context in (context_of("plain"), other):
            model = damaged("plain")
            Sparsify(epochs=1, batch_size=16, alpha=alpha).train(model, context)
            found[alpha, context is other] = pack_weights(model)
    assert found[1.0, False] == found[1.0, True] != found[0.0, False]
    assert found[0.0, False] != found[0.0, True]
