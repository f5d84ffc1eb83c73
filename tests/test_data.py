"""Splits and batches."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from autocompress.data import batches, in_memory, stratified_split
from autocompress.errors import TaskError

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


class Yields(Dataset[Any]):
    """A split whose examples a function makes of their numbers."""

    def __init__(self, example: Any) -> None:
        self.example = example

    def __getitem__(self, index: int) -> Any:
        return self.example(index)

    def __len__(self) -> int:
        return 5


NUMBERS = torch.arange(5)
SPELLINGS: dict[str, Dataset[Any]] = {
    "three tensors": TensorDataset(NUMBERS.float(), NUMBERS + 10, NUMBERS % 2),
    "a subset of three tensors": Subset(TensorDataset(NUMBERS.float(), NUMBERS + 10, NUMBERS % 2), range(5)),
    "three values": Yields(lambda i: (float(i), i + 10, i % 2)),
    "a pair and a target": Yields(lambda i: ((float(i), i + 10), i % 2)),
    "arrays": Yields(lambda i: (np.float32(i), np.int64(i + 10), np.int64(i % 2))),
    "a mapping": Yields(lambda i: {"value": float(i), "labels": i % 2, "mask": i + 10}),
    "a mapping and a target": Yields(lambda i: ({"value": float(i), "mask": i + 10}, i % 2)),
}


@pytest.mark.parametrize("name", list(SPELLINGS))
@pytest.mark.parametrize("cut", [False, True])
def test_inputs_and_target_are_the_same_however_examples_are_written(name: str, cut: bool) -> None:
    split = Subset(SPELLINGS[name], [4, 2, 1]) if cut else SPELLINGS[name]
    places = torch.tensor([4, 2, 1]) if cut else NUMBERS
    (batch,) = batches(split, 10)
    assert [tensor.tolist() for tensor in batch.inputs] == [places.tolist(), (places + 10).tolist()]
    assert batch.inputs[0].dtype == torch.float32  # also where Python's own numbers have 64 bits
    assert batch.targets.tolist() == (places % 2).tolist()


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (lambda i: {"value": 1.0, "other": 2}, r"a mapping of 'value', 'other': name its target.*one of target, targ"),
        (lambda i: {"value": 1.0, "label": 2, "y": 3}, r"a mapping of 'value', 'label', 'y': name its target"),
        (lambda i: ("word", 1), r"a batch of 5 examples holds a str: yield tensors, arrays or numbers"),
        (lambda i: 3.0, r"an example is a Tensor: yield \(input, target\)"),
    ],
)
def test_examples_that_leave_a_guess_are_refused(example: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        next(batches(Yields(example), 5))


def test_what_a_model_does_to_its_inputs_does_not_reach_the_batch() -> None:
    batch = next(batches(TensorDataset(torch.ones(3, 2), torch.zeros(3)), 3))
    batch.inputs[0].zero_()
    assert batch.inputs[0].sum() == 6


class Noisy(TensorDataset):
    """Tensors in memory, with noise that is drawn for one example at a time."""

    def __getitem__(self, index: int) -> Any:
        inputs, targets = super().__getitem__(index)
        return inputs + np.random.rand(), targets


def test_a_dataset_with_reading_of_its_own_is_read_one_by_one() -> None:
    assert in_memory(Subset(TensorDataset(torch.ones(3, 2), torch.zeros(3)), [0, 2]))
    noisy = Noisy(torch.ones(3, 2), torch.zeros(3))
    assert not in_memory(noisy)
    (batch,) = batches(noisy, 3)
    assert len({float(row[0]) for row in batch.inputs[0]}) == 3
