"""Canonical polyadic factorization against tensorly, planted kernels and the layers that it replaces."""

from typing import Any

import pytest
import torch
from tensorly.decomposition import parafac
from torch import Tensor, nn

from autocompress.errors import TechniqueError
from autocompress.techniques import Context
from autocompress.techniques.factorization.cp import Cp, cp_als, error_of, factorize, from_slices
from autocompress.techniques.layers import singular_values
from autocompress.testing.models import Mlp, Plain, make_task, seeded
from autocompress.testing.work import context_of


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer_of(weight: Tensor, **window: Any) -> nn.Conv2d:
    """A convolution with this kernel."""
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], **window)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def planted(rank: int = 3) -> Tensor:
    """A kernel of that rank, from factors whose sides are all different."""
    factors = [random(size, rank, seed=size) for size in (12, 10, 3, 5)]
    return torch.einsum("or,ir,hr,wr->oihw", *factors)


def kernel_of(layers: nn.Sequential) -> Tensor:
    """The one kernel that four layers amount to."""
    i, h, w, o = (layer.weight.detach() for layer in layers)
    return torch.einsum("ro,orh,orw,po->prhw", i[:, :, 0, 0].T, h[:, None, 0, :, 0].expand(-1, i.shape[1], -1),
                        w[:, None, 0, 0, :].expand(-1, i.shape[1], -1), o[:, :, 0, 0])  # fmt: skip


def test_the_factors_of_a_planted_kernel_are_found() -> None:
    weight = planted()
    assert error_of(weight, cp_als(weight, 3)) < 1e-8


@pytest.mark.parametrize("window", [
    {"padding": 1}, {"stride": (2, 1), "padding": (0, 2)}, {"dilation": (2, 1), "bias": False}, {"padding": "same"},
    {"padding": 1, "padding_mode": "reflect"},
], ids=str)  # fmt: skip
def test_the_four_layers_compute_what_a_kernel_of_that_rank_did(window: dict[str, Any]) -> None:
    layer, x = layer_of(planted(), **window), random(2, 10, 11, 12)
    layers = factorize(layer, 3)
    with torch.no_grad():
        torch.testing.assert_close(layers(x), layer(x), rtol=1e-3, atol=1e-3)
    assert [m.groups for m in layers] == [1, 3, 3, 1]
    assert sum(p.numel() for p in layers.parameters()) - 12 * (layer.bias is not None) == 3 * (12 + 10 + 3 + 5)


@pytest.mark.parametrize("rank", [10, 30])
def test_the_error_is_no_larger_than_that_of_tensorly(rank: int) -> None:
    weight = random(16, 12, 3, 3)
    _, errors = parafac(weight.double().numpy(), rank, init="random", random_state=0, return_errors=True)
    assert error_of(weight, cp_als(weight, rank)) <= 1.02 * float(errors[-1]) ** 2


@pytest.mark.parametrize("rank", [5, 20, 60])
def test_the_start_misses_what_the_singular_values_of_the_slices_leave_and_sweeps_only_improve(rank: int) -> None:
    weight = random(16, 12, 3, 3)
    squares = torch.cat([singular_values(part) for part in weight.flatten(2).unbind(2)]).square().sort()[0]
    tail = float(squares[: len(squares) - rank].sum() / squares.sum())
    assert error_of(weight, from_slices(weight, rank)) == pytest.approx(tail, rel=1e-4)
    assert error_of(weight, cp_als(weight, rank)) < tail


def test_the_same_kernel_gives_the_same_factors_to_the_bit() -> None:
    weight = random(8, 6, 3, 3)
    assert all(torch.equal(a, b) for a, b in zip(cp_als(weight, 7), cp_als(weight, 7), strict=True))


@pytest.mark.parametrize("energy", [0.5, 0.8])
def test_the_rank_keeps_the_energy_with_fewer_channels_than_the_slices_need(energy: float) -> None:
    model = seeded(Plain)
    step = Cp(energy=energy)
    decision = step.decide(model, context_of("plain"))
    weight = model.conv2.weight.detach()
    rank = decision["ranks"]["conv2"]
    assert error_of(weight, cp_als(weight, rank)) <= 1 - energy
    squares = (
        torch.cat([singular_values(part) for part in weight.flatten(2).unbind(2)]).square().sort(descending=True)[0]
    )
    assert rank < int((squares.cumsum(0) < energy * squares.sum()).sum()) + 1


def test_a_kernel_of_zeros_and_factors_that_are_no_numbers_are_seen() -> None:
    zeros = torch.zeros(4, 3, 3, 3)
    assert error_of(zeros, cp_als(zeros, 2)) == pytest.approx(0, abs=1e-6)
    o, i, h, w = cp_als(random(4, 3, 3, 3), 2)
    assert not error_of(random(4, 3, 3, 3), (o * torch.nan, i, h, w)) < 1


def test_degenerate_factors_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = lambda weight, factors, sweeps: tuple(part * torch.nan for part in factors)  # noqa: E731
    monkeypatch.setattr("autocompress.techniques.factorization.cp.improved", nothing)
    weight = random(6, 5, 3, 3)
    assert all(torch.equal(a, b) for a, b in zip(cp_als(weight, 4), from_slices(weight, 4), strict=True))


def test_a_model_without_convolutions_is_refused_with_the_fix() -> None:
    with pytest.raises(TechniqueError, match="finds no convolution that would shrink: lower energy or leave the step"):
        Cp().decide(seeded(Mlp), Context(make_task(Mlp), seeded(Mlp), 0))
