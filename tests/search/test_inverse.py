"""From a recipe back to the parameters that it is sampled by."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import BUNDLED, LONG, RATIO, drawn, only, option, repeat, space_of, spaces

from autocompress.recipe import Choice, Range, Recipe
from autocompress.search.groups import Given
from autocompress.search.inverse import nearest
from autocompress.search.space import Space
from autocompress.search.space_file import load_space
from autocompress.techniques import recipe_from_data

NESTED: list[list[Any]] = [
    LONG,
    [repeat([1, 3], RATIO, {"one_of": ["finetune", "none"]}), repeat({"low": 1, "high": 2}, RATIO)],
    [repeat([2, 4], repeat([1, 2], {"any_order": ["svd", only(["fc*"], "svd"), only(["conv*"], "svd")]}))],
    [{"any_order": ["svd", "svd", "svd"]}, {"one_of": ["svd", "none"]}, only(["a"], {"one_of": ["svd", "none"]})],
]


def given_back(space: Space, seed: int) -> tuple[Recipe, Recipe]:
    """A recipe that is drawn at random, and what comes of the parameters that are found for it."""
    recipe = space.sample(Given(drawn(space, seed)))
    row = space.parameters_of(recipe)
    assert row is not None
    assert row.keys() == space.parameters()
    return recipe, space.sample(Given(row))


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_what_a_bundled_space_samples_it_finds_again(path: Path, seed: int) -> None:
    first, again = given_back(load_space(path), seed)
    assert again == first


@pytest.mark.parametrize("steps", NESTED, ids=range(len(NESTED)))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_what_a_nested_space_samples_it_finds_again(
    steps: list[Any], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, again = given_back(space_of(tmp_path_factory.getbasetemp(), *steps), seed)
    assert again == first


@settings(max_examples=40, deadline=None)
@given(steps=spaces(), seed=st.integers(0, 2**31))
@pytest.mark.filterwarnings("ignore:The distribution is specified by:UserWarning")  # steps that do not end at `high`
def test_what_any_space_samples_it_finds_again(
    steps: list[Any], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, again = given_back(space_of(tmp_path_factory.getbasetemp(), *steps), seed)
    assert again == first


def recipe(*steps: Any) -> Recipe:
    return recipe_from_data({"version": 1, "steps": list(steps)})


def test_settings_become_the_nearest_that_the_space_has(tmp_path: Path) -> None:
    space = space_of(
        tmp_path,
        option("channel_pruning", ratio={"low": 0.2, "high": 0.6, "step": 0.1}, importance=["l1", "taylor"]),
        option("distill", epochs=[2, 8, 20], temperature=4.0, learning_rate={"low": 1e-3, "high": 1e-2, "log": True}),
    )
    asked = recipe(
        {"technique": "channel_pruning", "ratio": 0.83, "importance": "fpgm"},
        {"technique": "distill", "epochs": 12, "temperature": 1.0, "learning_rate": 0.5},
    )
    assert space.parameters_of(asked) == {
        "channel_pruning.ratio": 0.6,
        "channel_pruning.importance": "taylor",  # the technique's own default
        "distill.epochs": 8,
        "distill.learning_rate": 1e-2,
    }


@pytest.mark.parametrize(
    "steps",
    [
        [],
        ["svd"],
        ["finetune", "svd", "finetune"],
        ["svd", "finetune", "svd", "finetune", "svd", "finetune", "svd", "finetune"],
        ["svd", "tucker"],
        ["svd", "finetune", "float16", "float16"][:3],
    ],
)
def test_techniques_that_the_space_cannot_say_in_that_order_have_no_parameters(
    steps: list[Any], tmp_path: Path
) -> None:
    space = space_of(tmp_path, repeat([1, 3], option("svd"), option("finetune")))
    assert space.parameters_of(recipe(*steps)) is None
    for times in (1, 3):
        row = space.parameters_of(recipe(*["svd", "finetune"] * times))
        assert row == {"repeat_0.times": times}
    assert space.parameters_of(recipe(*["svd", "finetune"] * 2)) is None


def test_a_step_goes_to_the_option_of_its_layers(tmp_path: Path) -> None:
    space = space_of(tmp_path, {"one_of": [option("svd"), only(["fc*"], option("svd")), only(["a"], option("svd"))]})
    rows = [space.parameters_of(recipe({"technique": "svd", "layers": layers})) for layers in ([], ["fc*"], ["a"])]
    assert rows == [{"choice_0": "svd"}, {"choice_0": "svd_2"}, {"choice_0": "svd_3"}]


def test_the_best_assignment_of_equal_techniques_is_found(tmp_path: Path) -> None:
    """The first of two steps fits both options, the second one only: each gets its own."""
    space = space_of(
        tmp_path,
        {"any_order": [option("svd", energy=[0.5, 0.9]), option("svd", energy=[0.5])]},
    )
    asked = recipe({"technique": "svd", "energy": 0.5}, {"technique": "svd", "energy": 0.9})
    row = space.parameters_of(asked)
    assert row is not None
    assert [step["energy"] for step in space.sample(Given(row)).to_data()["steps"]] == [0.5, 0.9]


@pytest.mark.parametrize(
    ("domain", "value", "default", "found"),
    [
        (Range(0.1, 0.9, step=0.05), 0.37, 0.5, 0.35),
        (Range(0.1, 0.9, step=0.2), 5.0, 0.5, 0.9),
        (Range(0.1, 0.8, step=0.2), 5.0, 0.5, 0.7),  # 0.1, 0.3, 0.5, 0.7
        (Range(0.5, 0.9), 0.1, 0.8, 0.5),
        (Range(2, 10, step=4), 7, 3, 6),
        (Range(1, 8), None, 1, 1),
        (Range(0.1, 0.9, step=0.1), "auto", 0.5, 0.5),
        (Choice(2, 4, 8), 5, 2, 4),
        (Choice("l1", "taylor"), "l2", "taylor", "taylor"),
        (Choice("l1", "l2"), "fpgm", "taylor", "l1"),
        (Choice(True, False), False, True, False),
        (Choice(0, 32), False, 32, 32),
        (Choice(["a"], ["b"]), ["b"], (), ["b"]),
    ],
)
def test_nearest_values(domain: Any, value: Any, default: Any, found: Any) -> None:
    assert nearest(domain, value, default) == pytest.approx(found) if isinstance(found, float) else True
    assert isinstance(found, float) or nearest(domain, value, default) == found
    assert domain != Range(2, 10, step=4) or isinstance(nearest(domain, value, default), int)
