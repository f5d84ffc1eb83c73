"""What a training is held against at a rung: the most that those alike gained from there on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.outcome import Limit, Metrics
from autocompress.trial.peers import ENOUGH, NEAREST, Pair, Peers

RUNG = "a third of the last training"
OBJECTIVES = ("size_bytes", "accuracy")
LIMITS = (Limit("accuracy", "at_least", 0.9, "accuracy_drop"), Limit("size_bytes", "at_most", 5000.0, "size"))
FACTS: Metrics = {"size_bytes": 4000.0}


def pairs(name: str, *rows: tuple[float, float]) -> tuple[Pair, ...]:
    return tuple(({name: there}, {name: end}) for there, end in rows)


def peers(*rows: tuple[float, float], front: tuple[Metrics, ...] = ()) -> Peers:
    return Peers(OBJECTIVES, (), front, {RUNG: pairs("accuracy", *rows)})


GAINED = [(0.80, 0.84), (0.81, 0.82), (0.82, 0.85), (0.83, 0.85), (0.84, 0.90), (0.85, 0.86)]  # 0.06 at most


@pytest.mark.parametrize(("there", "goes_on"), [(0.83, False), (0.845, True), (0.95, True)])
def test_what_stays_past_a_limit_with_the_most_that_others_gained_is_stopped(there: float, goes_on: bool) -> None:
    stopped = peers(*GAINED).judge(RUNG, {"accuracy": there}, FACTS, LIMITS)
    assert (stopped is None) == goes_on
    if stopped is not None:
        assert "accuracy 0.83 after a third of the last training" in stopped.reason
        assert "past the limit on accuracy_drop (accuracy 0.89)" in stopped.reason
        assert stopped.expected == {"accuracy": pytest.approx(0.83 + 0.025)}  # gains: .01 .01 .02 .03 .04 .06


def test_nobody_is_stopped_before_enough_went_on() -> None:
    assert peers(*GAINED).judge(RUNG, {"accuracy": 0.8}, FACTS, LIMITS) is not None
    assert peers(*GAINED[: ENOUGH - 1]).judge(RUNG, {"accuracy": 0.8}, FACTS, LIMITS) is None
    assert peers(*GAINED).judge("all of another", {"accuracy": 0.8}, FACTS, LIMITS) is None


def test_what_stands_lower_than_anybody_did_goes_on() -> None:
    """Those who stood high gained little, which says nothing of one that has far to go."""
    assert peers(*GAINED).judge(RUNG, {"accuracy": 0.3}, FACTS, LIMITS) is None
    lower = peers(*GAINED, (0.25, 0.4)).judge(RUNG, {"accuracy": 0.3}, FACTS, LIMITS)
    assert lower is not None
    assert "accuracy 0.45" in lower.reason  # by the 0.15 that this one gained


def test_those_that_stood_nearest_count() -> None:
    far = [(0.2, 0.95)] * 3  # they gained much, from far below
    near = [(0.8 + at / 1000, 0.81) for at in range(NEAREST)]
    assert peers(*near, *far).judge(RUNG, {"accuracy": 0.8}, FACTS, LIMITS) is not None
    assert peers(*near[1:], *far).judge(RUNG, {"accuracy": 0.8}, FACTS, LIMITS) is None


def test_what_stays_behind_the_front_in_everything_is_stopped() -> None:
    member = {"size_bytes": 3900.0, "accuracy": 0.97}
    behind = peers(*GAINED, front=(member,)).judge(RUNG, {"accuracy": 0.9}, FACTS, LIMITS)
    assert behind is not None
    assert "behind one of the front in everything" in behind.reason
    smaller = {"size_bytes": 3800.0}
    assert peers(*GAINED, front=(member,)).judge(RUNG, {"accuracy": 0.9}, smaller, LIMITS) is None
    assert peers(*GAINED, front=(member,)).judge(RUNG, {"accuracy": 0.92}, FACTS, LIMITS) is None
    # Where a size is not known beforehand, nothing is behind in it.
    assert peers(*GAINED, front=(member,)).judge(RUNG, {"accuracy": 0.9}, {}, LIMITS) is None


def test_less_may_be_better() -> None:
    rows = [(0.22 + at / 100, 0.20 + at / 100) for at in range(ENOUGH)]  # each loses 0.02
    found = Peers(("error",), ("error",), (), {RUNG: pairs("error", *rows)})
    limit = (Limit("error", "at_most", 0.2, "error"),)
    assert found.judge(RUNG, {"error": 0.23}, {}, limit) is not None
    assert found.judge(RUNG, {"error": 0.21}, {}, limit) is None
    assert found.judge(RUNG, {"error": 0.9}, {}, limit) is None  # nobody stood as high


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=ENOUGH, max_size=30),
    st.floats(0, 1),
)
def test_one_who_stands_where_a_winner_stood_goes_on(rows: list[tuple[float, float]], end: float) -> None:
    winner = (0.5, 0.5 + end / 2)
    limits = (Limit("accuracy", "at_least", winner[1], "accuracy"),)
    others = [row for row in rows if row[0] != winner[0]]
    assert peers(winner, *others).judge(RUNG, {"accuracy": winner[0]}, FACTS, limits) is None
