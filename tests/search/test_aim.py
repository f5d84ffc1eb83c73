"""Objectives and limits as a surrogate takes them, against arithmetic and moocore."""

import math

import moocore
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autocompress.outcome import Limit
from autocompress.search.aim import Aim, Axis, Bound, Seen, best_of
from autocompress.search.facts_first import make_aim

BASELINE = {"size_bytes": 100_000.0, "latency_ms": 2.0, "accuracy": 0.97, "error": 0.2, "params": 25_000.0}
AIM = Aim(
    (Axis("size_bytes", True, 10, 1000, True, True), Axis("accuracy", False, 1.0, 0.9, False, False)),
    (Bound("size_bytes", True, 1000), Bound("accuracy", False, 0.9)),
    {"accuracy": (0.97, 0.07)},
)


def seen(size: float, accuracy: float, feasible: bool = True) -> Seen:
    return Seen({}, {"size_bytes": size}, {"accuracy": accuracy}, feasible)


def test_costs_run_from_the_ideal_to_the_worst_that_counts() -> None:
    costs = AIM.costs([seen(100, 0.95), seen(1000, 0.9), seen(10, 1.0), seen(5, 0.8)])
    np.testing.assert_allclose(costs, [[0.5, 0.5], [1, 1], [0, 0], [0, 2]], atol=1e-12)
    assert AIM.costs([Seen({}, {})])[0].tolist() == [2.0, 2.0]


def test_misses_are_counted_by_the_limit_and_by_the_drop_that_matters() -> None:
    assert AIM.miss(seen(1500, 0.83)) == pytest.approx(0.5 + 1.0)
    assert AIM.miss(seen(900, 0.95)) == 0


def test_the_best_are_the_feasible_by_dominance_and_then_the_near_misses() -> None:
    rows = [seen(1100, 0.95, False), seen(500, 0.92), seen(100, 0.95), seen(2000, 0.95, False)]
    costs, misses = AIM.costs(rows), np.array([AIM.miss(row) for row in rows])
    assert best_of(costs, misses, 4).tolist() == [2, 1, 0, 3]
    assert best_of(costs, misses, 1).tolist() == [2]


@given(
    st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])] * 2, st.sampled_from([0.0, 0.0, 0.5, 1.0]))),
    st.integers(1, 12),
)
@example([(1.0, 1.0, 0.0), *[(0.0, 0.0, 0.5)] * 5], 2)  # what is past a limit does not count against what is within
def test_the_best_few_are_the_first_of_all_in_their_order(rows: list[tuple[float, ...]], count: int) -> None:
    """Against the definition: by what is missed, by how many of the feasible dominate, by the sum of costs."""
    costs, misses = np.array([row[:2] for row in rows]).reshape(-1, 2), np.array([row[2] for row in rows], dtype=float)

    def rank(index: int) -> int:
        return sum(
            miss <= 0 and bool((point <= costs[index]).all() and (point < costs[index]).any())
            for point, miss in zip(costs, misses, strict=True)
        )

    order = sorted(range(len(rows)), key=lambda index: (misses[index], rank(index), costs[index].sum(), index))
    assert best_of(costs, misses, count).tolist() == order[:count]


@given(st.floats(-1, 0.999))
def test_drops_lead_back_to_qualities(value: float) -> None:
    assert AIM.from_drop("accuracy", AIM.to_drop("accuracy", [value]))[0] == pytest.approx(value, abs=1e-9)


def test_limits_that_say_the_same_are_one_bound() -> None:
    limits = (
        Limit("compression_ratio", "at_least", 20.0, "compression_ratio"),
        Limit("size_bytes", "at_most", 8_000.0, "size"),
        Limit("speedup", "at_least", 4.0, "speedup"),
        Limit("accuracy", "at_least", 0.96, "accuracy_drop"),
        Limit("error", "at_most", 0.3, "error"),
    )
    aim = make_aim(("size_bytes", "accuracy", "speedup", "error"), limits, BASELINE, lower=("error",))
    bounds = {bound.name: (bound.at_most, bound.bound) for bound in aim.bounds}
    assert bounds == {
        "size_bytes": (True, 5_000.0),
        "latency_ms": (True, 0.5),
        "accuracy": (False, 0.96),
        "error": (False, -0.3),  # turned, so that more is better
    }
    assert [axis.name for axis in aim.axes] == ["size_bytes", "accuracy", "latency_ms", "error"]
    assert aim.qualities["accuracy"] == (0.97, pytest.approx(0.01))
    assert aim.qualities["error"] == (-0.2, pytest.approx(0.1))
    assert aim.facts == ("size_bytes", "latency_ms")


def test_without_limits_the_baseline_is_the_worst_that_counts() -> None:
    aim = make_aim(("size_bytes", "accuracy"), (), BASELINE)
    size, accuracy = aim.axes
    assert size.worst == BASELINE["size_bytes"]
    assert 0 < size.ideal < size.worst
    assert accuracy.worst < BASELINE["accuracy"] < accuracy.ideal
    assert aim.bounds == ()


def test_gains_are_those_of_the_hypervolume() -> None:
    """Counted by points of the cube: off by less than a hundredth."""
    from autocompress.search.proposals import Proposer
    from autocompress.search.terrain import Terrain

    proposer = Proposer(Terrain({}, lambda row: set(), lambda row: set()), AIM, lambda row: 1.0, 0)
    taken = AIM.costs([seen(300, 0.95), seen(80, 0.91)])
    sizes, accuracies = [200.0, 50.0, 900.0], [0.96, 0.93, 0.99]
    quality = {"accuracy": np.repeat(np.array(accuracies)[:, None], 5, axis=1)}
    gains = proposer._gains(taken, {"size_bytes": np.log(sizes)}, quality)
    before = moocore.hypervolume(taken, ref=np.ones(2))
    for gain, size, accuracy in zip(gains, sizes, accuracies, strict=True):
        after = moocore.hypervolume(np.vstack([taken, AIM.costs([seen(size, accuracy)])]), ref=np.ones(2))
        assert gain == pytest.approx(after - before, abs=0.01)
    past = proposer._gains(taken, {"size_bytes": np.log([10.0])}, {"accuracy": np.full((1, 5), 0.89)})
    assert past[0] == 0  # a limit is kept, or nothing is gained
    assert math.isclose(proposer._gains(np.array([[0.0, 0.0]]), {"size_bytes": np.log([10.0])}, quality)[0], 0)
