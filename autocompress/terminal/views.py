"""What people see in a terminal: the live view, tables and verdicts."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from rich import box
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from ..recipe import recipe_line
from ..wording import TYPES, clock, metric_cells, size
from .plain import Screen, messages, plain

# States come as Any: their modules import torch, which printing a table must not.


def front_table(title: str, rows: Sequence[dict[str, Any]], baseline: dict[str, float], quality: str) -> Group:
    """Rows of trial and metrics under the baseline's, and the recipes below, so that it fits any width."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    tested = [f"test {quality}"] if f"test_{quality}" in baseline else []
    for name in ("trial", "size", "smaller", quality, *tested, "ms", "faster (95%)"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, metrics in [("-", baseline), *((str(row["trial"]), row["metrics"]) for row in rows)]:
        cells = metric_cells(metrics, quality)
        table.add_row(number, *cells[:3], *(cells[3:4] if tested else []), *cells[4:])
    lines = [plain(f"{row['trial']:>5}  {recipe_line(row['recipe'])}") for row in rows]
    return Group(table, *lines)


class PlainView:
    """Plain lines on standard error, for logs and pipes."""

    def __init__(self, console: Screen) -> None:
        self._console, self._ended = console, -1

    def phase(self, text: str) -> None:
        """A line."""
        self._print(text)

    def note(self, text: str) -> None:
        """A line."""
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def update(self, state: Any) -> None:
        """A line whenever a trial ends."""
        ended = len(state.records)
        if ended != self._ended and ended:
            self._ended = ended
            self._print(progress_line(state))

    def close(self) -> None:
        """Nothing to restore."""


class LiveView:
    """A panel on standard error that is redrawn while the search runs."""

    def __init__(self, console: Screen) -> None:
        self._console = console
        self._live: Live | None = None
        self._status = console.status("")

    def phase(self, text: str) -> None:
        """A spinner until the next phase or the first trial."""
        self._end_live()
        self._status.update(plain(text))
        self._status.start()

    def note(self, text: str) -> None:
        """A line above the panel."""
        self._console.print(text)

    def update(self, state: Any) -> None:
        """Redraw."""
        if self._live is None:
            self._status.stop()
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        self._live.update(panel(state))

    def _end_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def close(self) -> None:
        """Give the terminal back."""
        self._status.stop()
        self._end_live()


def progress_line(state: Any) -> str:
    """Where a search stands, in one line."""
    best = "; ".join(f"{name} {value}" for name, value in best_so_far(state))
    return f"[{clock(time.monotonic() - state.started)}] {_tally(state)}{f' | best: {best}' if best else ''}"


def _tally(state: Any) -> str:
    counts = state.front.counts
    words = ", ".join(f"{counts[name]} {name}" for name in TYPES)
    return f"{len(state.records)}/{state.target} trials ({words}), {len(state.running)} running"


def seconds_left(state: Any) -> float | None:
    """An estimate from the pace so far, and never past the time limit."""
    done = len(state.records) - state.begun_with
    now = time.monotonic()
    left = None if done < 1 else (state.target - len(state.records)) * (now - state.started) / done
    if state.deadline is not None:
        until = max(0.0, state.deadline - now)
        left = until if left is None else min(left, until)
    return left


def best_so_far(state: Any) -> list[tuple[str, str]]:
    """The best value of each objective over the front."""
    from ..config import less_is_better

    rows = [state.records[number].outcome.metrics for number in state.front.trials]
    if not rows:
        return []
    best = [
        (name, (min if less_is_better(name, state.lower) else max)(row[name] for row in rows))
        for name in state.objectives
    ]
    return [(name, size(value) if name == "size_bytes" else f"{value:.4g}") for name, value in best]


def panel(state: Any) -> Group:
    """Counts, time, best values, running recipes and the front."""
    left = seconds_left(state)
    elapsed = time.monotonic() - state.started
    head = plain(f"{state.study}  {_tally(state)}", "bold")
    timing = f"{clock(elapsed)} elapsed" + ("" if left is None else f", about {clock(left)} left")
    parts: list[Any] = [head, ProgressBar(state.target, len(state.records), width=60), plain(timing, "dim")]
    best = best_so_far(state)
    if best:
        parts.append(plain("best so far: " + "   ".join(f"{name} {value}" for name, value in best)))
    parts += [plain(f"  running {number}: {recipe}", "dim", one_line=True)
              for number, recipe in state.running.items()]  # fmt: skip
    if state.front.trials:
        rows = [
            {"trial": number, "metrics": state.records[number].outcome.metrics,
             "recipe": state.records[number].recipe_data}
            for number in state.front.trials[:12]
        ]  # fmt: skip
        parts.append(front_table("front so far", rows, state.baseline.metrics, state.quality))
    return Group(*parts)


def draws(console: Screen) -> bool:
    """Whether a panel can be drawn again and again: in a terminal, and in a notebook that has ipywidgets."""
    return console.is_terminal and (not console.is_jupyter or find_spec("ipywidgets") is not None)


@contextlib.contextmanager
def on_standard_error() -> Iterator[PlainView | LiveView]:
    """A view on standard error, where everything goes that tasks and libraries print meanwhile."""
    console = messages()
    view = LiveView(console) if draws(console) else PlainView(console)
    with contextlib.redirect_stdout(sys.stderr), contextlib.closing(view):
        yield view
