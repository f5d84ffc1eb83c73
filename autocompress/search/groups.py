"""Groups of a search space: options with the settings that are searched, and the steps that are drawn from them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, takewhile
from typing import Any, Literal, Protocol

from ..recipe import Choice, Range, Step

NONE = "none"
RATE = "learning_rate"
Domain = Range | Choice


class Suggester(Protocol):
    """The part of an Optuna trial that sampling needs."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = ..., log: bool = ...) -> float:
        """A float."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = ..., log: bool = ...) -> int:
        """An integer."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""


@dataclass(frozen=True)
class Option:
    """One step that may be sampled: its class, its fixed settings and where the others are looked for."""

    name: str
    kind: type[Step]
    fixed: dict[str, Any]
    searched: dict[str, Domain]

    @cached_property
    def names(self) -> tuple[tuple[str, str], ...]:
        """Each searched setting, and the name of its parameter."""
        return tuple((key, f"{self.name}.{key}") for key in self.searched)

    @cached_property
    def told(self) -> str:
        """The fixed settings as text."""
        return str(self.fixed)

    def at_rates(self, factor: float) -> "Option":
        """The option with its learning rate, fixed or searched, multiplied by a factor; itself where it trains none."""
        if RATE not in self.kind.model_fields:
            return self
        domain = self.searched.get(RATE)
        if domain is None:
            rate = self.fixed.get(RATE, self.kind.model_fields[RATE].default)
            return replace(self, fixed={**self.fixed, RATE: rate * factor})
        if isinstance(domain, Choice):
            scaled: Domain = Choice(*(value * factor for value in domain.values))
        else:
            scaled = Range(domain.low * factor, domain.high * factor, domain.step and domain.step * factor, domain.log)
        return replace(self, searched={**self.searched, RATE: scaled})

    def sample(self, trial: Suggester) -> Step:
        """A step with every searched setting suggested, under the name `option.setting`."""
        settings = {key: suggest(trial, f"{self.name}.{key}", domain) for key, domain in self.searched.items()}
        return self.kind.model_validate({**self.fixed, **_native(self.kind, settings)})


@dataclass(frozen=True)
class Group:
    """Options of which any, in any order, or exactly one is taken; `always` is a single step that every recipe has.

    rounds: of each repeat around it whose number of times is searched, outermost first, the name of that parameter and
    in which time this group stands: it is in where the parameter is at least that. What is repeated anyway has none.
    """

    how: Literal["any_order", "one_of", "always"]
    name: str
    options: tuple[Option | None, ...]
    rounds: tuple[tuple[str, int], ...] = ()

    @cached_property
    def present(self) -> tuple[Option, ...]:
        """The options that are a step."""
        return tuple(option for option in self.options if option is not None)

    def runs(self, parameters: Mapping[str, Any]) -> bool:
        """Whether repeats come to it."""
        return not self.rounds or self.reached(parameters, None)

    def reached(self, parameters: Mapping[str, Any], inner: str | None) -> bool:
        """Whether repeats come to the one of these around it whose number of times is the parameter `inner`."""
        outside = takewhile(lambda round_: round_[0] != inner, self.rounds)
        return all(parameters.get(name, 0) >= number for name, number in outside)


def parameters_of(group: Group) -> Iterator[str]:
    """The names of all parameters of a group."""
    options = [option for option in group.options if option is not None]
    for option in options:
        yield from (f"{option.name}.{key}" for key in option.searched)
        if group.how == "any_order":
            yield option.name
            if len(options) > 1:
                yield f"{option.name}.position"
    if group.how == "one_of" and len(group.options) > 1:
        yield group.name


def suggest(trial: Suggester, name: str, domain: Domain) -> Any:
    """A value of a domain."""
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


def sample_group(group: Group, trial: Suggester) -> list[Step]:
    """The steps of a group in their order, with all of its parameters suggested."""
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


def taken_options(group: Group, parameters: Mapping[str, Any]) -> list[Option]:
    """The options whose steps parameters give, in the order of the steps."""
    if not group.runs(parameters):
        return []
    if group.how == "one_of" and len(group.options) > 1:
        return [option for option in group.present if option.name == parameters[group.name]]
    if group.how != "any_order":
        return list(group.present)
    inside = [option for option in group.present if parameters[option.name]]
    if len(inside) < 2:
        return inside
    place = {option.name: parameters.get(f"{option.name}.position", 0.0) for option in inside}
    return sorted(inside, key=lambda option: (option.kind.result() == "encode", place[option.name], option.name))


def active_parameters(group: Group, parameters: Mapping[str, Any]) -> Iterator[str]:
    """The names of those parameters of a group that its steps depend on."""
    options = [option for option in group.options if option is not None]
    if group.how == "one_of" and len(group.options) > 1:
        yield group.name
        options = [option for option in options if option.name == parameters.get(group.name)]
    elif group.how == "any_order":
        yield from (option.name for option in options)
        options = [option for option in options if parameters.get(option.name)]
        # What encodes comes last, whatever its position.
        ordered = [option for option in options if option.kind.result() != "encode"]
        yield from (f"{option.name}.position" for option in ordered if len(ordered) > 1)
    for option in options:
        yield from (f"{option.name}.{key}" for key in option.searched)


def count_recipes(groups: Sequence[Group], times: Mapping[str, Domain], depth: int = 0) -> float:
    """How many recipes groups come to, from the repeats at that depth on inwards."""
    total = 1.0
    for name, run in groupby(groups, lambda group: group.rounds[depth][0] if len(group.rounds) > depth else None):
        if name is None:
            total *= math.prod(_count_group(group) for group in run)
            continue
        inside = groupby(run, lambda group: group.rounds[depth][1])
        rounds = {number: count_recipes(list(some), times, depth + 1) for number, some in inside}
        total *= sum(math.prod(n for number, n in rounds.items() if number <= t) for t in values_of(times[name]))
    return total


def values_of(domain: Domain) -> list[Any]:
    """Every value of a choice, or of a range of whole numbers."""
    if isinstance(domain, Choice):
        return list(domain.values)
    return list(range(int(domain.low), int(domain.high) + 1, int(domain.step or 1)))


def _count_option(option: Option | None) -> float:
    return 1.0 if option is None else math.prod(count_of(domain) for domain in option.searched.values())


def count_of(domain: Domain) -> float:
    """How many values a domain holds."""
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


class Given:
    """A trial whose values are given: fills gaps with the first allowed value, refuses values out of range.

    taken holds the value of every parameter that was suggested.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given, self.taken = given, dict[str, Any]()

    def _take(self, name: str, default: Any, allowed: bool) -> Any:
        if name in self._given and not allowed:
            raise ValueError(f"{name}: {self._given[name]!r} is not in the space")
        self.taken[name] = self._given.get(name, default)
        return self.taken[name]

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """The given number, or the lowest."""
        value = self._given.get(name, low)
        # A recipe's numbers are rounded to twelve places: past an end by less, it is that end.
        slack = 1e-11 * max(abs(low), abs(high), 1.0)
        inside = isinstance(value, int | float) and low - slack <= value <= high + slack
        found = self._take(name, low, inside)
        self.taken[name] = min(max(float(found), low), high)
        return float(self.taken[name])

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """The given whole number, or the lowest."""
        value = self._given.get(name, low)
        return int(self._take(name, low, isinstance(value, int) and low <= value <= high and (value - low) % step == 0))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The given choice, or the first."""
        return self._take(name, choices[0], self._given.get(name, choices[0]) in choices)
