"""Small data sets of the shapes that people's own have: random prototypes of four classes, seen through noise."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

CLASSES = 4
SHAPE = (3, 12, 12)
WORDS, STEPS, FEATURES = 32, 10, 6
Data = Callable[[int], Any]


def images(generator: torch.Generator) -> Data:
    """Images, as a pair of tensors."""
    prototypes = torch.randn((CLASSES, *SHAPE), generator=generator)
    return lambda count: (_noisy(prototypes, count, generator), torch.arange(count) % CLASSES)


def series(generator: torch.Generator) -> Data:
    """Series of vectors, as a pair of tensors."""
    prototypes = torch.randn((CLASSES, STEPS, FEATURES), generator=generator)
    return lambda count: (_noisy(prototypes, count, generator), torch.arange(count) % CLASSES)


def sentences(generator: torch.Generator) -> Data:
    """Sentences of three words and more with the mask of their padding: a dataset of three tensors."""
    prototypes = torch.randint(1, WORDS, (CLASSES, STEPS), generator=generator)

    def split(count: int) -> Dataset[Any]:
        """That many sentences, of which a fifth of the words are others."""
        targets = torch.arange(count) % CLASSES
        others = torch.randint(1, WORDS, (count, STEPS), generator=generator)
        words = torch.where(torch.rand((count, STEPS), generator=generator) < 0.2, others, prototypes[targets])
        padding = torch.arange(STEPS) >= torch.randint(3, STEPS + 1, (count, 1), generator=generator)
        return TensorDataset(words.masked_fill(padding, 0), padding, targets)

    return split


def pairs(generator: torch.Generator) -> Data:
    """An image and a vector: part of a larger dataset."""
    image, vector = images(generator), torch.randn((CLASSES, FEATURES), generator=generator)

    def split(count: int) -> Dataset[Any]:
        """Every other one of twice as many."""
        inputs, targets = image(2 * count)
        return Subset(TensorDataset(inputs, _noisy(vector, 2 * count, generator), targets), range(0, 2 * count, 2))

    return split


class Rows(Dataset[Any]):
    """Examples that are mappings, read one by one."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image, numbers, target = self.dataset[index]
        return {"image": image, "numbers": numbers, "label": target}


def mappings(generator: torch.Generator) -> Data:
    """The same image and vector as mappings."""
    both = pairs(generator)
    return lambda count: Rows(both(count))


def _noisy(prototypes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    noise = torch.randn((count, *prototypes.shape[1:]), generator=generator)
    return prototypes[torch.arange(count) % CLASSES] + 0.7 * noise
