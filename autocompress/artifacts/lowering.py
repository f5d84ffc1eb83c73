"""Operators that the exporter has no function for, by those that it has: each one where it stands in the graph.

Torch's exporter traces the whole graph once more for this, and runs it once more to see which inputs of unlike kinds
have to be cast: most of the time of an export.
"""

import contextlib
import operator
from typing import Any

import torch
from torch import fx
from torch._export.utils import _check_valid_to_preserve
from torch._guards import detect_fake_mode
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx
from torch.onnx._internal.exporter import _decomp, _fx_passes
from torch.onnx._internal.fx.passes.type_promotion import (
    InsertTypePromotion,
    TypePromotionTable,
    get_type_promotion_rule,
)
from torch.onnx._internal.fx.type_utils import from_scalar_type_to_torch_dtype

_whole = _fx_passes.decompose_with_registry
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_CHECKS = ("_assert", "sym_constrain_range")  # nodes of which only errors come: the exporter takes them out


def lowered(program: ExportedProgram, registry: Any) -> ExportedProgram:
    """The program in operators of the exporter's registry; it is changed.

    It is traced as a whole where operators change tensors that others see, or hold graphs of their own.
    """
    known = set(_decomp.get_onnx_implemented_overloads(registry))
    inner = [node for node in program.graph.nodes if node.op not in ("placeholder", "output")]
    in_place = [node for node in inner if _is_mutable(node.target)]
    # What is no operator of torch is arithmetic on sizes, or holds a graph.
    foreign = [node for node in inner if not isinstance(node.target, OpOverload) and node.target not in known]
    if foreign or not all(_is_seen_by_itself(node) for node in in_place):
        return _whole(program, registry)
    for node in in_place:
        _take_out_of_place(node)
    others = [node for node in inner if isinstance(node.target, OpOverload) and not _stays(node.target, known)]
    table = _decomp.create_onnx_friendly_decomposition_table(known) if others else {}
    done = all(_spelled_out(program, node, table) for node in others)
    program.graph_module.recompile()
    return program if done else _whole(program, registry)


def _is_mutable(target: Any) -> bool:
    return isinstance(target, OpOverload) and target._schema.is_mutable


def _is_fresh(target: Any) -> bool:
    """Whether an operator returns tensors of its own, no views."""
    # Torch takes batch normalization for one that may do anything, as it changes its statistics in training.
    normed = target is torch.ops.aten.batch_norm.default
    return isinstance(target, OpOverload) and (normed or _check_valid_to_preserve(target))


def _is_seen_by_itself(node: fx.Node) -> bool:
    """Whether what a node changes in place is the fresh result of another, of which nobody has a view."""
    changed = node.args[0] if node.args else None
    if not isinstance(changed, fx.Node) or _functional(node.target) is None:
        return False
    values = [value.meta["val"] for value in node.all_input_nodes]
    kinds = {value.dtype for value in values if isinstance(value, torch.Tensor)}
    kept = kinds <= {changed.meta["val"].dtype, torch.bool}  # out of place, the result may be of another kind
    fresh = _is_fresh(changed.target) or _is_mutable(changed.target)  # whose own turn it is to be looked at
    return kept and fresh and all(_is_fresh(user.target) for user in changed.users if user < node)


def _functional(target: Any) -> OpOverload | None:
    """The operator that returns what one changes its first input to: it is called the same without a `_`."""
    packet = getattr(torch.ops.aten, target._opname.removesuffix("_"), None)
    found: OpOverload | None = getattr(packet, target._overloadname, None)
    return found if target._opname.endswith("_") and found is not None and not found._schema.is_mutable else None


def _take_out_of_place(node: fx.Node) -> None:
    """Let a node return what it would change its first input to, and all after it read that."""
    changed: Any = node.args[0]
    changed.replace_all_uses_with(node, lambda user: node < user)
    node.target = _functional(node.target)  # type: ignore[assignment]


def _stays(target: OpOverload, known: set[Any]) -> bool:
    """Whether the exporter has a function for an operator; torch leaves none that may return a view of its input."""
    if target._opname.startswith(_CHECKS):
        return True
    return target in known and (_check_valid_to_preserve(target) or not target.has_kernel_for_dispatch_key(_COMPOSITE))


def _spelled_out(program: ExportedProgram, node: fx.Node, table: Any) -> bool:
    """Whether a node could be replaced by the nodes that its operator consists of."""
    target, inputs = node.target, node.all_input_nodes
    assert isinstance(target, OpOverload)
    values = [value.meta["val"] for value in inputs]

    def call(*given: Any) -> Any:
        named = dict(zip(inputs, given, strict=True))
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda value: named[value])
        return target(*args, **kwargs)

    with detect_fake_mode(values) or contextlib.nullcontext():
        traced = make_fx(call, decomposition_table=table)(*values).graph
    copies: dict[fx.Node, Any] = dict(zip(traced.find_nodes(op="placeholder"), inputs, strict=True))
    for part in traced.nodes:
        if part.op == "get_attr" or _is_mutable(part.target):
            return False  # a tensor that the operator made, or changes
        if part.op == "call_function":
            with node.graph.inserting_before(node):
                copies[part] = node.graph.node_copy(part, lambda value: copies[value])
            copies[part].meta = {**node.meta, "val": part.meta["val"]}
    result: Any = fx.map_arg(traced.output_node().args[0], lambda value: copies[value])
    _put(program, node, result)
    return True


def _put(program: ExportedProgram, node: fx.Node, result: Any) -> None:
    """Let all that reads a node read its result instead, which may be several."""
    if isinstance(result, fx.Node):
        node.replace_all_uses_with(result)
        for spec in program.graph_signature.output_specs:
            if spec.arg.name == node.name:
                spec.arg.name = result.name
    else:
        for user in list(node.users):
            assert user.target is operator.getitem
            _put(program, user, result[user.args[1]])
    node.graph.erase_node(node)


def insert_casts(graph_module: fx.GraphModule) -> None:
    """Cast inputs of unlike kinds where an operator has some, in graphs inside the graph too."""
    table = TypePromotionTable()
    for module in graph_module.modules():
        assert isinstance(module, fx.GraphModule)
        if any(_is_cast(node, table) for node in module.graph.nodes):
            InsertTypePromotion(module, table).run()


def _is_cast(node: fx.Node, table: TypePromotionTable) -> bool:
    """Whether an input of a node is of another kind than the rule of its operator says."""
    if (rule := get_type_promotion_rule(node, table)) is None:
        return False
    if any("val" not in value.meta for value in node.all_input_nodes):
        return True
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda value: value.meta["val"])
    said = rule.preview_type_promotion(args, kwargs)
    given = [(args[place], kind) for place, kind in said.args_dtypes.items()]
    given += [(kwargs[name], kind) for name, kind in said.kwargs_dtypes.items()]
    return any(_is_other(value, kind) for value, kind in given if kind is not None)


def _is_other(value: Any, kind: torch.dtype) -> bool:
    if isinstance(value, list | tuple):
        return any(_is_other(part, kind) for part in value)
    own = value.dtype if isinstance(value, torch.Tensor) else from_scalar_type_to_torch_dtype(type(value))
    return own != kind
