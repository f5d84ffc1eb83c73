"""Limits by arithmetic, and outcomes that survive JSON."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.outcome import (
    Completed,
    Failed,
    Infeasible,
    Limit,
    Outcome,
    Stopped,
    as_searched,
    from_data,
    latency_now,
    measured,
    remeasured,
    to_data,
    violations,
)

SIZE = Limit("size_bytes", "at_most", 200.0, "size")
ACCURACY = Limit("accuracy", "at_least", 0.8, "accuracy_drop")

NUMBERS = st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False, allow_infinity=False), max_size=3)
OUTCOMES = st.one_of(
    st.builds(Completed, NUMBERS, NUMBERS, NUMBERS),
    st.builds(Infeasible, NUMBERS, NUMBERS, st.text(), NUMBERS),
    st.builds(Stopped, st.text(), NUMBERS),
    st.builds(Failed, st.text(), st.booleans(), st.text(), NUMBERS),
)


@pytest.mark.parametrize(("value", "expected"), [(200.0, 0.0), (250.0, 0.25), (150.0, -0.25), (600.0, 2.0)])
def test_at_most_is_violated_by_the_share_that_a_value_is_above(value: float, expected: float) -> None:
    assert SIZE.violation({"size_bytes": value}) == pytest.approx(expected)


@pytest.mark.parametrize(("value", "expected"), [(0.8, 0.0), (0.6, 0.25), (1.0, -0.25), (0.0, 1.0)])
def test_at_least_is_violated_by_the_share_that_a_value_is_below(value: float, expected: float) -> None:
    assert ACCURACY.violation({"accuracy": value}) == pytest.approx(expected)


@pytest.mark.parametrize("limit", [SIZE, ACCURACY])
def test_what_was_not_measured_violates(limit: Limit) -> None:
    assert limit.violation({"something_else": 0.0}) == 1.0


@pytest.mark.parametrize("limit", [SIZE, ACCURACY])
def test_what_is_no_number_violates(limit: Limit) -> None:
    assert limit.violation({limit.metric: math.nan}) == 1.0


@pytest.mark.parametrize(("value", "held"), [(0.0, True), (0.1, False), (-0.1, True)])
def test_a_limit_of_zero_can_be_kept_and_violated(value: float, held: bool) -> None:
    violation = Limit("accuracy_gap", "at_most", 0.0, "gap").violation({"accuracy_gap": value})
    assert (violation <= 0) is held
    assert math.isfinite(violation)


def test_a_negative_bound_is_scaled_by_its_size() -> None:
    # -3 is 1 below -2, which is half of 2.
    assert Limit("log_likelihood", "at_least", -2.0, "x").violation({"log_likelihood": -3.0}) == 0.5


@given(st.floats(1e-3, 1e6), st.floats(0, 1e6))
def test_a_limit_holds_exactly_when_the_value_is_within_it(bound: float, value: float) -> None:
    assert (Limit("m", "at_most", bound, "m").violation({"m": value}) <= 0) is (value <= bound)
    assert (Limit("m", "at_least", bound, "m").violation({"m": value}) <= 0) is (value >= bound)


def test_violations_are_named_by_label_so_that_two_limits_on_one_metric_stay_apart() -> None:
    limits = (ACCURACY, Limit("accuracy", "at_least", 0.5, "accuracy"))
    assert violations(limits, {"accuracy": 0.6}) == pytest.approx({"accuracy_drop": 0.25, "accuracy": -0.2})


@given(OUTCOMES)
def test_every_outcome_survives_json(outcome: Outcome) -> None:
    assert from_data(json.loads(json.dumps(to_data(outcome)))) == outcome


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (Completed({}, {}), "completed"),
        (Infeasible({}, {}, ""), "infeasible"),
        (Stopped(""), "stopped"),
        (Failed(""), "failed"),
    ],
)
def test_data_says_how_the_trial_ended(outcome: Outcome, name: str) -> None:
    assert to_data(outcome)["type"] == name


def test_to_data_leaves_the_outcome_alone() -> None:
    outcome = Stopped("weak")
    to_data(outcome)["reason"] = "changed"
    assert outcome.reason == "weak"


def test_measured_gives_metrics_of_what_was_measured_in_full_only() -> None:
    full = {"size_bytes": 1.0, "latency_ms": 1.0}
    assert measured(Completed(full, {})) == full
    assert measured(Infeasible(full, {"size": 1.0}, "past")) == full
    assert measured(Infeasible({"size_bytes": 1.0}, {"size": 1.0}, "rejected before training")) is None
    assert measured(Stopped("weak")) is None
    assert measured(Failed("broken")) is None


def test_a_limit_on_speed_is_decided_by_the_last_measurement_and_both_are_kept() -> None:
    limits = (Limit("speedup", "at_least", 6.0, "speedup"), Limit("size_bytes", "at_most", 100.0, "size"))
    before = {"size_bytes": 80.0, "latency_ms": 0.1, "speedup": 10.5}
    while_searching = Completed(before, violations(limits, before), {"train": 2.0})
    slower = remeasured(while_searching, {"latency_ms": 0.2, "speedup": 5.2}, limits)
    assert isinstance(slower, Infeasible)
    assert slower.reason == "past the limit on speedup, when it was measured again with nothing else running"
    assert slower.metrics == {
        "size_bytes": 80.0, "latency_ms": 0.2, "speedup": 5.2, "search_latency_ms": 0.1, "search_speedup": 10.5
    }  # fmt: skip
    assert slower.violations == pytest.approx({"speedup": 0.8 / 6, "size": -0.2})
    faster = remeasured(Infeasible({**before, "speedup": 5.0}, {}, "past"), {"latency_ms": 0.1, "speedup": 7.0}, limits)
    assert isinstance(faster, Completed)
    assert remeasured(Failed("broken"), {"speedup": 7.0}, limits) == Failed("broken")


def test_an_outcome_as_the_search_saw_it_outlives_being_measured_again() -> None:
    limit = Limit("speedup", "at_least", 2.0, "speedup")
    seen = {"size_bytes": 10.0, "latency_ms": 1.0, "speedup": 2.5}
    first = Completed(seen, {"speedup": -0.25})
    assert as_searched(first) == seen
    again = remeasured(first, {"latency_ms": 2.0, "speedup": 1.25}, (limit,))
    assert isinstance(again, Infeasible)
    found = as_searched(again)
    assert found is not None
    assert {name: found[name] for name in seen} == seen
    assert as_searched(Infeasible(seen, {"speedup": 0.1}, "past a limit")) is None
    assert as_searched(Failed("broken")) is None


def test_the_interval_of_the_uncompressed_model_moves_with_its_latency() -> None:
    before = {
        "latency_ms": 2.0,
        "latency_ms_low": 1.9,
        "latency_ms_high": 2.1,
        "latency_ms_p90": 2.2,
        "size_bytes": 5.0,
    }
    now = latency_now(before, 3.0)
    assert now == pytest.approx(
        {"latency_ms": 3.0, "latency_ms_low": 2.85, "latency_ms_high": 3.15, "latency_ms_p90": 3.3}
    )
