"""A picture of what each step of a recipe bought and cost: size, quality and speed after it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..outcome import Limit, Metrics

FORMATS = ("png", "svg")


@dataclass(frozen=True)
class After:
    """The model after a step, or after several of which nothing is known in between."""

    label: str
    metrics: Metrics


@dataclass(frozen=True)
class StepsPicture:
    """What a picture of a recipe's steps shows, the uncompressed model first; `quality` names the task's metric."""

    title: str
    quality: str
    rows: Sequence[After]
    limits: Sequence[Limit]


def draw_steps(picture: StepsPicture, kind: str = "png") -> bytes:
    """Size, quality and speed-up after each step, one above the other, with limits as lines; kind: png or svg."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(8, 7), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(3, 1, sharex=True)
    panels[0].set_yscale("log")
    _draw(panels[0], picture, "size_bytes", "size of the file, KB", 1e-3)
    _draw(panels[1], picture, picture.quality, f"{picture.quality}, validation")
    _draw(panels[2], picture, "speedup", "times as fast")
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[2].set_xticks(range(len(picture.rows)), [row.label for row in picture.rows], fontsize=8)
    panels[0].set_title(picture.title)
    buffer = io.BytesIO()
    # A fixed salt and no date: the same picture is the same bytes.
    with rc_context({"svg.hashsalt": "autocompress"}):
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _draw(axes: Any, picture: StepsPicture, metric: str, label: str, scale: float = 1.0) -> None:
    """One metric: a point for each row with its value above it, and the limits on it."""
    found = [(index, row.metrics[metric] * scale) for index, row in enumerate(picture.rows) if metric in row.metrics]
    axes.plot([index for index, _ in found], [value for _, value in found], "o-", color="steelblue")
    for place in found:
        look = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center", "fontsize": 8}
        axes.annotate(f"{place[1]:.4g}", place, **look)
    if metric == "speedup":
        _draw_intervals(axes, picture)
    for limit in picture.limits:
        if limit.metric == metric:
            axes.axhline(limit.bound * scale, linestyle="--", color="firebrick", linewidth=1)
    axes.set(ylabel=label, xlim=(-0.5, len(picture.rows) - 0.5))
    axes.margins(y=0.25)
    axes.grid(alpha=0.3, axis="y")


def _draw_intervals(axes: Any, picture: StepsPicture) -> None:
    for index, row in enumerate(picture.rows):
        low, high = row.metrics.get("speedup_low"), row.metrics.get("speedup_high")
        if low is not None and high is not None:
            axes.vlines(index, low, high, color="black", linewidth=1)
