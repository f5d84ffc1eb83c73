"""Every sampler that a config may name, on a real study whose outcomes are arithmetic."""

from pathlib import Path

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from autocompress.config import SAMPLERS
from autocompress.outcome import Completed, Failed, Infeasible, Limit, Outcome, measured, violations
from autocompress.recipe import Recipe
from autocompress.search.facts_first import FactsFirst
from autocompress.search.samplers import STARTUP, make_sampler
from autocompress.search.space import Space
from autocompress.search.space_file import load_space
from autocompress.search.store import StudyStore

OBJECTIVES = ("size_bytes", "accuracy")
LIMITS = (Limit("size_bytes", "at_most", 700.0, "size"), Limit("accuracy", "at_least", 0.3, "accuracy"))
BASELINE = {"size_bytes": 1000.0, "accuracy": 0.9, "latency_ms": 1.0}
TRIALS = 13
SPACE = """\
version: 1
steps:
  - {technique: channel_pruning, ratio: {low: 0.1, high: 0.9}, importance: l1, scope: layer}
  - {technique: finetune, epochs: {low: 1, high: 20}, learning_rate: {low: 0.0001, high: 0.1, log: true}}
  - one_of: [float16, none]
"""


@pytest.fixture
def space(tmp_path: Path) -> Space:
    (tmp_path / "space.yaml").write_text(SPACE)
    return load_space(tmp_path / "space.yaml")


def outcome(number: int, recipe: Recipe) -> Outcome:
    """Less is left and less is right the more is pruned; more epochs help; every kind of ending occurs."""
    settings = [step.to_data() for step in recipe.steps]
    size = 1000.0 * (1 - settings[0]["ratio"]) * (0.5 if len(recipe.steps) == 3 else 1.0)
    if number % 8 == 4:
        return Failed("broken")
    if size > 850:
        return Infeasible({"size_bytes": size}, {"size": size / 700 - 1}, "too large before training")
    metrics = {
        "size_bytes": size,
        "accuracy": 1 - settings[0]["ratio"] + settings[1]["epochs"] / 100,
        "latency_ms": 1.0,
    }
    past = violations(LIMITS, metrics)
    if max(past.values()) > 0:
        return Infeasible(metrics, past, "past a limit")
    return Completed(metrics, past)


def study() -> StudyStore:
    """A study in memory: writing each trial to a file takes much longer than suggesting it."""
    made = optuna.create_study(storage="sqlite://", directions=["minimize", "maximize"], study_name="stub")
    made.set_user_attr("objectives", list(OBJECTIVES))
    return StudyStore(made, "sqlite:///samplers.db")


def sampler(name: str, space: Space, seed: int = 0, done: int = 0) -> BaseSampler:
    if name == "auto":
        return FactsFirst(space, OBJECTIVES, LIMITS, BASELINE, seed=seed)
    return make_sampler(name, seed, done)


def searched(store: StudyStore, space: Space, trials: int = TRIALS) -> list[Recipe]:
    """Ask and tell with one trial always running, as two workers do."""
    waiting = [store.ask(space)]
    recipes = []
    for _ in range(trials):
        waiting.append(store.ask(space))
        number, recipe = waiting.pop(0)
        store.tell(number, outcome(number, recipe))
        recipes.append(recipe)
    return recipes


def test_the_samplers_of_the_config_are_the_ones_made(space: Space) -> None:
    assert set(SAMPLERS) == {"auto", "tpe", "nsga2", "gp", "random"}
    kinds = {name: type(sampler(name, space)).__name__ for name in SAMPLERS}
    assert kinds == {
        "auto": "FactsFirst",
        "tpe": "TPESampler",
        "nsga2": "NSGAIISampler",
        "gp": "GPSampler",
        "random": "RandomSampler",
    }


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_searches_two_objectives_with_limits_and_a_trial_running(name: str, space: Space) -> None:
    store = study()
    store.use_sampler(sampler(name, space, 0, store.asked))
    recipes = searched(store, space)
    records = store.records()
    assert [records[number].recipe for number in range(TRIALS)] == recipes
    assert {type(found) for found in store.outcomes().values()} >= {Completed, Infeasible, Failed}
    assert len(store.finished()) == TRIALS
    assert store.running() == [TRIALS]
    # So many are drawn at random; the suggestions after them came from a model.
    assert sum(measured(found) is not None for found in store.outcomes().values()) >= STARTUP
    for recipe in recipes:
        first, second, *_ = (step.to_data() for step in recipe.steps)
        assert 0.1 <= first["ratio"] <= 0.9
        assert second["epochs"] in range(1, 21)
        assert 1e-4 <= second["learning_rate"] <= 0.1


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_suggests_the_same(name: str, space: Space) -> None:
    runs = []
    for seed in (3, 3, 4):
        store = study()
        store.use_sampler(sampler(name, space, seed), seed)
        runs.append(searched(store, space))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_resumed_search_does_not_repeat_its_first_draws(name: str, space: Space) -> None:
    store = study()
    store.use_sampler(sampler(name, space, 0, store.asked))
    first = searched(store, space, 4)
    store.use_sampler(sampler(name, space, 0, store.asked))  # as a new process with the same config does
    later = [store.ask(space)[1] for _ in range(4)]
    assert not {recipe.fingerprint for recipe in first} & {recipe.fingerprint for recipe in later}


def test_tpe_learns_to_stay_out_of_what_was_rejected_before_training(space: Space) -> None:
    """What is rejected is told as pruned with its violation; told as failed, TPE would not learn from it."""
    store = study()
    store.use_sampler(sampler("tpe", space))
    rejected = []
    for _ in range(40):
        number, recipe = store.ask(space)
        size = 1000.0 * (1 - recipe.steps[0].to_data()["ratio"])
        too_large = size > 400
        metrics = {"size_bytes": size, "accuracy": 0.5, "latency_ms": 1.0}
        past = {"size": size / 400 - 1}
        store.tell(number, Infeasible({}, past, "too large") if too_large else Completed(metrics, past))
        rejected.append(too_large)
    states = [store.frozen(number).state for number in range(40)]
    assert states[: len(rejected)].count(TrialState.PRUNED) == sum(rejected)
    # Random draws are too large 5 times in 8.
    assert sum(rejected[20:]) < sum(rejected[:STARTUP]) + 5
    assert sum(rejected[20:]) <= 20 * 5 / 8 / 2
