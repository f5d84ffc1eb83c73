"""What `explain` shows: why a study came to its front, and why a trial is on it or not."""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from ..errors import AutocompressError, unwritten
from ..search.reasons import reason_lines, step_remarks, step_rows, study_lines, transfer_lines, trial_lines
from .plain import say

if TYPE_CHECKING:
    from ..config import SearchConfig
    from ..search.prefixes import Around, Prefix
    from ..search.results import Results


@dataclass(frozen=True)
class Asked:
    """What `explain` is asked for: to measure what is not known, a picture, and where the task is, if it moved."""

    measure: bool
    figure: Path | None = None
    config: "SearchConfig | None" = None


def explained(results: "Results", trial: int | None, asked: Asked) -> tuple[dict[str, Any], Iterable[Any]]:
    """The answer as a document and as what there is to read of it. Raises AutocompressError."""
    from ..search.explanation import explain_study, explain_trial

    kind = "" if asked.figure is None else _figure_kind(asked.figure, trial)
    if trial is None:
        study = explain_study(results)
        return study, study_lines(study, results.limits, results.quality)
    results.record(trial)
    around = _around(results, trial, asked)
    if asked.figure is not None:
        _draw(results, trial, around.prefixes, asked.figure, kind)
    document = explain_trial(results, trial, around)
    return document, trial_parts(document)


def _figure_kind(figure: Path, trial: int | None) -> str:
    from ..tracking.steps import FORMATS

    kind = figure.suffix.removeprefix(".").lower()
    if trial is None:
        raise AutocompressError("--figure draws what the steps of one trial did: give a trial's number")
    if kind not in FORMATS:
        raise AutocompressError(f"--figure {figure}: write a name that ends in .{' or .'.join(FORMATS)}")
    return kind


def _around(results: "Results", trial: int, asked: Asked) -> "Around":
    """What is known around a trial, measured where it is not; what keeps that from being measured is said."""
    from ..search.prefixes import Known

    known = Known.of(results).around(trial, results.baseline)
    if not asked.measure or known.whole:
        return known
    from ..search.stepwise import measure_around

    try:
        with contextlib.redirect_stdout(sys.stderr):
            return measure_around(results, trial, asked.config, say)
    except AutocompressError as error:
        say(f"its steps are not measured: {error}")
        return Known.of(results).around(trial, results.baseline)


def _draw(results: "Results", trial: int, prefixes: "list[Prefix]", figure: Path, kind: str) -> None:
    from ..search.explanation import found_of, steps_picture
    from ..tracking.steps import draw_steps

    recipe = results.record(trial).recipe_data
    picture = steps_picture(f"{results.name}: trial {trial}", recipe, prefixes, found_of(results))
    try:
        figure.write_bytes(draw_steps(picture, kind))
    except OSError as error:
        raise unwritten(error, figure) from error
    say(f"drawn: {figure}")


def trial_parts(document: dict[str, Any]) -> Iterator[Any]:
    """A trial: how it ended, what each step did, what it beats and is beaten by, its limits and its neighbours."""
    yield from trial_lines(document)
    heading, *rows = step_rows(document) or [[]]
    if rows:
        table = Table(heading[0], box=box.SIMPLE_HEAD, title="what each step bought and cost", title_justify="left")
        for name in heading[1:]:
            table.add_column(name, justify="right", no_wrap=True)
        for cells in rows:
            table.add_row(*cells)
        yield table
    yield from step_remarks(document)
    yield from transfer_lines(document)
    yield from reason_lines(document)
