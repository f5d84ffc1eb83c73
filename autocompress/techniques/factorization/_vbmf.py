"""How many singular values of a matrix stand out of its noise, by variational Bayes."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
GRID = 200  # the free energy has local minima, so the search starts from the best of a grid


def vbmf_rank(singular_values: Array, rows: int, columns: int) -> int:
    """The rank that global analytic empirical variational Bayes finds; 0 when all is noise.

    singular_values: all min(rows, columns) of them. The noise variance is the one of least free energy, between the
    bounds of the paper (Nakajima et al., 2013: Global analytic solution of fully-observed variational Bayesian matrix
    factorization, theorems 2 and 3 and corollary 3).
    """
    short, long = sorted((rows, columns))
    squares = np.sort(np.asarray(singular_values, np.float64) ** 2)[::-1]
    if not squares.any():
        return 0
    squares = np.maximum(squares, 1e-12 * squares[0])  # the logarithm of a noise-free tail has no minimum
    alpha = short / long
    threshold = _threshold(alpha)
    variance = _noise_variance(squares, short, long, threshold)
    return int((squares > variance * long * threshold).sum())


def _threshold(alpha: float) -> float:
    """The squared singular value, in units of the long side and the noise variance, past which a component is kept."""
    from scipy.optimize import brentq

    def balance(tau: float) -> float:
        """Zero where a component is as likely kept as not (Nakajima et al., 2013, theorem 2)."""
        return _phi(tau) + _phi(tau / alpha)

    tau = float(brentq(balance, 1e-6, 1e3))
    return (1 + tau) * (1 + alpha / tau)


def _phi(z: float) -> float:
    return math.log1p(z) / z - 0.5


def _noise_variance(squares: Array, short: int, long: int, threshold: float) -> float:
    from scipy.optimize import minimize_scalar

    alpha = short / long
    most = min(math.ceil(short / (1 + alpha)) - 1, len(squares) - 1)  # the most components that can be kept
    tail = squares[most:]
    low = max(squares[most] / (long * threshold), float(tail.mean()) / long)
    high = float(squares.mean()) / long
    if not low < high:
        return high

    def energy(log_variance: float) -> float:
        """The free energy at a noise variance, given as its logarithm."""
        return float(_free_energy(squares / (long * math.exp(log_variance)), alpha, threshold))

    grid = np.linspace(math.log(low), math.log(high), GRID)
    best = int(np.argmin([energy(point) for point in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]
    found = minimize_scalar(energy, bounds=around, method="bounded")
    return math.exp(found.x if found.fun < energy(grid[best]) else grid[best])


def _free_energy(x: Array, alpha: float, threshold: float) -> float:
    """The free energy up to what does not depend on the noise; x: squared singular values in units of the noise."""
    kept = x[x > threshold]
    excess = kept - (1 + alpha)
    tau = 0.5 * (excess + np.sqrt(np.maximum(excess**2 - 4 * alpha, 0)))
    gain = np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau
    return float((x - np.log(x)).sum() + gain.sum())
