"""Dynamic 8-bit quantization after training."""

from collections.abc import Callable
from typing import Annotated, ClassVar

import onnx

from ...errors import NothingToDo
from ...recipe import Choice, Kind
from ..base import Context, Decision, Technique
from ._calibration import activations
from ._constants import with_stored
from ._kept import REASON, file_layers, left_alone, stored_values
from ._ort import told, without_warnings

FLOAT = {
    "Conv": "convolutions with ranges found at run time are slower than float: use int8_static",
    "ConvTranspose": "convolutions with ranges found at run time are slower than float: use int8_static",
    "GRU": "ONNX Runtime has no GRU in 8 bits",
    "RNN": "ONNX Runtime has no plain RNN in 8 bits",
}

APART = "GemmInFloat"  # what a Gemm is called meanwhile, of which the quantizer would make a copy of its weight


class Int8Dynamic(Technique):
    """Store the weights of linear layers and LSTMs in 8 bits, with ranges of activations found at run time.

    Nothing is calibrated, so that no activation is cut (Zafrir et al., 2019: Q8BERT, section 2, in the form that ONNX
    Runtime has). keep names layers that stay in float: exact names, patterns such as head.*, or first and last.
    """

    technique: ClassVar[str] = "int8_dynamic"
    needs: ClassVar[str] = "a linear layer or LSTM"
    family: ClassVar[str] = "quantization"
    kind: ClassVar[Kind] = "encode"
    by_layer: ClassVar[bool] = True

    per_channel: Annotated[bool, Choice(True, False)] = True
    keep: tuple[str, ...] = ()

    def decide(self, model: onnx.ModelProto, context: Context) -> Decision:
        """The nodes to quantize, and the layers that stay in float with the reason."""
        layers = file_layers(model)
        kept = set(left_alone(self, self.keep, layers.values(), context))
        stored, floats, shared = stored_values(model), set(activations(model)), _read_in_float(model, layers)
        quantized, skipped = [], {}
        for node in model.graph.node:
            if node.name not in layers:
                continue
            name = layers[node.name]
            reason = REASON if name in kept else _obstacle(node, stored, floats, shared)
            if reason is None:
                quantized.append(node.name)
            else:
                skipped[name] = reason
        if not quantized:
            why = "; ".join(f"{name}: {reason}" for name, reason in skipped.items()) or "it has no layer with weights"
            raise NothingToDo(
                f"int8_dynamic finds no linear layer or LSTM to quantize ({why}): use int8_static, or leave it out"
            )
        return {"per_channel": self.per_channel, "quantized": quantized, "skipped": skipped}

    def apply(self, model: onnx.ModelProto, decision: Decision) -> onnx.ModelProto:
        """Put integer products and LSTMs in the place of the recorded nodes."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
        from onnxruntime.quantization.quant_utils import QuantizationMode

        chosen = set(decision["quantized"])
        weights = [name for node in model.graph.node if node.name in chosen for name in _weights(node)]
        given = _renamed(with_stored(model, weights), "Gemm", APART, lambda node: node.name not in chosen)
        with without_warnings(), told("int8_dynamic: quantizing the file's layers"):
            quantizer = ONNXQuantizer(
                onnx.shape_inference.infer_shapes(given),
                per_channel=decision["per_channel"],
                reduce_range=False,
                mode=QuantizationMode.IntegerOps,
                static=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=None,
                # The quantizer makes a product and a sum of each Gemm first, named after it.
                nodes_to_quantize=[*chosen, *(f"{name}_MatMul" for name in chosen)],
                nodes_to_exclude=[],
                op_types_to_quantize=["MatMul", "LSTM"],
                extra_options={"MatMulConstBOnly": True},
            )
            quantizer.quantize_model()
        quantizer.model.topological_sort()
        return _renamed(quantizer.model.model, APART, "Gemm", lambda node: True)


def _renamed(model: onnx.ModelProto, old: str, new: str, which: Callable[[onnx.NodeProto], bool]) -> onnx.ModelProto:
    for node in model.graph.node:
        if node.op_type == old and which(node):
            node.op_type = new
    return model


def _read_in_float(model: onnx.ModelProto, layers: dict[str, str]) -> set[str]:
    """The stored values that operators read which are no layers, as embeddings do: there they are floats."""
    return {name for node in model.graph.node if node.name not in layers for name in node.input}


def _obstacle(node: onnx.NodeProto, stored: set[str], floats: set[str], shared: set[str]) -> str | None:
    if node.op_type in FLOAT:
        return FLOAT[node.op_type]
    if node.output[0] not in floats:
        return "it does not compute in floats of 32 bits"
    if shared.intersection(_weights(node)):
        return "its weights are those of another operator too, which reads floats: they would be stored twice"
    if not stored.issuperset(_weights(node)):
        return "its weights are computed from inputs"
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    if node.op_type == "Gemm" and any(
        onnx.helper.get_attribute_value(a) != plain.get(a.name, onnx.helper.get_attribute_value(a))
        for a in node.attribute
    ):
        return "it scales or transposes what it multiplies"
    return None


def _weights(node: onnx.NodeProto) -> list[str]:
    return list(node.input[1:3] if node.op_type == "LSTM" else node.input[1:2])
