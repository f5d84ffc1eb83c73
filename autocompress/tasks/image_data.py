"""Images in three splits with their classes, and what must hold of them."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ..data import SPLITS, stratified_split
from ..errors import TaskError
from .image_files import Images

Targets = NDArray[np.int64]
Parts = dict[str, tuple[Images, Targets]]
MOST_COUNTED = 1000  # examples of a class, in asking how many it takes to be in each split


class SplitShares(BaseModel):
    """How one set is divided where the data comes as one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation: float = Field(0.2, gt=0, lt=1)
    test: float = Field(0.2, gt=0, lt=1)
    seed: int = Field(0, ge=0)

    def parts(self, targets: Targets) -> dict[str, NDArray[np.int64]]:
        """Positions by split, class by class. Raises TaskError when nothing is left to train on."""
        train = 1 - self.validation - self.test
        if train <= 0:
            raise TaskError(
                "task.split: validation and test together leave nothing to train on: make their sum less than 1"
            )
        parts = stratified_split(targets, (train, self.validation, self.test), self.seed)
        return {name: part.numpy() for name, part in zip(SPLITS, parts, strict=True)}

    def fewest(self) -> int | None:
        """How many examples a class needs to be in each split."""
        counts = range(1, MOST_COUNTED)
        return next((n for n in counts if all(map(len, self.parts(np.zeros(n, np.int64)).values()))), None)


@dataclass(frozen=True)
class ImageData:
    """Images and targets by split, the names of the classes in the order of outputs, and what is to be said.

    shares: how the splits were made, where the data came as one set. ready: whether values are as the model takes
    them; they are intensities else, bytes or floats from 0 to 1.
    """

    parts: Parts
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    shares: SplitShares | None = None
    ready: bool = False


def split_by_ratio(images: Images, targets: Targets, shares: SplitShares) -> Parts:
    """One set as three, each with its share of every class."""
    return {name: (images[part], targets[part]) for name, part in shares.parts(targets).items()}


def alike_classes(classes: tuple[str, ...]) -> list[str]:
    """What is to be said of names that differ in case, spaces or the way that accents are written alone."""
    first: dict[str, str] = {}
    pairs = [(first.setdefault(unicodedata.normalize("NFKC", n).casefold().strip(), n), n) for n in classes]
    return [f"classes {a!r} and {b!r} are spelled almost alike: they are taken as two" for a, b in pairs if a != b]


def missing_classes(
    targets: Mapping[str, Targets], classes: tuple[str, ...], shares: SplitShares | None, trained: bool
) -> list[str]:
    """What is to be said of classes that are not in every split; trained: whether the model came with weights.

    shares: how one set was split class by class, where it was.
    Raises TaskError for a split without examples, and for a class to be learned that has none to train on.
    """
    counts = {name: np.bincount(targets[name], minlength=len(classes)) for name in SPLITS}
    empty = [name for name in SPLITS if not counts[name].sum()]
    if empty:
        raise TaskError(f"task.data: no example is in the split {empty[0]!r}: every split needs at least one example")
    totals = np.sum(list(counts.values()), axis=0)
    fewest = None if shares is None else shares.fewest()
    fix = "" if fewest is None else f"; a class needs {fewest} to be in each split"
    notes = []
    for name in SPLITS:
        missing = np.flatnonzero((counts[name] == 0) & (totals > 0))
        if not missing.size:
            continue
        text = f"{name} has no example of class {_named(classes, missing)} ({totals[missing[0]]} in all{fix})"
        if name == "train" and not trained:
            raise TaskError(f"task.data: {text}: add some to train on, or leave the class out")
        notes.append(text)
    unused = np.flatnonzero(totals == 0)
    return [*notes, f"nothing has class {_named(classes, unused)}"] if unused.size else notes


def _named(classes: tuple[str, ...], positions: NDArray[np.intp]) -> str:
    more = f" and {len(positions) - 1} more" if len(positions) > 1 else ""
    return f"{classes[positions[0]]!r}{more}"
