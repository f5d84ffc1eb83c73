"""Reading a search space from YAML, and checking that every recipe it could give is one."""

import itertools
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..config import FOLDERS
from ..documents import Document, Key, explain, read_yaml
from ..errors import ConfigError, RecipeError, suggest
from ..recipe import Choice, Range, Recipe, Step
from ..techniques import technique
from ..writing_out import MOST, ONLY, REPEAT, Layers, both, check_count, parse_only, parse_repeat, whole_times, wrapper
from .groups import NONE, Domain, Given, Group, Option, values_of
from .space import Space

VERSION = 1
GROUPS = ("any_order", "one_of")


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
    reader = _Reader(document)
    groups = tuple(reader.rows(rows, ("steps",), ()))
    _check_order(groups, reader.places, document)
    start = [] if data.get("start") is None else data["start"]
    if not isinstance(start, list) or not all(isinstance(row, dict) for row in start):
        raise ConfigError(f"{document.place(('start',))}: write a list of mappings of parameters to values")
    space = Space(str(path), groups, tuple(start), reader.times)
    for index, row in enumerate(start):
        _check_start(space, row, document, ("start", index))
    return space


class _Reader:
    """Reads rows to groups of techniques, repeats and restrictions written out, each under a name of its own.

    places: where each group stands. times: how often repeats run, by the parameter's name, where that is searched.
    """

    def __init__(self, document: Document) -> None:
        self._document, self._names, self._steps = document, set[str](), 0
        self.places: list[Key] = []
        self.times: dict[str, Domain] = {}

    def rows(self, rows: list[Any], at: Key, layers: Layers) -> Iterator[Group]:
        """The groups that a list of rows stands for."""
        for index, row in enumerate(rows):
            yield from self._row(row, (*at, index), layers)

    def _row(self, row: Any, at: Key, layers: Layers) -> Iterator[Group]:
        match wrapper(row):
            case "repeat":
                yield from self._repeat(row, at, layers)
            case "only":
                patterns, step = parse_only(row, self._document, at)
                yield from self._row(step, (*at, ONLY, "step"), both(layers, patterns, self._document, at))
            case _:
                group = self._group(row, at, layers)
                self._steps += len(group.options) if group.how == "any_order" else 1
                check_count(self._steps, self._document, at)
                self.places.append(at)
                yield group

    def _repeat(self, row: Mapping[str, Any], at: Key, layers: Layers) -> Iterator[Group]:
        value, rows = parse_repeat(row, self._document, at)
        times = self._parse_times(value, (*at, REPEAT, "times"))
        counts, name = values_of(times), ""
        if len(counts) > 1:
            name = f"{self._named(_numbered(REPEAT, at))}.times"
            self.times[name] = times
        for number in range(1, max(counts) + 1):
            for group in self.rows(rows, (*at, REPEAT, "steps"), layers):
                searched = ((name, number),) if number > min(counts) else ()
                yield replace(group, rounds=(*searched, *group.rounds))

    def _parse_times(self, value: Any, at: Key) -> Domain:
        domain = _parse_domain(value, self._document, at)
        if domain is None:
            return Choice(whole_times(value, self._document, at))
        ends = domain.values if isinstance(domain, Choice) else (domain.low, domain.high, domain.step or 1)
        for end in ends:
            if whole_times(end, self._document, at) > MOST:
                raise ConfigError(f"{self._document.place(at)}: {end!r}: write whole numbers from 1 to {MOST}")
        return domain

    def _group(self, row: Any, at: Key, layers: Layers) -> Group:
        place = self._document.place
        if isinstance(row, dict) and len(row) == 1 and next(iter(row)) in GROUPS:
            how = next(iter(row))
            rows = row[how]
            if not isinstance(rows, list) or not rows:
                raise ConfigError(f"{place((*at, how))}: {rows!r}: write a list of techniques")
            options = tuple(self._option(option, (*at, how, index), layers) for index, option in enumerate(rows))
            if how == "any_order" and None in options:
                raise ConfigError(f"{place((*at, how))}: 'none' belongs in one_of; any_order may leave out anyway")
            return Group(how, self._named(_numbered("choice", at)), options)
        option = self._option(row, at, layers)
        if option is None:
            raise ConfigError(f"{place(at)}: 'none' belongs in a one_of group")
        return Group("always", option.name, (option,))

    def _option(self, row: Any, at: Key, layers: Layers) -> Option | None:
        match wrapper(row):
            case "repeat":
                raise ConfigError(f"{self._document.place(at)}: a repeat stands in a row of its own: repeat the group")
            case "only":
                patterns, step = parse_only(row, self._document, at)
                return self._option(step, (*at, ONLY, "step"), both(layers, patterns, self._document, at))
        option = _parse_option(row, self._document, at, layers)
        return option and replace(option, name=self._named(option.name))

    def _named(self, name: str) -> str:
        """A name that nothing has yet: the second of a name is name_2."""
        numbers = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
        found = next(other for other in numbers if other not in self._names)
        self._names.add(found)
        return found


def _numbered(word: str, at: Key) -> str:
    """A word with the place of a row in its list, and in those around it."""
    numbers = [part for part in at if isinstance(part, int)]
    return "_".join([word, *map(str, numbers)])


def _parse_option(row: Any, document: Document, at: Key, layers: Layers) -> Option | None:
    if row == NONE:
        return None
    data = {"technique": row} if isinstance(row, str) else row
    if not isinstance(data, dict) or not isinstance(data.get("technique"), str):
        raise ConfigError(f"{document.place(at)}: {row!r}: write a technique, or {{technique: NAME, SETTING: ...}}")
    try:
        kind = technique(data["technique"])
    except RecipeError as error:
        raise ConfigError(f"{document.place(at)}: {error}") from None
    fixed: dict[str, Any] = {"layers": layers} if layers else {}
    searched = _own_domains(kind)
    for key, value in data.items():
        if key == "technique":
            continue
        if key == "layers":
            raise ConfigError(f"{document.place((*at, key))}: write only: {{layers: ..., step: {kind.technique}}}")
        if key not in kind.model_fields:
            known = suggest(key, kind.model_fields.keys() - {"layers"})
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


def _check_order(groups: tuple[Group, ...], places: list[Key], document: Document) -> None:
    """Every combination must be a valid recipe: check each pair of techniques that can stand in one, once."""
    default = [[_default_step(option) for option in group.options if option is not None] for group in groups]
    checked: set[tuple[str, str]] = set()
    for index, (group, steps) in enumerate(zip(groups, default, strict=True)):
        later = [step for rest in default[index + 1 :] for step in rest]
        beside = steps if group.how == "any_order" else []
        for position, step in enumerate(steps):
            others = later + [other for other in beside[position + 1 :] if step.result() == other.result() == "encode"]
            for other in others:
                if (step.technique, other.technique) in checked:
                    continue
                checked.add((step.technique, other.technique))
                try:
                    Recipe((step, other))
                except RecipeError as error:
                    raise ConfigError(f"{document.place(places[index])}: {error}") from None


def _default_step(option: Option) -> Step:
    first = {key: _edges(domain)[0] for key, domain in option.searched.items()}
    return option.kind.model_validate({**option.fixed, **first})


def _check_start(space: Space, row: dict[str, Any], document: Document, at: Key) -> None:
    trial = Given(row)
    try:
        space.sample(trial)
    except ValueError as error:
        raise ConfigError(f"{document.place(at)}: {error}") from None
    unknown = [key for key in row if key not in trial.taken]
    if unknown:
        raise ConfigError(f"{document.place((*at, unknown[0]))}: unknown parameter; {suggest(unknown[0], trial.taken)}")
