"""What more trials are expected to add, against curves that are known and simulated searches that are run on."""

from dataclasses import dataclass, replace
from typing import Any

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.search.forecast import FEWEST, ExpectedGain, expected_gain

Vector = np.ndarray[Any, np.dtype[np.float64]]


def forecast(history: list[float], seconds: float = 2.0) -> ExpectedGain | None:
    return expected_gain(history, [seconds] * len(history))


def curve(count: int, top: float = 0.8, drop: float = 0.5) -> list[float]:
    """V - A / sqrt(n), which improves with every trial."""
    return [top - drop * n**-0.5 for n in range(1, count + 1)]


@pytest.mark.parametrize("count", [200, 500, 2000])
def test_a_curve_of_the_form_that_is_fitted_goes_on(count: int) -> None:
    found = forecast(curve(count))
    assert found is not None
    assert (found.trials, found.seconds) == (100, pytest.approx(200.0))
    assert found.hypervolume == curve(count)[-1]
    # Half an improvement more is added; a fifth of so many trials left out, that is little.
    assert found.gain == pytest.approx(curve(count + 100)[-1] - curve(count)[-1], rel=0.01)


def test_as_many_trials_again_are_looked_ahead_and_their_seconds_are_those_so_far() -> None:
    found = expected_gain(curve(30), [float(n) for n in range(1, 31)])
    assert found is not None
    assert (found.trials, found.seconds) == (30, pytest.approx(465.0))  # 30 * 31 / 2


def test_nothing_is_said_of_few_trials_or_few_improvements() -> None:
    assert forecast([]) is None
    assert forecast(curve(FEWEST - 1)) is None
    assert forecast(curve(FEWEST)) is not None
    # The first that is within the budget is no improvement; five more are enough.
    steps = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert forecast([0.0] * 5 + steps + [0.5] * 10) is None
    assert forecast([0.0] * 5 + [*steps, 0.6] + [0.6] * 10) is not None
    assert forecast([0.0] * 50) is None


def test_a_search_that_stands_still_is_expected_to_gain_the_less_the_longer_it_does() -> None:
    found = [forecast(curve(20) + [curve(20)[-1]] * still) for still in (0, 20, 60, 200)]
    gains = [row.gain for row in found if row is not None]
    assert len(gains) == 4
    assert gains == sorted(gains, reverse=True)
    assert 0 < gains[-1] < 0.002


# Gains that a sum of others does not swallow.
GAINS = st.floats(0, 1).map(lambda gain: round(gain, 6))


@given(st.lists(GAINS, min_size=20, max_size=60), st.floats(0.01, 1.0))
def test_a_forecast_is_within_its_range_and_what_is_left_and_keeps_to_the_scale(
    gains: list[float], scale: float
) -> None:
    history = np.cumsum(gains) / (2 * max(sum(gains), 1e-9))
    found, scaled = forecast(list(history)), forecast(list(scale * history))
    if found is None or scaled is None:
        return
    assert 0 <= found.low <= found.gain <= found.high
    assert found.hypervolume + found.high <= 1 + 1e-12
    if max(found.gain, scaled.gain) < 0.4:  # else it may be cut by what is left
        assert scaled.gain == pytest.approx(scale * found.gain, rel=1e-6, abs=1e-9)


# Simulated searches: points of two or three costs, of which some are past a limit, sampled at random or around the
# best so far. From where they stand, each is run on again and again, so that its true expected gain is known.


@dataclass(frozen=True)
class Problem:
    """Costs as distances to a few centres, exponential in places; past a limit, a point does not count."""

    centres: Vector
    steepness: Vector
    limit: float

    def costs(self, x: Vector) -> Vector | None:
        distances = ((x - self.centres) ** 2).mean(axis=1)
        scaled = np.exp(self.steepness * distances) * distances
        return scaled / (scaled + 0.2) if distances.max() <= self.limit else None


@dataclass(frozen=True)
class Search:
    """Where a simulated search stands: its settings and costs that no others beat."""

    problem: Problem
    local: float
    found: tuple[tuple[Vector, Vector], ...] = ()

    def step(self, random: np.random.Generator) -> "Search":
        size = self.problem.centres.shape[1]
        if self.found and random.random() < self.local:
            x = self.found[random.integers(len(self.found))][0] + random.normal(0, 0.15, size)
            x = np.clip(x, 0, 1)
        else:
            x = random.random(size)
        new = self.problem.costs(x)
        if new is None or any((old <= new).all() for _, old in self.found):
            return self
        return replace(self, found=(*(row for row in self.found if not (new <= row[1]).all()), (x, new)))

    def hypervolume(self) -> float:
        points = np.array([costs for _, costs in self.found])
        return float(moocore.hypervolume(points, ref=np.ones(points.shape[1]))) if len(points) else 0.0


def problem(random: np.random.Generator) -> Problem:
    costs, size = int(random.integers(2, 4)), int(random.integers(3, 9))
    centres = random.random((costs, size))
    worst = ((random.random((400, 1, size)) - centres) ** 2).mean(axis=2).max(axis=1)
    return Problem(centres, random.uniform(0, 6, costs), float(np.quantile(worst, random.choice([0.15, 0.4, 1.0]))))


def simulate(count: int, local: float, seed: int) -> tuple[ExpectedGain, list[float]] | None:
    """A forecast after so many trials, and what 20 continuations gained."""
    random = np.random.default_rng(seed)
    search, history = Search(problem(random), local), list[float]()
    for _ in range(count):
        before, search = search, search.step(random)
        history.append(history[-1] if history and search is before else search.hypervolume())
    found = forecast(history)
    if found is None:
        return None
    gains = []
    for _ in range(20):
        later = search
        for _ in range(found.trials):
            later = later.step(random)
        gains.append(later.hypervolume() - history[-1])
    return found, gains


@pytest.mark.parametrize("local", [0.0, 0.7], ids=["random search", "local search"])
@pytest.mark.parametrize("count", [25, 60])
def test_what_is_expected_is_what_simulated_searches_gain_within_a_factor_of_two(local: float, count: int) -> None:
    rows = [row for seed in range(40) if (row := simulate(count, local, seed)) is not None]
    assert len(rows) >= 20
    ratios = np.array([found.gain / max(float(np.mean(gains)), 1e-9) for found, gains in rows])
    assert 0.5 <= np.median(ratios) <= 2.0
    within = np.mean([found.low <= gain <= found.high for found, gains in rows for gain in gains])
    assert 0.65 <= within <= 0.98
    naive = np.median([found.hypervolume for found, _ in rows] / np.array([np.mean(gains) for _, gains in rows]))
    assert naive > 4  # to expect as much again as was found would be far off
