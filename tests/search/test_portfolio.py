"""The recipes that searches begin with: reading them, and how they were chosen."""

import importlib.util
import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spaces import option, space_of

from autocompress.documents import read_yaml
from autocompress.errors import ConfigError
from autocompress.recipe import Recipe
from autocompress.search.portfolio import FILE, MOST, load_portfolio, portfolio_rows
from autocompress.search.space_file import find_space, load_space
from autocompress.techniques import recipe_from_data


def loaded(path: Path) -> Any:
    """A script of an experiment as a module."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FOLDER = Path(__file__).parents[2] / "experiments" / "portfolio"
choice, candidates = loaded(FOLDER / "choice.py"), loaded(FOLDER / "recipes.py").RECIPES


def test_the_bundled_recipes_are_read_without_a_note_and_hybrid_says_each_as_it_is() -> None:
    notes: list[str] = []
    recipes = load_portfolio(note=notes.append)
    assert notes == []
    assert len(recipes) == len(read_yaml(FILE).data["recipes"]) >= 8
    space = load_space(find_space("hybrid", Path()))
    rows = portfolio_rows(space, recipes)
    assert [space.recipe(row) for row in rows] == recipes[:MOST]
    assert len(portfolio_rows(load_space(find_space("wide", Path())), recipes)) >= 8  # which says two of the first


def test_every_candidate_of_the_experiment_can_be_said_by_hybrid_as_it_is() -> None:
    space = load_space(find_space("hybrid", Path()))
    recipes = [recipe_from_data({"version": 1, "steps": steps}) for steps in candidates.values()]
    assert [space.recipe(row) for recipe in recipes for row in portfolio_rows(space, [recipe])] == recipes
    assert len({recipe.fingerprint for recipe in recipes}) == len(candidates)


def test_the_bundled_recipes_are_those_that_the_measurements_give() -> None:
    rows = pd.read_csv(FOLDER / "results.csv")
    reached = choice.reached(rows[rows["task"] != "lenet_mnist5k"])
    plain = [
        name for name, steps in candidates.items() if not any(word in name for word in ("shared", "codes", "steps"))
    ]
    plain = [name for name in plain if name.count("distil") + name.count("tune") < 2]
    first, later = (
        choice.greedy(names, lambda chosen: choice.mean_covered(reached, chosen), MOST)
        for names in (list(candidates), plain)
    )
    chosen = dict.fromkeys([*first, *later])
    assert read_yaml(FILE).data["recipes"] == [{"name": name, "steps": candidates[name]} for name in chosen]


def read(folder: Path, text: str) -> tuple[list[Recipe], list[str]]:
    """The recipes of a file, and the notes on it after its name."""
    path = folder / "portfolio.yaml"
    path.write_text(text)
    notes: list[str] = []
    recipes = load_portfolio(path, notes.append)
    assert all(len(note.splitlines()) == 1 for note in notes)
    return recipes, [note.replace(str(path), "FILE") for note in notes]


def test_rows_that_cannot_be_read_are_left_out_with_a_note_and_the_others_used(tmp_path: Path) -> None:
    recipes, notes = read(
        tmp_path,
        """version: 1
recipes:
  - {name: ranks, steps: [{technique: svd, energy: 0.7}]}
  - {name: of another package, steps: [{technique: svd}, {technique: shrinking}]}
  - seventy
  - {name: too much, steps: [{technique: svd, energy: 7}]}
  - {name: the wrong way round, steps: [{technique: int8_static}, {technique: svd}]}
  - {name: nothing, steps: []}
  - {name: a word, steps: svd}
  - name: bits
    steps:
      - {technique: low_bit, bits: 4}
""",
    )
    assert [[step.technique for step in recipe.steps] for recipe in recipes] == [["svd"], ["low_bit"]]
    where = "portfolio: recipe {} is left out: FILE:{}: "
    assert len(notes) == 6
    assert notes[0].startswith(where.format(2, 4) + "steps.1: unknown technique 'shrinking'")
    assert notes[1] == where.format(3, 5) + "recipes.2: 'seventy': write a mapping with `name` and `steps`"
    assert notes[2].startswith(where.format(4, 6) + "steps.0.energy: 7: ")
    assert notes[3].startswith(where.format(5, 7) + "steps: step 2 'svd' follows step 1 'int8_static'")
    assert notes[4].endswith("write a mapping with `name` and `steps`")
    assert notes[5] == where.format(7, 9) + "steps: 'svd': write a list of steps"


@pytest.mark.parametrize(
    "text", ["", "[1]", "recipes: []", "version: 1", "version: 1\nrecipes: 3", "version: 2\nrecipes: []", "{"]
)
def test_a_file_that_is_no_portfolio_is_refused_by_its_name(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"portfolio\.yaml"):
        read(tmp_path, text)


def test_a_space_takes_of_a_portfolio_what_it_can_say_each_once(tmp_path: Path) -> None:
    space = space_of(tmp_path, option("svd", energy=[0.5, 0.9]), {"one_of": ["float16", "none"]})
    asked = [
        recipe_from_data({"version": 1, "steps": steps})
        for steps in (
            [{"technique": "svd", "energy": 0.6}, {"technique": "float16"}],
            [{"technique": "channel_pruning"}, {"technique": "float16"}],
            [{"technique": "svd", "energy": 0.4}, {"technique": "float16"}],
            [{"technique": "svd", "energy": 0.9}],
        )
    ]
    assert portfolio_rows(space, asked) == [
        {"svd.energy": 0.5, "choice_1": "float16"},
        {"svd.energy": 0.9, "choice_1": "none"},
    ]


# Two tasks, one drop each. Areas: of a alone 2 * 1, of b alone 1 * 2, of both 3, of c 4 * 4.
GIVEN = {("one", 0.01): {"a": (2.0, 1.0), "b": (1.0, 2.0)}, ("two", 0.01): {"a": (1.0, 1.0), "c": (4.0, 4.0)}}


def test_the_hypervolume_is_the_area_below_the_gains() -> None:
    assert choice.hypervolume([]) == 0
    assert choice.hypervolume([(2.0, 1.0), (1.0, 2.0), (0.5, 0.5)]) == pytest.approx(2 + 2 - 1)
    assert choice.hypervolume([(3.0, 0.0)]) == 0


def test_shares_are_of_what_all_recipes_reach_on_a_task() -> None:
    assert choice.covered(GIVEN["one", 0.01], ["a"]) == pytest.approx(2 / 3)
    assert choice.covered(GIVEN["one", 0.01], ["c", "unheard of"]) == 0
    assert choice.covered({}, []) == 1
    assert choice.mean_covered(GIVEN, ["a"]) == pytest.approx((2 / 3 + 1 / 16) / 2)
    assert choice.mean_covered(GIVEN, ["a"], {"one": 3, "two": 1}) == pytest.approx((3 * 2 / 3 + 1 / 16) / 4)
    assert choice.mean_covered(choice.only(GIVEN, "two"), ["c"]) == 1
    assert choice.mean_covered(choice.without(GIVEN, "two"), ["c"]) == 0


def test_recipes_are_chosen_by_what_they_add() -> None:
    """c covers half of all, then a two thirds of the other half, then b the rest; d adds nothing and is not chosen."""
    worth = lambda names: choice.mean_covered(GIVEN, names)  # noqa: E731
    assert choice.greedy(["d", "a", "b", "c"], worth, 10) == ["c", "a", "b"]
    assert choice.greedy(["d", "b", "a", "c"], worth, 2) == ["c", "b"]  # a and b add as much: the first
    assert choice.greedy(["d"], worth, 3) == []


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=1, max_size=7), st.integers(1, 4))
def test_greedy_choice_reaches_its_bound(points: list[tuple[float, float]], count: int) -> None:
    named = {str(index): point for index, point in enumerate(points)}

    def worth(names: Iterable[str]) -> float:
        volume: float = choice.hypervolume([named[name] for name in names])
        return volume

    best = max(map(worth, itertools.combinations(named, min(count, len(named)))))
    assert worth(choice.greedy(list(named), worth, count)) >= (1 - 1 / math.e) * best - 1e-9


def test_what_is_within_a_drop_is_counted_by_ratios() -> None:
    rows = pd.DataFrame(
        [
            {"case": "baseline", "task": "t", "accuracy": 0.9, "compression_ratio": 1.0, "speedup": 1.0},
            {"case": "within", "task": "t", "accuracy": 0.89, "compression_ratio": 8.0, "speedup": 2.0},
            {"case": "past", "task": "t", "accuracy": 0.88, "compression_ratio": 16.0, "speedup": 1.0},
            {"case": "slow", "task": "t", "accuracy": 0.95, "compression_ratio": 2.0, "speedup": 0.25},
            {"case": "refused", "task": "t", "accuracy": np.nan, "compression_ratio": np.nan, "speedup": np.nan},
        ]
    )
    found = choice.reached(rows, drops=(0.01, 0.03))
    assert found["t", 0.01] == {"within": pytest.approx((math.log(8), math.log(4))), "slow": (math.log(2), 0.0)}
    assert found["t", 0.03].keys() == {"within", "past", "slow"}
    assert found["t", 0.03]["past"] == pytest.approx((math.log(16), math.log(2)))
