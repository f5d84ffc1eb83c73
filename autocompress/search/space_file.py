"""Reading a search space from YAML, and checking that every recipe it could give is one."""

import math
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..config import FOLDERS
from ..documents import Document, explain, read_yaml
from ..errors import ConfigError, RecipeError, suggest
from ..recipe import Choice, Range, Recipe, Step
from ..techniques import technique
from .space import NONE, Domain, Group, Option, Space

VERSION = 1
GROUPS = ("any_order", "one_of")
Key = tuple[str | int, ...]


def find_space(name: str, root: Path) -> Path:
    """The file that a config's `search_space` means: a bundled name, or a path that starts at the config's folder."""
    bundled = FOLDERS["search_spaces"] / f"{name}.yaml"
    path = root / name
    if path.exists() and not path.is_dir():  # what is no regular file is refused by name when it is read
        return path
    if "/" not in name and bundled.is_file():
        return bundled
    known = [found.stem for found in FOLDERS["search_spaces"].glob("*.yaml")]
    raise ConfigError(f"search_space: {name!r} is no file and no bundled space; {suggest(name, known)}")


def load_space(path: Path) -> Space:
    """Read and check a search space. Raises ConfigError."""
    document = read_yaml(path)
    data = document.data
    if data.get("version") != VERSION:
        raise ConfigError(f"{document.place(('version',))}: {data.get('version')!r}: write `version: {VERSION}`")
    unknown = [key for key in data if key not in ("version", "about", "steps", "start")]
    if unknown:
        known = suggest(unknown[0], ("version", "about", "steps", "start"))
        raise ConfigError(f"{document.place((unknown[0],))}: unknown key; {known}")
    rows = data.get("steps")
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"{document.place(('steps',))}: {rows!r}: write a list of steps or groups of steps")
    groups = tuple(_parse_group(row, document, ("steps", index)) for index, row in enumerate(rows))
    _check_order(groups, document)
    _check_names(groups, document)
    start = [] if data.get("start") is None else data["start"]
    if not isinstance(start, list) or not all(isinstance(row, dict) for row in start):
        raise ConfigError(f"{document.place(('start',))}: write a list of mappings of parameters to values")
    space = Space(str(path), groups, tuple(start))
    for index, row in enumerate(start):
        _check_start(space, row, document, ("start", index))
    return space


def _parse_group(row: Any, document: Document, at: Key) -> Group:
    if isinstance(row, dict) and len(row) == 1 and next(iter(row)) in GROUPS:
        how = next(iter(row))
        options = row[how]
        if not isinstance(options, list) or not options:
            raise ConfigError(f"{document.place((*at, how))}: {options!r}: write a list of techniques")
        parsed = tuple(_parse_option(option, document, (*at, how, index)) for index, option in enumerate(options))
        if how == "any_order" and None in parsed:
            raise ConfigError(f"{document.place((*at, how))}: 'none' belongs in one_of; any_order may leave out anyway")
        return Group(how, f"choice_{at[-1]}", parsed)
    option = _parse_option(row, document, at)
    if option is None:
        raise ConfigError(f"{document.place(at)}: 'none' belongs in a one_of group")
    return Group("always", option.name, (option,))


def _parse_option(row: Any, document: Document, at: Key) -> Option | None:
    if row == NONE:
        return None
    data = {"technique": row} if isinstance(row, str) else row
    if not isinstance(data, dict) or not isinstance(data.get("technique"), str):
        raise ConfigError(f"{document.place(at)}: {row!r}: write a technique, or {{technique: NAME, SETTING: ...}}")
    try:
        kind = technique(data["technique"])
    except RecipeError as error:
        raise ConfigError(f"{document.place(at)}: {error}") from None
    fixed: dict[str, Any] = {}
    searched = _own_domains(kind)
    for key, value in data.items():
        if key == "technique":
            continue
        if key not in kind.model_fields:
            known = suggest(key, kind.model_fields)
            raise ConfigError(f"{document.place((*at, key))}: {kind.technique} has no setting {key!r}; {known}")
        searched.pop(key, None)
        domain = _parse_domain(value, document, (*at, key))
        if domain is None:
            fixed[key] = value
        else:
            searched[key] = domain
    _check_settings(kind, fixed, searched, document, at)
    return Option(data["technique"], kind, fixed, searched)


def _own_domains(kind: type[Step]) -> dict[str, Domain]:
    """Where a technique itself says that its settings may be looked for."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found = {}
    for name in kind.model_fields:
        for extra in getattr(hints.get(name), "__metadata__", ()):
            if isinstance(extra, Range | Choice):
                found[name] = extra
    return found


def _parse_domain(value: Any, document: Document, at: Key) -> Domain | None:
    if isinstance(value, list):
        if not value:
            raise ConfigError(f"{document.place(at)}: an empty list leaves nothing to choose: write values")
        return Choice(*value)
    if not isinstance(value, Mapping):
        return None
    unknown = [key for key in value if key not in ("low", "high", "step", "log")]
    if unknown or not {"low", "high"} <= value.keys():
        raise ConfigError(
            f"{document.place(at)}: {dict(value)!r}: write {{low: A, high: B}}, with step or log if wanted"
        )
    numbers = [value[key] for key in ("low", "high", "step") if key in value]
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        raise ConfigError(f"{document.place(at)}: {dict(value)!r}: low, high and step are numbers")
    if not isinstance(value.get("log", False), bool):
        raise ConfigError(f"{document.place(at)}: {dict(value)!r}: log is true or false")
    if value["low"] > value["high"] or value.get("step", 1) <= 0:
        raise ConfigError(f"{document.place(at)}: {dict(value)!r}: low is at most high, and step positive")
    if value.get("log", False) and (value["low"] <= 0 or "step" in value):
        raise ConfigError(f"{document.place(at)}: {dict(value)!r}: a log range starts above 0 and has no step")
    return Range(value["low"], value["high"], value.get("step"), bool(value.get("log", False)))


def _check_settings(
    kind: type[Step], fixed: dict[str, Any], searched: dict[str, Domain], document: Document, at: Key
) -> None:
    """Every value that could be sampled must be one that the technique takes: try ends, middles and choices."""
    first = {key: _edges(domain)[0] for key, domain in searched.items()}
    trials = [({**fixed, **first}, ())] + [
        ({**fixed, **first, key: value}, (key,)) for key, domain in searched.items() for value in _edges(domain)
    ]
    for settings, _ in trials:
        try:
            kind.model_validate(settings)
        except ValidationError as error:
            raise ConfigError(explain(error, kind, document, at)) from None


def _edges(domain: Domain) -> tuple[Any, ...]:
    if isinstance(domain, Choice):
        return domain.values
    # A whole-numbered setting takes 1 and 3, but not what lies between where the range is not one of whole numbers.
    between = domain.low + domain.step if domain.step else domain.low if domain.whole else _inside(domain)
    return (domain.low, min(between, domain.high), domain.high)


def _inside(domain: Range) -> float:
    """A number of a continuous range that is hardly a round one."""
    return domain.low + (domain.high - domain.low) / math.pi


def _check_order(groups: tuple[Group, ...], document: Document) -> None:
    """Every combination must be a valid recipe: check each pair of steps that can stand in one."""
    default = [[_default_step(option) for option in group.options if option is not None] for group in groups]
    for index, (group, steps) in enumerate(zip(groups, default, strict=True)):
        later = [step for rest in default[index + 1 :] for step in rest]
        beside = steps if group.how == "any_order" else []
        for position, step in enumerate(steps):
            others = later + [other for other in beside[position + 1 :] if step.result() == other.result() == "encode"]
            for other in others:
                try:
                    Recipe((step, other))
                except RecipeError as error:
                    raise ConfigError(f"{document.place(('steps', index))}: {error}") from None


def _default_step(option: Option) -> Step:
    first = {key: _edges(domain)[0] for key, domain in option.searched.items()}
    return option.kind.model_validate({**option.fixed, **first})


def _check_names(groups: tuple[Group, ...], document: Document) -> None:
    names = [option.name for group in groups for option in group.options if option is not None]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{document.place(('steps',))}: {twice[0]!r} stands twice: name each technique once")


def _check_start(space: Space, row: dict[str, Any], document: Document, at: Key) -> None:
    recorder = _Recorder(row)
    try:
        space.sample(recorder)
    except ValueError as error:
        raise ConfigError(f"{document.place(at)}: {error}") from None
    unknown = [key for key in row if key not in recorder.names]
    if unknown:
        raise ConfigError(
            f"{document.place((*at, unknown[0]))}: unknown parameter; {suggest(unknown[0], recorder.names)}"
        )


class _Recorder:
    """A trial whose values are given: fills gaps with the first allowed value, refuses values out of range."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given, self.names = given, list[str]()

    def _take(self, name: str, default: Any, allowed: bool) -> Any:
        self.names.append(name)
        if name in self.given and not allowed:
            raise ValueError(f"{name}: {self.given[name]!r} is not in the space")
        return self.given.get(name, default)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """The given number, or the lowest."""
        value = self.given.get(name, low)
        return float(self._take(name, low, isinstance(value, int | float) and low <= value <= high))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """The given whole number, or the lowest."""
        value = self.given.get(name, low)
        return int(self._take(name, low, isinstance(value, int) and low <= value <= high and (value - low) % step == 0))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The given choice, or the first."""
        return self._take(name, choices[0], self.given.get(name, choices[0]) in choices)
