"""The registry: every technique by name.

A technique is one file: a module of one of the families here, or of any other package that names its class under the
entry point group `autocompress.techniques`. Nothing else has to be edited. What a family shares stands beside its
techniques under a private name; what several families share stands in this folder.
"""

import functools
import importlib
import pkgutil
from importlib.metadata import entry_points
from pathlib import Path

from ..documents import Document, parse_yaml, read_yaml
from ..errors import RecipeError, suggest
from ..recipe import VERSION, Recipe, Step, parse_recipe
from .base import Context, Decision, Technique
from .replacing import replace_layers, unreplaceable

GROUP = "autocompress.techniques"
_COMPLETE = {"technique", "family", "kind"}

__all__ = [
    "Context",
    "Decision",
    "Technique",
    "expanded",
    "load_recipe",
    "recipe_from_data",
    "registry",
    "replace_layers",
    "technique",
    "unreplaceable",
]


@functools.lru_cache(maxsize=1)
def registry() -> dict[str, type[Technique]]:
    """Every technique that is installed, by name. Raises RecipeError when two share a name or one cannot be loaded."""
    found: dict[str, type[Technique]] = {}
    for info in pkgutil.walk_packages(__path__, f"{__name__}."):
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Technique) and value.__module__ == module.__name__:
                _add(found, value)
    for point in entry_points(group=GROUP):
        try:
            value = point.load()
        except Exception as error:
            raise RecipeError(
                f"technique {point.name!r} cannot be loaded from {point.value}: {error}: repair or uninstall it"
            ) from error
        if not isinstance(value, type) or not issubclass(value, Technique) or not vars(value).keys() >= _COMPLETE:
            raise RecipeError(
                f"technique {point.name!r} cannot be used: {point.value} is no subclass of Technique with "
                f"{', '.join(sorted(_COMPLETE))} of its own: repair or uninstall it"
            )
        _add(found, value)
    return dict(sorted(found.items()))


def _add(found: dict[str, type[Technique]], kind: type[Technique]) -> None:
    if "technique" not in vars(kind):
        return
    if kind.technique in found:
        other = found[kind.technique]
        raise RecipeError(f"technique {kind.technique!r} is both {other.__module__} and {kind.__module__}: rename one")
    found[kind.technique] = kind


def technique(name: str) -> type[Step]:
    """The technique of that name. Raises RecipeError with the nearest names."""
    known = registry()
    if name not in known:
        raise RecipeError(f"unknown technique {name!r}; {suggest(name, known)}")
    return known[name]


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file. Raises ConfigError."""
    return parse_recipe(read_yaml(path), technique)


def recipe_from_data(data: dict[str, object]) -> Recipe:
    """A recipe from the plain values that Recipe.to_data gave."""
    return parse_recipe(Document("recipe", data), technique)


def expanded(recipe: Recipe) -> Recipe:
    """The recipe that a trial carries out: steps that stand for several, such as pruning in cycles, written out."""
    rows = [row for step in recipe.steps for row in step.expand()]
    return recipe_from_data({"version": VERSION, "steps": rows})


def recipe_from_yaml(text: str, source: str = "recipe") -> Recipe:
    """A recipe from YAML text. Raises ConfigError."""
    return parse_recipe(parse_yaml(text, source), technique)
