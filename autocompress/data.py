"""Batches of a split, from whatever a dataset yields, and fair splits of one set."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from .errors import TaskError

SPLITS = ("train", "validation", "test")
# What the target is called in examples that are mappings.
TARGETS = ("target", "targets", "label", "labels", "y")


@dataclass(frozen=True)
class Signature:
    """What is known of a model's inputs and output beside an example of them.

    varying: of each input, the axes whose sizes are others from one batch to the next; () where there are none. sizes:
    inputs of the smallest example alone and in a batch with the largest, where some vary. names: what each is called;
    () where they have only an order. output: what the output is called; "" where it has no name.
    """

    varying: tuple[frozenset[int], ...] = ()
    names: tuple[str, ...] = ()
    output: str = ""
    sizes: tuple[tuple[Tensor, ...], ...] = ()


UNNAMED = Signature()


@dataclass(frozen=True)
class Batch:
    """Some examples of a split: inputs (each with the batch first), targets, and their positions in the split.

    targets are a tensor, or a mapping of names to tensors, each with the batch first.
    """

    given: tuple[Tensor, ...]
    targets: Any
    index: Tensor

    def to(self, device: torch.device, **form: Any) -> "Batch":
        """The same on a device; form: of inputs with four axes, such as `memory_format`."""
        given = (tensor.to(device, non_blocking=True, **(form if tensor.dim() == 4 else {})) for tensor in self.given)
        return Batch(
            tuple(given), map_targets(self.targets, lambda part: part.to(device, non_blocking=True)), self.index
        )

    def part(self, positions: slice) -> "Batch":
        """Some of its examples."""
        given = tuple(tensor[positions] for tensor in self.given)
        return Batch(given, map_targets(self.targets, lambda part: part[positions]), self.index[positions])

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The inputs, a copy at each call: a model may work in place on what it is given."""
        return copied(self.given)


def map_targets(targets: Any, change: Callable[[Any], Any]) -> Any:
    """Targets with each of their tensors or arrays changed."""
    return {name: change(part) for name, part in targets.items()} if isinstance(targets, Mapping) else change(targets)


def target_tensors(targets: Any) -> tuple[Any, ...]:
    """The tensors or arrays of targets."""
    return tuple(targets.values()) if isinstance(targets, Mapping) else (targets,)


def join_targets(targets: Sequence[Any]) -> Any:
    """The arrays of targets of some batches as those of all of them, one batch after the other."""
    if isinstance(targets[0], Mapping):
        return {name: np.concatenate([part[name] for part in targets]) for name in targets[0]}
    return np.concatenate(targets)


def copied(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs for a model that may work in place on what it is given."""
    return tuple(tensor.clone() for tensor in inputs)


def seed_all(seed: int) -> None:
    """Seed every generator that a user's code may draw from: torch's, numpy's and Python's own."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def batches(
    dataset: Dataset[Any],
    size: int,
    generator: torch.Generator | None = None,
    workers: int = 0,
    transform: bool = False,
) -> Iterator[Batch]:
    """Go once through a split in batches of `size`: in order, or shuffled where a generator is given.

    An example is (input, target), (input, ..., target), ((input, ...), target), or a mapping with one of TARGETS among
    its keys, whose other values are the inputs in their order; a target may be a mapping of names to tensors. A dataset
    that has a `collate_fn` is batched by it, as torch's DataLoader would. workers: how many processes read ahead where
    the split is not held in memory; 0 reads in this one. transform: change inputs as the dataset's `train_transform`
    does, where it has one. Raises TaskError for anything else.
    """
    count = len(dataset)  # type: ignore[arg-type]
    order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
    change = train_transform(dataset) if transform else None
    for index, rows in zip(torch.split(order, size), _rows(dataset, order, size, workers), strict=True):
        batch = _batch(rows, index)
        yield batch if change is None else _changed(batch, change)


def _rows(dataset: Dataset[Any], order: Tensor, size: int, workers: int = 0) -> Iterator[Any]:
    """What a dataset yields for its examples in an order, a batch at a time."""
    if in_memory(dataset):
        yield from (_taken(dataset, index) for index in torch.split(order, size))
        return
    collate = getattr(innermost(dataset), "collate_fn", None)
    yield from DataLoader(dataset, batch_size=size, sampler=_Order(order), collate_fn=collate, num_workers=workers)


def in_memory(dataset: Dataset[Any]) -> bool:
    """Whether a dataset holds tensors alone, so that many examples are taken at once and are the same each time."""
    whole = innermost(dataset)
    if hasattr(whole, "collate_fn"):
        return False
    return type(whole) is TensorDataset or bool(getattr(whole, "in_memory", False))


def may_vary(dataset: Dataset[Any]) -> bool:
    """Whether a dataset makes batches by a rule of its own, so that shapes may be others from one batch to the next."""
    whole = innermost(dataset)
    return hasattr(whole, "collate_fn") or (in_memory(whole) and not isinstance(whole, TensorDataset))


def input_names(dataset: Dataset[Any]) -> tuple[str, ...]:
    """What the inputs of an example are called; none where it is no mapping."""
    rows = next(_rows(dataset, torch.arange(1), 1))
    if isinstance(rows, list | tuple) and rows and isinstance(rows[0], Mapping):
        rows = rows[0]
    return tuple(str(key) for key in rows if key not in TARGETS) if isinstance(rows, Mapping) else ()


class Augmented(Dataset[Any]):
    """A dataset as it is, with a transform that batches ask for in training alone."""

    def __init__(self, dataset: Dataset[Any], train_transform: Callable[..., Any]) -> None:
        self.dataset, self.train_transform = dataset, train_transform

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index]


def _layers(dataset: Any) -> Iterator[Any]:
    """A dataset, what it is a subset of, and so on."""
    yield dataset
    while isinstance(dataset, Subset | Augmented):
        dataset = dataset.dataset
        yield dataset


def innermost(dataset: Any) -> Any:
    """The dataset that subsets are of."""
    return list(_layers(dataset))[-1]


def train_transform(dataset: Dataset[Any]) -> Callable[..., Any] | None:
    """What changes the inputs of a dataset each time that it is trained on: its `train_transform`, where it has one."""
    found = (getattr(layer, "train_transform", None) for layer in _layers(dataset))
    return next((change for change in found if change is not None), None)


def _taken(dataset: Any, index: Tensor) -> Any:
    for layer in _layers(dataset):
        if isinstance(layer, Subset):
            index = torch.as_tensor(layer.indices)[index]
    dataset = innermost(dataset)
    return dataset[index]


def _batch(rows: Any, index: Tensor) -> Batch:
    """What a dataset yields for some examples, as inputs and targets; numbers of 64 bits become 32, as models are."""
    inputs, targets = _parted(rows)
    if isinstance(targets, Mapping) and not targets:
        raise TaskError("a target is a mapping of nothing: give it names and tensors")
    given = [_tensor(value, len(index)) for value in inputs]
    return Batch(tuple(given), map_targets(targets, lambda part: _tensor(part, len(index))), index)


def _changed(batch: Batch, change: Callable[..., Any]) -> Batch:
    """A batch with inputs as its dataset changes them for training."""
    found = change(*batch.inputs)
    given = found if isinstance(found, tuple) else (found,)
    if len(given) != len(batch.given) or not all(isinstance(each, Tensor) for each in given):
        raise TaskError(
            f"train_transform made {len(given)} of {len(batch.given)} inputs, or no tensors: return as many tensors as "
            "it takes"
        )
    return Batch(tuple(_tensor(each, len(batch.index)) for each in given), batch.targets, batch.index)


def _parted(rows: Any) -> tuple[Sequence[Any], Any]:
    if isinstance(rows, Mapping):
        names = [key for key in rows if key in TARGETS]
        if len(names) != 1 or len(rows) < 2:
            raise TaskError(
                f"an example is a mapping of {', '.join(map(repr, rows))}: name its target, and nothing else, one of "
                f"{', '.join(TARGETS)}"
            )
        return [value for key, value in rows.items() if key not in TARGETS], rows[names[0]]
    if not isinstance(rows, list | tuple) or len(rows) < 2:
        raise TaskError(f"an example is a {type(rows).__name__}: yield (input, target), with a tuple of several inputs")
    *inputs, targets = rows
    if len(inputs) == 1 and isinstance(inputs[0], list | tuple | Mapping):
        inputs = list(inputs[0].values() if isinstance(inputs[0], Mapping) else inputs[0])
    return inputs, targets


def _tensor(value: Any, count: int) -> Tensor:
    if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != count:
        kind = f"tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TaskError(f"a batch of {count} examples holds a {kind}: yield tensors, arrays or numbers of equal shapes")
    return value.float() if value.dtype == torch.float64 else value


class _Order(torch.utils.data.Sampler[int]):
    def __init__(self, order: Tensor) -> None:
        self.order = order

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.tolist())

    def __len__(self) -> int:
        return len(self.order)


def grouped_split(groups: Sequence[int] | NDArray[Any], shares: Sequence[float], seed: int) -> list[Tensor]:
    """Split positions into parts with about the given shares, none of which shares a group with another.

    groups: one group a position. shares: positive, summing to 1. Returns one sorted LongTensor a share; each group,
    in random order, the same for the same seed, goes to the part that lacks most of its share.
    """
    labels, member = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(member, minlength=len(labels))
    lack = np.asarray(shares, float) * len(member)
    part = np.zeros(len(labels), int)
    for group in np.random.default_rng(seed).permutation(len(labels)):
        part[group] = int(np.argmax(lack / np.asarray(shares)))
        lack[part[group]] -= sizes[group]
    return [torch.from_numpy(np.flatnonzero(part[member] == index)) for index in range(len(shares))]


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
