"""A study in a real Optuna storage: what is told can be read back, by us and by Optuna, after any interruption."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from autocompress.config import SearchConfig
from autocompress.errors import StudyError
from autocompress.outcome import Completed, Failed, Infeasible, Outcome, Stopped, to_data
from autocompress.recipe import Recipe
from autocompress.search.samplers import make_sampler
from autocompress.search.space import Space
from autocompress.search.space_file import load_space
from autocompress.search.storage import open_storage, study_names
from autocompress.search.store import StudyStore

OBJECTIVES = ("size_bytes", "accuracy", "latency_ms")
SPACE = """\
version: 1
steps:
  - {technique: finetune, epochs: {low: 1, high: 50}, learning_rate: {low: 0.0001, high: 0.01, log: true}}
  - one_of: [float16, none]
"""
MEASURED = {"size_bytes": 5000.0, "accuracy": 0.9, "latency_ms": 0.2, "speedup": 2.0}
PAST = {"size": 0.25, "accuracy_drop": -0.1}
WITHIN = {"size": -0.5, "accuracy_drop": -0.1}


@pytest.fixture
def space(tmp_path: Path) -> Space:
    (tmp_path / "space.yaml").write_text(SPACE)
    return load_space(tmp_path / "space.yaml")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


def config(url: str, study: str = "lenet") -> SearchConfig:
    return SearchConfig(study=study, task="task.py:make", storage=url)


@pytest.fixture
def store(url: str) -> StudyStore:
    made = StudyStore.create(config(url), OBJECTIVES, {"baseline": {"size_bytes": 9000.0}})
    made.use_sampler(make_sampler("random", 0, 0))
    return made


def reopened(url: str) -> StudyStore:
    return StudyStore.open(url, "lenet")


def in_optuna(url: str) -> list[optuna.trial.FrozenTrial]:
    """The trials as Optuna itself reads them."""
    return optuna.load_study(study_name="lenet", storage=url).trials


def asked(store: StudyStore, space: Space) -> int:
    number, _ = store.ask(space)
    return number


def test_a_study_minimizes_costs_and_maximizes_the_rest(store: StudyStore, url: str) -> None:
    study = optuna.load_study(study_name="lenet", storage=url)
    minimize, maximize = optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE
    assert study.directions == [minimize, maximize, minimize]
    assert store.objectives == list(OBJECTIVES)
    assert reopened(url).objectives == list(OBJECTIVES)


def test_a_study_keeps_values_of_its_own(store: StudyStore, url: str) -> None:
    store.set("verdict", "feasible")
    found = reopened(url)
    assert found.get("verdict") == "feasible"
    assert found.get("baseline") == {"size_bytes": 9000.0}
    assert found.get("nothing", 7) == 7


def test_an_asked_trial_runs_until_it_is_told(store: StudyStore, space: Space, url: str) -> None:
    number, recipe = store.ask(space)
    record = store.records()[number]
    assert (record.number, record.recipe, record.outcome) == (number, recipe, None)
    assert store.finished() == {}
    assert store.running() == [number]
    assert in_optuna(url)[number].state == TrialState.RUNNING
    store.tell(number, Completed(MEASURED, WITHIN))
    assert store.finished()[number].outcome == Completed(MEASURED, WITHIN)
    assert store.running() == []


@pytest.mark.parametrize(
    ("outcome", "state", "values"),
    [
        (Completed(MEASURED, WITHIN), TrialState.COMPLETE, [5000.0, 0.9, 0.2]),
        (Infeasible(MEASURED, PAST, "past the limit on size"), TrialState.COMPLETE, [5000.0, 0.9, 0.2]),
        (Infeasible({"size_bytes": 8e4}, {"size": 3.0}, "weights alone need too much"), TrialState.PRUNED, None),
        (Stopped("weak"), TrialState.PRUNED, None),
        (Failed("broken", details="Traceback"), TrialState.FAIL, None),
        (Failed("its worker was lost", lost=True), TrialState.FAIL, None),
    ],
    ids=["completed", "infeasible", "rejected", "stopped", "failed", "lost"],
)
def test_every_outcome_has_its_state_in_optuna(
    store: StudyStore, space: Space, url: str, outcome: Outcome, state: TrialState, values: list[float] | None
) -> None:
    number = asked(store, space)
    store.tell(number, outcome)
    frozen = in_optuna(url)[number]
    assert frozen.state == state
    assert frozen.values == values
    assert store.outcomes() == reopened(url).outcomes() == {number: outcome}


@pytest.mark.parametrize(
    "outcome",
    [
        Completed(MEASURED, WITHIN),
        Infeasible(MEASURED, PAST, "past the limit on size"),
        Infeasible({"size_bytes": 8e4}, {"size": 3.0}, "weights alone need too much"),
    ],
)
def test_violations_are_optuna_s_constraints(store: StudyStore, space: Space, url: str, outcome: Any) -> None:
    number = asked(store, space)
    store.tell(number, outcome)
    assert in_optuna(url)[number].constraints == outcome.violations


def test_optuna_s_own_front_leaves_out_what_is_past_a_limit(store: StudyStore, space: Space, url: str) -> None:
    better = {**MEASURED, "size_bytes": 100.0}
    outcomes = [Completed(MEASURED, WITHIN), Infeasible(better, PAST, "past"), Failed("broken")]
    for outcome in outcomes:
        store.tell(asked(store, space), outcome)
    study = optuna.load_study(study_name="lenet", storage=url)
    assert [trial.number for trial in study.best_trials] == [0]


def test_a_trial_whose_outcome_was_written_but_not_told_is_finished(store: StudyStore, space: Space, url: str) -> None:
    """As after a crash between the two: the outcome is there, Optuna still thinks that the trial runs."""
    numbers = [asked(store, space) for _ in range(4)]
    study = optuna.load_study(study_name="lenet", storage=url)
    outcomes: list[Outcome] = [
        Infeasible(MEASURED, PAST, "past the limit on size"),
        Stopped("weak"),
        Failed("broken"),
    ]
    for number, outcome in zip(numbers, outcomes, strict=False):
        optuna.Trial(study, study.trials[number]._trial_id).set_user_attr("outcome", to_data(outcome))
    # The first crashed a little later: one of its two constraints is there already, and cannot be set again.
    optuna.Trial(study, study.trials[numbers[0]]._trial_id).set_constraint("size", 0.25)
    found = reopened(url)
    assert found.running() == [numbers[3]]
    states = [trial.state for trial in in_optuna(url)]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]
    assert in_optuna(url)[0].constraints == PAST
    assert found.outcomes() == dict(zip(numbers, outcomes, strict=False))
    assert found.running() == [numbers[3]]


def test_an_adopted_trial_keeps_its_number_and_its_parameters(store: StudyStore, space: Space, url: str) -> None:
    recipes = dict(store.ask(space) for _ in range(5))
    later = reopened(url)
    later.use_sampler(make_sampler("tpe", 99, 0))
    parameters = [trial.params for trial in in_optuna(url)]
    for number in later.running():
        assert later.adopt(number, space) == recipes[number]
    assert [trial.params for trial in in_optuna(url)] == parameters
    assert later.ask(space)[0] == 5


def test_a_trial_that_was_asked_but_not_sampled_is_adopted_too(store: StudyStore, space: Space, url: str) -> None:
    """As after a crash right after Optuna made the trial: it has no recipe yet."""
    optuna.load_study(study_name="lenet", storage=url).ask()
    later = reopened(url)
    later.use_sampler(make_sampler("random", 1, 0))
    assert later.records() == {}
    assert later.running() == [0]
    assert isinstance(later.adopt(0, space), Recipe)
    assert set(later.records()) == {0}


def test_only_attempts_that_ended_by_themselves_are_counted_and_across_sessions(
    store: StudyStore, space: Space, url: str
) -> None:
    lost, done = asked(store, space), asked(store, space)
    assert store.count_loss(lost) == store.count_loss(done) == 1
    later = reopened(url)
    assert later.count_loss(lost) == 2
    assert later.records()[lost].attempts == 0  # none is known to be the last
    later.tell(lost, Failed("its worker was killed (2 attempts)", lost=True))
    later.tell(done, Completed(MEASURED, WITHIN))
    assert {n: row.attempts for n, row in reopened(url).records().items()} == {lost: 2, done: 2}


def test_duplicates_are_kept_but_do_not_count(store: StudyStore, space: Space, url: str) -> None:
    first, again = asked(store, space), asked(store, space)
    store.tell(first, Completed(MEASURED, WITHIN))
    store.tell(again, Completed(MEASURED, WITHIN), duplicate_of=first)
    for found in (store, reopened(url)):
        assert set(found.records()) == {first, again}
        assert found.records()[again].duplicate_of == first
        assert set(found.finished()) == set(found.outcomes()) == {first}
    # The sampler learns from both.
    assert [trial.state for trial in in_optuna(url)] == [TrialState.COMPLETE] * 2


def test_reopening_gives_the_same_records(store: StudyStore, space: Space, url: str) -> None:
    outcomes = [Completed(MEASURED, WITHIN, {"train": 1.5}), Failed("broken", True, "Traceback"), Stopped("weak")]
    for outcome in outcomes:
        store.tell(asked(store, space), outcome)
    assert reopened(url).records() == store.records()
    assert list(store.records()) == [0, 1, 2]


def test_records_say_when_a_trial_ran(store: StudyStore, space: Space, url: str) -> None:
    number = asked(store, space)
    store.tell(number, Completed(MEASURED, WITHIN))
    record, frozen = store.records()[number], in_optuna(url)[number]
    assert frozen.datetime_start is not None
    assert frozen.datetime_complete is not None
    assert record.started_ms == int(frozen.datetime_start.timestamp() * 1000)
    assert record.ended_ms == int(frozen.datetime_complete.timestamp() * 1000)


def test_enqueued_parameters_are_asked_next_and_once(store: StudyStore, space: Space) -> None:
    parameters = {"finetune.epochs": 7, "finetune.learning_rate": 0.003, "choice_1": "none"}
    store.enqueue(parameters)
    store.enqueue(parameters)
    _, recipe = store.ask(space)
    assert [step.to_data()["epochs"] for step in recipe.steps] == [7]
    _, other = store.ask(space)
    assert other != recipe


def test_a_start_between_the_steps_of_a_range_is_kept_without_a_warning(store: StudyStore, tmp_path: Path) -> None:
    path = tmp_path / "stepped.yaml"
    path.write_text("version: 1\nsteps:\n  - {technique: channel_pruning, ratio: {low: 0.1, high: 0.9, step: 0.2}}\n")
    store.enqueue({"channel_pruning.ratio": 0.4})
    _, recipe = store.ask(load_space(path))
    assert recipe.steps[0].to_data()["ratio"] == 0.4


def test_a_study_s_name_is_taken_once(store: StudyStore, url: str) -> None:
    with pytest.raises(StudyError, match=r"'lenet' is in .* already: choose another name"):
        StudyStore.create(config(url), OBJECTIVES, {})


def test_an_unknown_study_is_named_with_the_nearest(store: StudyStore, url: str) -> None:
    with pytest.raises(StudyError, match=r"no study 'lente' in sqlite.*did you mean 'lenet'\?"):
        StudyStore.open(url, "lente")


def test_looking_for_studies_where_there_are_none_makes_no_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/none.db"
    assert study_names(url) == []
    with pytest.raises(StudyError, match="it holds no studies; run `autocompress search` first"):
        StudyStore.open(url, "lenet")
    assert list(tmp_path.iterdir()) == []


def test_names_of_several_studies_are_sorted(store: StudyStore, url: str) -> None:
    StudyStore.create(config(url, "alexnet"), OBJECTIVES, {})
    assert study_names(url) == ["alexnet", "lenet"]


@pytest.mark.parametrize("bad", ["sqlite:////no/such/folder/x.db", "nonsense", "unknown://host/db"])
def test_a_storage_that_cannot_be_opened_is_one_clear_line(bad: str) -> None:
    with pytest.raises(StudyError, match="cannot be opened") as caught:
        open_storage(bad)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_text("these are notes, and there are many of them\n" * 100)
    with pytest.raises(StudyError, match="cannot be opened"):
        study_names(f"sqlite:///{tmp_path}/studies.db")


def test_a_study_whose_making_was_cut_off_is_none_until_it_is_made(url: str) -> None:
    made = optuna.create_study(storage=open_storage(url, make=True), study_name="lenet", directions=["minimize"] * 3)
    made.set_user_attr("baseline", {"size_bytes": 1.0})
    assert study_names(url) == []
    with pytest.raises(StudyError, match=r"no study 'lenet' in .* yet: it is being made"):
        reopened(url)
    StudyStore.create(config(url), ("size_bytes", "params", "latency_ms"), {"baseline": {"size_bytes": 9000.0}})
    assert study_names(url) == ["lenet"]
    assert reopened(url).get("baseline") == {"size_bytes": 9000.0}


@pytest.mark.parametrize("directions", [["minimize"], ["maximize", "minimize", "minimize"]])
def test_a_study_whose_making_was_cut_off_is_made_anew_with_other_objectives(url: str, directions: list[str]) -> None:
    optuna.create_study(storage=open_storage(url, make=True), study_name="lenet", directions=directions)
    StudyStore.create(config(url), ("size_bytes", "params", "latency_ms"), {})
    (study,) = optuna.get_all_study_summaries(open_storage(url))
    assert [direction.name for direction in study.directions] == ["MINIMIZE"] * 3
