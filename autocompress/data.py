"""Batches of a split, and fair splits of one set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Batch:
    """Some examples of a split: inputs (each with the batch first), targets, and their positions in the split."""

    inputs: tuple[Tensor, ...]
    targets: Tensor
    index: Tensor


def batches(dataset: Dataset[Any], size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
    """Go once through a split in batches of `size`: in order, or shuffled where a generator is given."""
    count = len(dataset)  # type: ignore[arg-type]
    order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
    if isinstance(dataset, TensorDataset):
        for index in torch.split(order, size):
            *inputs, targets = dataset[index]
            yield Batch(tuple(inputs), targets, index)
        return
    loader = DataLoader(dataset, batch_size=size, sampler=_Order(order))
    for index, (inputs, targets) in zip(torch.split(order, size), loader, strict=True):
        yield Batch(tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,), targets, index)


class _Order(torch.utils.data.Sampler[int]):
    def __init__(self, order: Tensor) -> None:
        self.order = order

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.tolist())

    def __len__(self) -> int:
        return len(self.order)


def stratified_split(targets: Sequence[int] | NDArray[Any], shares: Sequence[float], seed: int) -> list[Tensor]:
    """Split positions into parts with the given shares, class by class, the same for the same seed.

    targets: one class a position. shares: positive, summing to 1. Returns one sorted LongTensor a share; every
    position is in exactly one, and each part holds its share of every class to within one example.
    """
    classes = np.asarray(targets)
    generator = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in shares]
    bounds = np.cumsum(shares)[:-1]
    for label in np.unique(classes):
        positions = generator.permutation(np.flatnonzero(classes == label))
        cuts = np.round(bounds * len(positions)).astype(int)
        for part, chunk in zip(parts, np.split(positions, cuts), strict=True):
            part.extend(chunk.tolist())
    return [torch.tensor(sorted(part), dtype=torch.long) for part in parts]
