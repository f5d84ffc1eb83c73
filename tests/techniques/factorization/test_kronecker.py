"""Kronecker factors against torch.kron, formulas and the layers that they replace."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.techniques.factorization.kronecker import Kronecker, factorize, rearranged
from autocompress.techniques.layers import balanced
from autocompress.testing.models import Plain, seeded
from autocompress.testing.work import context_of


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linear_of(weight: Tensor) -> nn.Linear:
    """A linear layer with this weight and a bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


WINDOWS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "bias": False},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    {"kernel_size": 1},
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_with_all_terms_a_convolution_computes_what_it_did(window: dict[str, Any]) -> None:
    layer, x = nn.Conv2d(6, 8, **window), random(2, 6, 11, 13)
    with torch.no_grad():
        torch.testing.assert_close(factorize(layer, 99)(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 24), (3, 5, 24), (24,)], ids=str)
def test_with_all_terms_a_linear_layer_computes_what_it_did(shape: tuple[int, ...]) -> None:
    layer, x = nn.Linear(24, 20), random(*shape)
    with torch.no_grad():
        torch.testing.assert_close(factorize(layer, 99)(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("terms", [1, 3])
def test_a_sum_of_kronecker_products_is_found_and_kept_exactly(terms: int) -> None:
    (o1, o2), (i1, i2) = balanced(20, 2), balanced(24, 2)
    weight = sum(torch.kron(random(o1, i1, seed=k), random(o2, i2, seed=k + 9)) for k in range(terms))
    assert isinstance(weight, Tensor)
    assert int(torch.linalg.matrix_rank(rearranged(weight), rtol=1e-5)) == terms
    layer, x = linear_of(weight), random(5, 24)
    with torch.no_grad():
        torch.testing.assert_close(factorize(layer, terms)(x), layer(x), rtol=1e-3, atol=1e-4)


def test_a_kernel_of_one_product_is_found_and_kept_exactly() -> None:
    (o1, o2), (i1, i2) = balanced(8, 2), balanced(6, 2)
    left, right = random(o1, i1), random(o2, i2, 3, 3, seed=1)
    layer = nn.Conv2d(6, 8, 3, padding=1)
    with torch.no_grad():
        for row in range(3):
            for column in range(3):
                layer.weight[:, :, row, column] = torch.kron(left, right[:, :, row, column].contiguous())
        x = random(2, 6, 9, 9)
        torch.testing.assert_close(factorize(layer, 1)(x), layer(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("terms", [1, 2, 5])
def test_the_error_is_the_tail_of_the_rearranged_weight(terms: int) -> None:
    """Van Loan and Pitsianis (1993), section 2: the nearest sum is the truncated decomposition of the rearrangement."""
    layer = nn.Linear(24, 20, bias=False)
    with torch.no_grad():
        weight = factorize(layer, terms)(torch.eye(24)).T
    values = np.linalg.svd(rearranged(layer.weight.detach()).numpy(), compute_uv=False)
    error = float((weight - layer.weight.detach()).norm())
    assert error == pytest.approx(np.sqrt((values[terms:] ** 2).sum()), rel=1e-4)


@pytest.mark.parametrize("terms", [1, 4])
def test_the_factors_hold_terms_times_the_numbers_of_one_pair(terms: int) -> None:
    """64x100: 8x10 and 8x10. 32 to 24 channels with 3x3: 6x4 or its like, and the other times nine."""
    linear = factorize(nn.Linear(100, 64, bias=False), terms)
    assert sum(p.numel() for p in linear.parameters()) == terms * (8 * 10 + 8 * 10)
    convolution = factorize(nn.Conv2d(36, 16, 3, bias=False), terms)
    assert sum(p.numel() for p in convolution.parameters()) == terms * (4 * 6 + 4 * 6 * 9)


def test_terms_are_what_each_layer_gets_as_far_as_it_has_them() -> None:
    model = seeded(Plain)
    decision = Kronecker(terms=3).decide(model, context_of("plain"))
    assert decision["ranks"]["fc1"] == decision["ranks"]["conv2"] == 3
    assert all(rank <= 3 for rank in decision["ranks"].values())


def test_terms_left_open_are_chosen_by_the_rule() -> None:
    model = seeded(Plain)
    step = Kronecker(terms=None, energy=0.5)
    decision = step.decide(model, context_of("plain"))
    squares = np.linalg.svd(rearranged(model.fc1.weight.detach()).numpy(), compute_uv=False) ** 2
    assert decision["ranks"]["fc1"] == int((squares.cumsum() < 0.5 * squares.sum()).sum()) + 1


def test_biases_are_kept() -> None:
    model = seeded(Plain)
    with torch.no_grad():
        for layer in (model.conv1, model.fc1):
            layer.weight.zero_()
    small = Kronecker().apply(copy.deepcopy(model), {"ranks": {"conv1": 1, "fc1": 1}})
    with torch.no_grad():
        assert torch.equal(small.fc1(torch.ones(1, 96))[0], model.fc1.bias)
        assert torch.equal(small.conv1(torch.ones(1, 3, 5, 5))[0, :, 1, 1], model.conv1.bias)


@pytest.mark.parametrize("terms", [0, 9])
def test_terms_outside_1_to_8_are_no_setting(terms: int) -> None:
    with pytest.raises(ValueError, match="terms"):
        Kronecker(terms=terms)


def test_grouped_convolutions_are_left_alone() -> None:
    assert Kronecker().unfold(nn.Conv2d(8, 8, 3, groups=2)) is None


def test_a_layer_whose_singular_values_would_take_long_is_left_alone_unless_none_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("autocompress.techniques.factorization._ranks.LARGEST", 20)
    model = seeded(Plain)
    big = next(name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    decision = Kronecker(terms=None, rank="params", keep=0.6).decide(model, context_of("plain"))
    assert decision["skipped"][big].startswith("all singular values of ")
    assert big in Kronecker(terms=1).decide(model, context_of("plain"))["ranks"]
