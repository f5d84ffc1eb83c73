"""Search spaces: which techniques, settings and orders may be sampled, and how a recipe is drawn from them."""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from ..errors import ConfigError
from ..recipe import Choice, Range, Recipe, Step

NONE = "none"
Domain = Range | Choice


class Suggester(Protocol):
    """The part of an Optuna trial that sampling needs."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = ..., log: bool = ...) -> float:
        """A float."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = ..., log: bool = ...) -> int:
        """An integer."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""


class _Given:
    """A trial whose values are given."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = row

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> Any:
        """The given value."""
        return self._row[name]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> Any:
        """The given value."""
        return self._row[name]

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The given value."""
        return self._row[name]


@dataclass(frozen=True)
class Option:
    """One step that may be sampled: its class, its fixed settings and where the others are looked for."""

    name: str
    kind: type[Step]
    fixed: dict[str, Any]
    searched: dict[str, Domain]

    def sample(self, trial: Suggester) -> Step:
        """A step with every searched setting suggested, under the name `option.setting`."""
        settings = {key: _suggest(trial, f"{self.name}.{key}", domain) for key, domain in self.searched.items()}
        return self.kind.model_validate({**self.fixed, **_native(self.kind, settings)})


@dataclass(frozen=True)
class Group:
    """Options of which any, in any order, or exactly one is taken; `always` is a single step that every recipe has."""

    how: Literal["any_order", "one_of", "always"]
    name: str
    options: tuple[Option | None, ...]


@dataclass(frozen=True)
class Space:
    """Groups in the order in which their steps run, and parameters of the trials to start with."""

    source: str
    groups: tuple[Group, ...]
    start: tuple[dict[str, Any], ...] = ()

    def sample(self, trial: Suggester) -> Recipe:
        """A recipe. Every parameter is suggested every time, used or not, so that all samplers see one fixed space."""
        return Recipe(tuple(step for group in self.groups for step in _sample_group(group, trial)))

    def options(self) -> dict[str, Option]:
        """Every option by its name."""
        return {option.name: option for group in self.groups for option in group.options if option is not None}

    def without(self, reasons: Mapping[str, str]) -> "Space":
        """The space without the options of these names, which cannot be applied for these reasons.

        Start points lose what they say of them, or go where one of them is what they chose. Raises ConfigError for a
        step that stands in every recipe, and where nothing is left.
        """
        if not reasons.keys() & self.options().keys():
            return self
        groups = tuple(left for group in self.groups if (left := _without(group, reasons, self.source)) is not None)
        made = Space(self.source, groups)
        if not made.options():
            why = "; ".join(reasons.values())
            raise ConfigError(f"{self.source}: none of its techniques can be applied to this model: {why}")
        names = made.parameters()
        chosen = {group.name for group in self.groups if group.how == "one_of"}
        start = [
            {key: value for key, value in row.items() if key in names}
            for row in self.start
            if not any(row.get(name) in reasons for name in chosen)
        ]
        return replace(made, start=tuple(row for index, row in enumerate(start) if row not in start[:index]))

    def parameters(self) -> set[str]:
        """The names of all parameters that a trial suggests."""
        return {name for group in self.groups for name in _parameters(group)}

    def recipe(self, row: Mapping[str, Any]) -> Recipe:
        """The recipe of a row of parameters, which holds all of them."""
        return self.sample(_Given(row))

    def taken(self, row: Mapping[str, Any]) -> list[Option]:
        """The options whose steps a row of parameters gives, in the order of the steps."""
        return [option for group in self.groups for option in _taken(group, row)]

    def active(self, row: Mapping[str, Any]) -> set[str]:
        """The parameters that a row uses: others may have any value."""
        return {name for group in self.groups for name in _active(group, row)}

    def stages(self, row: Mapping[str, Any]) -> list[tuple[Hashable, float]]:
        """The trained stages of a row: for each, what tells it from others, and the epochs of its last training."""
        found: list[tuple[Hashable, float]] = []
        steps: list[Hashable] = []
        for option in self.taken(row):
            settings = {key: row[f"{option.name}.{key}"] for key in option.searched}
            steps.append((option.kind.technique, tuple(settings.items()), str(option.fixed)))
            if option.kind.kind == "train":
                epochs = {**option.fixed, **settings}.get("epochs", option.kind.model_fields["epochs"].default)
                found.append((tuple(steps), float(epochs)))
        return found

    def leaves(self, row: Mapping[str, Any]) -> set[str]:
        """The parameters of the groups after the last training: with others of them, that need not be done again."""
        names: set[str] = set()
        for group in reversed(self.groups):
            if any(option.kind.kind == "train" for option in _taken(group, row)):
                break
            names.update(_parameters(group))
        return names

    def count(self) -> float:
        """How many recipes the space holds; infinite where a setting is continuous."""
        return math.prod(_count_group(group) for group in self.groups)


def _without(group: Group, reasons: Mapping[str, str], source: str) -> Group | None:
    """A group without options; None where nothing is left to choose."""
    left = tuple(option for option in group.options if option is None or option.name not in reasons)
    if group.how == "always" and not left:
        raise ConfigError(
            f"{source}: every recipe has the step {group.name}, which cannot be applied to this model: "
            f"{reasons[group.name]}: take it out of the space"
        )
    return replace(group, options=left) if any(left) else None


def _parameters(group: Group) -> Iterator[str]:
    options = [option for option in group.options if option is not None]
    for option in options:
        yield from (f"{option.name}.{key}" for key in option.searched)
        if group.how == "any_order":
            yield option.name
            if len(options) > 1:
                yield f"{option.name}.position"
    if group.how == "one_of" and len(group.options) > 1:
        yield group.name


def _taken(group: Group, row: Mapping[str, Any]) -> list[Option]:
    options = [option for option in group.options if option is not None]
    if group.how == "always":
        return options
    if group.how == "one_of":
        chosen = row[group.name] if len(group.options) > 1 else next(iter(group.options), None)
        return [option for option in options if option.name == chosen or option is chosen]
    inside = [option for option in options if row[option.name]]
    return sorted(inside, key=lambda o: (o.kind.result() == "encode", row.get(f"{o.name}.position", 0.0), o.name))


def _active(group: Group, row: Mapping[str, Any]) -> Iterator[str]:
    taken = _taken(group, row)
    if group.how == "one_of" and len(group.options) > 1:
        yield group.name
    if group.how == "any_order":
        yield from (option.name for option in group.options if option is not None)
        if len(taken) > 1:
            yield from (f"{option.name}.position" for option in taken)
    for option in taken:
        yield from (f"{option.name}.{key}" for key in option.searched)


def _suggest(trial: Suggester, name: str, domain: Domain) -> Any:
    match domain:
        case Choice(values=values):
            return trial.suggest_categorical(name, values)
        case Range(low=low, high=high, step=step, log=log) if domain.whole:
            return trial.suggest_int(name, int(low), int(high), step=int(step or 1), log=log)
        case Range(low=low, high=high, step=step, log=log):
            return trial.suggest_float(name, low, high, step=step, log=log)


def _native(kind: type[Step], settings: dict[str, Any]) -> dict[str, Any]:
    """Steps such as 0.1 leave digits that nobody wrote: 0.30000000000000004 is 0.3."""
    return {key: round(value, 12) if isinstance(value, float) else value for key, value in settings.items()}


def _sample_group(group: Group, trial: Suggester) -> list[Step]:
    drawn = [(option, option.sample(trial)) for option in group.options if option is not None]
    if group.how == "always":
        return [step for _, step in drawn]
    if group.how == "one_of":
        names = [option.name if option else NONE for option in group.options]
        chosen = trial.suggest_categorical(group.name, names) if len(names) > 1 else names[0]
        return [step for option, step in drawn if option.name == chosen]
    rows = []
    for option, step in drawn:
        inside = trial.suggest_categorical(option.name, [True, False])
        # Random keys (Bean, 1994): the order of the steps is the order of these numbers.
        position = trial.suggest_float(f"{option.name}.position", 0.0, 1.0) if len(drawn) > 1 else 0.0
        if inside:
            rows.append((step.result() == "encode", position, option.name, step))
    return [row[-1] for row in sorted(rows, key=lambda row: row[:3])]


def _count_option(option: Option | None) -> float:
    return 1.0 if option is None else math.prod(_count_domain(domain) for domain in option.searched.values())


def _count_domain(domain: Domain) -> float:
    if isinstance(domain, Choice):
        return len(domain.values)
    step = domain.step or (1 if domain.whole else None)
    return math.inf if step is None else math.floor((domain.high - domain.low) / step + 1e-9) + 1


def _count_group(group: Group) -> float:
    counts = [_count_option(option) for option in group.options]
    if group.how == "always":
        return counts[0]
    if group.how == "one_of":
        return sum(counts)
    # Subsets of k options come in k! orders: elementary symmetric polynomials of the counts, weighted.
    sums = [1.0] + [0.0] * len(counts)
    for value in counts:
        for size in range(len(counts), 0, -1):
            sums[size] += sums[size - 1] * value
    return sum(math.factorial(size) * total for size, total in enumerate(sums) if total)
