"""A surrogate: what a metric will be, with how far that may be off, from the candidates that were seen."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]
ROOT5 = 5**0.5
ITERATIONS = 25
# Of the logarithms of a length scale, of the linear part, and of the noise, all as shares of a unit variance.
SCALES, LINEAR, NOISE = (-2.5, 2.5), (-7.0, 3.0), (-9.0, 0.0)
PRIOR = 0.15  # how strongly length scales are held near 1, where few points say nothing of them


@dataclass(frozen=True)
class Scales:
    """Hyperparameters of a kernel: a length scale for each group of columns, the linear part, and the noise."""

    lengths: Array
    linear: float
    noise: float


class GaussianProcess:
    """Regression by a Gaussian process: Matern 5/2 with a length scale for each group of columns, and a linear part.

    Rasmussen and Williams (2006), sections 2.2 and 5.4.1. inputs: (points, columns); values: (points,); groups: for
    each column the number of its group. scales: of an earlier fit, to start from or, unless they are tuned, to keep.
    unit: the mean and deviation that values are counted in, their own by default.
    """

    def __init__(
        self,
        inputs: Array,
        values: Array,
        groups: NDArray[np.int64],
        scales: Scales | None = None,
        tune: bool = True,
        unit: tuple[float, float] | None = None,
    ) -> None:
        self._inputs, self._groups = inputs, groups
        self._mean, spread = unit or (float(values.mean()), float(values.std()))
        self._spread = spread if spread > 1e-9 else 1.0
        self._values = (values - self._mean) / self._spread
        self._products = inputs @ inputs.T / inputs.shape[1]
        self.scales = scales or Scales(np.ones(int(groups.max()) + 1), 0.1, 0.05)
        if tune:
            self.scales = self._tuned(self.scales)
        self._scaled = inputs / self.scales.lengths[groups]
        kernel = _matern(_radius(_squares(self._scaled, self._scaled)))
        kernel += self.scales.linear * self._products
        kernel[np.diag_indices_from(kernel)] += self.scales.noise + 1e-8
        self._lower = cholesky(kernel, lower=True)
        self._weights = cho_solve((self._lower, True), self._values)

    def believing(self, inputs: Array) -> "GaussianProcess":
        """The same that also took what it expects at some points for measured (Ginsbourger et al., 2010, section 4.1).

        Its means stay as they are, and it is less unsure around these points; scales are kept.
        """
        known = self._mean + self._spread * self._values
        values = np.concatenate([known, self.mean(inputs)])
        points, unit = np.vstack([self._inputs, inputs]), (self._mean, self._spread)
        return GaussianProcess(points, values, self._groups, self.scales, tune=False, unit=unit)

    def predict(self, inputs: Array) -> tuple[Array, Array]:
        """Mean and standard deviation at each of (points, columns), of the value without its noise."""
        across = self._across(inputs)
        solved = solve_triangular(self._lower, across.T, lower=True, check_finite=False)
        own = 1.0 + self.scales.linear * (inputs**2).sum(1) / inputs.shape[1]
        variance = np.maximum(own - (solved**2).sum(0), 1e-10)
        return self._mean + self._spread * (across @ self._weights), self._spread * np.sqrt(variance)

    def mean(self, inputs: Array) -> Array:
        """The mean alone, without the work for its deviation."""
        return np.asarray(self._mean + self._spread * (self._across(inputs) @ self._weights))

    def _across(self, inputs: Array) -> Array:
        """The covariance of each of (points, columns) with each point that was learned from."""
        scaled = inputs / self.scales.lengths[self._groups]
        found = _matern(_radius(_squares(scaled, self._scaled)))
        linear = inputs @ self._inputs.T
        linear *= self.scales.linear
        linear /= inputs.shape[1]
        found += linear
        return found

    @property
    def noise(self) -> float:
        """The standard deviation of values that were seen around what they would be without noise."""
        return self._spread * float(np.sqrt(self.scales.noise))

    @cached_property
    def _distances(self) -> list[Array]:
        """Squared distances over each group of columns, which tuning weighs anew at each of its steps."""
        groups = range(int(self._groups.max()) + 1)
        return [_squares(self._inputs, self._inputs, self._groups == group) for group in groups]

    def _kernel(self, scales: Scales) -> tuple[Array, Array]:
        squares = np.zeros_like(self._products)
        for distances, length in zip(self._distances, scales.lengths, strict=True):
            squares += distances / length**2
        radius = _radius(squares)
        return _matern(radius) + scales.linear * self._products, radius

    def _tuned(self, start: Scales) -> Scales:
        """The scales of the largest marginal likelihood, with a weak prior on the lengths."""
        groups = len(self._distances)
        bounds = [SCALES] * groups + [LINEAR, NOISE]
        first = np.log([*start.lengths, start.linear, start.noise])
        first = np.clip(first, [low for low, _ in bounds], [high for _, high in bounds])
        found = minimize(self._loss, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ITERATIONS})
        values = np.exp(found.x)
        return Scales(values[:groups], float(values[groups]), float(values[groups + 1]))

    def _loss(self, logs: Array) -> tuple[float, Array]:
        """The negative logarithm of the marginal likelihood and the prior, and its gradient."""
        groups = len(self._distances)
        scales = Scales(np.exp(logs[:groups]), float(np.exp(logs[groups])), float(np.exp(logs[groups + 1])))
        kernel, radius = self._kernel(scales)
        count = len(self._values)
        kernel[np.diag_indices(count)] += scales.noise + 1e-8
        try:
            lower = cholesky(kernel, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(logs)
        weights = cho_solve((lower, True), self._values, check_finite=False)
        inner = np.outer(weights, weights) - cho_solve((lower, True), np.eye(count), check_finite=False)
        slope = 5 / 3 * (1 + ROOT5 * radius) * np.exp(-ROOT5 * radius)
        gradient = [
            -0.5 * float((inner * slope * distances).sum()) / length**2
            for distances, length in zip(self._distances, scales.lengths, strict=True)
        ]
        gradient.append(-0.5 * scales.linear * float((inner * self._products).sum()))
        gradient.append(-0.5 * scales.noise * float(np.trace(inner)))
        value = 0.5 * float(self._values @ weights) + float(np.log(np.diag(lower)).sum())
        held = np.concatenate([PRIOR * 2 * logs[:groups], [0.0, 0.0]])
        return value + PRIOR * float((logs[:groups] ** 2).sum()), np.array(gradient) + held


def _matern(radius: Array) -> Array:
    """Matern 5/2 of distances that are scaled: in place where it can be, as these tables are large."""
    scaled = ROOT5 * radius
    found: Array = 1 + scaled
    rest = scaled**2
    rest /= 3
    found += rest
    np.negative(scaled, out=scaled)
    found *= np.exp(scaled, out=scaled)
    return found


def _radius(squares: Array) -> Array:
    """Distances from their squares, in their place; rounding leaves some below zero."""
    np.maximum(squares, 0.0, out=squares)
    return np.sqrt(squares, out=squares)


def _squares(first: Array, second: Array, columns: NDArray[np.bool_] | None = None) -> Array:
    """Squared distances between the rows of two tables, over some columns."""
    if columns is not None:
        first, second = first[:, columns], second[:, columns]
    found: Array = (first**2).sum(1)[:, None] + (second**2).sum(1)
    found -= 2 * first @ second.T
    return found
