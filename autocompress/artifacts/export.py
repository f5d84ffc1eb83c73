"""From a torch module to one small ONNX file that computes the same."""

import contextlib
import copy
import functools
import inspect
import itertools
import string
import typing
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..data import UNNAMED, Signature, copied
from ..errors import ArtifactError
from .norms import kept_apart

OUTPUT = "output"  # what a file's output is called, where the task has no name for it
PACKED = (
    "its forward calls pack_padded_sequence, which no operator of a file stands for: run the layer on the padded "
    "batch, backwards over examples that torch.gather turns round by their lengths, and leave padding out by a mask"
)
# What torch would learn by looking at a mask's values, and where it stands among the arguments.
CAUSAL = {nn.TransformerEncoder: ("is_causal", 3), nn.TransformerDecoder: ("tgt_is_causal", 6)}
OPSET = 21  # the first in which all operators that decode packed weights take 4-bit integers


def dynamic_shapes(model: nn.Module, count: int, batch: Any, signature: Signature = UNNAMED) -> tuple[Any, ...]:
    """Which axes of so many inputs are dynamic, in the form of the model's forward: `*inputs` is one tuple of them.

    The batch, and the axes of each input that vary.
    """
    free = torch.export.Dim.DYNAMIC
    axes = signature.varying or [()] * count
    shapes: list[Any] = [{0: batch, **dict.fromkeys(sorted(each), free)} for each in axes]
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    fixed = kinds.index(inspect.Parameter.VAR_POSITIONAL) if inspect.Parameter.VAR_POSITIONAL in kinds else count
    return (*shapes[:fixed], *([tuple(shapes[fixed:])] if count > fixed else []))


def names_of_inputs(count: int, signature: Signature = UNNAMED) -> list[str]:
    """What a file's inputs are called: as the data calls them, else by their order."""
    if len(signature.names) == count and OUTPUT not in signature.names:
        return list(signature.names)
    return ["input"] if count == 1 else [f"input_{index}" for index in range(count)]


def name_of_output(inputs: list[str], signature: Signature = UNNAMED) -> str:
    """What a file's output is called beside inputs of these names."""
    return signature.output if signature.output and signature.output not in inputs else OUTPUT


def export_onnx(model: nn.Module, example: tuple[Tensor, ...], signature: Signature = UNNAMED) -> onnx.ModelProto:
    """Export with torch's dynamo exporter, batch dynamic; tensors keep their torch names.

    example: inputs of two or more examples. signature: their names, and which of their axes are dynamic too. Raises
    ArtifactError when torch cannot export the model.
    """
    _cache_torchlib()
    batch, inputs = torch.export.Dim("batch"), names_of_inputs(len(example), signature)
    try:
        with quietly(), torch.no_grad():
            module = kept_apart(model.eval(), copied(example))
            with masks_as_given(module):
                program = torch.onnx.export(
                    module,
                    copied(example),
                    dynamo=True,
                    dynamic_shapes=dynamic_shapes(module, len(example), batch, signature),
                    input_names=inputs,
                    output_names=[name_of_output(inputs, signature)],
                    opset_version=OPSET,
                    verbose=False,
                )
    except Exception as error:
        cause = error.__cause__ or error  # the exporter's own words are about itself
        lines = [line for line in str(cause).splitlines() if line.strip()]
        reason = lines[0] if lines else repr(cause)
        if _packs(module, example):
            reason = f"{PACKED} ({reason})"
        raise ArtifactError(f"torch cannot export this model to ONNX: {reason}") from error
    assert program is not None
    _rename_clashes(program.model.graph)
    return cast_weights(flattened(program.model_proto))


@contextlib.contextmanager
def masks_as_given(module: nn.Module) -> Iterator[None]:
    """Let transformers use masks as they are, not look whether they are causal, which cannot be traced.

    The outputs are the same: to know that a mask is causal is a hint to compute faster.
    """

    def hook(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any] | None:
        name, place = CAUSAL[type(layer)]
        return (given, {**named, name: False}) if len(given) <= place and named.get(name) is None else None

    layers = [layer for layer in module.modules() if type(layer) in CAUSAL]
    hooks = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def _rename_clashes(graph: Any) -> None:
    """Give weights other names that are called like an input or output of the file, which the exporter names last.

    graph: the exporter's own, in which equal names still stand for different values.
    """
    fixed = [*graph.inputs, *graph.outputs]
    taken = {value.name for value in fixed}
    used = taken | set(graph.initializers) | {value.name for node in graph for value in node.outputs}
    for value in list(graph.initializers.values()):
        if value.name in taken and not any(value is other for other in fixed):
            names = (f"{value.name}.{count}" for count in itertools.count())
            value.name = next(name for name in names if name not in used)


def flattened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with Flatten for each Reshape that keeps the first axis and joins all others; it is changed.

    That is known where the exporter wrote both shapes down, and spares the file a tensor.
    """
    shapes = {value.name: _axes(value) for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    gone: set[str] = set()
    for node in model.graph.node:
        if node.op_type != "Reshape" or node.domain:
            continue
        before, after = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
        if len(before) > 1 and len(after) == 2 and before[0] and before[0] == after[0]:
            gone.add(node.input[1])
            node.op_type = "Flatten"
            del node.input[1:], node.attribute[:]
    gone -= _read_by(model.graph)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in gone]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def _read_by(graph: onnx.GraphProto) -> set[str]:
    """The names that a graph reads, and the graphs inside of it, which may read values of those around them."""
    inner = [
        part for node in graph.node for a in node.attribute for part in (*a.graphs, *([a.g] if a.HasField("g") else []))
    ]
    own = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    return own.union(*(_read_by(part) for part in inner))


def _axes(value: onnx.ValueInfoProto) -> list[int | str]:
    """Each axis by its length, or by the name of what it varies with."""
    return [axis.dim_value or axis.dim_param for axis in value.type.tensor_type.shape.dim]


def cast_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a cast and a product for each dequantized weight where nothing is quantized; it is changed.

    ONNX Runtime folds these when it loads a file. DequantizeLinear it leaves for operators on integers to take in,
    and without them would run it at every call.
    """
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return model
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    gone: set[str] = set()
    for node in model.graph.node:
        known = [stored[name] for name in node.input if name in stored]
        if node.op_type != "DequantizeLinear" or len(known) < len(node.input) or np.any(known[2:]):
            nodes.append(node)
            continue
        name, axis = node.output[0], next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape = [-1 if index == axis else 1 for index in range(np.ndim(known[0]))]
        scale = known[1] if np.ndim(known[1]) == 0 else np.reshape(known[1], shape)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(scale), f"{name}_scale"))
        nodes.append(helper.make_node("Cast", [node.input[0]], [f"{name}_cast"], to=onnx.TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [name]))
        gone.update(node.input[1:])
    gone -= {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in gone]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    return model


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """No warnings of the exporters, which are about their own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@functools.lru_cache(maxsize=1)
def _cache_torchlib() -> None:
    """Let the exporter read its operators once a process and trace a model once: it does so anew, most of its time."""
    try:
        from onnxscript._framework_apis import torch_2_5
        from torch._export import utils
        from torch.export import _trace, decomp_utils, exported_program  # with which torch knows of all operators
        from torch.onnx._internal.exporter import _fx_passes, _registration

        from .lowering import insert_casts, lowered
    except ImportError:
        return
    passes: Any = _fx_passes
    passes.decompose_with_registry, passes.insert_type_promotion_nodes = lowered, insert_casts
    torch_2_5.get_torchlib_ops = functools.lru_cache(maxsize=1)(torch_2_5.get_torchlib_ops)
    registry: Any = getattr(_registration, "ONNXRegistry", None)
    if hasattr(registry, "from_torchlib"):
        registry.from_torchlib = staticmethod(_cached(registry.from_torchlib))
    name = "_collect_all_valid_cia_ops"
    if hasattr(utils, name):
        listed = _once_for_all_operators(getattr(utils, name))
        for module in (utils, decomp_utils, exported_program, _trace):
            if hasattr(module, name):
                setattr(module, name, listed)
    # The annotation of a function that torch makes ten thousand times an export: typing keeps what it once made of it.
    torch._ops.Callable = typing.Callable  # type: ignore[attr-defined]


def _once_for_all_operators(read: Callable[..., Any]) -> Callable[..., Any]:
    """What reads torch's operators, reading them again only when torch knows of more of them."""

    @functools.lru_cache(maxsize=1)
    def read_once(_operators: int, **options: Any) -> Any:
        return read(**options)

    return lambda **options: read_once(len(torch._C._dispatch_get_all_op_names()), **options)


def _cached(read: Callable[..., Any]) -> Callable[..., Any]:
    """What reads the exporter's operators, once for all that torch knows of; what it gives may be added to."""
    read_once = _once_for_all_operators(read)

    def registry(**options: Any) -> Any:
        kept = read_once(**options)
        own = copy.copy(kept)  # to which an export may add operators of its own
        own.functions = {target: list(found) for target, found in kept.functions.items()}
        return own

    return registry


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without names, comments and shapes that only people and exporters read; outputs stay equal to the bit.

    Attributes that say what holds without them go as well.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    small.producer_name = small.producer_version = small.doc_string = ""
    del small.metadata_props[:]
    fixed = {value.name for value in (*small.graph.input, *small.graph.output)} | {""}
    short = (name for name in _short_names() if name not in fixed)
    names: dict[str, str] = {name: name for name in fixed}
    version = next((entry.version for entry in small.opset_import if entry.domain in ("", "ai.onnx")), 1)
    _shorten(small.graph, names, short, version)
    onnx.checker.check_model(small)
    return small


def _short_names() -> Iterator[str]:
    letters = string.ascii_letters
    return ("".join(parts) for size in itertools.count(1) for parts in itertools.product(letters, repeat=size))


def _shorten(graph: onnx.GraphProto, names: dict[str, str], short: Iterator[str], version: int) -> None:
    def new(name: str) -> str:
        """The short name that stands for a name, always the same."""
        if name not in names:
            names[name] = next(short)
        return names[name]

    graph.name, graph.doc_string = "g", ""
    del graph.value_info[:], graph.metadata_props[:]
    for value in (*graph.input, *graph.output):
        value.name, value.doc_string = new(value.name), ""
        del value.metadata_props[:]
    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    for node in graph.node:
        _keep_what_counts(node, version)
        node.name = node.doc_string = ""
        del node.metadata_props[:]
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
        for attribute in node.attribute:
            attribute.doc_string = ""
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _shorten(inner, names, short, version)


# What ONNX takes where these are not given, by words or by the shape of the weights.
_ONES, _ZEROS = ("strides", "dilations"), ("pads", "output_padding")


def _keep_what_counts(node: onnx.NodeProto, version: int) -> None:
    """Take the attributes from a node that say what holds without them."""
    if node.domain:
        return
    defaults = onnx.defs.get_schema(node.op_type, version).attributes
    kept = [a for a in node.attribute if a.name not in defaults or not _is_default(a, defaults[a.name], node)]
    del node.attribute[:]
    node.attribute.extend(kept)


def _is_default(attribute: onnx.AttributeProto, schema: onnx.defs.OpSchema.Attribute, node: onnx.NodeProto) -> bool:
    if schema.required:
        return False
    if attribute.name in _ONES or attribute.name in _ZEROS:
        return set(attribute.ints) <= {int(attribute.name in _ONES)}
    if attribute.name == "kernel_shape":
        return node.op_type == "Conv"
    plain = schema.default_value
    return plain.type != onnx.AttributeProto.UNDEFINED and helper.get_attribute_value(
        plain
    ) == helper.get_attribute_value(attribute)


def _packs(module: nn.Module, example: tuple[Tensor, ...]) -> bool:
    """Whether a recurrent layer is given sequences that are packed."""
    seen: list[bool] = []
    layers = [layer for layer in module.modules() if isinstance(layer, nn.RNNBase)]
    hooks = [
        layer.register_forward_pre_hook(lambda _, given: seen.append(isinstance(given[0], PackedSequence)))
        for layer in layers
    ]
    try:
        with torch.no_grad(), contextlib.suppress(Exception):  # what fails here is told by what failed before
            module(*copied(example))
    finally:
        for hook in hooks:
            hook.remove()
    return any(seen)
