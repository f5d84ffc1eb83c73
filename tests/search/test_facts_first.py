"""The sampler that knows facts first, on spaces as they are bundled and on searches whose outcomes are arithmetic."""

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from autocompress.config import FOLDERS
from autocompress.outcome import Completed, Infeasible, Limit, Metrics, Outcome, violations
from autocompress.recipe import Recipe
from autocompress.search.ahead import most_ahead
from autocompress.search.facts_first import FactsFirst, distributions
from autocompress.search.samplers import make_sampler
from autocompress.search.space import Space
from autocompress.search.space_file import load_space
from autocompress.search.store import StudyStore
from autocompress.search.terrain import Terrain

NESTED = """\
version: 1
steps:
  - repeat:
      times: [1, 2]
      steps:
        - any_order: [channel_pruning, {technique: svd, variant: channel}]
        - one_of: [distill, finetune]
  - one_of: [weight_clustering, none]
  - one_of: [low_bit, float16, none]
"""
OBJECTIVES = ("size_bytes", "accuracy", "latency_ms")
LIMITS = (
    Limit("size_bytes", "at_most", 60.0, "size"),
    Limit("speedup", "at_least", 2.0, "speedup"),
    Limit("accuracy", "at_least", 0.94, "accuracy_drop"),
)
BASELINE = {"size_bytes": 1000.0, "accuracy": 0.97, "latency_ms": 1.0, "speedup": 1.0}


def spaces(folder: Path) -> list[Space]:
    (folder / "nested.yaml").write_text(NESTED)
    return [load_space(path) for path in (*sorted(FOLDERS["search_spaces"].glob("*.yaml")), folder / "nested.yaml")]


def test_what_a_row_takes_is_what_its_recipe_has(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for space in spaces(tmp_path):
        terrain = Terrain(distributions(space), space.active, space.leaves, space.orders(), space.switches())
        for _ in range(40):
            row = terrain.random(generator)
            recipe = space.recipe(row)
            assert [option.kind.technique for option in space.taken(row)] == [step.technique for step in recipe.steps]
            trained = [step for step in recipe.steps if step.kind == "train"]
            assert [epochs for _, epochs in space.stages(row)] == [step.to_data()["epochs"] for step in trained]
            assert terrain.active(row) == space.active(row) <= terrain.domains.keys()


def test_a_leaf_keeps_the_trained_stages_of_its_trunk(tmp_path: Path) -> None:
    generator, changed = np.random.default_rng(1), 0
    for space in spaces(tmp_path):
        terrain = Terrain(distributions(space), space.active, space.leaves, space.orders(), space.switches())
        for _ in range(40):
            row = terrain.random(generator)
            leaf = terrain.mutant(row, generator, 3, terrain.leaves(row))
            stages = space.stages(row)
            assert space.stages(leaf)[: len(stages)] == stages
            changed += terrain.key(leaf) != terrain.key(row)
    assert changed > 20


@pytest.fixture
def space(tmp_path: Path) -> Space:
    return spaces(tmp_path)[-1]


def outcome(recipe: Recipe, tolerance: float = 0.02) -> tuple[Outcome, float]:
    """A model that shrinks and errs by what is done to it, and recovers by training; with its seconds."""
    left, error, seconds, bits = 1.0, 0.0, 0.1, 32.0
    for step in recipe.steps:
        data = step.to_data()
        match step.technique:
            case "channel_pruning":
                left *= (1 - data["ratio"]) ** 1.5
                error += 0.3 * data["ratio"] ** 3
            case "svd":
                left *= data["energy"]
                error += 0.1 * (1 - data["energy"]) ** 2
            case "distill" | "finetune":
                error *= 0.5 + 2 / (4 + data["epochs"])
                seconds += data["epochs"] * left**0.5
            case "weight_clustering" | "low_bit":
                bits = min(bits, float(data["bits"]))
                error += 0.05 * 2.0 ** -data["bits"]
            case "float16":
                bits = min(bits, 16.0)
    facts: Metrics = {"size_bytes": 5 + 995 * left * bits / 32, "latency_ms": 0.1 + 0.9 * left}
    facts["speedup"] = 1 / facts["latency_ms"]
    past = {limit.label: limit.violation(facts) for limit in LIMITS[:2]}
    if max(past.values()) > tolerance:
        known = {name: value for name, value in facts.items() if name != "latency_ms"}
        return Infeasible(known, past, "would be past the limit", facts=facts), 0.1
    metrics = {**facts, "accuracy": round(0.97 - error, 3)}
    past = violations(LIMITS, metrics)
    if max(past.values()) > 0:
        return Infeasible(metrics, past, "past a limit", facts=facts), seconds
    return Completed(metrics, past, facts=facts), seconds


def study() -> StudyStore:
    directions = ["minimize", "maximize", "minimize"]
    made = optuna.create_study(storage="sqlite://", directions=directions, study_name="arithmetic")
    made.set_user_attr("objectives", list(OBJECTIVES))
    return StudyStore(made, "sqlite:///arithmetic.db")


def facts_of(recipe: Recipe) -> Metrics:
    found, _ = outcome(recipe, tolerance=-1.0)  # so that nothing is trained
    assert isinstance(found, Infeasible)
    return found.facts


def survey(sampler: FactsFirst, space: Space) -> None:
    for row in sampler.survey():
        sampler.know(row, facts_of(space.recipe(row)))


def searched(space: Space, name: str, trials: int, seed: int = 0) -> tuple[list[Recipe], list[Outcome]]:
    store = study()
    sampler: Any = (
        FactsFirst(space, OBJECTIVES, LIMITS, BASELINE, seed=seed) if name == "auto" else make_sampler(name, seed, 0)
    )
    if name == "auto":
        survey(sampler, space)
    store.use_sampler(sampler, seed)
    recipes, outcomes = [], []
    for _ in range(trials):
        number, recipe = store.ask(space)
        found, _ = outcome(recipe)
        store.tell(number, found)
        recipes.append(recipe)
        outcomes.append(found)
    return recipes, outcomes


def untrained(outcomes: list[Outcome]) -> int:
    return sum("would be" in getattr(found, "reason", "") for found in outcomes)


def test_most_of_what_is_trained_fits_the_limits_on_facts(space: Space) -> None:
    """Over several seeds: any one search may be lucky or not."""
    ours = [searched(space, "auto", 40, seed)[1] for seed in range(4)]
    tpe = [searched(space, "tpe", 40, seed)[1] for seed in range(4)]
    assert sum(map(untrained, ours)) < 0.4 * sum(map(untrained, tpe))
    assert sum(map(untrained, ours)) < 0.25 * 4 * 40
    assert all(any(isinstance(found, Completed) for found in outcomes) for outcomes in ours)


def test_keys_are_equal_exactly_where_recipes_are(tmp_path: Path) -> None:
    """Steps of different groups have no order among themselves; within a group it is all that positions say."""
    generator = np.random.default_rng(2)
    space = spaces(tmp_path)[-1]
    terrain = Terrain(distributions(space), space.active, space.leaves, space.orders(), space.switches())
    rows = [terrain.random(generator) for _ in range(30)]
    rows += [{**row, **{name: float(generator.random()) for name in row if name.endswith(".position")}} for row in rows]
    found = [(terrain.key(row), space.recipe(row).fingerprint) for row in rows]
    assert len({key for key, _ in found}) == len(set(found)) == len({name for _, name in found})


def test_no_row_is_asked_for_twice_and_the_same_seed_asks_the_same(space: Space) -> None:
    recipes, _ = searched(space, "auto", 15, seed=3)
    assert len({recipe.fingerprint for recipe in recipes}) == 15
    assert searched(space, "auto", 15, seed=3)[0] == recipes
    assert searched(space, "auto", 15, seed=4)[0] != recipes


def test_the_rows_to_begin_with_come_first_and_are_scaled_to_the_budget(space: Space) -> None:
    first = {
        "repeat_0.times": 1, "channel_pruning": True, "channel_pruning.ratio": 0.3, "svd": False,
        "choice_0_1": "distill", "choice_1": "none", "choice_2": "low_bit", "low_bit.bits": 4,
    }  # fmt: skip
    names = distributions(space).keys()
    sampler = FactsFirst(
        space, OBJECTIVES, LIMITS, BASELINE, first=[{key: value for key, value in first.items() if key in names}]
    )
    survey(sampler, space)
    store = study()
    store.use_sampler(sampler)
    _, recipe = store.ask(space)
    pruned = recipe.steps[0].to_data()
    assert pruned["technique"] == "channel_pruning"
    assert facts_of(recipe)["size_bytes"] <= 60 * 1.25


def test_a_row_to_begin_with_that_surely_does_not_fit_is_left_out(space: Space) -> None:
    whole = {"channel_pruning": False, "svd": False, "choice_0_1": "distill", "choice_1": "none", "choice_2": "none"}
    sampler = FactsFirst(space, OBJECTIVES, LIMITS, BASELINE, first=[{"repeat_0.times": 1, **whole}])
    survey(sampler, space)
    store = study()
    store.use_sampler(sampler)
    _, recipe = store.ask(space)
    assert [step.technique for step in recipe.steps] != ["distill"]  # a file of 1,000 bytes, where 60 are allowed
    assert facts_of(recipe)["size_bytes"] < 600


def test_what_is_trained_right_now_is_not_begun_twice(space: Space) -> None:
    store = study()
    sampler = FactsFirst(space, OBJECTIVES, LIMITS, BASELINE)
    store.use_sampler(sampler)
    for _ in range(12):
        number, recipe = store.ask(space)
        store.tell(number, outcome(recipe)[0])
    keys = []
    for _ in range(6):  # six workers
        number, _ = store.ask(space)
        row = store.frozen(number).params
        stages = [key for key, _ in space.stages(row) if key not in sampler._stages]
        assert not stages or stages[0] not in keys
        keys += stages


@pytest.mark.parametrize("fits", [True, False], ids=["some fit", "none fits"])
@pytest.mark.parametrize("limits", [(), LIMITS[:1], LIMITS[2:], LIMITS[1:]], ids=["none", "size", "quality", "both"])
@pytest.mark.parametrize("objectives", [("size_bytes",), ("size_bytes", "latency_ms"), ("accuracy",)], ids="+".join)
def test_any_objectives_and_limits_can_be_aimed_at(
    space: Space, limits: tuple[Limit, ...], objectives: tuple[str, ...], fits: bool
) -> None:
    directions = ["maximize" if name == "accuracy" else "minimize" for name in objectives]
    made = optuna.create_study(storage="sqlite://", directions=directions, study_name="arithmetic")
    made.set_user_attr("objectives", list(objectives))
    store = StudyStore(made, "sqlite:///arithmetic.db")
    store.use_sampler(FactsFirst(space, objectives, limits, BASELINE), 0)
    for _ in range(12):
        number, recipe = store.ask(space)
        found, _ = outcome(recipe, tolerance=9e9)  # none is rejected before its training
        assert isinstance(found, Completed | Infeasible)
        past = violations(limits, found.metrics)
        if fits and max(past.values(), default=0.0) <= 0:
            store.tell(number, Completed(found.metrics, past, facts=found.facts))
        else:
            store.tell(number, Infeasible(found.metrics, past, "past a limit", facts=found.facts))


@pytest.mark.parametrize(("trials", "most"), [(1, 2), (3, 6), (4, 8), (24, 8), (27, 9), (200, 66)])
def test_a_short_search_still_learns_what_fits(trials: int, most: int) -> None:
    assert most_ahead(trials) == most
