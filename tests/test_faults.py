"""Searches whose trials misbehave, or in which nothing meets the budget."""

from pathlib import Path

import pytest
from commandline import Project, Trial
from faulty import faulty_project
from tiny import Ran

# A ratio of pruning, and how the network behaves that it leaves.
DIES_ONCE, DIES, RAISES, HANGS, WORKS = 0.25, 0.5, 0.75, 0.125, 0.375
# From when a worker takes a trial up; one on a new worker takes three seconds, on a busy machine several times that.
TRIAL_SECONDS = 40


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Ran]:
    """A search of five trials, four of which misbehave; the one that never ends comes first."""
    project = faulty_project(
        tmp_path_factory.mktemp("troubled"),
        {28: "hang", 24: "die once", 16: "die", 8: "raise"},
        [HANGS, DIES_ONCE, DIES, RAISES, WORKS],
        search={"trials": 5, "workers": 2, "retries": 1, "trial_timeout": f"{TRIAL_SECONDS}s"},
        tracking=None,
    )
    return project, project.run("search", project.config)


def trial_of(troubled: tuple[Project, Ran], ratio: float) -> Trial:
    """The trial that pruned by this ratio."""
    trials = troubled[0].counted().values()
    (found,) = (trial for trial in trials if trial.attributes["recipe"]["steps"][0]["ratio"] == ratio)
    return found


def test_a_trial_whose_worker_was_killed_is_tried_again(troubled: tuple[Project, Ran]) -> None:
    trial = trial_of(troubled, DIES_ONCE)
    assert trial.outcome["type"] == "completed"
    assert trial.attributes["attempts"] == 2
    assert "its worker was killed: trying again" in troubled[1].err


def test_a_trial_that_always_kills_its_worker_fails_after_its_retries(troubled: tuple[Project, Ran]) -> None:
    trial = trial_of(troubled, DIES)
    assert (trial.state, trial.outcome["type"]) == ("FAIL", "failed")
    assert trial.outcome["reason"] == "its worker was killed (2 attempts)"
    assert trial.attributes["attempts"] == 2


def test_a_trial_that_raises_fails_with_its_reason_and_is_not_repeated(troubled: tuple[Project, Ran]) -> None:
    trial = trial_of(troubled, RAISES)
    assert trial.outcome["reason"] == "step 2, finetune, training: RuntimeError: these digits cannot be read"
    assert "in misbehave" in trial.outcome["details"]
    assert trial.attributes["attempts"] == 1


def test_a_trial_past_its_time_limit_fails(troubled: tuple[Project, Ran]) -> None:
    trial = trial_of(troubled, HANGS)
    assert trial.outcome["reason"] == "ran past its time limit"
    assert trial.attributes["attempts"] == 1


def test_a_search_goes_on_past_trials_that_fail(troubled: tuple[Project, Ran]) -> None:
    project, ended = troubled
    assert trial_of(troubled, WORKS).outcome["type"] == "completed"
    assert "5 trials: 2 completed, 3 failed" in ended.out
    assert "raylet" not in ended.out  # what Ray prints of lost workers belongs on standard error
    assert project.states() == {"COMPLETE": 2, "FAIL": 3}


def test_a_search_of_which_nothing_finishes_ends_with_4_and_the_reasons(tmp_path: Path) -> None:
    project = faulty_project(tmp_path, {8: "raise"}, [0.75], search={"trials": 2}, tracking=None)
    ended = project.call("search", project.config, "--executor", "inline", expect=4)
    assert "2 trials: 2 failed" in ended.out
    assert ended.out.count("RuntimeError: these digits cannot be read") == 2
    document = project.call("front", "digits", "--json", expect=4).json()
    assert (document["verdict"], document["front"], document["nearest_miss"]) == ("nothing_finished", [], None)


def test_an_impossible_budget_ends_with_3_the_nearest_miss_and_the_limit_that_binds(tmp_path: Path) -> None:
    project = Project.make(
        tmp_path, budget={"speedup": 1000.0, "accuracy_drop": 0.6}, search={"trials": 2}, tracking=None
    )
    ended = project.call("search", project.config, "--executor", "inline", expect=3)
    assert "infeasible: nothing meets the budget (speedup at least 1000" in ended.out
    assert "the limit that binds: speedup" in ended.out
    document = project.call("front", "digits", "--json", expect=3).json()
    assert (document["verdict"], document["binding_limit"], document["front"]) == ("infeasible", "speedup", [])
    # Of trials that miss the same limit only, the nearest is the one that comes closest to it.
    reached = {number: trial.outcome["metrics"]["speedup"] for number, trial in project.counted().items()}
    assert document["nearest_miss"]["trial"] == max(reached, key=lambda number: reached[number])
    assert f"nearest miss: trial {document['nearest_miss']['trial']}: " in ended.out
