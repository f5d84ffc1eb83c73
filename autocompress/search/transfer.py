"""Whether what a trial takes from the uncompressed model helps it: a guard against negative transfer.

It is held against the same network trained from scratch: the same steps, epochs and data, with fresh weights before the
first training, and no teacher (Liu et al., 2019; for transfer that harms, Wang et al., 2019).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from ..errors import NothingToDo
from ..outcome import Metrics
from ..recipe import Recipe

COUNTED = "accuracy"  # a share of examples, whose noise follows from how many they are
Z = 1.96  # of a 95% interval
HELPS, HARMS, UNCLEAR = "helps", "harms", "unclear"


@dataclass(frozen=True)
class Scratch:
    """A trial's network trained from scratch: the recipe, its metrics or why there are none, and examples judged on."""

    recipe: Mapping[str, Any] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=dict)
    note: str = ""
    examples: int = 0


def from_scratch(recipe: Recipe) -> Recipe:
    """The recipe with nothing of the uncompressed model's weights and outputs. Raises NothingToDo with the reason."""
    from ..techniques import Technique, expanded  # and torch with it
    from ..techniques.training.reinitialize import Reinitialize

    steps = [step for step in expanded(recipe).steps if isinstance(step, Technique)]
    first = next((index for index, step in enumerate(steps) if step.kind == "train"), None)
    if first is None:
        raise NothingToDo("none of its steps trains")
    rounding = next((step for step in steps[:first] if step.family == "quantization"), None)
    if rounding is not None:
        raise NothingToDo(f"{rounding.technique} rounds the model's own weights before any training")
    other = next((step for step in reversed(steps[: first + 1]) if step.anew), None)
    fresh = [Reinitialize()] if other is None or other.carries else []
    found = Recipe((*steps[:first], *fresh, *(step.alone() for step in steps[first:])))
    if found == Recipe(tuple(steps)):
        raise NothingToDo("it takes nothing from the uncompressed model")
    return found


def compared(own: Metrics | None, scratch: Scratch, quality: str, lower: bool) -> dict[str, Any]:
    """The comparison as plain values: by how much transfer is better in the quality, and the verdict on it.

    margin: how far two accuracies on so many examples may be apart by chance, at 95%; None for other qualities.
    """
    document = {
        "recipe": scratch.recipe,
        "metrics": scratch.metrics,
        "note": scratch.note,
        "examples": scratch.examples,
    }
    if own is None or quality not in own or quality not in scratch.metrics:
        return {**document, "gain": None, "margin": None, "verdict": None}
    here, there = own[quality], scratch.metrics[quality]
    gain = (there - here) if lower else (here - there)
    margin = _margin(here, there, scratch.examples) if quality == COUNTED else None
    verdict = UNCLEAR if abs(gain) <= (margin or 0.0) else HELPS if gain > 0 else HARMS
    return {**document, "gain": gain, "margin": margin, "verdict": verdict}


def _margin(one: float, other: float, examples: int) -> float:
    return Z * sqrt((one * (1 - one) + other * (1 - other)) / max(examples, 1))
