"""Why trials win and lose, by arithmetic on studies of a few made-up trials."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.front import find_front
from autocompress.outcome import Completed, Failed, Infeasible, Limit, Metrics, Outcome, Stopped
from autocompress.search.explain import (
    Closeness,
    Difference,
    Found,
    Gap,
    Past,
    Spent,
    closest_limits,
    differences,
    dominated,
    dominators,
    gaps,
    neighbours,
    picks,
    rejections,
    runner_up,
    slacks,
    spending,
)
from autocompress.search.records import Record

BASE: Metrics = {"size_bytes": 1000.0, "accuracy": 0.99, "latency_ms": 1.0, "speedup": 1.0, "error": 0.1}
SIZE = Limit("size_bytes", "at_most", 200.0, "size")
DROP = Limit("accuracy", "at_least", 0.95, "accuracy_drop")
SPEED = Limit("speedup", "at_least", 2.0, "speedup")
LIMITS = (SIZE, DROP, SPEED)
OBJECTIVES = ("size_bytes", "accuracy")


def metrics(size: float, accuracy: float, speedup: float = 2.5, **more: float) -> Metrics:
    return {"size_bytes": size, "accuracy": accuracy, "speedup": speedup, "latency_ms": 1 / speedup, **more}


def good(size: float, accuracy: float, speedup: float = 2.5, **more: float) -> Completed:
    return Completed(metrics(size, accuracy, speedup, **more), {"size": -0.1}, {"train": 2.0})


def study(outcomes: dict[int, Outcome], recipes: dict[int, Any] | None = None, **changes: Any) -> Found:
    """A study of these trials, without recipes where none are given."""
    steps = {number: {"version": 1, "steps": (recipes or {}).get(number, [])} for number in outcomes}
    records = {number: Record(number, steps[number], outcome, 1, None, 0, 1) for number, outcome in outcomes.items()}
    objectives = changes.pop("objectives", OBJECTIVES)
    front = find_front(outcomes, objectives, changes.get("lower", ()))
    return Found(records, front, objectives, "accuracy", BASE, **{"limits": LIMITS, **changes})


# Limits


def test_what_is_left_of_a_limit_is_a_share_of_what_it_allows() -> None:
    rows = slacks(LIMITS, metrics(150, 0.96, 3.0), BASE)
    # Size: 50 of 200. Accuracy: 0.01 of the 0.04 that may be lost. Speed: 1 more than the 2 that are asked for.
    assert [row.label for row in rows] == ["size", "accuracy_drop", "speedup"]
    assert [row.left for row in rows] == pytest.approx([0.25, 0.25, 0.5])
    assert [row.value for row in rows] == [150, 0.96, 3.0]


def test_a_limit_that_is_passed_has_less_than_nothing_left_and_comes_first() -> None:
    rows = slacks(LIMITS, metrics(250, 0.99, 1.5), BASE)
    assert [row.label for row in rows] == ["size", "speedup", "accuracy_drop"]
    assert [row.left for row in rows] == pytest.approx([-0.25, -0.25, 1.0])  # 50 of 200, 0.5 of 2, nothing lost


def test_a_limit_at_what_the_uncompressed_model_has_is_a_whole_of_its_own() -> None:
    (row,) = slacks([Limit("accuracy", "at_least", 0.99, "accuracy")], metrics(1, 1.0), BASE)
    assert row.left == pytest.approx(0.01 / 0.99)


def test_what_was_not_measured_passes_no_limit() -> None:
    (row,) = slacks([SIZE], {}, BASE)
    assert (row.value, row.left) == (None, -1.0)


def test_the_limit_that_binds_a_front_is_the_one_most_members_are_closest_to() -> None:
    found = study({0: good(190, 0.99), 1: good(160, 0.985), 2: good(100, 0.955)})
    # Left of the size: 5%, 20%, 50%. Left of the drop: 100%, 87.5%, 12.5%. Left of the speed: 25% each.
    assert closest_limits(found) == [
        Closeness("size", 2, 0, pytest.approx(0.05)),
        Closeness("accuracy_drop", 1, 2, pytest.approx(0.125)),
    ]


def test_a_front_without_limits_is_close_to_none() -> None:
    assert closest_limits(study({0: good(1, 0.9)}, limits=())) == []


def past(seconds: float, measured: bool = True, **over: float) -> Infeasible:
    found = metrics(150, 0.9) if measured else {}
    return Infeasible(found, over, "past", {"train": seconds, "export": 1.0})


def test_rejections_count_by_limit_and_their_seconds_once() -> None:
    outcomes: dict[int, Outcome] = {
        0: past(9.0, size=0.5, speedup=0.1),
        1: past(4.0, size=0.2, speedup=-0.3),
        2: past(1.0, size=0.1, speedup=0.4),
        3: past(0.0, measured=False, collapse=1.0),
        4: good(1, 1),
        5: Failed("broken"),
    }
    assert rejections(outcomes) == [Past("size", 3, 1, 15.0), Past("speedup", 2, 0, 2.0), Past("collapse", 1, 1, 1.0)]


def test_spending_is_by_how_trials_ended() -> None:
    outcomes: dict[int, Outcome] = {
        0: past(9.0, size=0.5),
        1: past(2.0, measured=False, size=0.5),
        2: good(1, 1),
        3: good(1, 1),
        4: Failed("broken", seconds={"decide": 0.5}),
        5: Stopped("weak"),
    }
    assert spending(outcomes) == [
        Spent("past a limit", 1, 10.0),
        Spent("completed", 2, 4.0),
        Spent("rejected early", 1, 3.0),
        Spent("failed", 1, 0.5),
        Spent("stopped", 1, 0.0),
    ]
    assert spending({}) == []


# The front


def test_picks_name_the_ends_of_the_front() -> None:
    found = study({0: good(10, 0.95, 2.0), 1: good(20, 0.98, 2.1), 2: good(90, 0.99, 2.0)})
    named = picks(found)
    assert named[0] == ["smallest"]
    assert "most-accurate" in named[2]
    assert "fastest" in named[1]
    assert sum(map(len, named.values())) == 4
    assert picks(study({})) == {}


POINTS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=8)


@given(POINTS)
def test_dominance_is_what_its_definition_says(points: list[tuple[int, int]]) -> None:
    found = study({n: good(size, accuracy) for n, (size, accuracy) in enumerate(points)})
    for n, (size, accuracy) in enumerate(points):
        worse = [
            m for m, (s, a) in enumerate(points) if s >= size and a <= accuracy and (s, a) != (size, accuracy)
        ]  # fmt: skip
        assert dominated(n, found) == worse
        if n in found.front.trials:
            assert dominators(n, found) == []
        else:
            assert dominators(n, found)
            for better in dominators(n, found):
                assert points[better] == points[n] or n in dominated(better, found)


def test_metrics_of_which_less_is_better_are_taken_so() -> None:
    found = study(
        {0: good(10, 0.9, error=0.1), 1: good(10, 0.9, error=0.2)},
        objectives=("size_bytes", "error"),
        lower=("error",),
    )
    assert (found.front.trials, dominated(0, found), dominators(1, found)) == ((0,), [1], [0])
    assert gaps(found.measured[0], found.measured[1], found) == [Gap("error", 0.1, 0.2)]


def test_the_runner_up_lacks_least_to_beat_it() -> None:
    outcomes: dict[int, Outcome] = {
        0: good(100, 0.96),
        1: good(120, 0.98),
        2: good(102, 0.955),  # lacks 2 of 20 in size and 0.005 of 0.02: 0.35
        3: good(110, 0.96),  # lacks 10 of 20: 0.5
    }
    second = runner_up(0, study(outcomes))
    assert second is not None
    assert (second.trial, second.past) == (2, {})
    assert second.lost_by == [Gap("size_bytes", 100, 102), Gap("accuracy", 0.96, 0.955)]

    slow = Infeasible(metrics(90, 0.97, 1.6), {"speedup": 0.2, "size": -0.5}, "past the limit on speedup")
    second = runner_up(0, study({**outcomes, 4: slow}))
    assert second is not None
    assert (second.trial, second.lost_by, second.past) == (4, [], {"speedup": 0.2})  # lacks 0.2


def test_a_front_of_one_holds_others_against_its_own_values_and_none_against_nothing() -> None:
    second = runner_up(0, study({0: good(100, 0.96), 1: good(150, 0.96), 2: good(100, 0.9)}))
    assert second is not None
    assert second.trial == 2  # 0.06 of 0.96 is less than 50 of 100
    assert runner_up(0, study({0: good(100, 0.96), 1: Failed("broken")})) is None


# Neighbours


def step(technique: str, **settings: Any) -> dict[str, Any]:
    return {"technique": technique, **settings}


def recipe(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"version": 1, "steps": list(steps)}


def test_differences_are_settings_steps_and_order() -> None:
    prune, svd, tune = step("prune", ratio=0.5, scope="layer"), step("svd", energy=0.9), step("finetune", epochs=3)
    assert differences(recipe(prune, tune), recipe(step("prune", ratio=0.6, scope="layer"), tune)) == [
        Difference("prune", "ratio", 0.5, 0.6)
    ]
    assert differences(recipe(prune, tune), recipe(prune, step("int8"))) == [
        Difference("finetune", None, {"epochs": 3}, None),
        Difference("int8", None, None, {}),
    ]
    assert differences(recipe(prune, svd), recipe(svd, prune)) == [
        Difference("", "order", ["prune", "svd"], ["svd", "prune"])
    ]
    # Of a technique that stands twice, the first goes with the first.
    twice = recipe(step("tune", epochs=1), step("tune", epochs=2))
    assert differences(twice, recipe(step("tune", epochs=1))) == [Difference("tune", None, {"epochs": 2}, None)]


STEPS = st.lists(
    st.builds(step, st.sampled_from(["prune", "svd", "tune"]), amount=st.integers(1, 2)), max_size=4
)  # fmt: skip


@given(STEPS, STEPS)
def test_differences_are_none_of_equals_and_the_same_from_both_sides(one: Any, other: Any) -> None:
    here, there = recipe(*one), recipe(*other)
    assert (differences(here, there) == []) == (one == other)
    back = [Difference(row.technique, row.setting, row.there, row.here) for row in differences(there, here)]
    assert sorted(map(repr, differences(here, there))) == sorted(map(repr, back))


def test_neighbours_share_the_steps_first_and_then_the_settings() -> None:
    prune, tune = step("prune", ratio=0.5, scope="layer"), step("tune", epochs=3)
    recipes = {
        0: [prune, tune],
        1: [prune],
        2: [step("prune", ratio=0.6, scope="global"), tune],
        3: [prune, step("tune", epochs=4)],
        4: [prune, tune, step("int8"), step("svd"), step("float16")],
        5: [prune, tune, step("int8")],
    }
    outcomes: dict[int, Outcome] = {number: good(100 + number, 0.96) for number in recipes}
    outcomes[3] = Failed("broken")
    found = study(outcomes, recipes)
    assert [row.trial for row in neighbours(0, found, most=9)] == [3, 2, 1, 5]  # 4 has three steps more
    nearest = neighbours(0, found)[0]
    assert (nearest.differs, nearest.outcome) == ([Difference("tune", "epochs", 3, 4)], Failed("broken"))
    assert neighbours(0, study({0: good(1, 1)})) == []


@pytest.mark.parametrize("outcome", [Failed("broken"), Stopped("weak"), past(1.0, measured=False, size=0.5)])
def test_a_study_without_measured_trials_has_answers_too(outcome: Outcome) -> None:
    found = study({0: outcome})
    assert (found.measured, closest_limits(found), picks(found), neighbours(0, found)) == ({}, [], {}, [])
    assert len(spending(found.outcomes)) == 1
