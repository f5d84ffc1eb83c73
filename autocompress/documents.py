"""YAML and JSON as autocompress reads them: safe, bounded, no duplicate keys, errors with file and line.

Numbers and booleans of YAML are those of version 1.2.
"""

import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from .errors import AutocompressError, ConfigError, suggest
from .reading import TEXT_BYTES, Unreadable, read_file

MAX_NODES = 20_000
MAX_DEPTH = 100  # levels of JSON: less than any function that walks over it can take
Model = TypeVar("Model", bound=BaseModel)
Key = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """A SafeLoader with the core schema of YAML 1.2, where `no` is a word and `1e-3` is a number."""

    composed = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node; stops early where there are more than any document may hold, keys counted too."""
        self.composed += 1
        if self.composed > 2 * MAX_NODES + 1:
            raise _TooMany
        return super().compose_node(parent, index)


class _TooMany(Exception):
    """More nodes than any document may hold."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    # PyYAML would read 010 as octal, as YAML 1.1 did.
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "bool", "null", "int", "float")}


@dataclass(frozen=True)
class Document:
    """What a YAML file says, and on which line it says it."""

    source: str
    data: dict[str, Any]
    lines: Mapping[Key, int] = field(default_factory=dict)

    def place(self, key: Key) -> str:
        """Where a key stands, as `file:line: dotted.key`."""
        line = next((self.lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in self.lines), None)
        dotted = ".".join(str(part) for part in key)
        return f"{self.source}{f':{line}' if line else ''}" + (f": {dotted}" if dotted else "")


def read_yaml(path: Path) -> Document:
    """Read one YAML mapping. Raises ConfigError for anything but a readable, plain, modest mapping."""
    try:
        text = read_file(path, TEXT_BYTES).decode()
    except Unreadable as error:
        raise ConfigError(str(error)) from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder: name the YAML file in it") from None
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file: check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Document:
    """The same for text that is already here; `source` names it in errors."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            raise ConfigError(f"{source}: is empty: write a mapping of keys to values")
        lines: dict[Key, int] = {}
        _check(node, (), lines, source, [0])
        loader = _Loader("")
        try:
            data = loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{where}: is not plain YAML: {problem}") from None
    except (ValueError, KeyError) as error:  # !!int on a word, or thousands of digits
        raise ConfigError(f"{source}: holds a value that its type cannot: {_shown(str(error))}") from None
    except _TooMany:
        raise ConfigError(f"{source}: holds more than {MAX_NODES} values: write less") from None
    except RecursionError:
        raise ConfigError(f"{source}: is nested too deeply to be a config") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: holds a {type(data).__name__}: write a mapping of keys to values")
    return Document(source, data, lines)


def read_json(path: Path, most: int) -> Any:
    """The value of a JSON file of at most `most` bytes.

    Raises ConfigError for what is no such file, NaN and infinities, duplicate keys and deep nesting.
    """
    try:
        data = json.loads(read_file(path, most).decode(), parse_constant=_no_constant, object_pairs_hook=_distinct)
        _check_depth(data)
    except Unreadable as error:
        raise ConfigError(str(error)) from None
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file: check the path") from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply") from None
    except (OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are values' errors
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from None
    return data


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no number that JSON knows")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:  # readers differ in which of the two they take
            raise ValueError(f"key {key!r} stands twice")
        found[key] = value
    return found


def _check_depth(data: Any) -> None:
    level = [data]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise RecursionError


def _check(node: yaml.Node, key: Key, lines: dict[Key, int], source: str, count: list[int]) -> None:
    """Refuse duplicate keys, foreign tags and alias bombs, and note the line of every key."""
    line = node.start_mark.line + 1
    lines.setdefault(key, line)
    count[0] += 1
    if count[0] > MAX_NODES:
        raise ConfigError(f"{source}: aliases unfold to more than {MAX_NODES} values: write the values out")
    if node.tag not in PLAIN:
        raise ConfigError(f"{source}:{line}: tag {node.tag!r} is not allowed: configs hold plain values only")
    if isinstance(node, yaml.MappingNode):
        seen: set[Hashable] = set()
        for name, value in node.value:
            at = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode):
                raise ConfigError(f"{source}:{at}: a key must be a word, not a list or a mapping")
            if name.tag != "tag:yaml.org,2002:str":
                raise ConfigError(f"{source}:{at}: key {name.value!r}: a key must be a word: put it in quotes if it is")
            if name.value in seen:
                raise ConfigError(f"{source}:{at}: key {name.value!r} stands twice: keep one of them")
            seen.add(name.value)
            lines[(*key, name.value)] = at
            _check(value, (*key, name.value), lines, source, count)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _check(value, (*key, index), lines, source, count)


def validate(model: type[Model], document: Document, at: Key = ()) -> Model:
    """Check a document, or the part of it at a key, against a pydantic model.

    Raises ConfigError with one line that names file, line, key, value, rule and fix.
    """
    data: Any = document.data
    for part in at:
        data = data[part]
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, model, document, at)) from None


def explain(error: ValidationError, model: type[BaseModel], document: Document, at: Key = ()) -> str:
    """One line for the first thing that pydantic found, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    key = _written(first["loc"], document.data, at)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        parent = _fields_at(model, first["loc"][:-1])
        message = f"unknown key; {suggest(str(first['loc'][-1]), parent)}"
    elif first["type"] == "missing":
        message = "this key is required: add it"
    elif not isinstance(first.get("ctx", {}).get("error"), AutocompressError | ValueError):
        message = f"{_shown(first['input'])}: {message[:1].lower()}{message[1:]}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{document.place(key)}: {message}{more}"


def _written(location: Key, data: Any, at: Key) -> Key:
    """The key behind a location: without the names of union members, which pydantic adds and users never wrote."""
    for part in at:
        data = data[part]
    key = at
    for index, part in enumerate(location):
        inside = isinstance(part, int) if isinstance(data, list | tuple) else isinstance(data, Mapping) and part in data
        if inside:
            data = data[part]
        if inside or (isinstance(data, Mapping) and index == len(location) - 1):  # the last may be missing
            key = (*key, part)
    return key


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fields_at(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    current: type[BaseModel] = model
    for part in location:
        info = current.model_fields.get(str(part))
        inner = [c for c in _candidates(info.annotation) if issubclass(c, BaseModel)] if info else []
        if not inner:
            break
        current = inner[0]
    return [info.alias or name for name, info in current.model_fields.items()]


def _candidates(annotation: Any) -> list[type]:
    arguments = getattr(annotation, "__args__", ())
    return [a for a in (annotation, *arguments) if isinstance(a, type)]
