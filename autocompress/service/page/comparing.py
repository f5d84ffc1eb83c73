"""Two trials of a study held against each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...search.results import Results
from ...wording import change_text, number

FIRST = ("size_bytes", "compression_ratio", "latency_ms", "speedup")


@dataclass(frozen=True)
class Line:
    """A metric of two trials, and what the second one has more or less of it."""

    name: str
    one: str
    other: str
    difference: str


@dataclass(frozen=True)
class Pair:
    """Two trials: the metrics of either, and the steps that both have."""

    lines: Sequence[Line]
    shared: Sequence[str]


def compared(results: Results, one: int, other: int) -> Pair:
    """Two trials side by side, what counts most first. Raises StudyError where one is not there."""
    here, there = results.metrics(one), results.metrics(other)
    first = [results.quality, f"test_{results.quality}", *FIRST]
    names = [name for name in dict.fromkeys((*first, *here, *there)) if name in here or name in there]
    lines = [
        Line(
            name,
            number(name, here[name]) if name in here else "",
            number(name, there[name]) if name in there else "",
            change_text(name, here[name], there[name]) if name in here and name in there else "",
        )
        for name in names
    ]
    return Pair(lines, _shared(results, one, other))


def _shared(results: Results, one: int, other: int) -> list[str]:
    """The steps that both begin with, which are computed once."""
    from ...recipe import recipe_line

    pairs = zip(results.records[one].recipe_data["steps"], results.records[other].recipe_data["steps"], strict=False)
    found: list[str] = []
    for here, there in pairs:
        if here != there:
            break
        found.append(recipe_line({"steps": [here]}))
    return found
