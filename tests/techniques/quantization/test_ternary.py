"""Ternary and binary weights: by the papers' formulas, through training, and in what is left."""

import copy

import pytest
import torch
from torch import Tensor, nn

from autocompress.techniques.quantization._few_values import FewValues, _Rounded
from autocompress.techniques.quantization.binary import Binary
from autocompress.techniques.quantization.ternary import Ternary
from autocompress.testing.work import context_of, teacher_of


def test_the_ternary_threshold_and_size_are_those_of_the_paper() -> None:
    weight = torch.tensor([[1.0, -2.0, 0.1, 0.5], [-0.3, 3.0, 0.0, -1.1]])
    # Mean size 1.0, threshold 0.7: 1, -2, 3 and -1.1 stay, whose mean size is 7.1 / 4.
    assert weight.abs().mean() == pytest.approx(1.0)
    expected = 1.775 * torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 1.0, 0.0, -1.0]])
    torch.testing.assert_close(Ternary.rounded(weight), expected)


def test_the_binary_size_is_the_mean_and_nothing_fits_better() -> None:
    weight = torch.randn((20, 30), generator=torch.Generator().manual_seed(0))
    found = Binary.rounded(weight)
    torch.testing.assert_close(found.abs(), torch.full_like(weight, float(weight.abs().mean())))
    assert torch.equal(found.sign(), weight.sign())
    error = float((found - weight).square().sum())
    assert error <= min(float((scale * weight.sign() - weight).square().sum()) for scale in torch.linspace(0.1, 2, 50))


@pytest.mark.parametrize("kind", [Ternary, Binary])
def test_zeros_stay_zero(kind: type[FewValues]) -> None:
    weight = torch.tensor([[0.0, 1.0], [-2.0, 0.0]])
    assert torch.equal(kind.rounded(weight) == 0, weight == 0)


def test_gradients_pass_through_the_rounding() -> None:
    weight = torch.randn(5, 5, requires_grad=True)
    (_Rounded(Ternary.rounded)(weight) * torch.arange(25.0).view(5, 5)).sum().backward()
    assert isinstance(weight.grad, Tensor)
    assert torch.equal(weight.grad, torch.arange(25.0).view(5, 5))


@pytest.mark.parametrize(("kind", "values"), [(Ternary, 3), (Binary, 2)])
def test_training_leaves_few_values_and_plain_layers(kind: type[FewValues], values: int) -> None:
    model, context = copy.deepcopy(teacher_of("plain")), context_of("plain")
    names = set(model.state_dict())
    step = kind(epochs=2, batch_size=16, keep=("last",))
    decision = step.decide(model, context)
    assert decision["layers"] == ["conv1", "conv2", "fc1"]
    assert decision["skipped"] == {"fc2": "kept in float by the recipe"}
    step.train(step.apply(model, decision), context)
    assert set(model.state_dict()) == names
    for name in decision["layers"]:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        assert len(layer.weight.unique()) == values
    assert len(model.get_submodule("fc2").weight.unique()) > 3  # type: ignore[union-attr, operator]


def test_training_helps_what_was_rounded() -> None:
    context = context_of("plain")
    x, y = context.task.split("train")[:]
    rounded, trained = copy.deepcopy(teacher_of("plain")), copy.deepcopy(teacher_of("plain"))
    with torch.no_grad():
        for layer in (rounded.conv1, rounded.conv2, rounded.fc1, rounded.fc2):
            layer.weight.copy_(Ternary.rounded(layer.weight))
    Ternary(epochs=10, learning_rate=5e-3, batch_size=16).train(trained, context)
    with torch.no_grad():
        before, after = (float(nn.functional.cross_entropy(m.eval()(x), y)) for m in (rounded, trained))
    assert after < before
