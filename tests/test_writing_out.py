"""Steps that take steps: what they are written out to, in any nesting, and what is refused."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from autocompress.documents import Document
from autocompress.errors import ConfigError
from autocompress.recipe import Recipe, matches, recipe_line
from autocompress.techniques import recipe_from_data, recipe_from_yaml, registry
from autocompress.writing_out import MOST, written_out

NAMES = ["fc1", "fc2", "conv1", "head"]
PATTERNS = ["fc*", "*1", "fc2", "[!c]*", "head"]


def recipe(*steps: Any) -> Recipe:
    """A recipe of these rows, by way of YAML."""
    return recipe_from_yaml(yaml.safe_dump({"version": 1, "steps": list(steps)}, sort_keys=False), "r.yaml")


def repeat(times: Any, *steps: Any) -> dict[str, Any]:
    return {"repeat": {"times": times, "steps": list(steps)}}


def only(layers: Any, step: Any) -> dict[str, Any]:
    return {"only": {"layers": layers, "step": step}}


def names(found: Recipe) -> list[str]:
    """What the steps of a recipe are, in short."""
    return [f"{step.technique} {'|'.join(step.layers)}".strip() for step in found.steps]


def test_a_repeat_is_its_steps_again_and_again() -> None:
    pruning = {"technique": "weight_pruning", "ratio": 0.3}
    written = recipe(repeat(2, pruning, "distill"), "weight_clustering", "distill")
    assert names(written) == ["weight_pruning", "distill"] * 2 + ["weight_clustering", "distill"]
    assert written == recipe(pruning, "distill", pruning, "distill", "weight_clustering", "distill")


def test_only_restricts_a_step_to_layers() -> None:
    assert names(recipe(only(["fc*", "conv1"], "svd"), "finetune")) == ["svd fc*|conv1", "finetune"]
    assert recipe(only(["fc*"], "svd")) == recipe({"technique": "svd", "layers": ["fc*"]})


def test_steps_that_take_steps_stand_in_each_other() -> None:
    assert names(recipe(repeat(2, repeat(3, "svd"), "tucker"))) == (["svd"] * 3 + ["tucker"]) * 2
    assert names(recipe(repeat(2, only(["a"], "svd"), "tucker"))) == ["svd a", "tucker"] * 2
    assert names(recipe(only(["a", "b"], repeat(2, "svd", "tucker")))) == ["svd a|b", "tucker a|b"] * 2
    assert names(recipe(only(["a"], only(["b", "c"], "svd")))) == ["svd a & b|a & c"]
    assert names(recipe(only(["a"], only(["b"], {"technique": "svd", "layers": ["a", "c"]})))) == [
        "svd a & b|a & b & c"
    ]


Rows = list[Any]
plain = st.sampled_from(["svd", "tucker", "weight_pruning"])
rows: st.SearchStrategy[Rows] = st.recursive(
    st.lists(plain, min_size=1, max_size=2),
    lambda inner: st.lists(
        st.one_of(
            plain,
            st.builds(lambda times, steps: repeat(times, *steps), st.integers(1, 2), inner),
            st.builds(
                lambda layers, steps: only(layers, repeat(1, *steps)),
                st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2),
                inner,
            ),
        ),
        min_size=1,
        max_size=2,
    ),
    max_leaves=8,
)


def meant(steps: Sequence[Any]) -> list[tuple[str, set[str]]]:
    """The techniques that rows stand for, each with the layers that it works on."""
    found: list[tuple[str, set[str]]] = []
    for row in steps:
        if isinstance(row, str):
            found.append((row, set(NAMES)))
        elif "repeat" in row:
            found += meant(row["repeat"]["steps"]) * row["repeat"]["times"]
        else:
            here = {name for name in NAMES if any(fnmatchcase(name, pattern) for pattern in row["only"]["layers"])}
            found += [(name, inside & here) for name, inside in meant([row["only"]["step"]])]
    return found


@given(rows)
def test_any_nesting_means_what_its_parts_mean(steps: Rows) -> None:
    expected = meant(steps)
    if len(expected) > MOST:
        return
    found = recipe(*steps)
    inside = [{n for n in NAMES if not step.layers or matches(n, step.layers)} for step in found.steps]
    assert [(step.technique, names) for step, names in zip(found.steps, inside, strict=True)] == expected
    assert recipe_from_data(found.to_data()) == found
    assert recipe_from_yaml(found.to_yaml()) == found


def test_what_is_restricted_prints_its_layers() -> None:
    found = recipe(only(["fc*", "conv1"], {"technique": "weight_pruning", "ratio": 0.9}), "finetune")
    assert str(found) == "weight_pruning(ratio=0.9, layers=fc*|conv1) > finetune"
    assert recipe_line(found.to_data()).startswith(
        "weight_pruning(ratio 0.9, magnitude, global, layers fc*|conv1) > finetune"
    )


def test_steps_without_layers_say_what_they_said_before() -> None:
    for name, kind in registry().items():
        assert "layers" not in kind().to_data(), name
    assert recipe("svd").fingerprint == "26ed0e60c49c"  # as it was before steps had layers
    restricted = recipe(only(["fc*"], "svd"))
    assert restricted.to_data()["steps"][0] == {**recipe("svd").to_data()["steps"][0], "layers": ["fc*"]}
    assert restricted.fingerprint != recipe("svd").fingerprint


@pytest.mark.parametrize(
    ("name", "patterns", "found"),
    [
        ("fc1", ["fc*"], True),
        ("fc1", ["conv1", "fc1"], True),
        ("fc1", ["fc"], False),
        ("FC1", ["fc*"], False),
        ("fc1.0", ["fc1"], True),  # a factor of fc1, or any layer in a block
        ("encoder.layers.0.linear1", ["encoder.layers.0"], True),
        ("encoder.layers.10.linear1", ["encoder.layers.1"], False),
        ("layer1.conv1", ["layer1 & *conv1"], True),
        ("layer1.conv2", ["layer1 & *conv1"], False),
        ("", ["*"], True),  # a model that is a layer
        ("", ["fc"], False),
    ],
)
def test_patterns_mean_layers_and_modules_around_them(name: str, patterns: list[str], found: bool) -> None:
    assert matches(name, patterns) is found


LINES = "version: 1\nsteps:\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" - repeat: {times: 0, steps: [svd]}", "3: steps.0.repeat.times: 0: write a whole number from 1 to 100"),
        (" - repeat: {times: -1, steps: [svd]}", "3: steps.0.repeat.times: -1: write a whole number"),
        (" - repeat: {times: 1.5, steps: [svd]}", "3: steps.0.repeat.times: 1.5: write a whole number"),
        (" - repeat: {times: true, steps: [svd]}", "3: steps.0.repeat.times: True: write a whole number"),
        (" - repeat: {times: [1, 2], steps: [svd]}", "3: steps.0.repeat.times: [1, 2]: write a whole number"),
        (" - repeat: {times: 101, steps: [svd]}", "3: steps.0.repeat: more than 100 steps when it is written out: lo"),
        (" - svd\n - repeat: {times: 100, steps: [svd]}", "4: steps.1.repeat: more than 100 steps when it is written"),
        (" - repeat: {times: 2, steps: []}", "3: steps.0.repeat.steps: []: write a list of the steps to repeat"),
        (" - repeat: {times: 2, steps: svd}", "3: steps.0.repeat.steps: 'svd': write a list of the steps to repeat"),
        (" - repeat: {times: 2}", "3: steps.0.repeat.steps: this key is required: add it"),
        (" - repeat: {steps: [svd]}", "3: steps.0.repeat.times: this key is required: add it"),
        (" - repeat: {time: 2, steps: [svd]}", "3: steps.0.repeat.time: unknown key; did you mean 'times'?"),
        (" - repeat: [svd, svd]", "3: steps.0.repeat: ['svd', 'svd']: write {times: ..., steps: ...}"),
        (" - repeat: {times: 2, steps: [svd]}\n   epochs: 3", "4: steps.0.epochs: unknown key beside 'repeat', which"),
        (" - repeat:\n    times: 2\n    steps:\n     - svd\n     - svdd", "7: steps.0.repeat.steps.1: unknown techn"),
        (" - only: {layers: [], step: svd}", "3: steps.0.only.layers: []: write a list of names of layers, or of pat"),
        (" - only: {layers: fc1, step: svd}", "3: steps.0.only.layers: 'fc1': write a list of names of layers"),
        (" - only: {layers: [1], step: svd}", "3: steps.0.only.layers: [1]: write a list of names of layers"),
        (" - only: {layers: [''], step: svd}", "3: steps.0.only.layers: ['']: write a list of names of layers"),
        (" - only: {layers: ['a &'], step: svd}", "3: steps.0.only.step: ['a &']: an empty pattern means no"),
        (" - only: {layers: [a], step: [svd, svd]}", "3: steps.0.only.step: 2 steps where one is restricted: give ea"),
        (" - only: {layers: [a], steps: [svd, svd]}", "3: steps.0.only.steps: unknown key; did you mean 'step'?"),
        (" - only: {layers: [a]}", "3: steps.0.only.step: this key is required: add it"),
        (" - only: {layers: [a], step: finetune}", "3: steps.0.only.step: finetune works on the whole model: do not"),
        (
            " - only:\n    layers: [a]\n    step: {technique: svd, energy: 2}",
            "5: steps.0.only.step.energy: 2: input should be less than 1",
        ),
        (
            " - only:\n    layers: [a]\n    step:\n     repeat: {times: 2, steps: [svd, {technique: distill}]}",
            "6: steps.0.only.step.repeat.steps.1.layers: distill works on the whole model: do not restrict it",
        ),
        (" - {technique: finetune, layers: [fc1]}", "3: steps.0.layers: finetune works on the whole model: do not res"),
        (" - {technique: sparsify, penalty: l2, layers: [a]}", "3: steps.0: penalty l2 makes all weights small: do"),
        (" - repeat: {times: 2, steps: [float16]}", "2: steps: step 2 'float16' follows step 1 'float16': a file has"),
        (
            " - repeat: {times: 2, steps: [finetune, float16]}",
            "2: steps: step 3 'finetune' follows step 2 'float16': train before quantizing",
        ),
    ],
)  # fmt: skip
def test_what_says_nothing_is_refused_with_line_value_and_fix(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe_from_yaml(LINES + text, "r.yaml")
    assert str(caught.value).startswith(f"r.yaml:{message}")
    assert len(str(caught.value).splitlines()) == 1


def test_repeats_in_repeats_without_end_are_refused_at_once() -> None:
    row: Any = "svd"
    for _ in range(30):
        row = repeat(10**9, row)
    with pytest.raises(ConfigError, match=r"steps\.0\.repeat: more than 100 steps when it is written out: lower times"):
        recipe(row)


def test_patterns_in_patterns_without_end_are_refused_at_once() -> None:
    row: Any = "svd"
    for level in range(20):
        row = only([f"a{level}*", f"b{level}*"], row)
    with pytest.raises(ConfigError, match=r"2 patterns of layers within 64 others: more than 100 pairs: write fewer"):
        recipe(row)


def test_a_long_recipe_that_repeats_nothing_is_as_long_as_it_is_written() -> None:
    assert len(list(written_out(["svd"] * 150, Document("r", {}), ("steps",)))) == 150
    assert len(recipe(*["svd"] * 150).steps) == 150


def test_pruning_in_cycles_keeps_its_layers_and_trains_all() -> None:
    from autocompress.techniques import expanded

    found = expanded(recipe(only(["fc*"], {"technique": "weight_pruning", "ratio": 0.8, "cycles": 2}), "finetune"))
    assert names(found) == ["weight_pruning fc*", "finetune", "weight_pruning fc*", "finetune"]
