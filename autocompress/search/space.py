"""Search spaces: which techniques, settings and orders may be sampled, and how a recipe is drawn from them."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ConfigError
from ..recipe import Recipe
from .groups import (
    RATE,
    Domain,
    Given,
    Group,
    Option,
    Suggester,
    active_parameters,
    count_recipes,
    sample_group,
    suggest,
    taken_options,
)
from .groups import parameters_of as group_parameters
from .inverse import align


@dataclass(frozen=True)
class Space:
    """Groups in the order in which their steps run, and parameters of the trials to start with.

    times: how often repeats run, by the name of the parameter, where that is searched. rates: what its learning rates
    were multiplied by.
    """

    source: str
    groups: tuple[Group, ...]
    start: tuple[dict[str, Any], ...] = ()
    times: Mapping[str, Domain] = field(default_factory=dict)
    rates: float = 1.0

    def at_rates(self, factor: float) -> "Space":
        """The space with every learning rate of its steps multiplied by a factor."""
        if factor == 1:
            return self
        groups = tuple(
            replace(group, options=tuple(option and option.at_rates(factor) for option in group.options))
            for group in self.groups
        )
        start = tuple(
            {key: value * factor if key.endswith(f".{RATE}") else value for key, value in row.items()}
            for row in self.start
        )
        return replace(self, groups=groups, start=start, rates=self.rates * factor)

    def sample(self, trial: Suggester) -> Recipe:
        """A recipe. Every parameter is suggested every time, used or not, so that all samplers see one fixed space."""
        times = {name: suggest(trial, name, domain) for name, domain in self.times.items()}
        drawn = [(group, sample_group(group, trial)) for group in self.groups]
        return Recipe(tuple(step for group, steps in drawn if group.runs(times) for step in steps))

    def parameters_of(self, recipe: Recipe) -> dict[str, Any] | None:
        """Parameters of which `sample` makes this recipe, or the nearest to it; None where its techniques cannot be.

        Settings become the nearest values that the space has. Parameters that this recipe does not use are the first.
        """
        found = align(self.groups, self.times, recipe)
        if found is None:
            return None
        used = self.active(found)
        given = Given({name: value for name, value in found.items() if name in used})
        self.sample(given)
        return given.taken

    def active(self, parameters: Mapping[str, Any]) -> set[str]:
        """The names of the parameters that the recipe of these depends on; the others change nothing in it."""
        found = {name for group in self.groups for name, _ in group.rounds if group.reached(parameters, name)}
        for group in self.groups:
            if group.runs(parameters):
                found.update(active_parameters(group, parameters))
        return found

    def switches(self) -> list[str]:
        """The parameters that decide which steps there are, and so which others are used."""
        names = {option.name for option in self.options().values()}
        chosen = {group.name for group in self.groups if group.how == "one_of"}
        return sorted(self.parameters() & {*self.times, *names, *chosen})

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
        used = {name for group in groups for name, _ in group.rounds}
        times = {name: domain for name, domain in self.times.items() if name in used}
        made = Space(self.source, groups, times=times, rates=self.rates)
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
        return {*self.times, *(name for group in self.groups for name in group_parameters(group))}

    def recipe(self, row: Mapping[str, Any]) -> Recipe:
        """The recipe of a row of parameters, which holds all of them."""
        return self.sample(Given(row))

    def taken(self, row: Mapping[str, Any]) -> list[Option]:
        """The options whose steps a row of parameters gives, in the order of the steps."""
        return [option for group in self.groups for option in taken_options(group, row)]

    def orders(self) -> list[list[str]]:
        """The positions that order the steps of a group among themselves, for each group whose order is searched."""
        found = [[name for name in group_parameters(group) if name.endswith(".position")] for group in self.groups]
        return [names for names in found if names]

    def stages(self, row: Mapping[str, Any]) -> list[tuple[Hashable, float]]:
        """The trained stages of a row: for each, what tells it from others, and the epochs of its last training."""
        found: list[tuple[Hashable, float]] = []
        steps: list[Hashable] = []
        for option in self.taken(row):
            settings = {key: row[name] for key, name in option.names}
            steps.append((option.kind.technique, tuple(settings.items()), option.told))
            if option.kind.kind == "train":
                epochs = {**option.fixed, **settings}.get("epochs", option.kind.model_fields["epochs"].default)
                found.append((tuple(steps), float(epochs)))
        return found

    def leaves(self, row: Mapping[str, Any]) -> set[str]:
        """The parameters of the groups after the last training: with others of them, that need not be done again."""
        names: set[str] = set()
        for group in reversed(self.groups):
            if any(option.kind.kind == "train" for option in taken_options(group, row)):
                break
            names.update(group_parameters(group))
        return names

    def count(self) -> float:
        """How many recipes the space holds; infinite where a setting is continuous.

        One that comes about in several ways, as where of two equal steps in a row one is left out, counts as several.
        """
        return count_recipes(self.groups, self.times)


def _without(group: Group, reasons: Mapping[str, str], source: str) -> Group | None:
    """A group without options; None where nothing is left to choose."""
    left = tuple(option for option in group.options if option is None or option.name not in reasons)
    if group.how == "always" and not left:
        raise ConfigError(
            f"{source}: every recipe has the step {group.name}, which cannot be applied to this model: "
            f"{reasons[group.name]}: take it out of the space"
        )
    return replace(group, options=left) if any(left) else None
