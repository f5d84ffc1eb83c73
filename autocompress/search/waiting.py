"""Recipes that begin with what another trains right now: they wait, so that nothing is trained twice at once."""

from collections.abc import Iterable

from ..recipe import Recipe
from ..techniques import expanded


def stages(recipe: Recipe) -> set[str]:
    """What tells the trained stages of a recipe from others: the fingerprints of its prefixes that end in training."""
    plain = expanded(recipe)
    return {plain.prefix(at + 1).fingerprint for at, step in enumerate(plain.steps) if step.kind == "train"}


class Turns:
    """Which stages are being trained by whom, and which were trained to the end."""

    def __init__(self) -> None:
        self._trained: set[str] = set()
        self._training: dict[int, set[str]] = {}

    def begin(self, number: int, recipe: Recipe) -> None:
        """A trial begins to train what nobody trained before it."""
        self._training[number] = stages(recipe) - self._trained

    def end(self, number: int, measured: bool) -> None:
        """A trial ended; where it was measured, all its stages are there for others."""
        ended = self._training.pop(number, set())
        if measured:
            self._trained |= ended

    def known(self, recipes: Iterable[Recipe]) -> None:
        """Trials of an earlier search that were measured."""
        for recipe in recipes:
            self._trained |= stages(recipe)

    def blocked(self, recipe: Recipe) -> bool:
        """Whether a stage of the recipe is being trained now."""
        return any(stages(recipe) & training for training in self._training.values())
