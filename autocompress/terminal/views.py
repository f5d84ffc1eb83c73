"""What people see in a terminal: the live view, tables and verdicts."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from rich import box
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from ..recipe import recipe_line
from .plain import Screen, messages, plain

# States and limits come as Any: their modules import torch, which printing a table must not.
SIZES = (("GB", 1e9), ("MB", 1e6), ("KB", 1e3), ("B", 1.0))
LIMIT_UNITS = {"latency": " ms", "speedup": "x", "compression_ratio": "x"}
TYPES = ("completed", "infeasible", "stopped", "failed")


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def size(value: float) -> str:
    """Bytes in B, KB, MB or GB."""
    for unit, scale in SIZES[:-1]:
        if value >= scale:
            return f"{value / scale:.1f} {unit}"
    return f"{value:.0f} B"


def front_table(title: str, rows: Sequence[dict[str, Any]], baseline: dict[str, float], quality: str) -> Group:
    """Rows of trial and metrics under the baseline's, and the recipes below, so that it fits any width."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    tested = [f"test {quality}"] if f"test_{quality}" in baseline else []
    for name in ("trial", "size", "smaller", quality, *tested, "ms", "faster (95%)"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, metrics in [("-", baseline), *((str(row["trial"]), row["metrics"]) for row in rows)]:
        cells = _cells(metrics, quality)
        table.add_row(number, *cells[:3], *(cells[3:4] if tested else []), *cells[4:])
    lines = [plain(f"{row['trial']:>5}  {recipe_line(row['recipe'])}") for row in rows]
    return Group(table, *lines)


def _cells(metrics: dict[str, float], quality: str) -> list[str]:
    interval = ""
    if "speedup_low" in metrics and metrics.get("speedup") != 1.0:
        interval = f" ({metrics['speedup_low']:.2f}-{metrics['speedup_high']:.2f})"
    return [
        size(metrics["size_bytes"]) if "size_bytes" in metrics else "",
        f"{metrics['compression_ratio']:.1f}x" if "compression_ratio" in metrics else "",
        f"{metrics[quality]:.4f}" if quality in metrics else "",
        f"{metrics[f'test_{quality}']:.4f}" if f"test_{quality}" in metrics else "",
        f"{metrics['latency_ms']:.4f}" if "latency_ms" in metrics else "",
        f"{metrics['speedup']:.2f}x{interval}" if "speedup" in metrics else "",
    ]


def front_parts(document: dict[str, Any], limits: Iterable[Any], quality: str) -> Iterator[Any]:
    """The front as a table, what its metrics do not tell, and the answer of the search."""
    if document["front"]:
        title = f"{document['study']}: the front"
        yield front_table(title, document["front"], document["baseline"], quality)
    for row in document["front"]:
        yield from (f"warning: trial {row['trial']} {text}" for text in row.get("remarks", ()))
    yield from verdict_lines(document, limits, quality)


def front_csv(document: dict[str, Any]) -> str:
    """The baseline and the front as comma-separated values."""
    import pandas as pd

    rows = [
        {"case": "baseline", **document["baseline"]},
        *({"case": f"trial {row['trial']}", "recipe": recipe_line(row["recipe"]), **row["metrics"]}
          for row in document["front"]),
    ]  # fmt: skip
    return str(pd.DataFrame(rows).to_csv(index=False))


def verdict_lines(document: dict[str, Any], limits: Iterable[Any], quality: str) -> list[str]:
    """The answer of a search, in sentences."""
    counts = document["counts"]
    total = sum(counts.values())
    tally = ", ".join(f"{counts[name]} {name}" for name in TYPES if counts[name])
    budget = ", ".join(limit_text(limit) for limit in limits) or "no limits"
    lines = [f"{total} trials: {tally}" if total else "no trials ended"]
    match document["verdict"]:
        case "feasible":
            lines.append(f"feasible: {len(document['front'])} on the front meet the budget ({budget})")
        case "infeasible":
            miss = document["nearest_miss"]
            found = " ".join(_cells(miss["metrics"], quality)).strip()
            lines.append(f"infeasible: nothing meets the budget ({budget})")
            lines.append(f"nearest miss: trial {miss['trial']}: {found}: {recipe_line(miss['recipe'])}")
            lines.append(f"the limit that binds: {document['binding_limit']}: loosen it, or search longer")
            lines += loosening_lines(document.get("loosen", []))
        case _:
            lines.append("nothing finished: see the reasons with `autocompress show`")
    return [*lines, *gain_lines(document.get("expected_gain"))]


def gain_lines(found: dict[str, Any] | None) -> list[str]:
    """What more trials are expected to add to the hypervolume, as shares of it; nothing where that is not known."""
    if found is None:
        return []
    gain, low, high = (f"{100 * found[key] / found['hypervolume']:.2g}%" for key in ("gain", "low", "high"))
    return [
        f"another {found['trials']} trials ({clock(found['seconds'])} of a worker's time) are expected to add {gain} "
        f"to the front's hypervolume (8 times of 10 between {low} and {high})"
    ]


def loosening_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """To what the limits would have to be loosened, in the units of the budget: each alone, and all together."""
    lines = ["what was measured would meet the budget with"] if rows else []
    for row in rows:
        if row["alone"] is None:
            lines.append(f"  {row['limit']} alone: at no value, as no trial meets all other limits")
        else:
            lines.append(f"  {row['limit']} alone at {limit_value(row, row['alone'])} (trial {row['trial']})")
    past = [row for row in rows if row["together"] != row["bound"]]
    if len(past) > 1:
        values = [f"{r['limit']} at {limit_value(r, r['together'])}" for r in past if r["together"] is not None]
        unknown = [f"{row['limit']} is not known" for row in past if row["together"] is None]
        lines.append(f"  or, for the nearest miss, {', '.join([*values, *unknown])}")
    return lines


def limit_value(row: dict[str, Any], value: float) -> str:
    """A loosened limit to write into a budget, in three digits and no tighter than the value."""
    name, up = row["limit"], row["sense"] == "at_most"
    unit, scale = next(((u, s) for u, s in SIZES if value >= s), SIZES[-1]) if name == "size" else ("", 1.0)
    text = _three_digits(value, scale, up)
    if name.endswith("_drop"):
        return f"{text} ({_three_digits(value, 0.01, up)} points)"
    return f"{text} {unit}" if unit else text + LIMIT_UNITS.get(name, "")


def _three_digits(value: float, scale: float, up: bool) -> str:
    """A multiple of the scale in three digits that is no less than the value (up), or no more."""
    exact = Decimal(value / scale)
    step = Decimal(1).scaleb(exact.adjusted() - 2 if exact else 0)
    rounded = exact.quantize(step, ROUND_HALF_EVEN)
    while float(rounded) * scale < value if up else float(rounded) * scale > value:
        rounded += step if up else -step
    return f"{rounded:f}"


def limit_text(limit: Any) -> str:
    """A limit in words."""
    bound = size(limit.bound) if limit.metric == "size_bytes" else f"{limit.bound:.4g}"
    return f"{limit.metric} {'at most' if limit.sense == 'at_most' else 'at least'} {bound}"


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


@contextlib.contextmanager
def on_standard_error() -> Iterator[PlainView | LiveView]:
    """A view on standard error, where everything goes that tasks and libraries print meanwhile."""
    console = messages()
    view = LiveView(console) if console.is_terminal else PlainView(console)
    with contextlib.redirect_stdout(sys.stderr), contextlib.closing(view):
        yield view
