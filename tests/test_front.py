"""Dominance, the front, its hypervolume and choosing from it, against definitions and other libraries."""

from typing import Any

import moocore
import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autocompress.errors import AutocompressError
from autocompress.front import (
    binding_limit,
    costs,
    excess,
    find_front,
    front_document,
    grown_front,
    hypervolume,
    hypervolumes,
    loosening,
    nondominated,
    pick,
    signs,
)
from autocompress.outcome import Completed, Failed, Infeasible, Limit, Metrics, Outcome, Stopped, violations

OBJECTIVES = ("size_bytes", "accuracy", "latency_ms")
# Few values, so that equal points and equal coordinates are common.
POINTS = arrays.arrays(float, st.tuples(st.integers(0, 12), st.integers(1, 4)), elements=st.integers(0, 4).map(float))
METRICS = st.fixed_dictionaries(
    {"size_bytes": st.integers(1, 120), "accuracy": st.integers(0, 20), "latency_ms": st.integers(1, 60)}
)
BASELINE = {"size_bytes": 100.0, "accuracy": 20.0, "latency_ms": 50.0}


def done(size: float, accuracy: float, latency: float) -> Completed:
    return Completed({"size_bytes": size, "accuracy": accuracy, "latency_ms": latency}, {})


def missed(reason: str = "past a limit", measured: bool = True, **violations: float) -> Infeasible:
    return Infeasible({"latency_ms": 1.0} if measured else {}, violations, reason)


def dominates(first: Any, second: Any) -> bool:
    """The definition: at most as costly everywhere, and less somewhere."""
    return all(a <= b for a, b in zip(first, second, strict=True)) and any(
        a < b for a, b in zip(first, second, strict=True)
    )


@given(POINTS)
def test_nondominated_is_what_the_definition_says(points: np.ndarray[Any, Any]) -> None:
    expected = [not any(dominates(other, point) for other in points) for point in points]
    assert nondominated(points).tolist() == expected


@given(POINTS.filter(len))
def test_nondominated_agrees_with_moocore(points: np.ndarray[Any, Any]) -> None:
    assert nondominated(points).tolist() == moocore.is_nondominated(points, keep_weakly=True).tolist()


def test_the_front_agrees_with_optuna() -> None:
    rows = [(size, (7 * size) % 11 / 11, (5 * size) % 13 + 1.0) for size in range(1, 40)]
    study = optuna.create_study(directions=["minimize", "maximize", "minimize"])
    study.add_trials([optuna.trial.create_trial(values=row) for row in rows])
    front = find_front({number: done(*row) for number, row in enumerate(rows)}, OBJECTIVES)
    assert sorted(front.trials) == sorted(trial.number for trial in study.best_trials)


def test_costs_turn_gains_around_and_leave_costs() -> None:
    # A metric that nobody knows is a task's own: more is better.
    assert signs(("size_bytes", "speedup", "auroc", "latency_ms")).tolist() == [1, -1, -1, 1]
    assert costs([{"size_bytes": 3.0, "auroc": 0.5}], ("size_bytes", "auroc")).tolist() == [[3.0, -0.5]]
    assert costs([], OBJECTIVES).shape == (0, 3)


def test_front_lists_the_smallest_first_and_leaves_out_the_dominated() -> None:
    outcomes = {
        3: done(50, 0.9, 2.0),
        4: done(20, 0.8, 1.0),
        5: done(50, 0.9, 2.1),  # like 3 but slower
        6: done(60, 0.95, 3.0),
    }
    assert find_front(outcomes, OBJECTIVES).trials == (4, 3, 6)


def test_front_depends_on_the_objectives() -> None:
    outcomes = {0: done(10, 0.5, 9.0), 1: done(20, 0.4, 1.0)}
    assert find_front(outcomes, ("size_bytes",)).trials == (0,)
    assert find_front(outcomes, ("latency_ms",)).trials == (1,)


def test_equal_points_are_kept_once_by_the_lower_number() -> None:
    outcomes = {9: done(10, 0.9, 1.0), 2: done(10, 0.9, 1.0), 5: done(5, 0.1, 1.0)}
    assert find_front(outcomes, OBJECTIVES).trials == (5, 2)


def test_counts_say_how_every_trial_ended() -> None:
    outcomes: dict[int, Outcome] = {
        0: done(10, 0.9, 1.0),
        1: missed(size=0.5),
        2: missed(size=0.1),
        3: Stopped("weak"),
        4: Failed("broken"),
        5: Failed("lost", lost=True),
        6: Failed("broken again"),
    }
    front = find_front(outcomes, OBJECTIVES)
    assert front.counts == {"completed": 1, "infeasible": 2, "stopped": 1, "failed": 3}
    assert (front.verdict, front.nearest_miss, front.binding_limit) == ("feasible", None, None)


def test_infeasible_names_the_nearest_miss_and_the_limit_it_is_furthest_past() -> None:
    outcomes: dict[int, Outcome] = {
        0: missed(size=0.5, accuracy=-0.3),  # 0.5 past in all: what holds does not count against the rest
        1: missed(size=0.15, accuracy=0.2),  # 0.35
        2: missed(size=0.4, accuracy=0.01),  # 0.41
        3: Failed("broken"),
    }
    front = find_front(outcomes, OBJECTIVES)
    assert (front.verdict, front.trials) == ("infeasible", ())
    assert (front.nearest_miss, front.binding_limit) == (1, "accuracy")


def test_a_measured_miss_is_nearer_than_one_that_was_rejected_unmeasured() -> None:
    outcomes = {0: missed(measured=False, size=0.01), 1: missed(size=0.9, speedup=0.1)}
    front = find_front(outcomes, OBJECTIVES)
    assert (front.nearest_miss, front.binding_limit) == (1, "size")


def test_where_all_were_rejected_unmeasured_the_nearest_of_them_is_named() -> None:
    front = find_front({0: missed(measured=False, size=3.0), 1: missed(measured=False, size=0.2)}, OBJECTIVES)
    assert (front.verdict, front.nearest_miss, front.binding_limit) == ("infeasible", 1, "size")


@pytest.mark.parametrize("outcomes", [{}, {0: Failed("broken"), 1: Stopped("weak")}])
def test_nothing_finished_when_nothing_was_held_against_the_limits(outcomes: dict[int, Outcome]) -> None:
    front = find_front(outcomes, OBJECTIVES)
    assert (front.verdict, front.trials, front.nearest_miss) == ("nothing_finished", (), None)


def test_excess_adds_what_is_past_and_the_binding_limit_is_the_largest() -> None:
    outcome = missed(size=0.25, accuracy=-1.0, speedup=0.5)
    assert excess(outcome) == 0.75
    assert binding_limit(outcome) == "speedup"
    assert binding_limit(missed()) is None


@given(st.dictionaries(st.integers(0, 50), METRICS, min_size=1, max_size=12))
def test_every_completed_trial_is_on_the_front_or_no_better_than_one_that_is(
    rows: dict[int, dict[str, float]],
) -> None:
    front = find_front({number: Completed(metrics, {}) for number, metrics in rows.items()}, OBJECTIVES)
    points = {number: costs([metrics], OBJECTIVES)[0] for number, metrics in rows.items()}
    for number, point in points.items():
        assert any((points[chosen] <= point).all() for chosen in front.trials)
        if number in front.trials:
            assert not any(dominates(other, point) for other in points.values())
    assert len({tuple(points[number]) for number in front.trials}) == len(front.trials)


OUTCOMES = st.one_of(
    METRICS.map(lambda metrics: Completed(metrics, {})),
    st.sampled_from([missed(size=0.25), missed(size=0.5), missed(accuracy=0.25), Failed("broken"), Stopped("weak")]),
)


@given(st.dictionaries(st.integers(0, 50), OUTCOMES, max_size=12), st.permutations(range(51)))
def test_a_front_that_grows_trial_by_trial_in_any_order_is_that_of_all(
    outcomes: dict[int, Outcome], order: list[int]
) -> None:
    front, known = find_front({}, OBJECTIVES), dict[int, Outcome]()
    for number in (number for number in order if number in outcomes):
        known[number] = outcomes[number]
        front = grown_front(front, known, [number], OBJECTIVES)
        assert front == find_front(known, OBJECTIVES)
    assert front == grown_front(find_front({}, OBJECTIVES), outcomes, outcomes.keys(), OBJECTIVES)


@given(st.dictionaries(st.integers(0, 50), OUTCOMES, max_size=12))
def test_hypervolumes_are_those_of_all_trials_so_far(outcomes: dict[int, Outcome]) -> None:
    found, so_far = hypervolumes(outcomes, OBJECTIVES, BASELINE), list[dict[str, float]]()
    for number, outcome in sorted(outcomes.items()):
        so_far += [outcome.metrics] if isinstance(outcome, Completed) else []
        assert found[number] == pytest.approx(hypervolume(so_far, OBJECTIVES, BASELINE), abs=1e-12)


def test_hypervolume_of_one_point_is_its_box() -> None:
    # Size 25 beside 100 leaves 4/5, accuracy as good as the baseline's 1/2, latency 150 beside 50 leaves 1/4.
    point = {"size_bytes": 25.0, "accuracy": 20.0, "latency_ms": 150.0}
    assert hypervolume([point], OBJECTIVES, BASELINE) == pytest.approx(4 / 5 * 1 / 2 * 1 / 4)


def test_hypervolume_counts_an_overlap_once() -> None:
    # Boxes of 4/5 x 1/2 and 1/2 x 4/5 share 1/2 x 1/2.
    points = [{"size_bytes": 25.0, "latency_ms": 50.0}, {"size_bytes": 100.0, "latency_ms": 12.5}]
    assert hypervolume(points, ("size_bytes", "latency_ms"), BASELINE) == pytest.approx(0.4 + 0.4 - 0.25)


def test_hypervolume_counts_what_is_slower_than_the_baseline_by_its_size() -> None:
    slow, slower = ({"size_bytes": 10.0, "accuracy": 20.0, "latency_ms": ms} for ms in (55.0, 60.0))
    assert 0 < hypervolume([slower], OBJECTIVES, BASELINE) < hypervolume([slow], OBJECTIVES, BASELINE)


def test_hypervolume_of_nothing_or_of_what_is_right_about_nothing_is_zero() -> None:
    assert hypervolume([], OBJECTIVES, BASELINE) == 0.0
    assert hypervolume([{"size_bytes": 40.0, "accuracy": 0.0, "latency_ms": 10.0}], OBJECTIVES, BASELINE) == 0.0


@given(st.lists(METRICS, max_size=8), METRICS)
def test_hypervolume_grows_exactly_with_points_that_none_is_as_good_as(
    rows: list[dict[str, float]], new: dict[str, float]
) -> None:
    before, after = (hypervolume(points, OBJECTIVES, BASELINE) for points in (rows, [*rows, new]))
    assert 0 <= before <= 1
    assert 0 <= after <= 1
    *old, point = costs([*rows, new], OBJECTIVES)
    if new["accuracy"] > 0 and not any((other <= point).all() for other in old):
        assert after > before + 1e-9
    else:
        assert after == pytest.approx(before, abs=1e-12)


# Loosening

LIMITS = (
    Limit("size_bytes", "at_most", 60.0, "size"),
    Limit("accuracy", "at_least", 0.875, "accuracy_drop"),  # 1 - 0.125
    Limit("speedup", "at_least", 2.0, "speedup"),
)
ONE = {"accuracy": 1.0, "size_bytes": 1000.0}


def miss(size: float, accuracy: float, speedup: float, limits: tuple[Limit, ...] = LIMITS) -> Infeasible:
    metrics = {"size_bytes": size, "accuracy": accuracy, "speedup": speedup, "latency_ms": 1.0}
    return Infeasible(metrics, violations(limits, metrics), "past a limit")


def test_a_limit_alone_is_loosened_to_the_best_trial_that_meets_all_others() -> None:
    outcomes: dict[int, Outcome] = {
        0: miss(90, 0.9, 2.5),  # only too large
        1: miss(80, 0.875, 2.0),  # the same, and nearer
        2: miss(70, 0.8, 3.0),  # nearer yet, but not accurate
        3: miss(50, 0.9, 1.5),  # only too slow
        4: Failed("broken"),
        5: Infeasible({"size_bytes": 61.0}, {"size": 1 / 60}, "too large to be trained"),
    }
    size, drop, speed = loosening(outcomes, LIMITS, 2, ONE)
    assert vars(size) == {
        "limit": "size", "sense": "at_most", "bound": 60.0, "alone": 80.0, "trial": 1, "together": 70.0,
    }  # fmt: skip
    # Nothing is small and fast at once. Accuracies are shown as what they lose against the baseline's 1.
    assert vars(drop) == {
        "limit": "accuracy_drop", "sense": "at_most", "bound": 0.125, "alone": None, "trial": None,
        "together": pytest.approx(0.2),
    }  # fmt: skip
    # Trial 2 is fast enough, so that the bound stays.
    assert vars(speed) == {
        "limit": "speedup", "sense": "at_least", "bound": 2.0, "alone": 1.5, "trial": 3, "together": 2.0,
    }  # fmt: skip


def test_what_was_not_measured_of_the_nearest_miss_is_not_known() -> None:
    rejected = Infeasible({"size_bytes": 90.0}, {"size": 0.5}, "too large to be trained")
    rows = loosening({0: rejected}, LIMITS, 0, ONE)
    assert [(row.alone, row.together) for row in rows] == [(None, 90.0), (None, None), (None, None)]


def test_nothing_is_loosened_where_the_budget_is_met_or_nothing_finished() -> None:
    assert loosening({0: done(10, 0.9, 1.0)}, LIMITS, None, ONE) == []
    assert loosening({}, LIMITS, None, ONE) == []


TIGHT = (Limit("size_bytes", "at_most", 50.0, "size"), Limit("accuracy", "at_least", 15.0, "accuracy"))


@given(st.dictionaries(st.integers(0, 9), METRICS, min_size=1, max_size=8))
def test_loosened_as_it_says_a_measured_trial_meets_the_budget_and_no_tighter_one_does(
    rows: dict[int, dict[str, float]],
) -> None:
    past = {number: violations(TIGHT, metrics) for number, metrics in rows.items()}
    outcomes = {n: Infeasible(metrics, past[n], "") for n, metrics in rows.items() if max(past[n].values()) > 0}
    front = find_front(outcomes, OBJECTIVES)

    def meets(metrics: Metrics, bounds: dict[str, float]) -> bool:
        return metrics["size_bytes"] <= bounds["size"] and metrics["accuracy"] >= bounds["accuracy"]

    def possible(bounds: dict[str, float]) -> bool:
        return any(meets(outcome.metrics, bounds) for outcome in outcomes.values())

    found = loosening(outcomes, TIGHT, front.nearest_miss, BASELINE)
    bounds = {limit.label: limit.bound for limit in TIGHT}
    for row in found:
        anything = {**bounds, row.limit: 1e9 if row.sense == "at_most" else -1e9}
        assert (row.alone is not None) == possible(anything)
        if row.alone is not None:
            assert row.trial is not None
            assert meets(outcomes[row.trial].metrics, {**bounds, row.limit: row.alone})
            tighter = row.alone - 0.5 if row.sense == "at_most" else row.alone + 0.5
            assert not possible({**bounds, row.limit: tighter})
    if front.nearest_miss is not None:
        together = {row.limit: row.together for row in found if row.together is not None}
        assert meets(outcomes[front.nearest_miss].metrics, together)


def test_hypervolumes_grow_with_completed_trials_only_in_the_order_of_trials() -> None:
    # Boxes of 4/5 x 1/2, and 1/2 x 4/5 beside it, as above; the last is dominated.
    outcomes: dict[int, Outcome] = {
        7: done(100, 20, 12.5),
        1: Failed("broken"),
        2: done(25, 20, 50),
        4: missed(size=0.1),
        9: done(100, 20, 50),
    }
    found = hypervolumes(outcomes, ("size_bytes", "latency_ms"), BASELINE)
    assert found == pytest.approx({1: 0.0, 2: 0.4, 4: 0.4, 7: 0.55, 9: 0.55})
    assert list(found) == [1, 2, 4, 7, 9]


# Scaled over the front: size (log) 0, 0.5, 1; latency 0, 0.7, 1; lost accuracy 1, 0.6, 0.
FRONT = {
    7: {"size_bytes": 1e3, "latency_ms": 1.0, "accuracy": 0.80},
    2: {"size_bytes": 1e4, "latency_ms": 1.7, "accuracy": 0.88},
    5: {"size_bytes": 1e5, "latency_ms": 2.0, "accuracy": 1.00},
}


@pytest.mark.parametrize(("how", "number"), [("smallest", 7), ("fastest", 7), ("most-accurate", 5)])
def test_pick_takes_the_best_by_one_measure(how: str, number: int) -> None:
    assert pick(tuple(FRONT), FRONT, how, "accuracy") == number


def test_pick_takes_the_knee_with_sizes_on_a_logarithmic_scale() -> None:
    # Squared distances to the ideal: 0 + 0 + 1 = 1, then 0.25 + 0.49 + 0.36 = 1.10, then 1 + 1 + 0 = 2.
    # With sizes as they are, the second would come to (9/99)^2 + 0.85 = 0.858 and win.
    assert pick((7, 2, 5), FRONT, "knee", "accuracy") == 7
    # A little faster, at 1.4 (0.4 of the range), it does: 0.25 + 0.16 + 0.36 = 0.77.
    quicker = {**FRONT, 2: {**FRONT[2], "latency_ms": 1.4}}
    assert pick((7, 2, 5), quicker, "knee", "accuracy") == 2


def test_pick_takes_the_knee_of_points_that_do_not_differ() -> None:
    assert pick((7,), FRONT, "knee", "accuracy") == 7


def test_pick_uses_the_task_s_own_quality() -> None:
    rows = {n: {"size_bytes": 1.0, "latency_ms": 1.0, "accuracy": float(n), "f1": -float(n)} for n in (1, 2)}
    assert pick((1, 2), rows, "most-accurate", "f1") == 1


def test_pick_refuses_other_words_with_the_nearest_one() -> None:
    with pytest.raises(AutocompressError, match=r"--pick smalest: did you mean 'smallest'\?"):
        pick((7,), FRONT, "smalest", "accuracy")


def test_pick_says_that_an_empty_front_has_nothing_to_pick() -> None:
    with pytest.raises(AutocompressError, match="the front is empty"):
        pick((), {}, "knee", "accuracy")


def test_document_of_a_feasible_front() -> None:
    outcomes = {0: done(10, 0.9, 1.0), 1: done(5, 0.5, 2.0), 2: Failed("broken")}
    rows = {
        number: {"recipe": {"steps": []}, "metrics": {"size_bytes": 1.0}, "feasible": True, "run_id": f"run{number}"}
        for number in (0, 1)
    }
    document = front_document("lenet", find_front(outcomes, OBJECTIVES), rows, BASELINE)
    assert document == {
        "study": "lenet",
        "verdict": "feasible",
        "baseline": BASELINE,
        "front": [{"trial": 1, **rows[1]}, {"trial": 0, **rows[0]}],
        "nearest_miss": None,
        "binding_limit": None,
        "loosen": [],
        "counts": {"completed": 2, "infeasible": 0, "stopped": 0, "failed": 1},
    }


def test_document_without_a_front_shows_the_nearest_miss_in_full() -> None:
    rows = {4: {"recipe": {"steps": []}, "metrics": {}, "feasible": False, "run_id": None}}
    document = front_document("lenet", find_front({4: missed(size=1.0)}, OBJECTIVES), rows, BASELINE)
    assert (document["verdict"], document["front"]) == ("infeasible", [])
    assert document["nearest_miss"] == {"trial": 4, **rows[4]}
    assert document["binding_limit"] == "size"
