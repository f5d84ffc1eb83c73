"""Splits and batches."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from autocompress.data import batches, stratified_split

labels = st.lists(st.integers(-2, 6), min_size=1, max_size=200)
shares = st.lists(st.integers(1, 20), min_size=1, max_size=4).map(lambda parts: [part / sum(parts) for part in parts])
seeds = st.integers(0, 2**32)


class Rows(Dataset[Any]):
    """A split that is read one by one; with `pairs`, inputs are two tensors."""

    def __init__(self, inputs: Tensor, targets: Tensor, pairs: bool = False) -> None:
        self.inputs, self.targets, self.pairs = inputs, targets, pairs

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        row = self.inputs[index]
        return ((row, row + 100) if self.pairs else row), self.targets[index]

    def __len__(self) -> int:
        return len(self.targets)


@given(targets=labels, parts=shares, seed=seeds)
def test_every_position_is_in_exactly_one_sorted_part(targets: list[int], parts: list[float], seed: int) -> None:
    found = stratified_split(targets, parts, seed)
    assert len(found) == len(parts)
    assert sorted(torch.cat(found).tolist()) == list(range(len(targets)))
    for part in found:
        assert part.dtype == torch.long
        assert part.tolist() == sorted(part.tolist())


@given(targets=labels, parts=shares, seed=seeds)
def test_each_part_holds_its_share_of_each_class_to_within_one(
    targets: list[int], parts: list[float], seed: int
) -> None:
    classes = np.array(targets)
    for share, part in zip(parts, stratified_split(targets, parts, seed), strict=True):
        for label in np.unique(classes):
            count = int((classes[part.numpy()] == label).sum())
            assert abs(count - share * (classes == label).sum()) <= 1 + 1e-9


@given(targets=labels, parts=shares, seed=seeds)
def test_the_same_seed_gives_the_same_split(targets: list[int], parts: list[float], seed: int) -> None:
    first, second = stratified_split(targets, parts, seed), stratified_split(np.array(targets), parts, seed)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_other_seeds_give_other_splits() -> None:
    targets = [0, 1] * 100
    assert stratified_split(targets, (0.5, 0.5), 0)[0].tolist() != stratified_split(targets, (0.5, 0.5), 1)[0].tolist()


def test_split_sizes_by_hand() -> None:
    targets = [0] * 10 + [1] * 5  # 6 + 2 + 2 of the first class, 3 + 1 + 1 of the second
    assert [len(part) for part in stratified_split(targets, (0.6, 0.2, 0.2), 3)] == [9, 3, 3]


INPUTS, TARGETS = torch.arange(20.0).reshape(10, 2), torch.arange(10)
SETS = {"in memory": TensorDataset(INPUTS, TARGETS), "one by one": Rows(INPUTS, TARGETS)}


@pytest.mark.parametrize("name", SETS)
def test_batches_come_in_order_without_a_generator(name: str) -> None:
    found = list(batches(SETS[name], 4))
    assert [batch.index.tolist() for batch in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert torch.equal(torch.cat([batch.inputs[0] for batch in found]), INPUTS)
    assert torch.equal(torch.cat([batch.targets for batch in found]), TARGETS)


@pytest.mark.parametrize("name", SETS)
@given(size=st.integers(1, 15), seed=st.integers(0, 1000))
def test_shuffled_batches_hold_every_example_once_at_its_position(name: str, size: int, seed: int) -> None:
    found = list(batches(SETS[name], size, torch.Generator().manual_seed(seed)))
    assert sorted(torch.cat([batch.index for batch in found]).tolist()) == list(range(10))
    assert all(len(batch.index) == size for batch in found[:-1])
    for batch in found:
        assert torch.equal(batch.inputs[0], INPUTS[batch.index])
        assert torch.equal(batch.targets, TARGETS[batch.index])


def test_both_kinds_of_splits_are_shuffled_alike() -> None:
    orders = [
        [batch.index.tolist() for batch in batches(dataset, 3, torch.Generator().manual_seed(5))]
        for dataset in SETS.values()
    ]
    assert orders[0] == orders[1]
    assert orders[0] != [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


@pytest.mark.parametrize(
    "dataset",
    [TensorDataset(INPUTS, INPUTS + 100, TARGETS), Rows(INPUTS, TARGETS, pairs=True)],
    ids=["in memory", "one by one"],
)
def test_an_input_may_be_several_tensors(dataset: Dataset[Any]) -> None:
    batch = next(batches(dataset, 4))
    first, second = batch.inputs
    assert torch.equal(first, INPUTS[:4])
    assert torch.equal(second, INPUTS[:4] + 100)
    assert torch.equal(batch.targets, TARGETS[:4])
