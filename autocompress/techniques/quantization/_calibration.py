"""The ranges of a file's activations on training data: of all finite numbers, or of most of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort

from ...errors import TechniqueError
from ..base import Context
from ._spans import Span
from ._uniform import Array

CHUNK_BYTES = 256 * 2**20  # of activations at a time
PERCENTILE = 0.99999  # of the sizes
# With as many bins as levels, as it has by default, onnxruntime's entropy calibration would leave every range as it is.
BINS = {"entropy": 512, "percentile": 2048}
LEVELS, SMOOTHING = 128, 1e-4
Range = tuple[float, float]


@dataclass
class Calibrated:
    """The range of each activation, and what was seen of it."""

    ranges: dict[str, Range] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)


def calibrate(model: onnx.ModelProto, context: Context, examples: int, method: str) -> Calibrated:
    """Run a file on a sample of the training split, and find the range of each of its float activations.

    method: minmax, entropy or percentile. Infinite numbers widen no range.
    """
    names = activations(model)
    run = _Run(model, names)
    batches = [[tensor.numpy() for tensor in batch.inputs] for batch in context.sample(examples)]
    spans = {name: Span() for name in names}
    for made in run(batches):
        for name, values in made.items():
            spans[name].see(values)
    found = {name: span.edges for name, span in spans.items()}
    if method == "minmax":
        return Calibrated(found, spans)
    wide = {name: edges for name, edges in found.items() if edges[0] < edges[1] and not spans[name].too_wide}
    counts = {name: np.zeros(BINS[method], np.int64) for name in wide}
    for made in run(batches):
        for name in wide:
            counts[name] += np.histogram(*_counted(made[name], wide[name], method))[0]
    narrow = _by_entropy if method == "entropy" else _by_percentile
    return Calibrated({**found, **{name: narrow(counts[name], wide[name]) for name in wide}}, spans)


def activations(model: onnx.ModelProto) -> list[str]:
    """The values of a file that are floats of 32 bits and no stored tensors, as far as shapes can be inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    stored = {tensor.name for tensor in graph.initializer}
    known = (*graph.input, *graph.value_info, *graph.output)
    floats = {v.name for v in known if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT} - stored
    order = [*(value.name for value in graph.input), *(name for node in graph.node for name in node.output)]
    return [name for name in order if name in floats]


class _Run:
    """A file that gives all of its activations."""

    def __init__(self, model: onnx.ModelProto, names: Sequence[str]) -> None:
        made = onnx.ModelProto()
        made.CopyFrom(model)
        self._inputs = [value.name for value in made.graph.input]
        self._names = [name for name in names if name not in self._inputs]
        self._given = [name for name in names if name in self._inputs]
        outputs = {value.name for value in made.graph.output}
        made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names if name not in outputs)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def __call__(self, batches: Sequence[Sequence[Array]]) -> Iterator[dict[str, Array]]:
        """The activations of all batches, as many examples at a time as memory has room for."""
        rows = self._rows(batches[0])
        for batch in batches:
            for start in range(0, len(batch[0]), rows):
                yield self._made([values[start : start + rows] for values in batch])

    def _rows(self, batch: Sequence[Array]) -> int:
        one = self._made([values[:1] for values in batch])
        return max(1, CHUNK_BYTES // max(sum(values.nbytes for values in one.values()), 1))

    def _made(self, inputs: Sequence[Array]) -> dict[str, Array]:
        feed = dict(zip(self._inputs, inputs, strict=True))
        try:
            made = self._session.run(self._names, feed)
        except Exception as error:
            raise TechniqueError(
                f"int8_static: ONNX Runtime cannot run the file on training data, whose inputs are of shapes "
                f"{', '.join(str(values.shape) for values in inputs)}: check that train and validation inputs are "
                f"alike: {str(error).splitlines()[0]}"
            ) from error
        return {**{name: feed[name] for name in self._given}, **dict(zip(self._names, made, strict=True))}


def _counted(values: Array, edges: Range, method: str) -> tuple[Array, int, Range]:
    """Numbers, bins and edges of a histogram: of the numbers about zero, or of their sizes."""
    flat = values.ravel()
    top = max(-edges[0], edges[1])
    flat = flat[np.abs(flat) <= top]  # neither infinite nor undefined
    return (flat, BINS[method], (-top, top)) if method == "entropy" else (np.abs(flat), BINS[method], (0.0, top))


def _by_percentile(counts: Array, edges: Range) -> Range:
    """The range in which all but a thousandth of a percent of the sizes lie."""
    top = max(-edges[0], edges[1])
    at = int(np.searchsorted(np.cumsum(counts / counts.sum()), PERCENTILE))
    size = top * min(at, len(counts)) / len(counts) or top
    return max(edges[0], -size), min(edges[1], size)


def _by_entropy(counts: Array, edges: Range) -> Range:
    """The range whose 8 bits tell most of the distribution (Migacz, 2017).

    To the bit what onnxruntime's search finds, which takes a tenth of a second for each activation.
    """
    top = max(-edges[0], edges[1])
    bins = np.linspace(-top, top, len(counts) + 1)
    middle = len(counts) // 2
    cuts = [(middle - half, min(middle + half + 1, len(counts))) for half in range(LEVELS // 2, middle + 1)]
    start, end = cuts[int(np.argmin([_divergence(counts, *cut) for cut in cuts]))]
    return max(edges[0], float(bins[start])), min(edges[1], float(bins[end]))


def _divergence(counts: Array, start: int, end: int) -> float:
    """The Kullback-Leibler divergence of a clipped histogram from what is left of it by LEVELS levels."""
    kept = counts[start:end]
    clipped = kept.copy()
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[end:].sum()
    width = len(kept) // LEVELS
    whole = width * LEVELS
    sums = kept[:whole].reshape(LEVELS, width).sum(1)
    sums[-1] += kept[whole:].sum()
    filled = np.count_nonzero(clipped[:whole].reshape(LEVELS, width), axis=1)
    levels = np.zeros_like(kept)
    levels[:whole] = np.repeat(sums / np.maximum(filled, 1) * (filled > 0), width)
    if not clipped.any() or not levels.any():
        return np.inf
    p, q = _smooth(clipped), _smooth(levels)
    p, q = p / np.sum(p, keepdims=True), q / np.sum(q, keepdims=True)
    return float(np.sum(p * np.log(p / q)))


def _smooth(counts: Array) -> Array:
    """Counts without zeros: each becomes a little, which the others give."""
    zero = counts == 0
    zeros = np.count_nonzero(zero)
    given = SMOOTHING * zeros / (len(counts) - zeros)
    smooth: Array = counts.astype(np.float32)
    smooth += SMOOTHING * zero.astype(np.float32) - given * (~zero).astype(np.float32)
    return smooth
