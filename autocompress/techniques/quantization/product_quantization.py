"""Product quantization: few blocks of neighbouring weights for all those of a layer."""

from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from ...errors import NothingToDo, TechniqueError
from ...recipe import Choice, Kind, Range
from ..base import Context, Decision, Technique
from ..masks import prunable
from ._kept import REASON, left_alone

Array = NDArray[Any]
PER_CODE = 4  # with fewer blocks a code, its numbers would take more than they save
FEWEST = 2  # codes
SAMPLED, SWEEPS = 16_384, 20  # blocks of a layer that codes are found for, and rounds of k-means
AT_ONCE = 2**20  # distances


class ProductQuantization(Technique):
    """Let blocks of `block` weights in a row share 2**bits codes, by k-means (Gong et al., 2014; Stock et al., 2020).

    A weight then takes bits / block bits in the file, which holds the codes and, for each block, which one it has. A
    layer of few blocks has fewer codes, one for each four of them.
    Training after it moves each number of a code as one. Weights that were pruned take codes as all others do. keep
    names layers to leave alone: names, patterns such as `head.*`, `first` or `last`.
    """

    technique: ClassVar[str] = "product_quantization"
    needs: ClassVar[str] = "a layer with many blocks of weights for each of its codes"
    family: ClassVar[str] = "quantization"
    kind: ClassVar[Kind] = "structure"
    by_layer: ClassVar[bool] = True

    bits: Annotated[int, Range(4, 8, step=4)] = Field(4, ge=1, le=8)
    block: Annotated[int, Choice(2, 4)] = Field(2, ge=2, le=8)
    keep: tuple[str, ...] = ()

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The codes of each layer, and why others stay as they are."""
        weights = prunable(model)
        layers = {name: name.rpartition(".")[0] or name for name in weights}
        kept = set(left_alone(self, self.keep, layers.values(), context))
        skipped: dict[str, str] = {}
        books: dict[str, list[list[float]]] = {}
        for name, parameter in weights.items():
            values = parameter.detach().cpu().numpy()
            if not np.isfinite(values).all():
                raise TechniqueError(f"product_quantization: weight {name!r} is not finite: check the model")
            why = REASON if layers[name] in kept else self._obstacle(values)
            if why:
                skipped[name] = why
                continue
            blocks = values.reshape(-1, self.block)
            books[name] = codes_of(blocks, min(2**self.bits, len(blocks) // PER_CODE), context.seed).tolist()
        if not books:
            seen = next((f" ({name}: {reason})" for name, reason in skipped.items()), "")
            raise NothingToDo(
                f"product_quantization finds no layer with {PER_CODE * FEWEST} blocks of {self.block} weights or more: "
                f"take another block or leave the step out{seen}"
            )
        return {"books": books, "skipped": skipped}

    def _obstacle(self, values: Array) -> str:
        """Why a weight cannot be taken apart into blocks; nothing where it can."""
        if values.size % self.block:
            return f"its {values.size:,} weights are no multiple of {self.block}"
        blocks = values.size // self.block
        return f"only {blocks} blocks of {self.block} weights" if blocks < PER_CODE * FEWEST else ""

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Give each block the nearest code of its layer."""
        weights = prunable(model)
        with torch.no_grad():
            for name, book in decision["books"].items():
                parameter, codes = weights[name], np.array(book, np.float32)
                blocks = parameter.detach().cpu().numpy().reshape(-1, codes.shape[1])
                parameter.copy_(torch.from_numpy(codes[nearest(blocks, codes)].reshape(parameter.shape)))
        return model


def codes_of(blocks: Array, count: int, seed: int) -> Array:
    """The centres of k-means for blocks (N, length), at most `count`, found on a sample of many.

    They begin as far from each other as chance has it (Arthur and Vassilvitskii, 2007: k-means++).
    """
    rng = np.random.default_rng(seed)
    taken = blocks if len(blocks) <= SAMPLED else blocks[rng.choice(len(blocks), SAMPLED, replace=False)]
    taken = np.ascontiguousarray(taken, np.float32)
    known = np.unique(taken, axis=0)
    if len(known) <= count:
        return known
    centres = _spread(taken, count, rng)
    for _ in range(SWEEPS):
        which = nearest(taken, centres)
        held = np.bincount(which, minlength=count)
        sums = np.stack([np.bincount(which, column, count) for column in taken.T], 1)
        moved = np.where(held[:, None] > 0, sums / np.maximum(held, 1)[:, None], centres).astype(np.float32)
        if np.array_equal(moved, centres):
            break
        centres = moved
    used: Array = centres[np.unique(nearest(taken, centres))]
    return used


def _spread(blocks: Array, count: int, rng: np.random.Generator) -> Array:
    """So many of the blocks, each drawn by its squared distance from those before it."""
    chosen = [int(rng.integers(len(blocks)))]
    apart = np.full(len(blocks), np.inf, np.float32)
    while len(chosen) < count:
        apart = np.minimum(apart, np.square(blocks - blocks[chosen[-1]]).sum(1))
        total = np.cumsum(apart, dtype=np.float64)
        chosen.append(min(int(np.searchsorted(total, rng.random() * total[-1], side="right")), len(blocks) - 1))
    found: Array = blocks[chosen]
    return found


def nearest(blocks: Array, codes: Array) -> Array:
    """The number of the code that is nearest to each block, the first of equals."""
    squares, rows = np.square(codes).sum(1) / 2, max(1, AT_ONCE // len(codes))
    parts = (blocks[start : start + rows] for start in range(0, len(blocks), rows))
    return np.concatenate([(squares - part @ codes.T).argmin(1) for part in parts])
