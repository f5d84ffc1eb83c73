"""Static 8-bit quantization after training."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
import onnx
from pydantic import Field

from ...errors import NothingToDo, TechniqueError
from ...recipe import Choice, Kind
from ..base import Context, Decision, Technique
from ._calibration import Calibrated, activations, calibrate
from ._channels import of_one_scale
from ._fills import filled
from ._kept import REASON, WEIGHTED, file_layers, kept_layers, layer_name, tensor_layer
from ._ort import told, without_warnings

FLOAT = {
    "LSTM": "ONNX Runtime has no LSTM with ranges known before: use int8_dynamic",
    "GRU": "ONNX Runtime has no GRU in 8 bits",
    "RNN": "ONNX Runtime has no plain RNN in 8 bits",
}


class Int8Static(Technique):
    """Store weights and compute activations in 8 bits, ranges calibrated on training data (Jacob et al., 2018).

    keep names layers that stay in float: exact names, patterns such as head.*, or first and last.
    """

    technique: ClassVar[str] = "int8_static"
    family: ClassVar[str] = "quantization"
    kind: ClassVar[Kind] = "encode"
    by_layer: ClassVar[bool] = True

    per_channel: Annotated[bool, Choice(True, False)] = True
    calibration: Annotated[
        Literal["minmax", "entropy", "percentile"], Choice("minmax", "entropy", "percentile")
    ] = "minmax"  # fmt: skip
    examples: int = Field(256, ge=1)
    keep: tuple[str, ...] = ()

    def decide(self, model: onnx.ModelProto, context: Context) -> Decision:
        """The range of every activation on a sample of the training split, and what stays in float with the reason."""
        layers = file_layers(model)
        kept = kept_layers(self.technique, self.keep, layers.values())
        if layers and set(kept).issuperset(layers.values()):
            raise TechniqueError("int8_static: keep leaves no layer to quantize: keep fewer layers")
        outside = self._outside(model, layers, context)
        unfit = {**dict(_unfit(model, layers, set(kept))), **dict.fromkeys(outside, REASON)}
        _check_any_left(model, layers, unfit)
        found = calibrate(model, context, self.examples, self.calibration)
        _check_numbers(model, found)
        unfit |= {name: why for name, why in _without_range(model, found) if name not in unfit}
        _check_any_left(model, layers, unfit)
        named = {node.name: layer_name(node) for node in model.graph.node if node.name in unfit}
        read = {name: why for name, why in unfit.items() if name in layers or name not in outside}
        skipped = dict.fromkeys(sorted(kept), REASON)
        for name, why in read.items():
            skipped.setdefault(layers.get(name, named[name]), why)
        return {
            "per_channel": self.per_channel,
            "ranges": {name: list(edges) for name, edges in found.ranges.items()},
            "excluded": list(unfit),
            "whole": of_one_scale(model) if self.per_channel else [],
            "skipped": skipped,
        }

    def _outside(self, model: onnx.ModelProto, layers: dict[str, str], context: Context) -> set[str]:
        """The nodes of other modules than those that the recipe restricts the step to."""
        tables = {node.name: tensor_layer(node.input[0], node) for node in model.graph.node if node.op_type == "Gather"}
        known = {**tables, **layers}
        owners = {node.name: known.get(node.name) or layer_name(node) for node in model.graph.node}
        inside = set(self.within(owners.values(), context))
        return {name for name, owner in owners.items() if owner not in inside}

    def apply(self, model: onnx.ModelProto, decision: Decision) -> onnx.ModelProto:
        """Insert quantize/dequantize pairs with the recorded ranges; ONNX Runtime fuses them into integer operators."""
        from onnxruntime.quantization import CalibrationMethod, QuantType
        from onnxruntime.quantization.calibrate import TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        edges = {name: tuple(np.float32(edge) for edge in pair) for name, pair in decision["ranges"].items()}
        whole = {"quant_type": QuantType.QInt8, "symmetric": True}
        with without_warnings(), told("int8_static: quantizing the file's layers"):
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
                extra_options={"TensorQuantOverrides": {name: [whole] for name in decision["whole"]}},
            )
            quantizer.quantize_model()
            quantizer.model.clean_initializers()
            quantizer.model.topological_sort()
        quantized: onnx.ModelProto = quantizer.model.model
        return quantized


def _unfit(model: onnx.ModelProto, layers: dict[str, str], kept: set[str]) -> Iterator[tuple[str, str]]:
    """Nodes that stay in float whatever the ranges, with the reason."""
    floats, fills = set(activations(model)), filled(model)
    for node in model.graph.node:
        if layers.get(node.name) in kept:
            yield node.name, REASON
        elif node.op_type in FLOAT:
            yield node.name, FLOAT[node.op_type]
        elif node.op_type in WEIGHTED and node.output[0] not in floats:
            yield node.name, "it does not compute in floats of 32 bits"
        elif found := sorted(fills.intersection((*node.input, *node.output))):
            yield node.name, f"activation {found[0]!r} may hold the fill of a mask"


def _without_range(model: onnx.ModelProto, found: Calibrated) -> Iterator[tuple[str, str]]:
    """Nodes that read or write an activation whose numbers no 8 bits hold, with the reason."""
    unclear = {}
    for name, (low, high) in found.ranges.items():
        why = found.spans[name].obstacle(low, high) or ("is always 0 on training data" if low == high == 0 else None)
        if why:
            unclear[name] = f"activation {name!r} {why}"
    for node in model.graph.node:
        reasons = sorted(unclear[name] for name in (*node.input, *node.output) if name in unclear)
        if reasons:
            yield node.name, reasons[0]


def _check_any_left(model: onnx.ModelProto, layers: dict[str, str], unfit: dict[str, str]) -> None:
    """Raise NothingToDo where nothing with weights would be quantized."""
    stored = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    tables = [node.name for node in model.graph.node if node.op_type == "Gather" and node.input[0] in stored]
    if any(name not in unfit for name in (*layers, *tables)):
        return
    why = "; ".join(f"{layer}: {unfit[name]}" for name, layer in layers.items()) or "it has none with weights"
    raise NothingToDo(f"int8_static finds no layer to quantize ({why}): leave the step out, or use low_bit")


def _check_numbers(model: onnx.ModelProto, found: Calibrated) -> None:
    """Raise TechniqueError where the model computes no numbers: outputs that are undefined, or sums past all floats."""
    spans = found.spans
    broken = [value.name for value in model.graph.output if value.name in spans and spans[value.name].undefined]
    infinite = {name for name, span in spans.items() if span.infinite or span.undefined}
    broken += [
        node.output[0]
        for node in model.graph.node
        if node.op_type in WEIGHTED and node.output[0] in infinite and not infinite.intersection(node.input)
    ]
    if broken:
        raise TechniqueError(f"int8_static: activation {broken[0]!r} is not finite on training data: check the model")
