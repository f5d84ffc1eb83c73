"""Singular value decomposition against numpy and against the layers that it replaces."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autocompress.errors import TechniqueError
from autocompress.techniques import Context
from autocompress.techniques.factorization.svd import Svd, Variant, as_matrix, factorize
from autocompress.techniques.layers import rank_by_energy
from autocompress.testing.models import CalledTwice, Mlp, TwoNames, make_task, seeded
from autocompress.testing.work import context_of, teacher_of

FULL = [
    (nn.Linear(7, 5), (4, 7)),
    (nn.Linear(5, 7, bias=False), (4, 5)),
    (nn.Linear(6, 6), (2, 3, 6)),  # a linear layer may stand behind any number of dimensions
    (nn.Conv2d(3, 8, 3), (2, 3, 9, 9)),
    (nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), (2, 3, 9, 9)),
    (nn.Conv2d(4, 6, (3, 5), stride=(1, 2), padding=(2, 0), dilation=(2, 1)), (2, 4, 11, 11)),
    (nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"), (2, 3, 9, 9)),
    (nn.Conv2d(3, 8, (3, 5), padding="same", dilation=(2, 1)), (2, 3, 9, 9)),
    (nn.Conv2d(3, 8, 3, padding="valid", stride=(3, 1)), (2, 3, 9, 9)),
]


@pytest.mark.parametrize("variant", ["channel", "spatial"])
@pytest.mark.parametrize(("layer", "shape"), FULL, ids=[str(layer) for layer, _ in FULL])
def test_at_full_rank_the_two_layers_compute_what_the_one_did(
    layer: Any, shape: tuple[int, ...], variant: Variant
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrix = as_matrix(layer, variant)
    assert matrix is not None
    with torch.no_grad():
        torch.testing.assert_close(factorize(layer, min(matrix.shape), variant)(x), layer(x), rtol=1e-4, atol=1e-5)


def test_a_sum_of_separable_kernels_is_found_and_split_between_height_and_width() -> None:
    """Jaderberg et al. (2014), equation 5: each of the three intermediate channels is a separable filter."""
    generator = torch.Generator().manual_seed(0)
    down = torch.randn((3, 6, 5), generator=generator)
    across = torch.randn((8, 3, 4), generator=generator)
    layer = nn.Conv2d(6, 8, (5, 4), stride=(2, 1), padding=(2, 1), dilation=(1, 2))
    with torch.no_grad():
        layer.weight.copy_(torch.einsum("rih,orw->oihw", down, across))
    matrix = as_matrix(layer, "spatial")
    assert matrix is not None
    assert rank_by_energy(torch.linalg.svdvals(matrix), 0.999999) == 3
    first, second = factorize(layer, 3, "spatial")
    assert (first.kernel_size, first.stride, first.padding, first.dilation) == ((5, 1), (2, 1), (2, 0), (1, 1))
    assert (second.kernel_size, second.stride, second.padding, second.dilation) == ((1, 4), (1, 1), (0, 1), (1, 2))
    x = torch.randn((2, 6, 12, 12), generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(second(first(x)), layer(x), rtol=1e-4, atol=1e-4)
        product = torch.einsum("rih,orw->oihw", first.weight[..., 0], second.weight[:, :, 0])
    torch.testing.assert_close(product, layer.weight.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 6])
@pytest.mark.parametrize("layer", [nn.Linear(20, 12), nn.Conv2d(4, 12, 3)], ids=["linear", "convolution"])
def test_the_error_of_a_rank_is_the_tail_of_the_singular_values(layer: Any, rank: int) -> None:
    """Eckart and Young (1936): no matrix of that rank comes closer."""
    matrix = as_matrix(layer)
    assert matrix is not None
    thin, wide = factorize(layer, rank)
    product = wide.weight.detach().flatten(1).numpy() @ thin.weight.detach().flatten(1).numpy()
    values = np.linalg.svd(matrix.detach().numpy(), compute_uv=False)
    error = np.linalg.norm(matrix.detach().numpy() - product)
    assert error == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-4)


positive = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30).map(lambda v: sorted(v, reverse=True))


@given(values=positive, energy=st.floats(0.01, 0.99))
def test_the_rank_is_the_smallest_that_keeps_the_energy(values: list[float], energy: float) -> None:
    squares = np.array(values, dtype=np.float32).astype(np.float64) ** 2
    rank = rank_by_energy(torch.tensor(values), energy)
    assert 1 <= rank <= len(values)
    assert squares[:rank].sum() >= energy * squares.sum() * (1 - 1e-9)
    assert squares[: rank - 1].sum() <= energy * squares.sum() * (1 + 1e-9)


def test_the_rank_of_a_layer_of_zeros_is_one() -> None:
    assert rank_by_energy(torch.zeros(8), 0.9) == 1


def test_ranks_by_hand() -> None:
    values = torch.tensor([3.0, 2.0, 1.0])  # squares 9, 4 and 1 of 14: shares 0.643, 0.929 and 1
    assert [rank_by_energy(values, energy) for energy in (0.6, 0.64, 0.65, 0.92, 0.93)] == [1, 1, 2, 2, 3]


def low_rank_mlp() -> nn.Module:
    """A model whose first layer has rank 3, and whose last is too small to shrink."""
    model = seeded(Mlp)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.layers[1].weight.copy_(torch.randn(48, 3, generator=generator) @ torch.randn(3, 432, generator=generator))
        model.layers[3].weight.copy_(torch.eye(32, 48))
        model.layers[5].weight.copy_(torch.eye(4, 32))
    return model


def context_for(model: nn.Module) -> Context:
    return Context(make_task(lambda: model), model, 0)


def test_layers_that_would_grow_are_left_alone_and_listed() -> None:
    model = low_rank_mlp()
    decision = Svd(energy=0.95).decide(model, context_for(model))
    assert list(decision["ranks"]) == ["layers.1"]
    assert 1 <= decision["ranks"]["layers.1"] <= 3
    # Of 32 equal singular values, 0.95 of the energy is 30.4 of them; of 4, all 4.
    assert decision["skipped"] == {
        "layers.3": "rank 31 of 32x48 would take no less of the file",
        "layers.5": "rank 4 of 4x32 would take no less of the file",
    }


def test_the_factors_hold_rank_times_rows_and_columns_numbers() -> None:
    model = low_rank_mlp()
    step = Svd(energy=0.95)
    decision = step.decide(model, context_for(model))
    rank = decision["ranks"]["layers.1"]
    small = step.apply(model, decision)
    assert sum(parameter.numel() for parameter in small.layers[1].parameters()) == rank * (48 + 432) + 48
    assert isinstance(small.layers[3], nn.Linear)


def test_a_model_that_cannot_shrink_is_refused() -> None:
    model = seeded(Mlp)
    with torch.no_grad():
        for index in (1, 3, 5):
            weight = model.layers[index].weight
            weight.copy_(torch.eye(*weight.shape))
    with pytest.raises(TechniqueError, match=r"svd with energy 0.9 finds no layer that would shrink: lower energy"):
        Svd(energy=0.9).decide(model, context_for(model))


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(8, 8, 3, groups=2), nn.Conv1d(8, 8, 3), nn.BatchNorm2d(8)],
    ids=["grouped", "one-dimensional", "normalization"],
)
def test_other_layers_have_no_matrix(layer: nn.Module) -> None:
    assert as_matrix(layer) is None


def test_a_layer_under_two_names_stays_one_layer() -> None:
    model = copy.deepcopy(teacher_of("two_names"))
    step = Svd(energy=0.6)
    decision = step.decide(model, context_of("two_names"))
    small = step.apply(model, decision)
    assert isinstance(small, TwoNames)
    assert isinstance(small.first, nn.Sequential)
    assert small.first is small.second


def test_a_layer_that_is_called_twice_is_factorized_once() -> None:
    model = copy.deepcopy(teacher_of("called_twice"))
    step = Svd(energy=0.5)
    small = step.apply(model, {"ranks": {"again": 16}, "skipped": {}})
    assert isinstance(small, CalledTwice)
    x = torch.randn((2, 3, 12, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # rank 16 is full, so both calls must give what they gave
        torch.testing.assert_close(small(x), teacher_of("called_twice")(x), rtol=1e-4, atol=1e-5)


def test_a_model_that_is_a_single_layer_is_replaced() -> None:
    small = Svd().apply(nn.Linear(10, 10), {"ranks": {"": 2}, "skipped": {}})
    assert [tuple(parameter.shape) for parameter in small.parameters()] == [(2, 10), (10, 2), (10,)]
