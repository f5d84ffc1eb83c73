"""Rows of parameters: how they are drawn, changed, told apart and written as numbers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from autocompress.search.terrain import Row, Terrain, value_at, values_at

DOMAINS: dict[str, Any] = {
    "cut": CategoricalDistribution([True, False]),
    "cut.ratio": FloatDistribution(0.1, 0.9, step=0.1),
    "cut.position": FloatDistribution(0.0, 1.0),
    "split": CategoricalDistribution([True, False]),
    "split.rank": IntDistribution(2, 64, log=True),
    "split.position": FloatDistribution(0.0, 1.0),
    "train.epochs": IntDistribution(4, 24, step=4),
    "end": CategoricalDistribution(["bits", "half", "none"]),
    "bits.width": CategoricalDistribution([2, 4, 8]),
}


def active(row: Row) -> set[str]:
    found = {"cut", "split", "train.epochs", "end"}
    found |= {"cut.ratio"} if row["cut"] else set()
    found |= {"split.rank"} if row["split"] else set()
    found |= {"cut.position", "split.position"} if row["cut"] and row["split"] else set()
    return found | ({"bits.width"} if row["end"] == "bits" else set())


TERRAIN = Terrain(DOMAINS, active, lambda row: {"end", "bits.width"}, [["cut.position", "split.position"]])
ROW: Row = {
    "cut": True, "cut.ratio": 0.5, "cut.position": 0.2, "split": True, "split.rank": 8, "split.position": 0.7,
    "train.epochs": 8, "end": "bits", "bits.width": 4,
}  # fmt: skip


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_rows_at_random_and_changed_ones_lie_in_the_domains(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    row = TERRAIN.random(generator)
    for found in (row, TERRAIN.mutant(row, generator, count), TERRAIN.moved(row, "cut.ratio")):
        assert found.keys() == DOMAINS.keys()
        for name, domain in DOMAINS.items():
            assert domain._contains(domain.to_internal_repr(found[name])), (name, found[name])


def test_rows_at_random_are_spread_evenly() -> None:
    """Each choice and each of the steps as often as the others, within four standard deviations of that."""
    rows = TERRAIN.randoms(np.random.default_rng(0), 9000)
    for name, count in (("cut", 2), ("end", 3), ("bits.width", 3)):
        shares = [sum(row[name] == value for row in rows) for value in DOMAINS[name].choices]  # type: ignore[attr-defined]
        assert all(abs(share - 9000 / count) < 4 * (9000 / count) ** 0.5 for share in shares)
    places = [row["cut.position"] for row in rows]
    assert abs(np.mean(places) - 0.5) < 4 * (1 / 12 / 9000) ** 0.5
    assert np.corrcoef(places, [row["split.position"] for row in rows])[0, 1] == pytest.approx(0, abs=4 / 9000**0.5)


@given(st.integers(0, 2**32 - 1))
def test_a_changed_leaf_leaves_what_was_trained_alone(seed: int) -> None:
    found = TERRAIN.mutant(ROW, np.random.default_rng(seed), 2, TERRAIN.leaves(ROW))
    assert {name for name in ROW if found[name] != ROW[name]} <= {"end", "bits.width"}


def test_rows_are_alike_by_what_they_use_and_by_the_order_of_their_steps() -> None:
    assert TERRAIN.key(ROW) == TERRAIN.key({**ROW, "cut.position": 0.1, "split.position": 0.11})
    assert TERRAIN.key(ROW) != TERRAIN.key({**ROW, "cut.position": 0.8})
    # Equal positions are in the order of the names, as where steps are drawn, and not in that of a set.
    equal = {**ROW, "cut.position": 0.4, "split.position": 0.4}
    assert TERRAIN.key(equal) == TERRAIN.key(ROW)
    assert TERRAIN.encode([equal]).tolist() == TERRAIN.encode([ROW]).tolist()
    half = {**ROW, "end": "half"}
    assert TERRAIN.key(half) == TERRAIN.key({**half, "bits.width": 2})
    assert TERRAIN.key(ROW) != TERRAIN.key({**ROW, "bits.width": 2})


def test_rows_as_numbers() -> None:
    (found,) = TERRAIN.encode([ROW])
    # cut, ratio, position first of two, split, rank, position second, epochs, end in three columns, width
    rank = 2 * np.log(8 / 2) / np.log(64 / 2) - 1
    np.testing.assert_allclose(found, [-1, 0, -0.5, -1, rank, 0.5, -0.6, 1, 0, 0, 0], atol=1e-12)
    (left,) = TERRAIN.encode([{**ROW, "split": False, "end": "none"}])
    np.testing.assert_allclose(left, [-1, 0, 0, 1, 0, 0, -0.6, 0, 0, 1, 0], atol=1e-12)


def test_many_rows_are_the_same_numbers_as_each_alone_whatever_they_use() -> None:
    generator = np.random.default_rng(0)
    rows = [TERRAIN.random(generator) for _ in range(50)]
    np.testing.assert_array_equal(TERRAIN.encode(rows), np.vstack([TERRAIN.encode([row]) for row in rows]))
    assert TERRAIN.encode([]).shape == (0, 11)


def test_rows_along_a_number_are_the_row_with_each_of_its_values() -> None:
    names = [["cut.ratio", "bits.width"], [], ["split.rank"]]
    encoded = TERRAIN.encode([ROW, ROW, {**ROW, "cut": False}])
    expected = [{**ROW, name: value} for name in names[0] for value in TERRAIN.grids[name]]
    expected += [{**ROW, "cut": False, "split.rank": value} for value in TERRAIN.grids["split.rank"]]
    np.testing.assert_allclose(TERRAIN.along(encoded, names, TERRAIN.codes), TERRAIN.encode(expected), atol=1e-12)
    ends = TERRAIN.along(encoded, names, TERRAIN.ends)
    lowest, highest = ({**ROW, "cut.ratio": value} for value in (0.1, 0.9))
    np.testing.assert_allclose(ends[:2], TERRAIN.encode([lowest, highest]), atol=1e-12)
    assert len(ends) == 6
    assert TERRAIN.along(encoded, [[], [], []], TERRAIN.codes).shape == (0, 11)


def test_what_rows_use_hangs_on_the_switches_that_are_told() -> None:
    told = Terrain(DOMAINS, active, lambda row: set(), switches=["cut", "split", "end"])
    generator = np.random.default_rng(1)
    for row in (told.random(generator) for _ in range(50)):
        assert told.active(row) == TERRAIN.active(row) == active(row)


def test_settings_that_may_be_solved_for_are_numbers_in_use_and_no_epochs() -> None:
    assert TERRAIN.knobs(ROW) == ("cut.ratio", "split.rank", "bits.width")
    assert TERRAIN.knobs({**ROW, "cut": False, "end": "none"}) == ("split.rank",)


@pytest.mark.parametrize(
    ("domain", "values"),
    [
        (FloatDistribution(0.1, 0.9, step=0.1), [0.1, 0.5, 0.9]),
        (IntDistribution(2, 32, log=True), [2, 8, 32]),
        (IntDistribution(4, 24, step=4), [4, 12, 24]),
        (CategoricalDistribution([2, 4, 8]), [2, 4, 8]),
    ],
)
def test_values_at_shares_of_a_domain(domain: Any, values: list[Any]) -> None:
    found = [value_at(domain, share) for share in (0.0, 0.5, 1.0)]
    assert found == pytest.approx(values)
    shares = np.random.default_rng(0).random(200)
    many = values_at(domain, shares)
    assert many == pytest.approx([value_at(domain, share) for share in shares], abs=1e-11)
    assert {type(value) for value in many} == {type(value) for value in values}
    assert [type(value) for value in found] == [type(value) for value in values]


def test_a_space_of_one_recipe_has_one_row() -> None:
    terrain = Terrain({}, lambda row: frozenset(), lambda row: set(), [])
    assert terrain.randoms(np.random.default_rng(0), 3) == [{}, {}, {}]
    assert terrain.encode([{}]).shape == (1, 0)
