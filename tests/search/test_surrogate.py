"""The surrogate against scikit-learn's Gaussian process, and what it makes of plain functions."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct, Matern

from autocompress.search.surrogate import Array, GaussianProcess, Scales

GROUPS = np.array([0, 0, 1])


def points(count: int, seed: int = 0) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    inputs = generator.uniform(-1, 1, (count, 3))
    return inputs, np.sin(2 * inputs[:, 0]) + 0.5 * inputs[:, 1] + 0.2 * inputs[:, 2] ** 2


def test_it_predicts_what_scikit_learn_does_at_the_same_scales() -> None:
    inputs, values = points(25)
    asked, _ = points(10, seed=1)
    scales = Scales(np.array([0.7, 1.9]), 0.3, 0.01)
    mean, deviation = GaussianProcess(inputs, values, GROUPS, scales, tune=False).predict(asked)
    kernel = Matern(length_scale=[0.7, 0.7, 1.9], nu=2.5) + 0.1 * DotProduct(
        sigma_0=0.0, sigma_0_bounds="fixed"
    )  # 0.3 over 3 columns
    oracle = GaussianProcessRegressor(kernel, alpha=0.01 + 1e-8, optimizer=None, normalize_y=True)
    expected, spread = oracle.fit(inputs, values).predict(asked, return_std=True)
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
    np.testing.assert_allclose(deviation, spread, rtol=1e-5)


def test_the_gradient_of_the_likelihood_is_its_slope() -> None:
    inputs, values = points(15)
    model = GaussianProcess(inputs, values, GROUPS, tune=False)
    at = np.array([0.3, -0.4, -1.0, -2.0])
    numeric = approx_fprime(at, lambda logs: model._loss(logs)[0], 1e-6)
    np.testing.assert_allclose(model._loss(at)[1], numeric, rtol=1e-3, atol=1e-4)


def test_tuning_finds_which_columns_matter_and_errs_less_by_it() -> None:
    generator = np.random.default_rng(2)
    inputs = generator.uniform(-1, 1, (60, 3))
    values = np.sin(3 * inputs[:, 0]) * np.cos(2 * inputs[:, 1])  # the third says nothing
    model = GaussianProcess(inputs, values, GROUPS)
    assert model.scales.lengths[1] > 2 * model.scales.lengths[0]
    asked = generator.uniform(-1, 1, (200, 3))
    truth = np.sin(3 * asked[:, 0]) * np.cos(2 * asked[:, 1])
    mean, deviation = model.predict(asked)
    plain, _ = GaussianProcess(inputs, values, GROUPS, tune=False).predict(asked)
    assert np.square(mean - truth).mean() < np.square(plain - truth).mean()
    assert (np.abs(mean - truth) < 3 * deviation + 0.02).mean() > 0.95


def test_noise_is_told_from_the_function() -> None:
    generator = np.random.default_rng(3)
    inputs = generator.uniform(-1, 1, (150, 3))
    model = GaussianProcess(inputs, inputs[:, 0] + 0.3 * generator.normal(size=150), GROUPS)
    assert model.noise == pytest.approx(0.3, rel=0.25)


def test_values_that_are_all_alike_are_predicted() -> None:
    inputs, _ = points(5)
    mean, deviation = GaussianProcess(inputs, np.full(5, 7.0), GROUPS).predict(inputs)
    np.testing.assert_allclose(mean, 7.0)
    assert np.isfinite(deviation).all()


def test_the_mean_alone_is_the_mean() -> None:
    generator = np.random.default_rng(3)
    inputs, groups = generator.uniform(-1, 1, (30, 3)), np.array([0, 0, 1])
    model = GaussianProcess(inputs, inputs[:, 0] + inputs[:, 2] ** 2, groups)
    points = generator.uniform(-1, 1, (50, 3))
    np.testing.assert_allclose(model.mean(points), model.predict(points)[0], rtol=1e-12)


def test_kept_scales_give_the_same_surrogate_as_the_fit_that_found_them() -> None:
    """Tuning weighs groups of columns apart; afterwards all columns are scaled at once."""
    generator = np.random.default_rng(4)
    inputs, groups = generator.uniform(-1, 1, (30, 4)), np.array([0, 0, 1, 2])
    values = np.sin(2 * inputs[:, 0]) + inputs[:, 3]
    tuned = GaussianProcess(inputs, values, groups)
    kept = GaussianProcess(inputs, values, groups, tuned.scales, tune=False)
    kernel, _ = tuned._kernel(tuned.scales)
    kernel[np.diag_indices(30)] += tuned.scales.noise + 1e-8
    np.testing.assert_allclose(kept._lower @ kept._lower.T, kernel, atol=1e-9)
    np.testing.assert_array_equal(kept.predict(inputs)[0], tuned.predict(inputs)[0])


def test_what_is_believed_moves_no_mean_and_makes_sure_around_it() -> None:
    generator = np.random.default_rng(3)
    inputs = generator.uniform(-1, 1, (30, 2))
    model = GaussianProcess(inputs, np.sin(3 * inputs[:, 0]) + inputs[:, 1], np.array([0, 1]))
    point, others = np.array([[2.0, -1.5]]), generator.uniform(-1, 1, (50, 2))
    believing = model.believing(point)
    assert believing.predict(point)[1] < 0.5 * model.predict(point)[1]
    np.testing.assert_allclose(believing.predict(others)[0], model.predict(others)[0], rtol=0, atol=1e-6)
    assert (believing.predict(others)[1] <= model.predict(others)[1] + 1e-9).all()
    assert believing.scales == model.scales
