"""The way back from a recipe to the parameters that it is sampled by."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError

from ..recipe import Choice, Recipe, Step
from .groups import NONE, Domain, Given, Group, count_of, values_of

OTHER_LAYERS = 1000.0  # what other layers cost beside one for each setting that becomes another
NO_WAY = 1e12
Parameters = dict[str, Any]
Way = tuple[float, Parameters]  # how many settings become others, and the parameters


def align(groups: tuple[Group, ...], times: Mapping[str, Domain], recipe: Recipe) -> Parameters | None:
    """Parameters of which groups make the recipe, or the nearest to it; None where they cannot say its techniques.

    times: how often repeats run, by the name of the parameter.
    """
    found = _Alignment(groups, times, recipe.steps).best(0, 0)
    return None if found is None else {name: max(values_of(domain)) for name, domain in times.items()} | found[1]


class _Alignment:
    """Which group each step comes from: for each rest of the groups and of the steps, the cheapest way."""

    def __init__(self, groups: tuple[Group, ...], times: Mapping[str, Domain], steps: tuple[Step, ...]) -> None:
        self._groups, self._times, self._steps = groups, times, steps
        self._options = {option.name: option for group in groups for option in group.options if option is not None}
        self.best, self._fit = cache(self._best), cache(self._fit_of)

    def _best(self, group: int, step: int) -> Way | None:
        if group == len(self._groups):
            return (0.0, {}) if step == len(self._steps) else None
        ways = [(group + 1, step + taken, way) for taken, way in self._takes(self._groups[group], step)]
        ways += [(end, step, (0.0, chosen)) for end, chosen in self._stops(group)]
        found: list[Way] = []
        for later, rest, (cost, parameters) in ways:
            following = self.best(later, rest)
            if following is not None:
                found.append((cost + following[0], {**parameters, **following[1]}))
        return min(found, key=lambda way: way[0], default=None)

    def _stops(self, index: int) -> Iterator[tuple[int, Parameters]]:
        """The groups behind repeats that could end before this group, and the number of times that ends them."""
        for name, number in self._groups[index].rounds:
            if index and (name, number) in self._groups[index - 1].rounds:
                continue  # this time has begun
            there = [(at, dict(group.rounds).get(name)) for at, group in enumerate(self._groups)]
            before = max((round_ for _, round_ in there if round_ is not None and round_ < number), default=0)
            times = [value for value in values_of(self._times[name]) if before <= value < number]
            if times:
                yield max(at for at, round_ in there if round_ is not None) + 1, {name: times[0]}

    def _takes(self, group: Group, step: int) -> Iterator[tuple[int, Way]]:
        """How many of the steps from here on a group may give, each with what that costs."""
        if group.how == "any_order":
            yield from self._in_any_order(group, step)
            return
        for option in group.options:
            chosen = {group.name: option.name if option else NONE} if len(group.options) > 1 else {}
            if option is None:
                yield 0, (0.0, chosen)
            elif step < len(self._steps) and (fit := self._fit(option.name, step)) is not None:
                yield 1, (fit[0], {**chosen, **fit[1]})

    def _in_any_order(self, group: Group, step: int) -> Iterator[tuple[int, Way]]:
        options = [option for option in group.options if option is not None]
        for taken in range(min(len(options), len(self._steps) - step) + 1):
            fits = [[self._fit(option.name, step + at) for option in options] for at in range(taken)]
            chosen = _assigned(fits)
            if chosen is None:
                return
            cost, parameters = 0.0, Parameters(dict.fromkeys((option.name for option in options), False))
            for at, which in enumerate(chosen):
                fit, name = fits[at][which], options[which].name
                assert fit is not None
                cost += fit[0]
                parameters |= {**fit[1], name: True, f"{name}.position": (at + 1) / (taken + 1)}
            yield taken, (cost, parameters)

    def _fit_of(self, name: str, step: int) -> Way | None:
        """The settings of an option that are nearest to a step's."""
        option, asked = self._options[name], self._steps[step]
        if option.kind.technique != asked.technique:
            return None
        wanted = asked.to_data()
        settings = {
            f"{name}.{key}": nearest(domain, wanted.get(key), option.kind.model_fields[key].default)
            for key, domain in option.searched.items()
        }
        try:
            made = option.sample(Given(settings)).to_data()
        except ValidationError:
            return None
        others = {key for key in {*made, *wanted} if made.get(key) != wanted.get(key)}
        return len(others) + OTHER_LAYERS * ("layers" in others), settings


def _assigned(fits: list[list[Way | None]]) -> list[int] | None:
    """The option that each step comes from, each from another, at the least cost; None where that cannot be."""
    from scipy.optimize import linear_sum_assignment

    if not fits:
        return []
    costs = [[NO_WAY if fit is None else fit[0] for fit in row] for row in fits]
    rows, columns = linear_sum_assignment(costs)
    chosen: list[int] = columns.tolist()
    return chosen if all(costs[row][column] < NO_WAY for row, column in zip(rows, columns, strict=True)) else None


def nearest(domain: Domain, value: Any, default: Any) -> Any:
    """The value of a domain that is nearest to another; to a default, or the first, where that is none of its kind."""
    if isinstance(domain, Choice):
        same = [v for v in domain.values if v == value and isinstance(v, bool) is isinstance(value, bool)]
        if same:
            return same[0]
        numbers = [v for v in domain.values if _is_number(v)]
        if numbers and _is_number(value):
            return min(numbers, key=lambda number: abs(number - value))
        return default if default in domain.values else domain.values[0]
    number = next((float(v) for v in (value, default) if _is_number(v)), float(domain.low))
    step = domain.step or (1 if domain.whole else None)
    if step is None:
        return min(max(number, domain.low), domain.high)
    place = min(max(round((number - domain.low) / step), 0), int(count_of(domain)) - 1)
    return round(domain.low + place * step, 12)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
