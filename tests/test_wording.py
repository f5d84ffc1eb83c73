"""Numbers, limits and verdicts in words."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.config import Budget
from autocompress.outcome import Limit
from autocompress.recipe import recipe_line
from autocompress.wording import (
    change_text,
    clock,
    gain_lines,
    limit_text,
    limit_value,
    loosening_lines,
    size,
    value_text,
    verdict_lines,
)

LIMITS = (Limit("size_bytes", "at_most", 60_000.0, "size"), Limit("accuracy", "at_least", 0.975, "accuracy_drop"))
RECIPE = {"version": 1, "steps": [{"technique": "svd", "energy": 0.5}, {"technique": "float16"}]}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (9.9, "0:09"), (61, "1:01"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (60_000, "60.0 KB"), (1_725_550, "1.7 MB"), (25.3e9, "25.3 GB")],
)
def test_size_counts_in_thousands(value: float, text: str) -> None:
    assert size(value) == text


def test_limits_in_words() -> None:
    assert [limit_text(limit) for limit in LIMITS] == ["size_bytes at most 60.0 KB", "accuracy at least 0.975"]


def document(verdict: str, **changes: Any) -> dict[str, Any]:
    counts = {"completed": 3, "infeasible": 1, "stopped": 0, "failed": 2}
    nothing = {"front": [], "nearest_miss": None, "binding_limit": None}
    return {"verdict": verdict, "counts": counts, **nothing, **changes}


def test_verdict_of_a_feasible_search() -> None:
    assert verdict_lines(document("feasible", front=[{}, {}]), LIMITS, "accuracy") == [
        "6 trials: 3 completed, 1 infeasible, 2 failed",
        "feasible: 2 on the front meet the budget (size_bytes at most 60.0 KB, accuracy at least 0.975)",
    ]


def test_what_more_trials_are_expected_to_add_in_shares_of_what_there_is() -> None:
    gain = {"trials": 40, "seconds": 200.0, "hypervolume": 0.5, "gain": 0.01, "low": 0.001, "high": 0.0375}
    line = (
        "another 40 trials (3:20 of a worker's time) are expected to add 2% to the front's hypervolume "
        "(8 times of 10 between 0.2% and 7.5%)"
    )
    assert gain_lines(gain) == [line]
    assert verdict_lines(document("feasible", front=[{}], expected_gain=gain), (), "accuracy")[-1] == line
    assert gain_lines(None) == []


def test_verdict_without_limits_says_so() -> None:
    assert verdict_lines(document("feasible", front=[{}]), (), "accuracy")[-1].endswith("(no limits)")


def test_verdict_of_an_infeasible_search_names_the_nearest_miss_and_what_binds() -> None:
    miss = {
        "trial": 7,
        "metrics": {"size_bytes": 80_000, "compression_ratio": 21.569375, "accuracy": 0.98},
        "recipe": RECIPE,
    }
    lines = verdict_lines(document("infeasible", nearest_miss=miss, binding_limit="size"), LIMITS, "accuracy")
    assert lines[1].startswith("infeasible: nothing meets the budget (size_bytes at most 60.0 KB")
    assert lines[2].startswith("nearest miss: trial 7: 80.0 KB 21.6x 0.9800")
    assert lines[2].endswith(recipe_line(RECIPE))
    assert lines[3].startswith("the limit that binds: size:")


def loosened(limit: str, sense: str, bound: float, alone: float | None, together: float | None) -> dict[str, Any]:
    trial = None if alone is None else 4
    return {"limit": limit, "sense": sense, "bound": bound, "alone": alone, "trial": trial, "together": together}


def test_loosened_limits_in_the_units_of_the_budget() -> None:
    rows = [
        loosened("size", "at_most", 60_000, 72_345, 70_000),
        loosened("accuracy_drop", "at_most", 0.01, None, 0.0234),
        loosened("latency", "at_most", 0.2, 0.25, 0.2),
        loosened("speedup", "at_least", 1.5, 1.3579, None),
    ]
    assert loosening_lines(rows) == [
        "what was measured would meet the budget with",
        "  size alone at 72.4 KB (trial 4)",
        "  accuracy_drop alone: at no value, as no trial meets all other limits",
        "  latency alone at 0.250 ms (trial 4)",
        "  speedup alone at 1.35x (trial 4)",
        "  or, for the nearest miss, size at 70.0 KB, accuracy_drop at 0.0234 (2.34 points), speedup is not known",
    ]
    assert loosening_lines(rows[2:3])[-1] == "  latency alone at 0.250 ms (trial 4)"
    assert loosening_lines([]) == []


@given(st.floats(1e-3, 1e11))
def test_a_loosened_size_is_never_tighter_as_it_is_written_and_within_a_hundredth(value: float) -> None:
    found = Budget.model_validate({"size": limit_value({"limit": "size", "sense": "at_most"}, value)}).size
    assert found is not None
    assert value <= found <= value * 1.0101


@given(st.floats(-1e3, 1e3).filter(lambda value: abs(value) > 1e-3))
def test_a_loosened_number_is_never_tighter_as_it_is_written(value: float) -> None:
    low, high = (float(limit_value({"limit": "f1", "sense": sense}, value)) for sense in ("at_least", "at_most"))
    assert low <= value <= high
    assert high - low <= 0.0101 * abs(value)


def test_verdict_of_a_miss_that_was_rejected_before_it_was_measured() -> None:
    miss = {"trial": 7, "metrics": {"size_bytes": 80_000}, "recipe": {"steps": []}}
    lines = verdict_lines(document("infeasible", nearest_miss=miss, binding_limit="size"), LIMITS, "accuracy")
    assert lines[2] == "nearest miss: trial 7: 80.0 KB: (no steps)"


def test_verdict_where_nothing_finished() -> None:
    lines = verdict_lines(document("nothing_finished"), LIMITS, "accuracy")
    assert lines[-1].startswith("nothing finished:")
    empty = dict.fromkeys(("completed", "infeasible", "stopped", "failed"), 0)
    assert verdict_lines(document("nothing_finished", counts=empty), LIMITS, "accuracy")[0] == "no trials ended"


@pytest.mark.parametrize(
    ("name", "before", "after", "value", "change"),
    [
        ("size_bytes", 2000, 1500, "1.5 KB", "-25.0%"),
        ("speedup", 1.0, 1.5, "1.50x", "+50.0%"),
        ("accuracy", 0.98, 0.97, "0.9700", "-0.0100"),
        ("perplexity", 20.0, 25.5, "25.5", "+5.5000"),
        ("latency_ms", 0.0, 0.5, "0.5000", "+0.5000"),
        ("latency_ms", 0.00684, 0.0067716, "0.006772", "-1.0%"),
    ],
)
def test_values_and_changes_as_people_read_them(
    name: str, before: float, after: float, value: str, change: str
) -> None:
    assert value_text(name, after, named=False) == value
    assert change_text(name, before, after) == change
