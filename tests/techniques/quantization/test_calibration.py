"""Ranges of activations against the search of onnxruntime, which is the slow original of ours."""

import contextlib
import io
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from onnxruntime.quantization.calibrate import HistogramCollector

from autocompress.techniques.quantization._calibration import BINS, LEVELS, Array, Range, _by_entropy

DRAWS: dict[str, Callable[[np.random.Generator], Array]] = {
    "normal": lambda random: random.normal(size=4000),
    "cut at zero": lambda random: np.maximum(random.normal(size=4000), 0),
    "a few far out": lambda random: np.concatenate([np.zeros(3000), random.normal(size=5) * 100]),
    "long tails": lambda random: random.standard_cauchy(size=3000),
    "one-sided": lambda random: -np.abs(random.standard_t(2, size=300)),
    "few numbers": lambda random: random.integers(-3, 4, size=20).astype(float),
    "one number": lambda random: random.normal(size=1),
}


def by_onnxruntime(counts: Array, edges: Range) -> Range:
    top = max(-edges[0], edges[1])
    collector = HistogramCollector("entropy", False, len(counts), LEVELS, None, None)
    low, high = map(np.float64, edges)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = collector.get_entropy_threshold(
            (counts.copy(), np.linspace(-top, top, len(counts) + 1), low, high, top), LEVELS
        )
    return float(found[0]), float(found[1])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_the_range_of_most_entropy_is_onnxruntimes_to_the_bit(
    draw: Callable[[np.random.Generator], Array], seed: int
) -> None:
    values = draw(np.random.default_rng(seed))
    edges = float(min(values.min(), 0)), float(max(values.max(), 0))
    top = max(-edges[0], edges[1])
    counts = np.histogram(values, BINS["entropy"], (-top, top))[0].astype(np.int64)
    assert _by_entropy(counts, edges) == by_onnxruntime(counts, edges)


def test_a_histogram_without_counts_is_onnxruntimes_too() -> None:
    nothing = np.zeros(BINS["entropy"], np.int64)
    assert _by_entropy(nothing, (-1.0, 2.0)) == by_onnxruntime(nothing, (-1.0, 2.0))
