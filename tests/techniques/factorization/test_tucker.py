"""Tucker factorization against the layers that it replaces and against bounds from linear algebra."""

import numpy as np
import pytest
import torch
from tensorly.decomposition import partial_tucker
from tensorly.tenalg import multi_mode_dot
from torch import nn

from autocompress.errors import TechniqueError
from autocompress.techniques import Context
from autocompress.techniques.factorization.tucker import Tucker, factorize, hooi, numbers_held
from autocompress.techniques.layers import rank_by_energy
from autocompress.testing.models import Mlp, Plain, make_task, seeded
from autocompress.testing.work import context_of

FULL = [
    (nn.Conv2d(3, 8, 3), (2, 3, 9, 9)),
    (nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=False), (2, 6, 9, 9)),
    (nn.Conv2d(4, 6, (3, 5), stride=(1, 2), padding=(2, 0), dilation=(2, 1)), (2, 4, 11, 11)),
    (nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"), (2, 3, 9, 9)),
    (nn.Conv2d(3, 8, (3, 5), padding="same", dilation=(2, 1)), (2, 3, 9, 9)),
]


def kernel_of(layers: nn.Sequential) -> torch.Tensor:
    """The one kernel that three layers amount to."""
    right, core, left = (layer.weight.detach() for layer in layers)
    return torch.einsum("or,rshw,si->oihw", left[:, :, 0, 0], core, right[:, :, 0, 0])


@pytest.mark.parametrize(("layer", "shape"), FULL, ids=[str(layer) for layer, _ in FULL])
def test_at_full_rank_the_three_layers_compute_what_the_one_did(layer: nn.Conv2d, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    layers = factorize(layer, [layer.out_channels, layer.in_channels])
    with torch.no_grad():
        torch.testing.assert_close(layers(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ranks", [[2, 2], [4, 3], [7, 5]])
def test_the_error_lies_between_the_tails_of_the_unfoldings(ranks: list[int]) -> None:
    """De Lathauwer et al. (2000): at least the larger tail, and at most the sum of both."""
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 8, 3)
    weight = layer.weight.detach().double().numpy()
    tails = []
    for mode, rank in enumerate(ranks):
        values = np.linalg.svd(np.moveaxis(weight, mode, 0).reshape(weight.shape[mode], -1), compute_uv=False)
        tails.append(float((values[rank:] ** 2).sum()))
    error = float(((kernel_of(factorize(layer, ranks)).double().numpy() - weight) ** 2).sum())
    assert max(tails) * (1 - 1e-4) <= error <= sum(tails) * (1 + 1e-4)


@pytest.mark.parametrize("ranks", [[2, 2], [4, 3], [7, 5]])
def test_the_error_is_that_of_tensorly(ranks: list[int]) -> None:
    weight = torch.randn((8, 6, 3, 3), generator=torch.Generator().manual_seed(0)).double()
    (core, factors), _ = partial_tucker(weight.numpy(), ranks, modes=[0, 1], n_iter_max=100, tol=1e-10)
    expected = np.linalg.norm(multi_mode_dot(core, factors, [0, 1]) - weight.numpy())
    left, right, mine = hooi(weight, ranks)
    error = np.linalg.norm(multi_mode_dot(mine.numpy(), [left.numpy(), right.numpy()], [0, 1]) - weight.numpy())
    assert error == pytest.approx(expected, rel=5e-3)


def test_a_kernel_of_low_rank_is_found_and_kept_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    left, core, right = (torch.randn(s, generator=generator) for s in ((12, 3), (3, 2, 3, 3), (2, 10)))
    weight = torch.einsum("or,rshw,si->oihw", left, core, right)
    values = [torch.linalg.svdvals(weight.movedim(mode, 0).flatten(1)) for mode in (0, 1)]
    assert [rank_by_energy(each, 0.999999) for each in values] == [3, 2]
    layer = nn.Conv2d(10, 12, 3)
    with torch.no_grad():
        layer.weight.copy_(weight)
    torch.testing.assert_close(kernel_of(factorize(layer, [3, 2])), weight, rtol=1e-4, atol=1e-4)


def test_the_count_of_numbers_is_that_of_the_layers() -> None:
    layers = factorize(nn.Conv2d(6, 8, (3, 5), bias=False), [4, 3])
    assert numbers_held(torch.Size((8, 6, 3, 5)), [4, 3]) == sum(p.numel() for p in layers.parameters())


def test_only_convolutions_with_a_window_are_factorized() -> None:
    decision = Tucker(energy=0.5).decide(seeded(Plain), context_of("plain"))
    assert set(decision["ranks"]) | set(decision["skipped"]) == {"conv1", "conv2"}


def test_a_model_without_convolutions_is_refused_with_the_fix() -> None:
    task = make_task(Mlp)
    with pytest.raises(TechniqueError, match="finds no convolution that would shrink: lower energy or leave the step"):
        Tucker().decide(seeded(Mlp), Context(task, seeded(Mlp), 0))


@pytest.mark.parametrize("energy", [0, 1, -0.5, 1.5])
def test_an_energy_outside_0_to_1_is_no_setting(energy: float) -> None:
    with pytest.raises(ValueError, match="energy"):
        Tucker(energy=energy)
