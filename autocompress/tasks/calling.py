"""Calling models whose inputs have names, or which return more than one tensor."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..data import input_names
from ..errors import TaskError, suggest
from .protocol import Task

COLLECTING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
LOGITS = "logits"  # what is taken of several outputs unless the task says otherwise


class Called(nn.Module):
    """A model that takes its inputs by name and gives one of its outputs, as a module of tensors alone.

    names: of the inputs in their order; none passes them by position. output: a key of a mapping, a field or position
    of a tuple, or None for a tensor.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...], output: str | int | None) -> None:
        super().__init__()
        self.model = model
        self._names, self._output = names, output

    def forward(self, *inputs: Tensor) -> Tensor:
        """The one output for inputs in their order."""
        named = dict(zip(self._names, inputs, strict=True)) if self._names else {}
        return one_output(self.model(**named) if named else self.model(*inputs), self._output)


def called(task: Task, model: nn.Module) -> nn.Module:
    """A task's model as a module that takes tensors by position and returns one; itself where it is one already.

    Raises TaskError where inputs have names that forward does not take.
    """
    names, output = input_names(task.split("validation")), getattr(task, "output", None)
    names = names if len(names) > 1 and names != _parameters(model)[: len(names)] else ()
    _check_names(model, names)
    return Called(model, names, output) if names or output is not None else model


def one_output(output: Any, name: str | int | None) -> Tensor:
    """The tensor of that name or position among what a model returned; by default the only one, or `logits`.

    Raises TaskError, with what there is, where it is not there.
    """
    if isinstance(output, Tensor) and name is None:
        return output
    found = named_outputs(output)
    wanted = name if name is not None else LOGITS if LOGITS in found else next(iter(found)) if len(found) == 1 else None
    value = found.get(wanted)
    if isinstance(value, Tensor):
        return value
    there = ", ".join(repr(key) for key, each in found.items() if isinstance(each, Tensor)) or "no tensor"
    named = f"no tensor {name!r}" if name is not None else "several outputs"
    raise TaskError(f"the model returned a {type(output).__name__} with {named}: name one by task.output: {there}")


def named_outputs(output: Any) -> dict[Any, Any]:
    """What a model returned, by key, field or position."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return {**dict(enumerate(output)), **dict(zip(output._fields, output, strict=True))}
    return dict(enumerate(output)) if isinstance(output, list | tuple) else {}


def _parameters(model: nn.Module) -> tuple[str, ...]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(name for name, each in inspect.signature(model.forward).parameters.items() if each.kind in kinds)


def _check_names(model: nn.Module, names: tuple[str, ...]) -> None:
    """Raise TaskError for a name that forward does not have, although it might swallow it among others."""
    parameters = inspect.signature(model.forward).parameters
    known = [name for name, each in parameters.items() if each.kind not in COLLECTING]
    anything = any(each.kind == inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    if anything and not known:
        return
    for name in names:
        if name not in known:
            raise TaskError(
                f"examples are mappings with an input {name!r}, which forward() does not take: "
                f"{suggest(name, known)}, or yield tuples in the order of forward()"
            )
