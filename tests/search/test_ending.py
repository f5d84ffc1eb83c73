"""What ends a search early: a goal that is reached, and trials that all fail alike."""

from types import SimpleNamespace
from typing import Any

import pytest

from autocompress.outcome import Completed, Failed, Infeasible, Limit, Outcome, Stopped
from autocompress.search.ending import how_it_ended, reached_by, reason_to_end

GOAL = (Limit("size_bytes", "at_most", 20_000.0, "size"), Limit("accuracy", "at_least", 0.9, "accuracy"))


def state(*outcomes: Outcome, begun_with: int = 0, ended: str = "") -> Any:
    records = {number: SimpleNamespace(outcome=outcome) for number, outcome in enumerate(outcomes)}
    return SimpleNamespace(records=records, begun_with=begun_with, ended=ended)


def done(size: float, accuracy: float) -> Completed:
    return Completed({"size_bytes": size, "accuracy": accuracy}, {})


def broken(number: int, word: str = "disk") -> Failed:
    return Failed(f"RuntimeError: {word} {number} is gone")


def test_the_first_completed_trial_that_meets_all_terms_reaches_the_goal() -> None:
    good, larger, worse = {"size_bytes": 1.0, "accuracy": 1.0}, done(20_001, 0.95), done(10_000, 0.89)
    past = Infeasible(good, {"speedup": 0.1}, "past the limit on speedup")
    assert reason_to_end(state(larger, worse, past), GOAL) == ""
    here = state(larger, worse, past, done(20_000, 0.9), done(1, 1.0))
    assert reached_by(here, GOAL) == 3
    assert reason_to_end(here, GOAL) == "goal reached by trial 3"
    assert reason_to_end(here, ()) == ""


def test_a_goal_that_the_last_measurements_take_away_is_said_to_be() -> None:
    before = "goal reached by trial 0"
    assert how_it_ended(state(done(20_001, 0.9), ended=before), GOAL).startswith(f"{before}, but no more by the")
    assert how_it_ended(state(done(20_000, 0.9), ended=before), GOAL) == before
    assert how_it_ended(state(done(20_001, 0.9)), GOAL) == ""


def test_eight_trials_that_all_fail_alike_end_the_search_with_reason_and_fix() -> None:
    assert reason_to_end(state(*map(broken, range(7))), ()) == ""
    assert reason_to_end(state(*map(broken, range(8))), ()) == (
        "given up, as all 8 trials failed alike: RuntimeError: disk 7 is gone: "
        "mend this first: `autocompress show` prints what is behind it"
    )
    step = Failed("svd is odd", refused=True, doing="step 1, svd, deciding")
    assert "svd is odd: take svd out of the search space" in reason_to_end(state(*[step] * 8), GOAL)


@pytest.mark.parametrize(
    "other",
    [done(1, 1), Infeasible({}, {"size": 1.0}, "too big"), Stopped("weak"), broken(7, "net")],
    ids=["completed", "infeasible", "stopped", "failed otherwise"],
)
def test_anything_else_among_them_lets_it_go_on(other: Outcome) -> None:
    failures = list(map(broken, range(9)))
    assert reason_to_end(state(*failures), ()) != ""
    assert reason_to_end(state(other, *failures), ()) == ""
    assert reason_to_end(state(*failures, other), ()) == ""


def test_a_search_that_goes_on_tries_as_many_anew() -> None:
    assert reason_to_end(state(*map(broken, range(15)), begun_with=8), ()) == ""
    assert "all 16 trials failed alike" in reason_to_end(state(*map(broken, range(16)), begun_with=8), ())
