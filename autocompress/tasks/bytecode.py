"""What an object's code is made of, as one digest, where no file stands for it: in notebooks, scripts and shells."""

import functools
import hashlib
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import nn

from ..recipe import digest
from .code import code_digest

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), np.generic, np.dtype, torch.dtype, torch.device,
         PurePath, range, slice)  # fmt: skip
DEEPEST = 60  # levels of objects in objects
INSTALLED = {"site-packages", "dist-packages"}
# Of a torch module: what its state_dict and its structure tell, and what only hangs on whether it trains now.
OF_MODULES = {"_parameters", "_buffers", "_modules", "training"}

Seen = dict[int, tuple[str, Any]]  # what was said of an object, and the object, so that no other gets its number


def object_digest(thing: Any, apart: Sequence[Any] = ()) -> str:
    """A digest of an object's classes and functions, and of the numbers, tensors and functions that these use.

    Functions are taken as Python compiles them, so that comments and places do not count; what they name is followed,
    but for what is installed, which its name and version stand for. apart: objects that count elsewhere.
    """
    return digest(_told(thing, {id(other): ("apart", other) for other in apart}, 0))


def _told(thing: Any, seen: Seen, depth: int) -> str:
    if isinstance(thing, PLAIN):
        return f"{type(thing).__name__} {thing!r}"
    if depth > DEEPEST:
        return type(thing).__qualname__
    if id(thing) not in seen:
        seen[id(thing)] = (f"within {depth}", thing)
        said = [part if isinstance(part, str) else _told(part[0], seen, depth + 1) for part in _parts(thing)]
        seen[id(thing)] = (digest(said), thing)
    return seen[id(thing)][0]


def _parts(thing: Any) -> Iterator[str | tuple[Any]]:
    """What there is to say of an object: words, and other objects, each alone in a tuple."""
    if isinstance(thing, torch.Tensor):
        thing = thing.detach().cpu().contiguous()
        yield _numbers(str(thing.dtype), tuple(thing.shape), thing.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(thing, np.ndarray):
        yield _numbers(str(thing.dtype), thing.shape, repr(thing.tolist()).encode() if thing.dtype.hasobject
                       else np.ascontiguousarray(thing).tobytes())  # fmt: skip
    elif isinstance(thing, types.ModuleType):
        yield _version(thing.__name__) if _installed(thing.__name__) else _file(thing)
    elif isinstance(thing, types.CodeType):
        yield f"code {thing.co_code.hex()} {thing.co_names}"
        yield from ((constant,) for constant in thing.co_consts)
    elif isinstance(thing, types.FunctionType):
        yield from _function(thing)
    elif isinstance(thing, types.MethodType):
        yield from ((thing.__func__,), (thing.__self__,))
    elif isinstance(thing, types.BuiltinFunctionType):  # also a method of a list or dictionary
        yield f"{thing.__module__} {thing.__qualname__}"
        yield from () if isinstance(thing.__self__, types.ModuleType | type(None)) else ((thing.__self__,),)
    elif isinstance(thing, type):
        yield from _class(thing)
    elif isinstance(thing, Mapping):
        yield from (part for key in sorted(thing, key=repr) for part in ((key,), (thing[key],)))
    elif isinstance(thing, list | tuple):
        yield from ((value,) for value in thing)
    elif isinstance(thing, set | frozenset):
        yield from ((value,) for value in sorted(thing, key=repr))
    else:
        yield from _instance(thing)


def _numbers(kind: str, shape: tuple[int, ...], data: bytes) -> str:
    return f"{kind} {shape} {hashlib.blake2b(data, digest_size=16).hexdigest()}"


def _function(function: types.FunctionType) -> Iterator[str | tuple[Any]]:
    if _installed(function.__module__):
        yield f"{_version(function.__module__)} {function.__qualname__}"
        return
    yield from ((function.__code__,), (function.__defaults__,), (function.__kwdefaults__,))
    for cell in function.__closure__ or ():
        try:
            yield (cell.cell_contents,)
        except ValueError:  # named, but not there yet
            yield "empty"
    names = sorted(set(_names(function.__code__)) & function.__globals__.keys())
    yield from ((function.__globals__[name],) for name in names)


def _names(code: types.CodeType) -> Iterator[str]:
    """The names that code, and code within it, looks up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _class(found: type) -> Iterator[str | tuple[Any]]:
    if _installed(found.__module__):
        yield f"{_version(found.__module__)} {found.__qualname__}"
        return
    yield found.__qualname__
    yield from ((base,) for base in found.__bases__)
    for name, value in sorted(vars(found).items()):
        if isinstance(value, types.FunctionType) or not (name.startswith("__") or name == "_abc_impl"):
            yield name
            yield (value,)


def _instance(thing: Any) -> Iterator[str | tuple[Any]]:
    """Its class, what it holds, and the function that it wraps, as static methods, properties and caches do."""
    yield from ((type(thing),), str(getattr(thing, "__qualname__", getattr(thing, "__name__", ""))))
    if isinstance(thing, nn.Module):
        yield re.sub(r" at 0x[0-9a-f]+", "", repr(thing))
        yield from ((child,) for child in thing.children())
    if isinstance(thing, functools.partial):
        yield from ((thing.func,), (thing.args,), (thing.keywords,))
    wrapped = (getattr(thing, name, None) for name in ("__func__", "__wrapped__", "fget", "fset"))
    yield from ((function,) for function in wrapped if isinstance(function, types.FunctionType))
    for name, value in sorted(getattr(thing, "__dict__", {}).items()):
        if not (isinstance(thing, nn.Module) and (name in OF_MODULES or "_hooks" in name)):
            yield name
            yield (value,)


def _installed(name: str | None) -> bool:
    """Whether a module is Python's, ours, or came with a package; what no module is named for is the user's."""
    top = (name or "__main__").partition(".")[0]
    if top in sys.stdlib_module_names or top in ("builtins", "autocompress"):
        return True
    place = getattr(sys.modules.get(name or "__main__"), "__file__", None)
    return top != "__main__" and place is not None and bool(INSTALLED & set(Path(place).parts))


def _version(name: str) -> str:
    return f"{name} {getattr(sys.modules.get(name.partition('.')[0]), '__version__', '')}"


def _file(module: types.ModuleType) -> str:
    place = Path(getattr(module, "__file__", None) or "")
    return f"{module.__name__} {code_digest(place, place.parent) if place.is_file() else ''}"
