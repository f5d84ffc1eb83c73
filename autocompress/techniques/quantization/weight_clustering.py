"""Weight sharing: few values for all weights of a layer."""

from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from ...errors import NothingToDo, TechniqueError
from ...recipe import Kind, Range
from ..base import Context, Decision, Technique
from ..masks import prunable
from ._kept import REASON, left_alone
from ._rate import Line, Priced, settled

Array = NDArray[Any]
SWEEPS, BINS = 50, 1024
SPREAD = 6  # standard deviations over which weights are taken to be spread
PER_CLUSTER = 4  # fewer weights a value would save next to nothing


class WeightClustering(Technique):
    """Let the weights of a layer share 2**bits values, found by k-means (Han et al., 2016: Deep Compression).

    Weights that are zero in a layer that was pruned stay zero, besides these values. Training after it moves each
    value as one number. The file holds the values and, for each weight, which one it has, in a prefix code where that
    is smaller. rate is what a bit costs, in squared steps of 2**bits numbers spread over the weights: they then take
    values that take fewer bits in the file, zero among them in a layer that was pruned. keep names layers to leave
    alone: names, patterns such as `head.*`, `first` or `last`.
    """

    technique: ClassVar[str] = "weight_clustering"
    needs: ClassVar[str] = "a layer with many weights for each of its values"
    family: ClassVar[str] = "quantization"
    kind: ClassVar[Kind] = "structure"
    by_layer: ClassVar[bool] = True

    bits: Annotated[int, Range(2, 6, step=1)] = Field(4, ge=1, le=8)
    rate: float = Field(0.0, ge=0, le=1)
    keep: tuple[str, ...] = ()

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The values of each layer, and why others stay as they are."""
        weights = prunable(model)
        layers = {name: name.rpartition(".")[0] or name for name in weights}
        kept = set(left_alone(self, self.keep, layers.values(), context))
        skipped = {name: REASON for name, layer in layers.items() if layer in kept}
        books: dict[str, list[float]] = {}
        costs: dict[str, list[float]] = {}
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
            book = k_means(values, 2**self.bits)
            if self.rate:
                priced = self._priced(parameter.detach().numpy(), book)
                book, costs[name] = priced.points.astype(np.float32), priced.costs.tolist()
            books[name] = book.tolist()
        if not books:
            seen = next((f" ({name}: {reason})" for name, reason in skipped.items()), "")
            raise NothingToDo(
                f"weight_clustering finds no layer with {PER_CLUSTER} weights for each of {2**self.bits} values: "
                f"lower bits or leave the step out{seen}"
            )
        return {"books": books, **({"costs": costs} if self.rate else {}), "skipped": skipped}

    def _priced(self, values: Array, book: Array) -> Priced:
        """The values of a layer at a price, from those of k-means; zero is one where the layer was pruned."""
        deviation = np.sqrt(np.square(values[values != 0], dtype=np.float64).mean())
        price = self.rate * float(SPREAD * deviation / 2**self.bits) ** 2
        points = np.union1d(book, np.float32(0)) if (values == 0).any() else book
        return settled(Line.of(values), points, price, 32, free=True)

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Give each weight that is not zero the nearest value of its layer."""
        weights = prunable(model)
        with torch.no_grad():
            for name, book in decision["books"].items():
                parameter = weights[name]
                values = parameter.numpy()
                if "costs" in decision:
                    shared = Priced(np.array(book), np.array(decision["costs"][name])).nearest(values)
                else:
                    shared = nearest(values.ravel(), np.array(book, np.float32)).reshape(values.shape)
                parameter.copy_(torch.from_numpy(np.where(values == 0, np.float32(0), shared)))
        return model


def k_means(values: Array, clusters: int) -> Array:
    """The centres of k-means for numbers on a line, in rising order; as many as there are different values at most.

    Exact for the numbers' histogram, by dynamic programming over where clusters end (Wang and Song, 2011), and from
    there improved for the numbers themselves by Lloyd's sweeps.
    """
    known = np.unique(values)
    if len(known) <= clusters:
        return known.astype(np.float32)
    line = np.sort(values.astype(np.float64))
    edges = np.unique(np.searchsorted(line, np.linspace(line[0], line[-1], BINS + 1)[1:-1]))
    edges = np.unique(np.concatenate([[0], edges, [len(line)]]))
    sums, squares = (np.concatenate([[0.0], np.cumsum(line**power)]) for power in (1, 2))
    if len(edges) - 1 <= clusters:  # few bins hold all: sweeps from places spread over the numbers
        return _lloyd(line, sums, known[np.linspace(0, len(known) - 1, clusters).astype(int)]).astype(np.float32)
    return _lloyd(line, sums, _exact(edges, sums[edges], squares[edges], clusters)).astype(np.float32)


def _exact(edges: Array, sums: Array, squares: Array, clusters: int) -> Array:
    """The best centres where clusters can only end at edges, from the sums of numbers and squares up to each."""
    with np.errstate(divide="ignore", invalid="ignore"):
        total = sums - sums[:, None]
        cost = squares - squares[:, None] - total**2 / (edges - edges[:, None])
    cost = np.where(edges > edges[:, None], cost, np.inf)  # of a cluster from one edge to a later one
    least, before = cost[0], []
    for _ in range(clusters - 1):
        through = least[:, None] + cost
        before.append(through.argmin(0))
        least = through.min(0)
    ends = [len(edges) - 1]
    for starts in reversed(before):
        ends.append(int(starts[ends[-1]]))
    at = np.array([0, *reversed(ends)])
    return np.asarray(np.diff(sums[at]) / np.diff(edges[at]))


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
