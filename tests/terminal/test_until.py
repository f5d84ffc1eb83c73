"""Searches that end early, from the command line: a goal that is reached, and trials that all fail alike."""

from pathlib import Path

import pytest
import yaml
from tiny import configure, make_project, run

from autocompress.search.repeats import HOPELESS

SEARCH = ("search", "search.yaml", "--executor", "inline")
# Every trial completes, the accuracy of a rank-1 layer of four classes is low, and all files are under 2 KB.
REACHED, NEVER = "size <= 2 KB and accuracy_drop <= 0.99", "size <= 100 B"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def test_a_search_ends_with_the_trial_that_reaches_its_goal(folder: Path) -> None:
    ended = run(folder, *SEARCH, "--until", REACHED)
    assert ended.code == 0
    assert "goal reached by trial 0" in ended.err.splitlines()
    assert "goal reached by trial 0" in ended.out.splitlines()
    document = run(folder, "front", "tiny", "--json").json()
    assert (document["counts"]["completed"], document["ended"]) == (1, "goal reached by trial 0")


def test_the_goal_is_no_part_of_what_is_resumed(folder: Path) -> None:
    assert run(folder, *SEARCH, "--until", REACHED).code == 0
    # It was reached before, so that nothing is tried; another goal goes on, and so does none.
    again = run(folder, *SEARCH, "--resume", "--until", REACHED, "--json")
    assert (again.code, again.json()["counts"]["completed"]) == (0, 1)
    other = run(folder, *SEARCH, "--resume", "--trials", "2", "--until", NEVER, "--json")
    assert (other.code, other.json()["counts"]["completed"]) == (0, 2)
    assert "goal reached" not in other.err
    assert other.json()["ended"] == ""
    assert run(folder, *SEARCH, "--resume", "--json").json()["counts"]["completed"] == 3


def test_the_config_may_name_the_goal_and_the_plan_shows_it(folder: Path) -> None:
    configure(folder / "search.yaml", search={"trials": 3, "workers": 1, "until": "accuracy_drop < 0.25"})
    planned = run(folder, "plan", "search.yaml")
    # The layer's own answers are the labels: its accuracy is 1.
    assert "goal: accuracy_drop < 0.25: ends with the first trial of accuracy at least 0.75" in planned.out
    (goal,) = run(folder, "plan", "search.yaml", "--json").json()["goal"]
    assert (goal["metric"], goal["sense"], goal["label"]) == ("accuracy", "at_least", "accuracy_drop")
    assert goal["bound"] == pytest.approx(0.75)
    configure(folder / "search.yaml")
    planned = run(folder, "plan", "search.yaml", "--json")
    assert planned.json()["goal"] == []
    assert not any(line.startswith("goal") for line in planned.json()["lines"])


@pytest.mark.parametrize(
    ("until", "message"),
    [
        ("sise <= 20 KB", "search.until: 'sise <= 20 KB': 'sise' is not measured; did you mean 'size'?"),
        ("size >= 20 KB", "less of size is better: write size <= 20 KB"),
        ("accurcy >= 0.5", "did you mean 'accuracy'?"),
        ("", "search.until: an empty goal: write METRIC <= NUMBER"),
    ],
)
def test_a_goal_that_cannot_be_is_one_line_before_anything_runs(folder: Path, until: str, message: str) -> None:
    ended = run(folder, *SEARCH, "--until", until)
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith("error: search.yaml:")
    assert message in ended.err.splitlines()[-1]
    assert "measuring the baseline" not in ended.err
    assert not (folder / "autocompress.db").exists()


def test_a_search_whose_trials_all_fail_alike_is_given_up_with_the_reason(folder: Path) -> None:
    # The channels of this layer share the energy alike, and a rank that keeps so much of it makes nothing smaller.
    energies = [0.98 + number / 1000 for number in range(19)]
    space = {"version": 1, "steps": [{"technique": "svd", "energy": [*energies, 0.3]}]}
    space["start"] = [{"svd.energy": energy} for energy in energies]
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    ended = run(folder, *SEARCH, "--trials", "20")
    assert ended.code == 4
    assert run(folder, "front", "tiny", "--json").json()["counts"]["failed"] == HOPELESS
    (line,) = [line for line in ended.out.splitlines() if line.startswith("given up")]
    assert line in ended.err.splitlines()
    assert f"given up, as all {HOPELESS} trials failed alike: " in line
    assert "finds no layer that would shrink" in line
    assert line.endswith(": narrow the search space to recipes that this model takes")
    again = run(folder, *SEARCH, "--trials", "20", "--resume")
    assert (again.code, f"as all {2 * HOPELESS} trials" in again.out) == (4, True)
