"""Static 8-bit quantization after training."""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import onnx
from pydantic import Field

from ...errors import TechniqueError
from ...recipe import Choice, Kind
from ..base import Context, Decision, Technique
from ._kept import REASON, file_layers, kept_layers, layer_name

# With its default of as many bins as levels, onnxruntime's entropy calibration would leave every range as it is.
BINS = {"Entropy": {"num_bins": 512, "num_quantized_bins": 128}}


class Int8Static(Technique):
    """Store weights and compute activations in 8 bits, ranges calibrated on training data (Jacob et al., 2018).

    keep names layers that stay in float: exact names, patterns such as head.*, or first and last.
    """

    technique: ClassVar[str] = "int8_static"
    family: ClassVar[str] = "quantization"
    kind: ClassVar[Kind] = "encode"
    weight_bits: ClassVar[float] = 4  # in a prefix code, where few weights reach far

    per_channel: Annotated[bool, Choice(True, False)] = True
    calibration: Annotated[
        Literal["minmax", "entropy", "percentile"], Choice("minmax", "entropy", "percentile")
    ] = "minmax"  # fmt: skip
    examples: int = Field(256, ge=1)
    keep: tuple[str, ...] = ()

    def decide(self, model: onnx.ModelProto, context: Context) -> Decision:
        """The range of every activation on a sample of the training split, and what stays in float with the reason."""
        layers = file_layers(model)
        kept = set(kept_layers(self.technique, self.keep, layers.values()))
        if layers and kept.issuperset(layers.values()):
            raise TechniqueError("int8_static: keep leaves no layer to quantize: keep fewer layers")
        ranges = self._ranges(model, context)
        excluded = [name for name, layer in layers.items() if layer in kept]
        skipped = dict.fromkeys(sorted(kept), REASON)
        for name, layer, reason in _constant(model, ranges):
            excluded.append(name)
            skipped.setdefault(layer, reason)
        return {"per_channel": self.per_channel, "ranges": ranges, "excluded": excluded, "skipped": skipped}

    def _ranges(self, model: onnx.ModelProto, context: Context) -> dict[str, list[float]]:
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import create_calibrator

        method = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}[self.calibration]
        names = [value.name for value in model.graph.input]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            onnx.save(model, str(path / "float.onnx"))
            calibrator = create_calibrator(
                path / "float.onnx",
                augmented_model_path=str(path / "augmented.onnx"),
                calibrate_method=CalibrationMethod[method],
                extra_options=BINS.get(method, {}),
            )
            try:
                with _quietly():
                    calibrator.collect_data(_Reader(names, context, self.examples))
                    found = calibrator.compute_data()
            except ValueError as error:  # what a histogram of infinity or NaN raises
                raise TechniqueError(
                    f"int8_static: activations have no range on training data ({error}): check the model"
                ) from error
        ranges = {name: [float(np.asarray(edge).item()) for edge in value.range_value] for name, value in found.items()}
        broken = sorted(name for name, edges in ranges.items() if not np.all(np.isfinite(edges)))
        if broken:
            raise TechniqueError(
                f"int8_static: activation {broken[0]!r} is not finite on training data: check the model"
            )
        return ranges

    def apply(self, model: onnx.ModelProto, decision: Decision) -> onnx.ModelProto:
        """Insert quantize/dequantize pairs with the recorded ranges; ONNX Runtime fuses them into integer operators."""
        from onnxruntime.quantization import CalibrationMethod, QuantType
        from onnxruntime.quantization.calibrate import TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        edges = {name: tuple(np.float32(edge) for edge in pair) for name, pair in decision["ranges"].items()}
        quantizer = QDQQuantizer(
            onnx.shape_inference.infer_shapes(model),
            per_channel=decision["per_channel"],
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, edges),
            nodes_to_quantize=[],
            nodes_to_exclude=decision["excluded"],
            op_types_to_quantize=list({**QLinearOpsRegistry, **QDQRegistry}),
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.clean_initializers()
        quantizer.model.topological_sort()
        quantized: onnx.ModelProto = quantizer.model.model
        return quantized


def _constant(model: onnx.ModelProto, ranges: dict[str, list[float]]) -> Iterator[tuple[str, str, str]]:
    """Nodes that read or write an activation without a range, from which no scale follows: node, layer and reason."""
    empty = {name for name, (low, high) in ranges.items() if low == high == 0}
    for node in model.graph.node:
        found = sorted(empty.intersection((*node.input, *node.output)))
        if found:
            yield node.name, layer_name(node), f"activation {found[0]!r} is always 0 on training data"


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep onnxruntime's progress off standard output, and numpy's warnings of NaN, which are checked here."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


class _Reader:
    """Calibration batches in the form that onnxruntime's calibrators read."""

    def __init__(self, names: list[str], context: Context, examples: int) -> None:
        self.names = names
        self.rows: Iterator[Any] = context.sample(examples)

    def get_next(self) -> dict[str, Any] | None:
        """The next batch by input name; None at the end."""
        batch = next(self.rows, None)
        if batch is None:
            return None
        return {name: tensor.numpy() for name, tensor in zip(self.names, batch.inputs, strict=True)}
