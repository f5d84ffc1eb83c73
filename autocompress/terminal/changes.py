"""What a recipe decided anew, against the artifact that it was taken from."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from ..artifacts.directory import check_sums, read_decisions, read_measurement, recipe_document
from ..errors import ArtifactError, AutocompressError
from ..techniques import expanded, recipe_from_data
from ..wording import decision_lines, number

SHOWN = 10  # lines for each step


@dataclass(frozen=True)
class Artifact:
    """The quality's name, the measured numbers, where they were measured, and each step's name and decision."""

    quality: str
    measured: dict[str, float]
    processor: Any
    steps: list[tuple[str, dict[str, Any]]]


def artifact_beside(recipe: Path, note: Callable[[str], None]) -> Artifact | None:
    """The artifact that a recipe file belongs to; None where it lies in no artifact directory.

    The recipe alone is enough to go on, so a directory that is damaged, or whose recipe was changed since, is left
    out with a note.
    """
    folder = recipe.parent
    if not all((folder / name).is_file() for name in ("measurement.json", "decisions.json")):
        return None
    try:
        if recipe.name != "recipe.yaml":
            raise ArtifactError(f"{recipe}: is not the recipe.yaml of the directory that it lies in")
        return artifact_of(folder)
    except ArtifactError as error:
        note(f"not compared with the artifact beside the recipe: {error}")
        return None


def artifact_of(folder: Path) -> Artifact:
    """What a directory says of itself; nothing in it is run. Raises ArtifactError when it is damaged."""
    check_sums(folder)
    measurement, decisions = read_measurement(folder), read_decisions(folder)
    try:
        steps = expanded(recipe_from_data(recipe_document(folder))).steps
    except AutocompressError as error:
        raise ArtifactError(f"{folder}: cannot be read ({error}): export it again") from None
    if len(steps) != len(decisions):
        raise ArtifactError(f"{folder}: has {len(decisions)} decisions for {len(steps)} steps: export it again")
    names = [step.technique for step in steps]
    return Artifact(
        measurement.quality, measurement.measured, measurement.processor, list(zip(names, decisions, strict=True))
    )


def changes(there: Artifact, here: Artifact) -> dict[str, Any]:
    """The metrics of two artifacts of one recipe side by side, and the steps that decided otherwise."""
    names = ("size_bytes", "params", here.quality, f"test_{here.quality}", "speedup", "latency_ms")
    metrics = {name: {"there": _value(there, name), "here": _value(here, name)} for name in names}
    steps = []
    for index, ((name, before), (_, after)) in enumerate(zip(there.steps, here.steps, strict=True), 1):
        if before != after:
            lines = step_lines(before, after)
            steps.append({"step": index, "technique": name, "lines": lines[:SHOWN], "more": len(lines[SHOWN:])})
    return {"metrics": metrics, "same_processor": there.processor == here.processor, "steps": steps}


def _value(artifact: Artifact, name: str) -> float | None:
    value = artifact.measured.get(name, math.nan)
    return value if math.isfinite(value) else None


def step_lines(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Where two decisions of a step differ, layer by layer, as far as people can read them."""
    before, after = _by_place(there), _by_place(here)
    places = dict.fromkeys((*after, *before))
    lines = [
        _line(place, before.get(place), after.get(place)) for place in places if before.get(place) != after.get(place)
    ]
    return lines or ["as much of the same layers, but other parts or values of them"]


def _by_place(decision: dict[str, Any]) -> dict[str, str]:
    """The readable part of a decision by what it is about: a key and a layer."""
    rows = (line.partition(": ") for line in decision_lines(decision))
    return {place: text for place, _, text in rows}


def _line(place: str, there: str | None, here: str | None) -> str:
    if here is None:
        return f"{place}: only there ({there})"
    if there is None:
        return f"{place}: only here ({here})"
    widths = [re.fullmatch(r"(\d+) -> (\d+)", text) for text in (there, here)]
    match widths:
        case [re.Match() as old, re.Match() as new] if old[1] == new[1]:
            return f"{place}: {old[2]} -> {new[2]} kept of {new[1]}"
    return f"{place}: there {there}, here {here}"


def change_parts(changed: dict[str, Any]) -> Iterator[Any]:
    """The same as a table and lines to read."""
    table = Table("metric", "there", "here", box=box.SIMPLE_HEAD, title="against where the recipe comes from")
    for name, row in changed["metrics"].items():
        table.add_row(name, *("" if row[side] is None else number(name, row[side]) for side in ("there", "here")))
    yield table
    if not changed["same_processor"]:
        yield "there was another processor: speedup and latency_ms cannot be compared"
    for step in changed["steps"]:
        yield f"step {step['step']}, {step['technique']}, decided otherwise:"
        yield from (f"  {line}" for line in step["lines"])
        if step["more"]:
            yield f"  and {step['more']} more"
    if not changed["steps"]:
        yield "every step decided the same"
