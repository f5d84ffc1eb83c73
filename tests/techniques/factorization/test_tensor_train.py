"""Tensor trains against tensorly, formulas and the layers that they replace."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorly.decomposition import tensor_train_matrix
from torch import Tensor, nn

from autocompress import Classification
from autocompress.artifacts.export import export_onnx
from autocompress.artifacts.parity import TOLERANCE, check_parity
from autocompress.techniques import Context
from autocompress.techniques.factorization.tensor_train import TensorTrain, factorize, numbers_held, tensorized
from autocompress.techniques.layers import balanced


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def dense(made: Any, inputs: int) -> Tensor:
    """The weight that cores amount to: what they give for every unit vector."""
    with torch.no_grad():
        return made(torch.eye(inputs)).T


@pytest.mark.parametrize("ranks", [[999], [999, 999]], ids=["two cores", "three cores"])
@pytest.mark.parametrize("shape", [(4, 24), (3, 5, 24), (24,)], ids=str)
def test_at_full_rank_the_cores_compute_what_a_linear_layer_did(shape: tuple[int, ...], ranks: list[int]) -> None:
    layer, x = nn.Linear(24, 20), random(*shape)
    with torch.no_grad():
        torch.testing.assert_close(factorize(layer, ranks)(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ranks", [[999], [999, 999]], ids=["two cores", "three cores"])
@pytest.mark.parametrize(("rows", "columns"), [(60, 24), (31, 8), (27, 7)], ids=str)
def test_at_full_rank_the_cores_look_up_what_an_embedding_did(rows: int, columns: int, ranks: list[int]) -> None:
    layer = nn.Embedding(rows, columns)
    index = torch.arange(rows)
    with torch.no_grad():
        torch.testing.assert_close(factorize(layer, ranks)(index), layer(index), rtol=1e-4, atol=1e-5)
        pairs = index[: 2 * (rows // 2)].reshape(-1, 2)
        torch.testing.assert_close(factorize(layer, ranks)(pairs), layer(pairs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_the_error_of_two_cores_is_the_tail_of_the_singular_values(rank: int) -> None:
    layer = nn.Linear(24, 20, bias=False)
    values = np.linalg.svd(tensorized(layer.weight.detach(), 2).numpy(), compute_uv=False)
    error = float((dense(factorize(layer, [rank]), 24) - layer.weight.detach()).norm())
    assert error == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-4)


@pytest.mark.parametrize("ranks", [[4, 3], [2, 5]])
def test_three_cores_are_those_of_tensorly(ranks: list[int]) -> None:
    layer = nn.Linear(24, 30, bias=False)
    rows, columns = balanced(30, 3), balanced(24, 3)
    tensor = layer.weight.detach().double().reshape(*rows, *columns).numpy()
    expected = tensor_train_matrix(tensor, [1, *ranks, 1]).to_matrix()
    np.testing.assert_allclose(dense(factorize(layer, ranks), 24).numpy(), expected, rtol=1e-3, atol=1e-5)


def test_a_planted_train_is_found_and_kept_exactly() -> None:
    (m1, m2), (n1, n2) = balanced(20, 2), balanced(24, 2)
    cores = random(m1, n1, 2, seed=1), random(2, m2, n2, seed=2)
    weight = torch.einsum("mnb,bpq->mpnq", *cores).reshape(20, 24)
    assert int(torch.linalg.matrix_rank(tensorized(weight, 2), rtol=1e-5)) == 2
    layer = nn.Linear(24, 20, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    torch.testing.assert_close(dense(factorize(layer, [2]), 24), weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("ranks", [[5], [5, 3]])
def test_numbers_held_are_those_of_the_formula_and_of_the_cores(ranks: list[int]) -> None:
    """Novikov et al. (2015), section 3: core k holds r(k-1) * m(k) * n(k) * r(k) numbers."""
    order = len(ranks) + 1
    around = [1, *ranks, 1]
    for layer, shape in [(nn.Linear(64, 216, bias=False), (216, 64)), (nn.Embedding(216, 64), (216, 64))]:
        m, n = balanced(shape[0], order), balanced(shape[1], order)
        expected = sum(around[k] * m[k] * n[k] * around[k + 1] for k in range(order))
        assert sum(p.numel() for p in factorize(layer, ranks).parameters()) == expected
        assert numbers_held([a * b for a, b in zip(m, n, strict=True)], ranks) == expected


def test_ranks_that_no_core_can_fill_are_cut_in_the_count_and_in_the_layer() -> None:
    layer = nn.Linear(8, 8, bias=False)  # three cores of 2x2: ranks 4 and 4 at most
    assert numbers_held([4, 4, 4], [9, 99]) == 4 * 4 + 4 * 4 * 16 + 16 * 4
    assert factorize(layer, [9, 99])(torch.ones(2, 8)).shape == (2, 8)


@given(size=st.integers(1, 5000), parts=st.integers(2, 3))
def test_sizes_are_cut_into_whole_factors(size: int, parts: int) -> None:
    found = balanced(size, parts)
    assert len(found) == parts
    assert math.prod(found) == size


def test_factors_are_as_alike_as_divisors_allow() -> None:
    assert [balanced(size, 2) for size in (64, 800, 7, 1)] == [(8, 8), (25, 32), (7, 1), (1, 1)]
    assert balanced(512, 3) == (8, 8, 8)


class Words(nn.Module):
    """An embedding, a mean and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(600, 64, padding_idx=0)
        self.inner = nn.Linear(64, 128)
        self.head = nn.Linear(128, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.inner(self.table(x).mean(1))))


@pytest.mark.parametrize("order", [2, 3])
def test_a_model_of_words_exports_with_tables_and_layers_as_cores(order: int) -> None:
    torch.manual_seed(0)
    model = Words().eval()
    tokens = torch.randint(600, (16, 9), generator=torch.Generator().manual_seed(0))
    split = (tokens, torch.arange(16) % 4)
    context = Context(Classification(Words, split, split, split, None), model, 0)
    step = TensorTrain.model_validate({"order": order, "energy": 0.6})
    decision = step.decide(model, context)
    assert {"table", "inner"} <= set(decision["ranks"])
    small = step.apply(Words().eval(), decision)
    exported = export_onnx(small, (tokens[:3],))
    assert check_parity(small, exported, (tokens,)) <= TOLERANCE


def test_tables_that_rescale_their_rows_are_left_alone() -> None:
    assert TensorTrain().unfold(nn.Embedding(64, 16, max_norm=1.0)) is None
    assert TensorTrain().unfold(nn.EmbeddingBag(64, 16)) is None
    assert TensorTrain().unfold(nn.Conv2d(8, 8, 1)) is None
