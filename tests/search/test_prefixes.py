"""What is known of a recipe's prefixes, and what its steps did by that."""

from pathlib import Path
from typing import Any

import pytest

from autocompress.outcome import Completed, Failed, Infeasible, Metrics, Outcome
from autocompress.search.files import StudyFiles
from autocompress.search.prefixes import NOT_MEASURED, Effect, Known, Prefix, effects, speeds_differ
from autocompress.search.records import Record

STEPS = [{"technique": "prune", "ratio": 0.5}, {"technique": "tune", "epochs": 3}, {"technique": "int8"}]
BASE: Metrics = {"size_bytes": 1000.0, "speedup": 1.0}
HALF: Metrics = {"size_bytes": 500.0, "speedup": 1.5, "accuracy": 0.5}
TUNED: Metrics = {"size_bytes": 510.0, "speedup": 1.5, "accuracy": 0.9, "latency_ms": 1.0}
DONE: Metrics = {"size_bytes": 130.0, "speedup": 2.5, "accuracy": 0.89, "latency_ms": 0.6}


def known(folder: Path, outcomes: dict[int, tuple[list[Any], Outcome]], **made_of: str) -> Known:
    records = {
        number: Record(number, {"version": 1, "steps": steps}, outcome, 1, None, 0, 1)
        for number, (steps, outcome) in outcomes.items()
    }
    return Known(records, StudyFiles(folder, "lenet"), {"data": "d", "config": "c", **made_of})


def test_effects_lie_between_what_is_known() -> None:
    found = effects([Prefix(0, BASE), Prefix(1, None, "odd"), Prefix(2, HALF), Prefix(3, DONE)])
    assert found == [Effect(1, 2, BASE, HALF), Effect(3, 3, HALF, DONE)]
    assert found[0].change == {"size_bytes": -500.0, "speedup": 0.5}
    assert found[1].change == pytest.approx({"size_bytes": -370.0, "speedup": 1.0, "accuracy": 0.39})
    assert effects([Prefix(0, BASE)]) == []


def test_speeds_differ_where_their_intervals_do_not_meet() -> None:
    def speed(low: float, high: float) -> Metrics:
        return {"speedup": (low + high) / 2, "speedup_low": low, "speedup_high": high}

    assert speeds_differ(speed(1.0, 1.1), speed(1.2, 1.3))
    assert speeds_differ(speed(1.2, 1.3), speed(1.0, 1.1))
    assert not speeds_differ(speed(1.0, 1.2), speed(1.1, 1.3))
    assert speeds_differ({"speedup": 1.0}, speed(1.0, 1.1))
    assert Effect(1, 1, speed(1.0, 1.1), speed(1.05, 1.2)).speed_changed is False


def test_prefixes_are_known_from_the_trial_itself_and_from_trials_of_the_same_steps(tmp_path: Path) -> None:
    trials: dict[int, tuple[list[Any], Outcome]] = {
        0: (STEPS, Completed(DONE, {})),
        1: (STEPS[:2], Infeasible(TUNED, {"size": 0.5}, "past the limit on size")),
        2: (STEPS[:1], Infeasible({"size_bytes": 700.0}, {"size": 0.9}, "rejected")),  # not measured in full
    }
    study = known(tmp_path, trials)
    missing = Prefix(1, None, NOT_MEASURED)
    assert study.prefixes(0, BASE) == [Prefix(0, BASE), missing, Prefix(2, TUNED), Prefix(3, DONE)]
    assert study.missing(0, BASE) == [missing]


def test_a_recipe_without_steps_is_the_uncompressed_model(tmp_path: Path) -> None:
    study = known(tmp_path, {0: ([], Completed(DONE, {}))})
    assert study.prefixes(0, BASE) == [Prefix(0, BASE)]
    assert study.missing(0, BASE) == []


@pytest.mark.parametrize("outcome", [Failed("broken"), Infeasible({}, {"collapse": 1.0}, "collapsed")])
def test_what_was_given_up_is_not_worth_measuring(outcome: Outcome, tmp_path: Path) -> None:
    study = known(tmp_path, {0: (STEPS[:2], outcome)})
    assert study.prefixes(0, BASE) == [Prefix(0, BASE), Prefix(1, None, NOT_MEASURED), Prefix(2, None, NOT_MEASURED)]
    assert study.missing(0, BASE) == []


def test_what_is_kept_is_found_by_the_steps_and_by_what_was_measured_on(tmp_path: Path) -> None:
    trials: dict[int, tuple[list[Any], Outcome]] = {0: (STEPS, Completed(DONE, {}))}
    study = known(tmp_path, trials)
    study.keep(Prefix(1, HALF), STEPS[:1])
    study.keep(Prefix(2, None, "nothing to train"), STEPS[:2])
    assert study.prefixes(0, BASE)[1:3] == [Prefix(1, HALF), Prefix(2, None, "nothing to train")]
    assert study.missing(0, BASE) == []
    # A config with other limits measures the same; other data do not.
    assert known(tmp_path, trials, config="other").find(STEPS[:1]) == Prefix(1, HALF)
    assert known(tmp_path, trials, data="other").find(STEPS[:1]) == Prefix(1, None, NOT_MEASURED)
    assert study.find([{**STEPS[0], "ratio": 0.6}]) == Prefix(1, None, NOT_MEASURED)
    assert list((tmp_path / "lenet" / "prefixes").iterdir())
    assert not list((tmp_path / "other").glob("*"))


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    study = known(tmp_path, {0: (STEPS, Completed(DONE, {}))})
    study.keep(Prefix(1, HALF), STEPS[:1])
    (path,) = (tmp_path / "lenet" / "prefixes").iterdir()
    path.write_text("{")
    assert study.find(STEPS[:1]) == Prefix(1, None, NOT_MEASURED)
