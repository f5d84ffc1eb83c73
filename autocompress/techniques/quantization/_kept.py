"""Which layers a recipe keeps in float, by name, for modules and for files alike."""

import ast
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import onnx

from ...errors import TechniqueError, suggest
from ..base import Context, Technique

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
WORDS = ("first", "last")
REASON = "kept in float by the recipe"
# Where torch's exporter writes down the modules that a node comes from, outermost first, and the call itself last.
SCOPES = "pkg.torch.onnx.name_scopes"


def kept_layers(technique: str, keep: Sequence[str], layers: Iterable[str]) -> list[str]:
    """The layers that are to stay in float, in the order of the model.

    keep: exact names, shell patterns such as `head.*`, or the words `first` and `last`; a layer that is called by one
    of these words goes before the word. layers: every layer with weights, in the order in which the model calls them.
    Raises TechniqueError for an entry that means no layer.
    """
    names = list(dict.fromkeys(layers))
    chosen: set[str] = set()
    for entry in keep:
        found = _meant(entry, names)
        if not found:
            raise TechniqueError(
                f"{technique}: keep: {entry!r} is no layer of this model; {suggest(entry, [*names, *WORDS])}"
            )
        chosen |= found
    return [name for name in names if name in chosen]


def left_alone(step: Technique, keep: Sequence[str], layers: Iterable[str], context: Context) -> list[str]:
    """The layers that a step is to leave in float: those in `keep`, and those that the recipe does not restrict it to.

    Raises TechniqueError and NothingToDo as `kept_layers` and `Technique.within` do.
    """
    names = list(dict.fromkeys(layers))
    out = set(kept_layers(step.technique, keep, names)) | (set(names) - set(step.within(names, context)))
    return [name for name in names if name in out]


def _meant(entry: str, names: list[str]) -> set[str]:
    if entry in names:
        return {entry}
    if entry in WORDS and names:
        return {names[0 if entry == "first" else -1]}
    return {name for name in names if fnmatchcase(name, entry)}


def file_layers(model: onnx.ModelProto) -> dict[str, str]:
    """The layers of a file in their order: the name of each node that has weights, with the name of its layer."""
    stored = stored_values(model)
    return {
        node.name: layer_name(node)
        for node in model.graph.node
        if node.op_type in WEIGHTED and any(name in stored for name in node.input[:2])
    }


def layer_name(node: onnx.NodeProto) -> str:
    """The torch module that a node comes from; without one, the owner of its weight, or the node itself."""
    scopes: Any = next((ast.literal_eval(row.value) for row in node.metadata_props if row.key == SCOPES), [])
    if len(scopes) > 1 and scopes[-2]:
        return str(scopes[-2])
    owner, _, what = node.input[1].rpartition(".") if len(node.input) > 1 else ("", "", "")
    return owner if owner and what.startswith("weight") else node.name


def tensor_layer(name: str, node: onnx.NodeProto) -> str:
    """The torch module that a stored tensor belongs to: its owner by name, else where the node comes from."""
    owner, _, last = name.rpartition(".")
    return owner if owner and ("weight" in last or last == "bias") else layer_name(node)


def stored_values(model: onnx.ModelProto) -> set[str]:
    """The values of a file that depend on stored tensors alone."""
    found = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        inputs = [name for name in node.input if name]
        if inputs and found.issuperset(inputs) and not any(a.HasField("g") or a.graphs for a in node.attribute):
            found.update(node.output)
    return found
