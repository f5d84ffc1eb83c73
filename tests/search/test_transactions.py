"""Trials written in one transaction each, against what Optuna writes value by value."""

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from autocompress.search.transactions import add_trial, end_trial

DOMAINS: dict[str, BaseDistribution] = {
    "cut.ratio": FloatDistribution(0.1, 0.9, step=0.1),
    "rate": FloatDistribution(1e-4, 1e-1, log=True),
    "bits": IntDistribution(2, 8),
    "end": CategoricalDistribution(["float16", "none", True, None]),
}
ROW = {"cut.ratio": 0.3, "rate": 0.0123456789, "bits": 4, "end": None}
BEGUN = {"recipe": {"version": 1, "steps": [{"technique": "svd", "energy": 0.5}]}}
ENDED = {"outcome": {"type": "completed", "metrics": {"accuracy": 0.9}, "remarks": []}, "attempts": 1}
ENDS: list[tuple[TrialState, list[float] | None, dict[str, float]]] = [
    (TrialState.COMPLETE, [5000.0, 0.9], {"size": -0.5, "speedup": 0.25}),
    (TrialState.COMPLETE, [math.inf, -math.inf], {}),
    (TrialState.PRUNED, None, {"size": 3.0}),
    (TrialState.FAIL, None, {}),
]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


def study(url: str, name: str = "ours") -> optuna.Study:
    return optuna.create_study(
        storage=url, study_name=name, directions=["minimize", "maximize"], sampler=optuna.samplers.RandomSampler(seed=0)
    )


def begun() -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.RUNNING, params=ROW, distributions=DOMAINS, user_attrs=dict(BEGUN)
    )


def ended(trial: FrozenTrial, state: TrialState, values: list[float] | None, past: dict[str, float]) -> FrozenTrial:
    trial.state, trial.values = state, values
    trial.user_attrs.update(ENDED)
    for label, value in past.items():
        trial.set_constraint(label, value)
    return trial


def by_optuna(study: optuna.Study, state: TrialState, values: list[float] | None, past: dict[str, float]) -> None:
    """The same trial by Optuna's own calls."""
    trial = optuna.Trial(study, study._storage.create_new_trial(study._study_id, begun()))
    for key, value in ENDED.items():
        trial.set_user_attr(key, value)
    for label, value in past.items():
        trial.set_constraint(label, value)
    study.tell(trial, values, state)


def read(url: str, name: str) -> list[dict[str, Any]]:
    """Trials as Optuna reads them, without ids and times of their own."""
    trials = optuna.load_study(study_name=name, storage=url).trials
    for trial in trials:
        assert trial.datetime_start is not None
        assert trial.state == TrialState.RUNNING or trial.datetime_start <= (trial.datetime_complete or 0)  # type: ignore[operator]
    left_out = ("_trial_id", "datetime_start", "_datetime_start", "datetime_complete")
    return [{key: value for key, value in vars(trial).items() if key not in left_out} for trial in trials]


def test_optuna_reads_what_it_would_have_written(url: str) -> None:
    ours, theirs = study(url), study(url, "theirs")
    for end in ENDS:
        trial = begun()
        add_trial(ours, trial)
        assert read(url, "ours")[-1]["state"] == TrialState.RUNNING
        end_trial(ours, ended(trial, *end))
        by_optuna(theirs, *end)
    assert read(url, "ours") == read(url, "theirs")
    assert len(read(url, "ours")) == len(ENDS)
    found = ours.trials  # by the study that wrote them, which reads once
    assert [(trial.state, trial.values, trial.constraints) for trial in found] == ENDS
    assert [trial.datetime_complete for trial in found] == [
        trial.datetime_complete for trial in optuna.load_study(study_name="ours", storage=url).trials
    ]


def test_numbers_go_on_whoever_writes(url: str) -> None:
    ours, other = study(url), study(url, "another")
    numbers = []
    for writer in (ours, optuna.load_study(study_name="ours", storage=url), ours):
        add_trial(other, begun())
        trial = begun()
        add_trial(writer, trial)
        numbers += [trial.number, writer.ask().number]
    assert numbers == [0, 1, 2, 3, 4, 5]
    assert [trial.number for trial in other.trials] == [0, 1, 2]


def test_what_cannot_be_written_whole_is_not_written(url: str) -> None:
    ours = study(url)
    trial = begun()
    add_trial(ours, trial)
    before = read(url, "ours")
    broken = ended(trial, *ENDS[0])
    broken.user_attrs["zz"] = object()  # after the others
    with pytest.raises(TypeError):
        end_trial(ours, broken)
    assert read(url, "ours") == before
    new = begun()
    new.user_attrs["zz"] = object()
    with pytest.raises(TypeError):
        add_trial(ours, new)
    assert read(url, "ours") == before


def test_attributes_that_are_there_already_are_replaced(url: str) -> None:
    """As of a trial that something else had written half of."""
    ours = study(url)
    trial = begun()
    add_trial(ours, trial)
    half = optuna.Trial(ours, trial._trial_id)
    half.set_user_attr("attempts", 7)
    half.set_constraint("size", -0.5)
    end_trial(ours, ended(trial, *ENDS[0]))
    (found,) = optuna.load_study(study_name="ours", storage=url).trials
    assert found.user_attrs == {**BEGUN, **ENDED}
    assert found.constraints == ENDS[0][2]


def test_a_trial_ends_once(url: str) -> None:
    ours = study(url)
    trial = begun()
    add_trial(ours, trial)
    end_trial(ours, ended(trial, *ENDS[0]))
    trial.values = [1.0, 1.0]
    with pytest.raises(UpdateFinishedTrialError):
        end_trial(ours, trial)
    assert read(url, "ours")[0]["_values"] == ENDS[0][1]


def test_a_study_that_is_in_no_database_is_refused() -> None:
    with pytest.raises(TypeError, match="study 'here' lies in a InMemoryStorage: put it in a database"):
        add_trial(optuna.create_study(study_name="here"), begun())
