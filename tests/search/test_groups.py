"""Groups that are repeated or restricted to layers: names, parameters, counts, what is used, and what is refused."""

import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import BUNDLED, LONG, RATIO, drawn, every_recipe, names, only, option, refused, repeat, space_of

from autocompress.recipe import Choice
from autocompress.search.groups import Given
from autocompress.search.space_file import load_space
from autocompress.techniques import recipe_from_data


def test_every_repetition_has_parameters_of_its_own(tmp_path: Path) -> None:
    space = space_of(tmp_path, repeat(2, RATIO, option("finetune")), option("svd"), option("finetune"))
    assert space.parameters() == {"channel_pruning.ratio", "channel_pruning_2.ratio"}
    assert list(space.options()) == [
        "channel_pruning",
        "finetune",
        "channel_pruning_2",
        "finetune_2",
        "svd",
        "finetune_3",
    ]
    recipe = space.sample(Given({"channel_pruning.ratio": 0.5, "channel_pruning_2.ratio": 0.3}))
    assert [step.technique for step in recipe.steps] == [
        *["channel_pruning", "finetune"] * 2,
        *("svd", "finetune"),
    ]
    assert [step["ratio"] for step in recipe.to_data()["steps"] if "ratio" in step] == [0.5, 0.3]


def test_a_technique_may_stand_twice_without_a_repeat(tmp_path: Path) -> None:
    space = space_of(tmp_path, {"any_order": [option("svd"), option("svd")]}, {"one_of": [option("svd"), "none"]})
    assert space.parameters() == {"svd", "svd.position", "svd_2", "svd_2.position", "choice_1"}
    for chosen, count in (("svd_3", 2), ("none", 1)):
        assert names(space.sample(Given({"svd_2": False, "choice_1": chosen}))) == ["svd"] * count


def test_choices_keep_their_names_and_those_within_repeats_have_longer_ones(tmp_path: Path) -> None:
    choice = {"one_of": ["finetune", "none"]}
    space = space_of(tmp_path, "svd", choice, repeat(2, choice), only(["fc*"], {"one_of": ["svd", "tucker"]}))
    assert {name for name in space.parameters() if "choice" in name} == {
        *("choice_1", "choice_2_0", "choice_2_0_2", "choice_3"),
    }


@pytest.mark.parametrize("times", [{"low": 1, "high": 3}, [1, 2, 3]])
def test_how_often_is_a_parameter_where_it_is_searched(times: Any, tmp_path: Path) -> None:
    space = space_of(tmp_path, option("svd"), repeat(times, option("channel_pruning"), option("finetune")))
    assert space.parameters() == {"repeat_1.times"}
    for number in (1, 2, 3):
        found = space.sample(Given({"repeat_1.times": number}))
        assert [step.technique for step in found.steps] == ["svd", *["channel_pruning", "finetune"] * number]
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    space.sample(trial)
    kind = optuna.distributions.CategoricalDistribution if isinstance(times, list) else (
        optuna.distributions.IntDistribution
    )  # fmt: skip
    assert isinstance(trial.distributions["repeat_1.times"], kind)


def test_repeats_within_repeats_have_times_of_their_own(tmp_path: Path) -> None:
    space = space_of(tmp_path, repeat([1, 2], repeat({"low": 1, "high": 2}, option("svd")), option("finetune")))
    assert space.parameters() == {"repeat_0.times", "repeat_0_0.times", "repeat_0_0_2.times"}
    row = {"repeat_0.times": 2, "repeat_0_0.times": 1, "repeat_0_0_2.times": 2}
    assert names(space.sample(Given(row))) == ["svd", "finetune", "svd", "svd", "finetune"]
    assert names(space.sample(Given({**row, "repeat_0.times": 1}))) == ["svd", "finetune"]


def test_only_restricts_options_and_whole_groups(tmp_path: Path) -> None:
    inner = {"any_order": [option("svd"), only(["*1"], option("channel_pruning"))]}
    space = space_of(tmp_path, only(["fc*", "conv*"], inner), only(["fc1"], repeat(2, option("svd"))))
    found = space.sample(Given({"channel_pruning.position": 1.0}))
    assert names(found) == ["svd fc*|conv*", "channel_pruning fc* & *1|conv* & *1", "svd fc1", "svd fc1"]


@pytest.mark.parametrize(
    ("steps", "count"),
    [
        ([repeat(3, RATIO)], 8),  # 2**3
        ([repeat([1, 2, 3], RATIO)], 14),  # 2 + 4 + 8
        ([repeat([1, 3], RATIO)], 10),  # 2 + 8
        ([repeat({"low": 2, "high": 3}, RATIO), {"one_of": ["float16", "none"]}], 24),  # (4 + 8) * 2
        # once: 2 + 4 = 6; twice: 6 * 6
        ([repeat([1, 2], repeat([1, 2], RATIO), option("finetune"))], 42),
        ([repeat([1, 2], RATIO), option("svd"), repeat([1, 2], RATIO)], 36),
        ([only(["fc*"], repeat([1, 2], option("svd")))], 2),
    ],
)  # fmt: skip
def test_count_of_repeats_is_what_enumeration_finds(steps: list[Any], count: int, tmp_path: Path) -> None:
    space = space_of(tmp_path, *steps)
    assert len({recipe.fingerprint for recipe in every_recipe(space)}) == count
    assert space.count() == count


def test_what_cannot_be_applied_goes_from_every_repetition(tmp_path: Path) -> None:
    space = space_of(
        tmp_path,
        repeat([1, 2], {"any_order": ["svd", "tucker"]}),
        repeat([1, 2], {"one_of": ["cp", "none"]}),
        start=[{"repeat_0.times": 2, "tucker_2": True, "repeat_1.times": 1}],
    )
    less = space.without(dict.fromkeys(("tucker", "tucker_2", "cp", "cp_2"), "needs a convolution"))
    assert list(less.options()) == ["svd", "svd_2"]
    assert less.times == {"repeat_0.times": Choice(1, 2)}
    assert less.start == ({"repeat_0.times": 2},)
    assert names(less.sample(Given({"repeat_0.times": 2}))) == ["svd", "svd"]


def test_start_points_know_the_parameters_of_repeats(tmp_path: Path) -> None:
    row = {"repeat_0.times": 2, "channel_pruning_2.ratio": 0.5}
    assert space_of(tmp_path, repeat([1, 2], RATIO), start=[row]).start == (row,)
    text = yaml.safe_dump({"version": 1, "steps": [repeat([1, 2], RATIO)], "start": [{"repeat_0.times": 3}]})
    assert "start.0: repeat_0.times: 3 is not in the space" in refused(tmp_path, text)


# What is used


def test_active_parameters_are_those_that_the_recipe_depends_on(tmp_path: Path) -> None:
    space = space_of(tmp_path, *LONG)
    row = {"repeat_0.times": 1, "svd": False, "choice_0_1": "none", "choice_1": "none", "repeat_2.times": 1}
    trial = Given({**row, "choice_4": "none"})
    space.sample(trial)
    others = ("weight_pruning.", "nm_pruning.", "nm_pruning_2.", "distill_4.")  # the steps that always run
    assert {name for name in space.active(trial.taken) if not name.startswith(others)} == {
        *("repeat_0.times", "channel_pruning", "channel_pruning.ratio", "svd", "repeat_2.times"),
        *("choice_0_1", "choice_1", "choice_4"),
    }
    both = Given({**trial.taken, "svd": True})
    space.sample(both)
    added = space.active(both.taken) - space.active(trial.taken)
    assert added == {"svd.energy", "svd.variant", "svd.position", "channel_pruning.position"}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), other=st.integers(0, 2**31))
def test_other_values_of_parameters_that_are_not_active_give_the_same_recipe(
    seed: int, other: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    space = space_of(tmp_path_factory.getbasetemp(), *LONG)
    first, second = (drawn(space, number) for number in (seed, other))
    used = space.active(first)
    assert used <= first.keys() == space.parameters()
    mixed = {name: (first if name in used else second)[name] for name in first}
    assert space.sample(Given(mixed)) == space.sample(Given(first))
    assert space.active({name: first[name] for name in used}) == used


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_finding_what_is_active_takes_less_than_a_millisecond(path: Path) -> None:
    space = load_space(path)
    row = drawn(space, 1)
    seconds = []
    for _ in range(20):
        begun = time.perf_counter()
        space.active(row)
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 1e-3


def test_long_spaces_give_valid_recipes(tmp_path: Path) -> None:
    space = space_of(tmp_path, *LONG)
    for seed in range(20):
        recipe = space.sample(Given(drawn(space, seed)))
        assert recipe_from_data(recipe.to_data()) == recipe


# What is refused

LINES = "version: 1\nsteps:\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" - repeat: {times: 0, steps: [svd]}", ":3: steps.0.repeat.times: 0: write a whole number from 1 to 100"),
        (" - repeat: {times: [1, 0], steps: [svd]}", ":3: steps.0.repeat.times: 0: write a whole number from 1"),
        (" - repeat: {times: [1, two], steps: [svd]}", ":3: steps.0.repeat.times: 'two': write a whole number"),
        (" - repeat: {times: [], steps: [svd]}", ":3: steps.0.repeat.times: an empty list leaves nothing to choose"),
        (" - repeat: {times: {low: 0, high: 2}, steps: [svd]}", ":3: steps.0.repeat.times: 0: write a whole number"),
        (" - repeat: {times: {low: 1, high: 2.5}, steps: [svd]}", ":3: steps.0.repeat.times: 2.5: write a whole"),
        (" - repeat: {times: {low: 1}, steps: [svd]}", ":3: steps.0.repeat.times: {'low': 1}: write {low: A, high: B}"),
        (" - repeat: {times: {low: 1, high: 1000000000}, steps: [svd]}", ":3: steps.0.repeat.times: 1000000000: write"),
        (" - repeat: {times: 101, steps: [svd]}", ":3: steps.0.repeat: more than 100 steps when it is written out"),
        (" - repeat: {times: 51, steps: [{any_order: [svd, cp]}]}", ":3: steps.0.repeat: more than 100 steps when it"),
        (" - repeat: {times: 2, steps: []}", ":3: steps.0.repeat.steps: []: write a list of the steps to repeat"),
        (" - repeat: {times: 2, step: svd}", ":3: steps.0.repeat.step: unknown key; did you mean 'steps'?"),
        (" - repeat: {times: 2, steps: [none]}", ":3: steps.0.repeat.steps.0: 'none' belongs in a one_of group"),
        (" - one_of: [{repeat: {times: 2, steps: [svd]}}]", ":3: steps.0.one_of.0: a repeat stands in a row of"),
        (" - only: {layers: [], step: svd}", ":3: steps.0.only.layers: []: write a list of names of layers"),
        (" - only: {layers: [a], step: [svd, cp]}", ":3: steps.0.only.step: 2 steps where one is restricted"),
        (" - only: {layers: [a], step: distill}", ":3: steps.0.only.step: distill works on the whole model: do not"),
        (
            " - only:\n    layers: [a]\n    step:\n     one_of: [svd, finetune]",
            ":6: steps.0.only.step.one_of.1: finetune works on the whole model: do not",
        ),
        (" - {technique: svd, layers: [fc1]}", ":3: steps.0.layers: write only: {layers: ..., step: svd}"),
        (
            " - repeat:\n    times: 2\n    steps: [finetune, float16]",
            ":5: steps.0.repeat.steps.1: step 2 'finetune' follows step 1 'float16': train before quantizing",
        ),
        (
            " - repeat:\n    times: [1, 2]\n    steps:\n     - one_of: [finetune, none]\n     - one_of: [qat, none]",
            ":7: steps.0.repeat.steps.1: step 2 'finetune' follows step 1 'qat': train before quantizing",
        ),
        (" - repeat: {times: 2, steps: [float16]}", ":3: steps.0.repeat.steps.0: step 2 'float16' follows step"),
    ],
)  # fmt: skip
def test_what_says_nothing_is_refused_with_line_value_and_fix(text: str, message: str, tmp_path: Path) -> None:
    assert refused(tmp_path, LINES + text).startswith(message)


def test_repeats_in_repeats_without_end_are_refused_at_once(tmp_path: Path) -> None:
    row: Any = "svd"
    for _ in range(20):
        row = repeat(100, row)
    found = refused(tmp_path, yaml.safe_dump({"version": 1, "steps": [row]}))
    assert "steps.0.repeat: more than 100 steps when it is written out: lower times" in found
