"""Variational Bayes ranks on planted matrices, and its threshold against the paper's numbers."""

import numpy as np
import pytest

from autocompress.techniques.factorization._vbmf import _threshold, vbmf_rank


def values_of(rows: int, columns: int, rank: int, noise: float, seed: int = 0) -> np.ndarray:
    """The singular values of a random matrix of that rank, of unit variance, plus noise."""
    random = np.random.default_rng(seed)
    signal = random.normal(size=(rows, rank)) @ random.normal(size=(rank, columns)) / max(rank, 1) ** 0.5
    return np.linalg.svd(signal + noise * random.normal(size=(rows, columns)), compute_uv=False)


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("rank", [0, 1, 3, 8])
@pytest.mark.parametrize("shape", [(64, 64), (64, 576), (500, 90)], ids=str)
def test_the_planted_rank_is_found_under_noise(shape: tuple[int, int], rank: int, noise: float) -> None:
    assert vbmf_rank(values_of(*shape, rank, noise), *shape) == rank


def test_the_rank_does_not_depend_on_the_scale_or_on_which_side_is_longer() -> None:
    values = values_of(40, 200, 5, 0.5)
    assert vbmf_rank(values, 40, 200) == vbmf_rank(1e-3 * values, 200, 40) == 5


def test_a_signal_below_the_noise_is_not_taken_for_one() -> None:
    """A component of strength below the edge of the noise, (1 + sqrt(alpha)) times sigma sqrt(M), cannot be told."""
    random = np.random.default_rng(1)
    left, right = random.normal(size=100), random.normal(size=100)
    signal = 5 * np.outer(left, right) / np.linalg.norm(left) / np.linalg.norm(right)  # the edge is at 20
    values = np.linalg.svd(signal + random.normal(size=(100, 100)), compute_uv=False)
    assert vbmf_rank(values, 100, 100) == 0


def test_a_matrix_without_noise_keeps_its_rank_and_one_of_zeros_has_none() -> None:
    assert vbmf_rank(values_of(30, 50, 4, 0.0), 30, 50) == 4
    assert vbmf_rank(np.zeros(5), 5, 9) == 0


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8, 1.0])
def test_the_threshold_is_that_of_the_paper(alpha: float) -> None:
    """Nakajima et al. (2013), section 4: tau is about 2.5129 sqrt(alpha), and exactly so for square matrices."""
    tau = 2.5129 * alpha**0.5
    assert _threshold(alpha) == pytest.approx((1 + tau) * (1 + alpha / tau), rel=0.02 if alpha < 1 else 1e-4)
    assert _threshold(alpha) > (1 + alpha**0.5) ** 2  # the edge of the noise (Marchenko and Pastur, 1967)
