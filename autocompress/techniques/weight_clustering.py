"""Weight sharing: few values for all weights of a layer."""

from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from ..errors import TechniqueError
from ..recipe import Kind, Range
from ._kept import REASON, kept_layers
from ._masks import prunable
from .base import Context, Decision, Technique

Array = NDArray[Any]
SWEEPS = 100
PER_CLUSTER = 4  # fewer weights a value would save next to nothing


class WeightClustering(Technique):
    """Let the weights of a layer share 2**bits values, found by k-means (Han et al., 2016: Deep Compression).

    Weights that are zero in a layer that was pruned stay zero, besides these values. Training after it moves each
    value as one number. The file holds the values and, for each weight, which one it has, in a prefix code where that
    is smaller. keep names layers to leave alone: names, patterns such as `head.*`, `first` or `last`.
    """

    technique: ClassVar[str] = "weight_clustering"
    family: ClassVar[str] = "quantization"
    kind: ClassVar[Kind] = "structure"
    weight_bits: ClassVar[float] = 0.1

    bits: Annotated[int, Range(2, 6, step=1)] = Field(4, ge=1, le=8)
    keep: tuple[str, ...] = ()

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The values of each layer, and why others stay as they are."""
        weights = prunable(model)
        layers = {name: name.rpartition(".")[0] or name for name in weights}
        kept = set(kept_layers(self.technique, self.keep, layers.values()))
        skipped = {name: REASON for name, layer in layers.items() if layer in kept}
        books: dict[str, list[float]] = {}
        for name, parameter in weights.items():
            values = parameter.detach().numpy().ravel()
            values = values[values != 0]
            if name in skipped:
                continue
            if not np.isfinite(values).all():
                raise TechniqueError(f"weight_clustering: weight {name!r} is not finite: check the model")
            if len(values) < PER_CLUSTER * 2**self.bits:
                skipped[name] = f"only {len(values)} weights for {2**self.bits} values"
                continue
            books[name] = k_means(values, 2**self.bits).tolist()
        if not books:
            seen = next((f" ({name}: {reason})" for name, reason in skipped.items()), "")
            raise TechniqueError(
                f"weight_clustering finds no layer with {PER_CLUSTER} weights for each of {2**self.bits} values: "
                f"lower bits or leave the step out{seen}"
            )
        return {"books": books, "skipped": skipped}

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Give each weight that is not zero the nearest value of its layer."""
        weights = prunable(model)
        with torch.no_grad():
            for name, book in decision["books"].items():
                parameter = weights[name]
                values = parameter.numpy()
                shared = nearest(values.ravel(), np.array(book, np.float32)).reshape(values.shape)
                parameter.copy_(torch.from_numpy(np.where(values == 0, np.float32(0), shared)))
        return model


def k_means(values: Array, clusters: int) -> Array:
    """The centres of k-means for numbers on a line, in rising order; as many as there are different values at most.

    Lloyd's sweeps over sorted numbers, from centres spread evenly (which Han et al., 2016, section 3.2, find best) and
    from quantiles; the better end is taken.
    """
    line = np.sort(values.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(line)])
    known = np.unique(values)
    if len(known) <= clusters:
        return known.astype(np.float32)
    even = np.linspace(line[0], line[-1], clusters)
    quantiles = np.quantile(line, (np.arange(clusters) + 0.5) / clusters)
    mixed = (even + quantiles) / 2
    ends = [_lloyd(line, sums, np.unique(start)) for start in (even, quantiles, mixed)]
    return min(ends, key=lambda centres: inertia(values, centres)).astype(np.float32)


def _lloyd(line: Array, sums: Array, centres: Array) -> Array:
    for _ in range(SWEEPS):
        edges = np.concatenate([[0], np.searchsorted(line, (centres[1:] + centres[:-1]) / 2), [len(line)]])
        counts = np.diff(edges)
        moved = np.where(counts > 0, np.diff(sums[edges]) / np.maximum(counts, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = np.sort(moved)
    return centres


def nearest(values: Array, centres: Array) -> Array:
    """The centre that is nearest to each number; centres in rising order."""
    centres = np.sort(centres)
    return np.asarray(centres[np.searchsorted((centres[1:] + centres[:-1]) / 2, values)])


def inertia(values: Array, centres: Array) -> float:
    """The sum of squared distances to the nearest centres."""
    return float(np.square(values.astype(np.float64) - nearest(values, centres)).sum())
