"""Recipes as values: the order of their steps, their fingerprint, and their YAML."""

import builtins
import itertools
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autocompress.documents import parse_yaml
from autocompress.errors import ConfigError, RecipeError
from autocompress.recipe import VERSION, Kind, Recipe, Step, parse_recipe
from autocompress.techniques import load_recipe, recipe_from_data, recipe_from_yaml, registry, technique

NAMES = sorted(registry())
KINDS = ("structure", "train", "encode")


def of_kind(kind: str) -> list[type[Step]]:
    """Every registered technique of a kind."""
    return [found for found in registry().values() if found.result() == kind]


def settings_of(kind: type[Step]) -> list[str]:
    """The names of its settings: the layers that it is restricted to are one where it can be restricted."""
    return [name for name in kind.model_fields if name != "layers" or kind.by_layer]


def values_of(kind: type[Step], name: str) -> st.SearchStrategy[Any]:
    """Any value that a setting takes, by its type and bounds."""
    field = kind.model_fields[name]
    return _values(field.annotation, field.metadata, f"{kind.technique}.{name}")


def _values(annotation: Any, rules: Iterable[Any], place: str) -> st.SearchStrategy[Any]:
    arguments = typing.get_args(annotation)
    match typing.get_origin(annotation):
        case typing.Literal:
            return st.sampled_from(arguments)
        case typing.Annotated:
            rules = [rule for extra in arguments[1:] for rule in getattr(extra, "metadata", [extra])]
            return _values(arguments[0], rules, place)
        case typing.Union | types.UnionType:
            return st.one_of(_values(argument, rules, place) for argument in arguments)
        case builtins.dict:  # sizes by a layer's name
            sizes = st.integers(1, 99) | st.lists(st.integers(1, 99), min_size=2, max_size=2)
            return st.dictionaries(st.sampled_from(["fc1", "layers.0"]), sizes)
        case builtins.tuple:
            return st.lists(_values(arguments[0], (), place), max_size=3).map(tuple)
    if annotation is types.NoneType:
        return st.none()
    if annotation is bool:
        return st.booleans()
    if annotation is str:
        return st.text("abc.1", min_size=1)
    return _numbers(annotation, rules, place)


def _numbers(annotation: Any, rules: Iterable[Any], place: str) -> st.SearchStrategy[Any]:
    low: dict[str, Any] = {"min_value": None, "exclude_min": False}
    high: dict[str, Any] = {"max_value": None, "exclude_max": False}
    for rule in rules:
        match rule:
            case Ge(bound):
                low = {"min_value": bound, "exclude_min": False}
            case Gt(bound):
                low = {"min_value": bound, "exclude_min": True}
            case Le(bound):
                high = {"max_value": bound, "exclude_max": False}
            case Lt(bound):
                high = {"max_value": bound, "exclude_max": True}
    if annotation is int:
        most = high["max_value"]
        return st.integers(low["min_value"], low["min_value"] + 8 if most is None else most)
    assert annotation is float, f"{place}: say here how to make a {annotation}"
    return st.floats(
        None if low["min_value"] is None else float(low["min_value"]),
        None if high["max_value"] is None else float(high["max_value"]),
        exclude_min=low["exclude_min"],
        exclude_max=high["exclude_max"],
        allow_nan=False,
        allow_infinity=False,
    )


def valid(kind: type[Step], settings: dict[str, Any]) -> Step | None:
    """The step, or None where its settings exclude one another."""
    try:
        return kind.model_validate(settings)
    except ValidationError:
        return None


def steps_of(kind: type[Step]) -> st.SearchStrategy[Step]:
    """Steps of one technique with any of its settings set, the others at their defaults."""
    settings = st.fixed_dictionaries({}, optional={name: values_of(kind, name) for name in settings_of(kind)})
    return settings.map(lambda values: valid(kind, values)).filter(lambda step: step is not None)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Valid recipes: up to four steps that change the model, then perhaps an encoding."""
    before = [kind for kind in registry().values() if kind.result() != "encode"]
    kinds = draw(st.lists(st.sampled_from(before), max_size=4))
    kinds += draw(st.lists(st.sampled_from(of_kind("encode")), max_size=1))
    return Recipe(tuple(draw(steps_of(kind)) for kind in kinds))


def refused(text: str) -> str:
    """The message with which a recipe is refused: one line."""
    with pytest.raises(ConfigError) as caught:
        parse_recipe(parse_yaml(text, "r.yaml"), technique)
    message = str(caught.value)
    assert message.startswith("r.yaml")
    assert len(message.splitlines()) == 1
    return message


@given(recipes())
def test_yaml_gives_the_same_recipe_back(recipe: Recipe) -> None:
    again = recipe_from_yaml(recipe.to_yaml())
    assert again == recipe
    assert again.fingerprint == recipe.fingerprint


@given(recipes())
def test_plain_values_give_the_same_recipe_back(recipe: Recipe) -> None:
    assert recipe_from_data(recipe.to_data()) == recipe


@given(recipes(), recipes())
def test_fingerprints_are_equal_exactly_when_recipes_are(first: Recipe, second: Recipe) -> None:
    assert (first.fingerprint == second.fingerprint) == (first == second)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_every_setting_enters_the_fingerprint(name: str, data: st.DataObject) -> None:
    kind = registry()[name]
    default = kind()
    prints = {Recipe((default,)).fingerprint}
    for setting in settings_of(kind):
        steps = values_of(kind, setting).map(lambda value, at=setting: valid(kind, {at: value}))
        other = steps.filter(lambda step, at=setting: step is not None and getattr(step, at) != getattr(default, at))
        prints.add(Recipe((data.draw(other),)).fingerprint)
    assert len(prints) == 1 + len(settings_of(kind))


def test_a_fingerprint_is_the_same_whatever_the_spelling() -> None:
    written = [
        "version: 1\nsteps:\n  - {technique: distill, epochs: 3, temperature: 4}\n",
        "steps: [{temperature: 4.0, technique: distill, epochs: 3}]\nversion: 1\n",
        "version: 1\nsteps:\n  - technique: distill\n    learning_rate: 2e-3 # the default\n",
        "version: 1\nsteps: [distill]\n",
    ]
    assert len({recipe_from_yaml(text).fingerprint for text in written}) == 1


def test_a_fingerprint_depends_on_the_order() -> None:
    prune, factorize = technique("channel_pruning")(), technique("svd")()
    assert Recipe((prune, factorize)).fingerprint != Recipe((factorize, prune)).fingerprint


def test_a_fingerprint_has_twelve_hexadecimal_digits() -> None:
    assert len(Recipe().fingerprint) == 12
    int(Recipe().fingerprint, 16)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(KINDS, KINDS)))
def test_nothing_follows_an_encoding_and_all_else_goes(before: str, after: str) -> None:
    for first, second in itertools.product(of_kind(before), of_kind(after)):
        if before == "encode":
            with pytest.raises(RecipeError, match=f"step 2 '{second.technique}' follows step 1 '{first.technique}': "):
                Recipe((first(), second()))
        else:
            assert len(Recipe((first(), second())).steps) == 2


@pytest.mark.parametrize(
    ("second", "fix"),
    [
        ("channel_pruning", "prune and factorize before quantizing"),
        ("finetune", "train before quantizing"),
        ("float16", "a file has one encoding: keep one of the two"),
    ],
)
def test_an_impossible_order_says_how_to_repair_it(second: str, fix: str) -> None:
    message = refused(f"version: 1\nsteps:\n  - svd\n  - int8_static\n  - {second}\n")
    assert message == f"r.yaml:2: steps: step 3 {second!r} follows step 2 'int8_static': {fix}"


def test_a_step_is_ordered_by_what_it_leaves() -> None:
    class Rounding(technique("finetune")):  # type: ignore[misc]
        """Training that leaves a model which only its file can hold."""

        technique: ClassVar[str] = "rounding"
        leaves: ClassVar[Kind | None] = "encode"

    assert (Rounding.kind, Rounding.result(), technique("finetune").result()) == ("train", "encode", "train")
    assert len(Recipe((technique("svd")(), technique("finetune")(), Rounding())).steps) == 3
    for later, fix in (
        ("finetune", "train before"),
        ("svd", "prune and factorize before"),
        ("float16", "one encoding"),
    ):
        with pytest.raises(RecipeError, match=f"step 2 '{later}' follows step 1 'rounding': .*{fix}"):
            Recipe((Rounding(), technique(later)()))
    with pytest.raises(RecipeError, match="step 2 'rounding' follows step 1 'float16': a file has one encoding"):
        Recipe((technique("float16")(), Rounding()))


def test_order_is_checked_over_any_distance() -> None:
    steps = [technique(name)() for name in ("channel_pruning", "int8_static")]
    with pytest.raises(RecipeError, match="step 3 'channel_pruning' follows step 2 'int8_static'"):
        Recipe((technique("finetune")(), steps[1], steps[0]))


@given(recipes(), st.integers(0, 5))
def test_a_prefix_holds_the_first_steps(recipe: Recipe, length: int) -> None:
    assert recipe.prefix(length).steps == recipe.steps[:length]


@given(recipes())
def test_the_prefix_of_full_length_is_the_recipe(recipe: Recipe) -> None:
    assert recipe.prefix(len(recipe.steps)).fingerprint == recipe.fingerprint
    assert recipe.prefix(0) == Recipe()


def test_steps_cannot_be_changed() -> None:
    step = technique("svd")()
    with pytest.raises(ValidationError):
        step.energy = 0.5  # type: ignore[attr-defined]


def test_data_holds_the_defaults_so_that_a_recipe_outlives_a_change_of_them() -> None:
    assert recipe_from_yaml("version: 1\nsteps: [finetune]").to_data() == {
        "version": 1,
        "steps": [
            {
                "technique": "finetune",
                "epochs": 3,
                "learning_rate": 0.002,
                "batch_size": 64,
                "rate": 0.0,
                "rewind": False,
                "last": 0,
                "block_decay": 1.0,
            }
        ],
    }


def test_yaml_holds_one_line_a_step() -> None:
    recipe = Recipe((technique("tucker")(), technique("float16")()))
    assert (
        recipe.to_yaml()
        == "version: 1\nsteps:\n  - {technique: tucker, energy: 0.8, rank: energy, keep: 0.5, tolerance: 0.05, "
        "ranks: {}}\n  - {technique: float16}\n"
    )


def test_a_recipe_shows_what_differs_from_the_defaults() -> None:
    recipe = recipe_from_yaml("version: 1\nsteps: [{technique: channel_pruning, ratio: 0.25, scope: layer}, float16]")
    assert str(recipe) == "channel_pruning(ratio=0.25, scope=layer) > float16"
    assert str(Recipe()) == "(no steps)"


@pytest.mark.parametrize("text", ["version: 1\nsteps: []\n", Recipe().to_yaml()])
def test_a_recipe_may_have_no_steps(text: str) -> None:
    assert recipe_from_yaml(text) == Recipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"version: {VERSION + 1}\nsteps: []", "r.yaml:1: version: 2 is newer than 1, the newest that this autocompress"
         " reads: upgrade autocompress"),
        ("version: 0\nsteps: []", "r.yaml:1: version: 0: write `version: 1`"),
        ("version: '1'\nsteps: []", "r.yaml:1: version: '1': write `version: 1`"),
        ("version: true\nsteps: []", "r.yaml:1: version: True: write `version: 1`"),
        ("steps: []", "r.yaml:1: version: None: write `version: 1`"),
        ("version: 1", "r.yaml:1: steps: None: write a list of steps"),
        ("version: 1\nsteps: svd", "r.yaml:2: steps: 'svd': write a list of steps"),
        ("version: 1\nsteps: {technique: svd}", "r.yaml:2: steps: {'technique': 'svd'}: write a list of steps"),
        ("version: 1\nsteps: []\nname: x", "r.yaml:3: name: unknown key; a recipe has `version` and `steps`"),
        ("version: 1\nsteps:\n - svd\n - 5", "r.yaml:4: steps.1: a step is a mapping such as"
         " {technique: finetune, epochs: 3}"),
        ("version: 1\nsteps:\n - {epochs: 3}", "r.yaml:3: steps.0: a step is a mapping such as"
         " {technique: finetune, epochs: 3}"),
        ("version: 1\nsteps:\n - {technique: 5}", "r.yaml:3: steps.0: a step is a mapping such as"
         " {technique: finetune, epochs: 3}"),
        ("version: 1\nsteps:\n - zzz", f"r.yaml:3: steps.0: unknown technique 'zzz'; known: {', '.join(NAMES)}"),
        ("version: 1\nsteps:\n - finetun", "r.yaml:3: steps.0: unknown technique 'finetun'; did you mean 'finetune'?"),
        ("version: 1\nsteps:\n - technique: svd\n   enrgy: 0.5", "r.yaml:4: steps.0.enrgy: unknown key; did you mean"
         " 'energy'?"),
        ("version: 1\nsteps:\n - technique: svd\n   energy: 1.5", "r.yaml:4: steps.0.energy: 1.5: input should be less"
         " than 1"),
        ("version: 1\nsteps:\n - technique: svd\n   energy: .nan", "r.yaml:4: steps.0.energy: nan: input should be "),
        ("version: 1\nsteps:\n - technique: svd\n   energy: no", "r.yaml:4: steps.0.energy: 'no': input should be a"
         " valid number"),
        ("version: 1\nsteps:\n - technique: finetune\n   epochs: 2.5", "r.yaml:4: steps.0.epochs: 2.5: input should be"
         " a valid integer"),
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_refused_with_line_value_and_fix(text: str, message: str) -> None:
    assert refused(text).startswith(message)


def test_a_recipe_file_is_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("version: 1\nsteps: [svd, svdd]\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml:2: steps\.1: unknown technique 'svdd'; did you mean 'svd'\?"):
        load_recipe(path)


def test_a_recipe_never_imports_by_path() -> None:
    message = refused("version: 1\nsteps: [os.path]\n")
    assert "unknown technique 'os.path'" in message
