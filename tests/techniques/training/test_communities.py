"""Communities of filters against arithmetic, brute force over all divisions, and networkx."""

import itertools
from collections.abc import Iterator
from typing import Any

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.techniques.training._communities import (
    activity,
    communities,
    divided,
    hub_weights,
    modularity,
)


def links(count: int, seed: int, filled: float = 1.0) -> Any:
    """Random symmetric links with an empty diagonal, of which a share is there."""
    generator = np.random.default_rng(seed)
    half = np.triu(generator.random((count, count)) * (generator.random((count, count)) < filled), 1)
    return half + half.T


def divisions(items: list[int]) -> Iterator[list[list[int]]]:
    """Every way to divide a list into parts."""
    if not items:
        yield []
        return
    for rest in divisions(items[1:]):
        yield [[items[0]], *rest]
        for index, part in enumerate(rest):
            yield [*rest[:index], [items[0], *part], *rest[index + 1 :]]


def two_groups(sizes: tuple[int, ...]) -> Any:
    """Groups whose links within are strong, and weak between them."""
    of = np.repeat(np.arange(len(sizes)), sizes)
    weights = np.where(of[:, None] == of[None, :], 1.0, 0.05)
    np.fill_diagonal(weights, 0)
    return weights


def test_activity_is_the_mean_of_what_is_above_zero() -> None:
    output = torch.tensor([[[[1.0, -3.0], [2.0, 0.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    assert activity(output).tolist() == [[0.75, 0.0]]


def test_links_are_products_times_differences_of_shares_of_the_most_active() -> None:
    """By hand: the first row is (1, 0.5, 0), the second (0.25, 1, 0.5)."""
    found = hub_weights([torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([[1.0, 4.0, 2.0]])])
    first_second = 1 * 0.5 * 0.5 + 0.25 * 1 * 0.75
    first_third, second_third = 0.25 * 0.5 * 0.25, 1 * 0.5 * 0.5
    expected = [[0, first_second, first_third], [first_second, 0, second_third], [first_third, second_third, 0]]
    np.testing.assert_allclose(found, expected)


def test_filters_that_are_never_active_have_no_links() -> None:
    assert not hub_weights([torch.zeros(3, 4)]).any()
    assert modularity(np.zeros((4, 4)), [[0, 1], [2, 3]]) == 0.0


@given(st.integers(0, 10_000), st.integers(2, 9), st.floats(0.3, 3))
@settings(deadline=None, max_examples=40)
def test_modularity_is_what_networkx_computes(seed: int, count: int, resolution: float) -> None:
    weights, parts = links(count, seed), [list(range(0, count, 2)), list(range(1, count, 2))]
    graph = networkx.from_numpy_array(weights)
    expected = networkx.community.modularity(graph, parts, resolution=resolution)
    assert modularity(weights, parts, resolution) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("filled", [0.4, 0.7, 1.0])
def test_no_division_of_few_filters_is_much_better_and_mostly_none_is(filled: float) -> None:
    short = []
    for seed in range(20):
        weights = links(7, seed, filled)
        best = max(modularity(weights, parts) for parts in divisions(list(range(7))))
        short.append(best - modularity(weights, communities(weights)))
    assert min(short) >= -1e-9
    assert max(short) < 0.05
    assert sum(gap < 1e-9 for gap in short) >= 12


@pytest.mark.parametrize("sizes", [(4, 4), (3, 5, 6)])
def test_groups_that_hang_together_are_found(sizes: tuple[int, ...]) -> None:
    starts = np.cumsum((0, *sizes))
    expected = [list(range(a, b)) for a, b in itertools.pairwise(starts)]
    assert communities(two_groups(sizes)) == expected


@given(st.integers(0, 10_000), st.integers(2, 24), st.integers(1, 6), st.floats(0.1, 1))
@settings(deadline=None, max_examples=60)
def test_every_filter_goes_to_one_student_and_none_has_much_more_than_an_even_share(
    seed: int, filters: int, students: int, filled: float
) -> None:
    students = min(students, filters)
    parts = divided(links(filters, seed, filled), students)
    assert sorted(index for part in parts for index in part) == list(range(filters))
    assert len(parts) == students
    assert all(1 <= len(part) <= 1.25 * -(-filters // students) for part in parts)


def test_students_take_whole_communities_where_those_are_even() -> None:
    assert divided(two_groups((5, 5)), 2) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert divided(two_groups((3, 3, 3, 3)), 2) == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]
