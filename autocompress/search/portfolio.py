"""Recipes to begin a search with: those that together covered most of what was reached on several tasks."""

from collections.abc import Callable
from pathlib import Path

from ..documents import Document, Key, read_yaml
from ..errors import ConfigError
from ..recipe import VERSION, Recipe, parse_recipe
from ..techniques import technique
from .groups import RATE
from .space import Space
from .terrain import Row

FILE = Path(__file__).with_name("portfolio.yaml")
MOST = 11  # recipes that a search begins with


def load_portfolio(path: Path = FILE, note: Callable[[str], None] = lambda _: None) -> list[Recipe]:
    """The recipes of a portfolio, best first; note is told of those that cannot be read, which are left out.

    Raises ConfigError where the file is no portfolio.
    """
    document = read_yaml(path)
    rows = document.data.get("recipes")
    if document.data.get("version") != VERSION or not isinstance(rows, list):
        raise ConfigError(f"{document.place(('recipes',))}: write `version: {VERSION}` and a list of `recipes`")
    found = []
    for index in range(len(rows)):
        try:
            found.append(_recipe(document, index))
        except ConfigError as error:
            note(f"portfolio: recipe {index + 1} is left out: {error}")
    return found


def _recipe(document: Document, index: int) -> Recipe:
    at: Key = ("recipes", index)
    row = document.data["recipes"][index]
    if not isinstance(row, dict) or not row.get("steps"):
        raise ConfigError(f"{document.place(at)}: {row!r}: write a mapping with `name` and `steps`")
    lines = {key[2:]: line for key, line in document.lines.items() if key[:2] == at}
    return parse_recipe(Document(document.source, {"version": VERSION, "steps": row["steps"]}, lines), technique)


def portfolio_rows(space: Space, recipes: list[Recipe]) -> list[Row]:
    """The rows of a space that say the first of these recipes that it can say, each once; at the space's rates."""
    found: list[Row] = []
    for recipe in recipes:
        row = space.parameters_of(_at_rates(recipe, space.rates))
        if row is not None and row not in found:
            found.append(row)
        if len(found) == MOST:
            break
    return found


def _at_rates(recipe: Recipe, factor: float) -> Recipe:
    """A recipe with every learning rate multiplied by a factor."""
    rates = [getattr(step, RATE, None) for step in recipe.steps]
    return Recipe(
        tuple(
            step if rate is None else step.model_copy(update={RATE: rate * factor})
            for step, rate in zip(recipe.steps, rates, strict=True)
        )
    )
