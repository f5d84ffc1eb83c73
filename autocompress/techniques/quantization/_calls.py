"""The calls of torch functions that a model makes, named so that they are found again whenever it runs.

A call is named after the module that makes it and the function, counted in this module: `layer1.0:add.0`.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten


@dataclass(frozen=True)
class Call:
    """One call: its function, the module that made it, and the names of the values that it reads and makes.

    reads has None for a tensor that no call made, such as a parameter; first is the value that comes first.
    """

    function: str
    module: str
    first: str | None
    reads: tuple[str, ...]
    makes: tuple[str, ...]


# Told the name of a call, its function, its module, what it was given and what it made; returns what goes on.
Visit = Callable[[str, str, str, Any, Any], Any]


class Calls(TorchFunctionMode):
    """A mode that shows every call that makes float tensors to `visit`, which may put others in their place."""

    def __init__(self, visit: Visit) -> None:
        super().__init__()
        self.visit, self.modules = visit, [""]
        self.counts: Counter[tuple[str, str]] = Counter()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call, name it, and show what it made; a silu is shown as the two calls that files make of it."""
        if function is torch.nn.functional.silu:
            gate = self.__torch_function__(torch.sigmoid, types, args[:1])
            return self.__torch_function__(torch.mul, types, (args[0], gate))
        made = function(*args, **(kwargs or {}))
        if not any(is_value(part) for part in (made if isinstance(made, list | tuple) else [made])):
            return made
        module, name = self.modules[-1], getattr(function, "__name__", "call").strip("_")
        count = self.counts[module, name]
        self.counts[module, name] += 1
        return self.visit(f"{module}:{name}.{count}", name, module, (args, kwargs or {}), made)


def is_value(value: Any) -> bool:
    """Whether something is a tensor of floats."""
    return isinstance(value, Tensor) and value.is_floating_point()


@contextlib.contextmanager
def watching(model: nn.Module, calls: Calls) -> Iterator[None]:
    """The calls that the model makes meanwhile, with the names of its modules."""
    # By their attributes, which stay the same where torch's exporter puts proxies in the place of modules.
    names = {id(vars(module)): name for name, module in model.named_modules()}

    def enter(module: nn.Module, _: Any) -> None:
        """The module that calls from now on."""
        calls.modules.append(names.get(id(vars(module)), calls.modules[-1]))

    def leave(*_: Any) -> None:
        """The module before it calls again."""
        calls.modules.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        with calls:
            yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class Trace:
    """All calls of one run of a model in their order, and the values that are its outputs."""

    calls: list[Call] = field(default_factory=list)
    outputs: set[str] = field(default_factory=set)

    def readers(self, value: str) -> list[Call]:
        """The calls that read a value."""
        return [call for call in self.calls if value in call.reads]

    def of(self, module: str) -> list[Call]:
        """The calls that a module makes."""
        return [call for call in self.calls if call.module == module]


def trace(model: nn.Module, example: tuple[Tensor, ...]) -> Trace:
    """Run a model once and write down its calls. Inputs are values named `input.0` and so on."""
    found, made = Trace(), dict[int, str]()
    alive: list[Any] = []  # an identity must not be that of a tensor that is gone

    def visit(key: str, name: str, module: str, given: Any, result: Any) -> Any:
        """Write one call down, and the values that it makes."""
        tensors = [part for part in tree_flatten(given)[0] if isinstance(part, Tensor)]
        reads = [made[id(tensor)] for tensor in tensors if id(tensor) in made]
        first = made.get(id(tensors[0])) if tensors else None
        parts = value_names(key, result)
        made.update((id(part), value) for value, part in parts.items())
        alive.append((given, result))
        found.calls.append(Call(name, module, first, tuple(reads), tuple(parts)))
        return result

    made.update((id(tensor), f"input.{index}") for index, tensor in enumerate(example) if is_value(tensor))
    with torch.no_grad(), watching(model, Calls(visit)):
        output = model(*example)
    found.outputs = {made[id(part)] for part in tree_flatten(output)[0] if id(part) in made}
    return found


def value_names(key: str, made: Any) -> dict[str, Tensor]:
    """The float tensors that a call made, by name."""
    if isinstance(made, Tensor):
        return {key: made}
    return {f"{key}.{index}": part for index, part in enumerate(made) if is_value(part)}
