"""Goals as they are written: the budget's words, units and senses, and what is refused."""

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.config import Budget
from autocompress.errors import ConfigError
from autocompress.outcome import Limit
from autocompress.search.goal import goal_limits, met

BASELINE = {
    "size_bytes": 1_000_000.0,
    "params": 250_000.0,
    "nonzero_params": 250_000.0,
    "space_saving": 0.0,
    "latency_ms": 2.0,
    "speedup": 1.0,
    "compression_ratio": 1.0,
    "accuracy": 0.9,
    "f1": 0.8,
    "mae": 0.1,
}
LOWER = ("mae",)
# A goal's term, and the entry of a budget that means the same.
TERMS: list[tuple[str, dict[str, Any]]] = [
    ("size <= 20 KB", {"size": "20 KB"}),
    ("size<=20KiB", {"size": "20 KiB"}),
    ("size_bytes <= 20000", {"size_bytes": 20000}),
    ("compression_ratio >= 30", {"compression_ratio": 30}),
    ("speedup >= 1.5", {"speedup": 1.5}),
    ("latency <= 200 us", {"latency": "200 us"}),
    ("latency_ms <= 2e-1", {"latency_ms": 0.2}),
    ("params <= 1000", {"params": 1000}),
    ("accuracy >= 0.85", {"accuracy": 0.85}),
    ("accuracy_drop <= 0.01", {"accuracy_drop": 0.01}),
    ("accuracy_drop <= 0", {"accuracy_drop": 0}),
    ("f1 >= 0.7", {"metrics": {"f1": 0.7}}),
    ("mae <= 0.2", {"metrics": {"mae": 0.2}}),
    ("nonzero_params <= 10", {"metrics": {"nonzero_params": 10}}),
    ("space_saving >= 0.9", {"metrics": {"space_saving": 0.9}}),
]


def goal(text: str | None) -> tuple[Limit, ...]:
    return goal_limits(text, BASELINE, LOWER)


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        goal(text)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(("text", "budget"), TERMS, ids=[text for text, _ in TERMS])
def test_a_term_is_the_limit_that_the_budget_makes(text: str, budget: dict[str, Any]) -> None:
    assert goal(text) == Budget.model_validate(budget).limits(BASELINE, LOWER)


def test_every_word_of_the_budget_is_one_of_the_goal() -> None:
    words = {text.replace("<", " ").split()[0] for text, _ in TERMS}
    assert words >= Budget.model_fields.keys() - {"metrics"}


@given(st.lists(st.sampled_from(TERMS), min_size=1, max_size=4, unique_by=lambda term: term[0].split("<")[0].strip()))
def test_terms_are_joined_by_and(terms: list[tuple[str, dict[str, Any]]]) -> None:
    joined = goal(" AND ".join(text for text, _ in terms))
    assert joined == tuple(limit for text, _ in terms for limit in goal(text))


def test_no_goal_is_no_limit_and_is_never_met() -> None:
    assert goal(None) == ()
    assert not met((), BASELINE)


@pytest.mark.parametrize(
    ("text", "on", "beyond"),
    [
        ("size < 20 KB", {"size_bytes": 20_000.0}, {"size_bytes": 19_999.0}),
        ("speedup > 1.5", {"speedup": 1.5}, {"speedup": 1.5000001}),
        ("mae < 0", {"mae": 0.0}, {"mae": -1e-9}),
    ],
)
def test_a_strict_sign_leaves_the_bound_itself_out(text: str, on: dict[str, float], beyond: dict[str, float]) -> None:
    assert not met(goal(text), on)
    assert met(goal(text), beyond)
    assert met(goal(text.replace("<", "<=").replace(">", ">=")), on)


def test_all_terms_must_hold_and_what_is_not_measured_does_not() -> None:
    both = goal("size <= 20 KB and accuracy_drop <= 0.01")
    assert met(both, {"size_bytes": 20_000.0, "accuracy": 0.9 - 0.01})
    assert not met(both, {"size_bytes": 20_001.0, "accuracy": 0.9})
    assert not met(both, {"size_bytes": 20_000.0, "accuracy": 0.88})
    assert not met(both, {"size_bytes": 20_000.0})
    assert not met(both, {"size_bytes": 20_000.0, "accuracy": math.nan})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sise <= 20 KB", "'sise <= 20 KB': 'sise' is not measured; did you mean 'size'?"),
        ("Size <= 20 KB", "did you mean 'size'?"),
        ("f12 >= 0.5", "did you mean 'f1'?"),
        ("metrics >= 1", "'metrics' is not measured; "),
        ("size <= 20", "'size <= 20': size: '20': is no number with a unit; write for example '60 KB'"),
        ("size <= 20 ms", "unknown unit 'ms'; known: b, kb"),
        ("latency <= 2 KB", "unknown unit 'KB'; known: ns, us, ms, s"),
        ("size <= -1 KB", "write a number greater than 0"),
        ("speedup >= 1.5x", "'speedup >= 1.5x': speedup: '1.5x': input should be a valid number"),
        ("accuracy >= 95", "accuracy: '95': input should be less than or equal to 1"),
        ("f1 >= half", "'f1 >= half': 'half' is no number, and f1 has no unit: write one"),
        ("f1 >= nan", "is no number"),
        ("speedup >= inf", "finite number"),
        ("size >= 20 KB", "'size >= 20 KB': less of size is better: write size <= 20 KB"),
        ("speedup < 2", "more of speedup is better: write speedup > 2"),
        ("accuracy_drop >= 0.01", "less of accuracy_drop is better: write accuracy_drop <= 0.01"),
        ("accuracy <= 0.9", "more of accuracy is better: write accuracy >= 0.9"),
        ("mae >= 0.1", "less of mae is better: write mae <= 0.1"),
        ("f1 <= 0.5", "write f1 >= 0.5, or name it in the task's `lower_is_better`"),
        ("space_saving <= 0.5", "more of space_saving is better: write space_saving >= 0.5"),
        ("size <= 20 KB and size <= 10 KB", "size is bounded twice: keep one"),
        ("", "an empty goal: write METRIC <= NUMBER"),
        ("  ", "an empty goal"),
        ("size <= 20 KB and", "an empty term: write METRIC <= NUMBER"),
        ("size", "'size': write METRIC <= NUMBER or METRIC >= NUMBER, joined by `and`: size <= 20 KB and acc"),
        ("size = 20 KB", "'size = 20 KB': write METRIC <= NUMBER"),
        ("20 KB >= size", "'20 KB >= size': write METRIC"),
        ("1 KB <= size <= 2 KB", "write METRIC"),
        ("size <= 20 KB or speedup >= 2", "write METRIC"),
        ("size <= 20 KB, params <= 3", "write METRIC"),
    ],
)
def test_what_is_no_goal_is_refused_in_one_line(text: str, message: str) -> None:
    assert message in refused(text)


def test_accuracy_of_a_task_that_measures_something_else_is_refused() -> None:
    bare = {key: value for key, value in BASELINE.items() if key != "accuracy"}
    with pytest.raises(ConfigError, match="accuracy_drop: the task does not measure 'accuracy'"):
        goal_limits("accuracy_drop <= 0.1", bare)


@given(st.text(max_size=40))
def test_any_text_is_a_goal_or_refused(text: str) -> None:
    found: tuple[Limit, ...] = ()
    with contextlib.suppress(ConfigError):
        found = goal(text)
        assert found
