"""Search spaces: what is sampled from them, how many recipes they hold, and what is refused."""

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import BUNDLED, every_recipe, option, refused, space_of, spaces

from autocompress.config import FOLDERS
from autocompress.errors import ConfigError
from autocompress.recipe import Choice, Range
from autocompress.search.space import Space
from autocompress.search.space_file import find_space, load_space
from autocompress.techniques import recipe_from_data, registry

optuna.logging.set_verbosity(optuna.logging.WARNING)
EPOCHS = {"low": 1, "high": 3}
RATIOS = {"low": 0.2, "high": 0.6, "step": 0.2}


@pytest.mark.parametrize(
    ("steps", "count"),
    [
        ([option("svd")], 1),
        (["float16"], 1),
        ([option("finetune", epochs=EPOCHS)], 3),
        ([option("finetune", epochs={"low": 2, "high": 10, "step": 4})], 3),  # 2, 6, 10
        ([option("svd", energy={"low": 0.5, "high": 0.9, "step": 0.1})], 5),
        ([option("svd", energy={"low": 0.5, "high": 0.75, "step": 0.1})], 3),  # 0.5, 0.6, 0.7
        ([option("channel_pruning", ratio=RATIOS, scope=["global", "layer"])], 6),  # 3 * 2
        ([{"one_of": [option("finetune", epochs=EPOCHS), option("distill", alpha=[0.5, 1.0])]}], 5),  # 3 + 2
        ([{"one_of": [option("int8_static", calibration=["minmax", "entropy"]), "float16", "none"]}], 4),  # 2 + 1 + 1
        ([{"one_of": ["float16"]}], 1),
        ([{"any_order": [option("svd")]}], 2),  # with and without
        ([{"any_order": [option("channel_pruning"), option("svd")]}], 5),  # 1 + 1 + 1 + 2 orders of both
        # 1 + 3 + 2 + 2 orders * 3 * 2
        ([{"any_order": [option("channel_pruning", ratio=RATIOS), option("svd", energy=[0.5, 0.8])]}], 18),
        # 1 + 3 + 3 * 2 + 6 with one setting each
        ([{"any_order": [option("channel_pruning"), option("svd"), option("finetune")]}], 16),
        ([{"any_order": [option("svd")]}, option("finetune", epochs=EPOCHS), {"one_of": ["float16", "none"]}], 12),
    ],
)  # fmt: skip
def test_count_is_what_enumeration_finds(steps: list[Any], count: int, tmp_path: Path) -> None:
    space = space_of(tmp_path, *steps)
    assert len({recipe.fingerprint for recipe in every_recipe(space)}) == count
    assert space.count() == count


def test_an_encoding_among_steps_of_any_order_always_comes_last(tmp_path: Path) -> None:
    space = space_of(tmp_path, {"any_order": ["float16", option("svd"), option("finetune")]})
    kinds = {tuple(step.technique for step in recipe.steps) for recipe in every_recipe(space)}
    orders = {("svd", "finetune"), ("finetune", "svd"), ("svd",), ("finetune",), ()}
    assert kinds == orders | {(*order, "float16") for order in orders}
    space = space_of(tmp_path, {"any_order": [option("qat"), option("svd"), option("finetune")]})
    kinds = {tuple(step.technique for step in recipe.steps) for recipe in every_recipe(space)}
    assert kinds == orders | {(*order, "qat") for order in orders}


def test_a_continuous_setting_makes_a_space_endless(tmp_path: Path) -> None:
    assert space_of(tmp_path, option("svd", energy={"low": 0.5, "high": 0.9})).count() == math.inf


def test_a_setting_without_a_range_of_its_own_keeps_its_default(tmp_path: Path) -> None:
    recipe = next(every_recipe(space_of(tmp_path, option("finetune"))))
    default = registry()["finetune"]().to_data()
    assert recipe.to_data()["steps"] == [{**default, "epochs": 1, "learning_rate": 0.01}]


def test_a_bare_technique_is_searched_where_it_says_itself(tmp_path: Path) -> None:
    space = space_of(tmp_path, "channel_pruning")
    found = space.groups[0].options[0]
    assert found is not None
    assert found.searched == {
        "ratio": Range(0.1, 0.9, step=0.05),
        "importance": Choice("l1", "taylor", "fpgm"),
        "scope": Choice("global", "layer"),
    }
    assert space.count() == 17 * 3 * 2  # 0.10, 0.15, ... 0.90


def test_a_setting_that_is_written_replaces_the_technique_s_own_range(tmp_path: Path) -> None:
    found = space_of(tmp_path, {"technique": "distill", "epochs": 4, "alpha": [0.1, 0.9]}).groups[0].options[0]
    assert found is not None
    assert found.fixed == {"epochs": 4}
    assert found.searched["alpha"] == Choice(0.1, 0.9)
    assert "epochs" not in found.searched
    assert "temperature" in found.searched


def test_steps_of_a_range_are_the_numbers_that_people_write(tmp_path: Path) -> None:
    space = space_of(tmp_path, option("channel_pruning", ratio={"low": 0.1, "high": 0.9, "step": 0.1}))
    ratios = [recipe.to_data()["steps"][0]["ratio"] for recipe in every_recipe(space)]
    assert ratios == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


# Sampling


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
@pytest.mark.parametrize("sampler", [optuna.samplers.RandomSampler(seed=3), optuna.samplers.TPESampler(seed=3)])
def test_bundled_spaces_give_valid_recipes_and_the_same_parameters_every_time(
    path: Path, sampler: optuna.samplers.BaseSampler
) -> None:
    space = load_space(path)
    study = optuna.create_study(sampler=sampler)
    names = set()
    for _ in range(100):
        trial = study.ask()
        recipe = space.sample(trial)
        study.tell(trial, float(len(recipe.steps)))
        assert recipe_from_data(recipe.to_data()) == recipe
        names.add((*trial.params,))
    assert len(names) == 1


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_every_start_point_of_a_bundled_space_is_what_the_first_trials_are(path: Path) -> None:
    space = load_space(path)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for row in space.start:
        study.enqueue_trial(row)
    for row in space.start:
        trial = study.ask()
        space.sample(trial)
        assert row.items() <= trial.params.items()


@settings(max_examples=60)
@given(steps=spaces(), seed=st.integers(0, 2**31))
@pytest.mark.filterwarnings("ignore:The distribution is specified by:UserWarning")  # steps that do not end at `high`
def test_every_sampled_recipe_is_valid_and_holds_no_parameter_back(
    steps: list[Any], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    space = space_of(tmp_path_factory.getbasetemp(), *steps)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    seen: set[tuple[str, ...]] = set()
    for _ in range(5):
        trial = study.ask()
        recipe = space.sample(trial)
        assert recipe_from_data(recipe.to_data()) == recipe
        seen.add(tuple(trial.params))
    assert len(seen) == 1
    searched = {f"{o.name}.{key}" for group in space.groups for o in group.options if o for key in o.searched}
    assert searched <= set(seen.pop())


def test_ordered_settings_are_suggested_as_numbers_never_as_categories(tmp_path: Path) -> None:
    space = space_of(
        tmp_path,
        {"any_order": [option("channel_pruning", ratio=RATIOS), option("svd", energy={"low": 0.5, "high": 0.9})]},
        option("finetune", epochs=EPOCHS, learning_rate={"low": 1e-4, "high": 1e-2, "log": True}),
        {"one_of": ["float16", "none"]},
    )
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    space.sample(trial)
    position = optuna.distributions.FloatDistribution(0.0, 1.0)
    inside = optuna.distributions.CategoricalDistribution([True, False])
    assert trial.distributions == {
        "channel_pruning": inside,
        "channel_pruning.position": position,
        "channel_pruning.ratio": optuna.distributions.FloatDistribution(0.2, 0.6, step=0.2),
        "svd": inside,
        "svd.position": position,
        "svd.energy": optuna.distributions.FloatDistribution(0.5, 0.9),
        "finetune.epochs": optuna.distributions.IntDistribution(1, 3),
        "finetune.learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
        "choice_2": optuna.distributions.CategoricalDistribution(["float16", "none"]),
    }


def test_positions_decide_the_order(tmp_path: Path) -> None:
    space = space_of(tmp_path, {"any_order": [option("channel_pruning"), option("svd")]})
    for first, second in (("svd", "channel_pruning"), ("channel_pruning", "svd")):
        given_values = {first: True, second: True, f"{first}.position": 0.1, f"{second}.position": 0.2}
        recipe = space.sample(optuna.trial.FixedTrial(given_values))
        assert [step.technique for step in recipe.steps] == [first, second]


# Start points


def start(folder: Path, *rows: dict[str, Any]) -> Space:
    """A space with start points."""
    return space_of(
        folder,
        {"any_order": [option("channel_pruning", ratio=RATIOS)]},
        option("finetune", epochs={"low": 2, "high": 6, "step": 2}),
        {"one_of": ["float16", "none"]},
        start=list(rows),
    )


def test_start_points_are_kept_as_they_are_written(tmp_path: Path) -> None:
    row = {"channel_pruning": True, "channel_pruning.ratio": 0.4, "finetune.epochs": 4, "choice_2": "none"}
    assert start(tmp_path, row, {}).start == (row, {})


def test_a_start_point_may_lie_between_the_steps_of_a_float_range(tmp_path: Path) -> None:
    assert start(tmp_path, {"channel_pruning.ratio": 0.33}).start == ({"channel_pruning.ratio": 0.33},)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"channel_pruning.ratio": 0.7}, "start.1: channel_pruning.ratio: 0.7 is not in the space"),
        ({"channel_pruning.ratio": "0.4"}, "start.1: channel_pruning.ratio: '0.4' is not in the space"),
        ({"channel_pruning": "yes"}, "start.1: channel_pruning: 'yes' is not in the space"),
        ({"finetune.epochs": 3}, "start.1: finetune.epochs: 3 is not in the space"),
        ({"finetune.epochs": 8}, "start.1: finetune.epochs: 8 is not in the space"),
        ({"finetune.epochs": 2.5}, "start.1: finetune.epochs: 2.5 is not in the space"),
        ({"choice_2": "int8_static"}, "start.1: choice_2: 'int8_static' is not in the space"),
        ({"finetune.epoch": 2}, "start.1.finetune.epoch: unknown parameter; did you mean 'finetune.epochs'?"),
        ({"finetune.batch_size": 2}, "start.1.finetune.batch_size: unknown parameter; "),
        ({"choice_0": "svd"}, "start.1.choice_0: unknown parameter; did you mean 'choice_2'?"),
    ],
)
def test_a_start_point_outside_the_space_is_refused(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        start(tmp_path, {}, row)
    assert f": {message}" in str(caught.value)


# Errors

LINES = "version: 1\nsteps:\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [svd]", ":1: version: None: write `version: 1`"),
        ("version: 2\nsteps: [svd]", ":1: version: 2: write `version: 1`"),
        ("version: 1", ":1: steps: None: write a list of steps or groups of steps"),
        ("version: 1\nsteps: []", ":2: steps: []: write a list of steps or groups of steps"),
        ("version: 1\nsteps: svd", ":2: steps: 'svd': write a list of steps or groups of steps"),
        ("version: 1\nsteps: [svd]\nstrat: []", ":3: strat: unknown key; did you mean 'start'?"),
        ("version: 1\nsteps: [svd]\nstart: {}", ":3: start: write a list of mappings of parameters to values"),
        ("version: 1\nsteps: [svd]\nstart: 0", ":3: start: write a list of mappings of parameters to values"),
        ("version: 1\nsteps: [svd]\nstart: [svd.energy]", ":3: start: write a list of mappings"),
        (LINES + " - svdd", ":3: steps.0: unknown technique 'svdd'; did you mean 'svd'?"),
        (LINES + " - svd\n - one_of: [float16, int9]", ":4: steps.1.one_of.1: unknown technique 'int9'; "),
        (LINES + " - 5", ":3: steps.0: 5: write a technique, or {technique: NAME, SETTING: ...}"),
        (LINES + " - {ratio: 0.5}", ":3: steps.0: {'ratio': 0.5}: write a technique, or "),
        (LINES + " - none", ":3: steps.0: 'none' belongs in a one_of group"),
        (LINES + " - any_order: [svd, none]", ":3: steps.0.any_order: 'none' belongs in one_of"),
        (LINES + " - one_of: []", ":3: steps.0.one_of: []: write a list of techniques"),
        (LINES + " - one_of: svd", ":3: steps.0.one_of: 'svd': write a list of techniques"),
        (LINES + " - {technique: svd, enrgy: 0.5}", ":3: steps.0.enrgy: svd has no setting 'enrgy'; did you mean 'ene"),
        (LINES + " - {technique: svd, energy: 1.5}", ":3: steps.0.energy: 1.5: input should be less than 1"),
        (LINES + " - {technique: svd, energy: [0.5, 2]}", ":3: steps.0.energy: 2: input should be less than 1"),
        (LINES + " - {technique: svd, energy: []}", ":3: steps.0.energy: an empty list leaves nothing to choose"),
        (LINES + " - {technique: svd, energy: {low: 0.5}}", ":3: steps.0.energy: {'low': 0.5}: write {low: A, "),
        (LINES + " - {technique: svd, energy: {low: 0.5, high: 0.6, max: 1}}", ":3: steps.0.energy: {'low': 0.5, "),
        (LINES + " - {technique: svd, energy: {low: 0.5, high: 1.5}}", ":3: steps.0.energy: 1.5: input should be less"),
        (LINES + " - {technique: svd, energy: {low: 0.9, high: 0.5}}", "low is at most high, and step positive"),
        (LINES + " - {technique: svd, energy: {low: 0.5, high: 0.9, step: 0}}", "high, and step positive"),
        (LINES + " - {technique: svd, energy: {low: no, high: 0.9}}", "low, high and step are numbers"),
        (LINES + " - {technique: svd, energy: {low: true, high: 0.9}}", "low, high and step are numbers"),
        (LINES + " - {technique: svd, energy: {low: , high: 0.9}}", "low, high and step are numbers"),
        (LINES + " - {technique: svd, energy: {low: 0.5, high: 0.9, step: }}", "low, high and step are numbers"),
        (LINES + " - {technique: svd, energy: {low: .nan, high: 0.9}}", ":3: steps.0.energy: "),
        (LINES + " - {technique: finetune, batch_size: {low: 1, high: .inf}}", ":3: steps.0.batch_size: "),
        (LINES + " - {technique: svd, energy: {low: 0.5, high: 0.9, log: no}}", "log is true or false"),
        (LINES + " - {technique: finetune, learning_rate: {low: 0, high: 0.1, log: true}}", "log range starts above 0"),
        (LINES + " - {technique: svd, energy: {low: 0.5, high: 0.9, step: 0.1, log: true}}", "and has no step"),
        (LINES + " - {technique: finetune, epochs: {low: 1.5, high: 3}}", ":3: steps.0.epochs: 1.5: input "),
        # Both ends of these are whole; what lies between is not.
        (LINES + " - {technique: finetune, epochs: {low: 1, high: 3, step: 0.5}}", ":3: steps.0.epochs: 1.5: input "),
        (LINES + " - {technique: finetune, epochs: {low: 1.0, high: 3.0}}", ":3: steps.0.epochs: "),
    ],
)  # fmt: skip
def test_what_is_no_space_is_refused_with_line_value_and_rule(text: str, message: str, tmp_path: Path) -> None:
    found = refused(tmp_path, text)
    assert found.startswith(message) if message.startswith(":") else message in found


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["int8_static", "channel_pruning"], "'channel_pruning' follows step 1 'int8_static': prune and factorize"),
        ([{"one_of": ["int8_static", "none"]}, "finetune"], "'finetune' follows step 1 'int8_static': train before"),
        ([{"any_order": ["int8_static", "svd"]}, {"one_of": ["finetune", "none"]}], "train before quantizing"),
        ([{"one_of": ["int8_static", "none"]}, {"one_of": ["float16", "none"]}], "a file has one encoding"),
        ([{"any_order": ["int8_static", "float16"]}], "a file has one encoding"),
        ([{"any_order": ["qat", "float16"]}], "a file has one encoding"),
        ([{"one_of": ["qat", "none"]}, {"one_of": ["int8_static", "none"]}], "a file has one encoding"),
        ([{"one_of": ["qat", "finetune"]}, "svd"], "'svd' follows step 1 'qat': prune and factorize"),
    ],
)  # fmt: skip
def test_an_order_that_cannot_be_is_refused_though_it_were_sampled_rarely(
    steps: list[Any], message: str, tmp_path: Path
) -> None:
    assert message in refused(tmp_path, yaml.safe_dump({"version": 1, "steps": steps}))


# Where spaces are found


def test_a_space_beside_the_config_comes_before_a_bundled_one(tmp_path: Path) -> None:
    (tmp_path / "hybrid").write_text("version: 1\nsteps: [svd]\n")
    assert find_space("hybrid", tmp_path) == tmp_path / "hybrid"
    assert find_space("hybrid", tmp_path / "elsewhere").parent == FOLDERS["search_spaces"]


def test_a_misspelt_space_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"search_space: 'hybird' is no file and no bundled space; did you mean 'hyb"):
        find_space("hybird", tmp_path)


@pytest.mark.parametrize("name", ["../search_spaces/hybrid", "missing.yaml", ""])
def test_a_space_that_is_nowhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no file and no bundled space"):
        find_space(name, tmp_path)
