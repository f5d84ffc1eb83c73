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
SAMPLED = 65_536  # blocks of a layer that codes are found for
AT_ONCE = 2**22  # distances


class ProductQuantization(Technique):
    """Let blocks of `block` weights in a row share 2**bits codes, by k-means (Gong et al., 2014; Stock et al., 2020).

    A weight then takes bits / block bits in the file, which holds the codes and, for each block, which one it has.
    Training after it moves each number of a code as one. Blocks that are zero, as block pruning leaves them, stay so.
    keep names layers to leave alone: names, patterns such as `head.*`, `first` or `last`.
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
            books[name] = codes_of(blocks[blocks.any(1)], 2**self.bits, context.seed).tolist()
        if not books:
            seen = next((f" ({name}: {reason})" for name, reason in skipped.items()), "")
            raise NothingToDo(
                f"product_quantization finds no layer with {PER_CODE} blocks of {self.block} weights for each of "
                f"{2**self.bits} codes: lower bits or leave the step out{seen}"
            )
        return {"books": books, "skipped": skipped}

    def _obstacle(self, values: Array) -> str:
        """Why a weight cannot be taken apart into blocks; nothing where it can."""
        if values.size % self.block:
            return f"its {values.size:,} weights are no multiple of {self.block}"
        blocks = values.reshape(-1, self.block)
        used = blocks[blocks.any(1)]
        if not used.all():
            return "single weights of it were pruned, which codes would bring back"
        if len(used) < PER_CODE * 2**self.bits:
            return f"only {len(used)} blocks for {2**self.bits} codes"
        return ""

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Give each block that is not zero the nearest code of its layer."""
        weights = prunable(model)
        with torch.no_grad():
            for name, book in decision["books"].items():
                parameter, codes = weights[name], np.array(book, np.float32)
                blocks = parameter.detach().cpu().numpy().reshape(-1, codes.shape[1])
                shared = np.where(blocks.any(1, keepdims=True), codes[nearest(blocks, codes)], np.float32(0))
                parameter.copy_(torch.from_numpy(shared.reshape(parameter.shape)))
        return model


def codes_of(blocks: Array, count: int, seed: int) -> Array:
    """The centres of k-means for blocks (N, length), found on a sample of many: at most `count`, none of them zero."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(seed)
    taken = blocks if len(blocks) <= SAMPLED else blocks[rng.choice(len(blocks), SAMPLED, replace=False)]
    known = np.unique(taken, axis=0)
    if len(known) <= count:
        return np.asarray(known, np.float32)
    with threadpool_limits(1):  # sums do not depend on how many threads there are
        found = KMeans(count, n_init=1, random_state=seed % 2**32).fit(np.ascontiguousarray(taken, np.float64))
    return np.asarray(found.cluster_centers_, np.float32)


def nearest(blocks: Array, codes: Array) -> Array:
    """The number of the code that is nearest to each block, the first of equals."""
    squares = np.square(codes, dtype=np.float64).sum(1)
    rows = max(1, AT_ONCE // len(codes))
    parts = [blocks[start : start + rows].astype(np.float64) for start in range(0, len(blocks), rows)]
    return np.concatenate([(squares - 2 * part @ codes.T.astype(np.float64)).argmin(1) for part in parts])
