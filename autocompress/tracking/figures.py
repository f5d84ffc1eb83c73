"""Pictures of a search: the front as an interactive page and as PNG."""

import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..outcome import Limit, Metrics
from ..wording import visible

LINE = {"line_dash": "dash", "line_color": "firebrick"}  # of a limit
# Where a point's number may stand, in points from it, the nearest first, and half of what a point takes up itself.
PLACES = sorted(product(range(-24, 25, 12), range(-22, 23, 11)), key=lambda to: (math.hypot(*to), -to[1]))
ROOM = 4


@dataclass(frozen=True)
class Point:
    """One measured trial."""

    number: int
    metrics: Metrics
    recipe: str
    feasible: bool
    front: bool


@dataclass(frozen=True)
class Picture:
    """What a picture of a front shows: trials, baseline and limits; `quality` names the vertical axis."""

    study: str
    quality: str
    points: Sequence[Point]
    baseline: Metrics
    limits: Sequence[Limit]

    @property
    def bounds(self) -> Mapping[str, Limit]:
        """The limit on each metric."""
        return {limit.metric: limit for limit in self.limits}

    def staircase(self) -> list[Point]:
        """The front's points, smallest first."""
        return sorted((p for p in self.points if p.front), key=lambda p: p.metrics["size_bytes"])


def front_html(picture: Picture) -> bytes:
    """A page that needs no network: size against quality, coloured by latency, the recipe under the pointer."""
    page: str = front_figure(picture).to_html(include_plotlyjs=True, full_html=True, config={"displaylogo": False})
    return page.encode()


def front_figure(picture: Picture) -> Any:
    """Size against quality, coloured by latency, as a plotly figure."""
    quality = _plain(picture.quality)
    figure = _scattered(picture, picture.quality, "latency_ms")
    _draw_bounds(figure, picture)
    figure.update_layout(
        title=f"{_plain(picture.study)}: {quality} (validation) against size",
        yaxis={"title": f"{quality}, validation"},
        coloraxis={"colorbar": {"title": "latency, ms"}},
    )
    figure.update_yaxes(range=_zoom(picture))
    return figure


def speed_figure(picture: Picture) -> Any:
    """Size against latency with its 95% intervals, coloured by quality, as a plotly figure."""
    quality = _plain(picture.quality)
    figure = _scattered(picture, "latency_ms", picture.quality)
    for trace, chosen in zip(figure.data, _groups(picture), strict=False):
        now = [p.metrics["latency_ms"] for p in chosen[-1]]
        above = [p.metrics.get("latency_ms_high", y) - y for p, y in zip(chosen[-1], now, strict=True)]
        below = [y - p.metrics.get("latency_ms_low", y) for p, y in zip(chosen[-1], now, strict=True)]
        trace.error_y = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": "gray"}
    latency, speedup = picture.bounds.get("latency_ms"), picture.bounds.get("speedup")
    bound = latency.bound if latency else picture.baseline["latency_ms"] / speedup.bound if speedup else None
    _draw_size(figure, picture)
    low, high = _quality_span(picture)
    if bound:
        figure.add_hline(y=bound, **LINE)
        place = {"x": 1, "xref": "paper", "y": math.log10(bound), "xanchor": "right", "yanchor": "bottom"}
        figure.add_annotation(text=f"at most {bound:.3g} ms", showarrow=False, **place)
    figure.update_layout(
        title=f"{_plain(picture.study)}: latency against size",
        yaxis={"title": "latency, ms", "type": "log"},
        coloraxis={"colorbar": {"title": quality}, "cmin": low, "cmax": high},
    )
    return figure


def _groups(picture: Picture) -> list[tuple[str, str, int, list[Point]]]:
    """The points that are drawn alike: what they are called, the mark and its size, and who they are."""
    return [
        ("past a limit", "x-thin-open", 8, [p for p in picture.points if not p.feasible]),
        ("within the budget", "circle-open", 9, [p for p in picture.points if p.feasible and not p.front]),
        ("front", "circle", 13, picture.staircase()),
    ]


def _scattered(picture: Picture, y: str, colour: str) -> Any:
    """Every point and the baseline, by size and one metric, coloured by another."""
    import plotly.graph_objects as go

    figure = go.Figure()
    hover = {"mode": "markers", "hovertemplate": "%{text}<extra></extra>"}
    for name, symbol, size, chosen in _groups(picture):
        marker = {"symbol": symbol, "size": size, "color": [p.metrics[colour] for p in chosen],
                  "coloraxis": "coloraxis", "line": {"width": 2 if size < 13 else 1}}  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=[p.metrics["size_bytes"] / 1e3 for p in chosen],
                y=[p.metrics[y] for p in chosen],
                name=f"{name} ({len(chosen)})",
                text=[_hover(p, picture) for p in chosen],
                customdata=[p.number for p in chosen],
                marker=marker,
                **hover,
            )
        )
    figure.add_trace(
        go.Scatter(
            x=[picture.baseline["size_bytes"] / 1e3],
            y=[picture.baseline[y]],
            name="uncompressed",
            marker={"symbol": "star", "size": 14, "color": "black", "line": {"width": 1, "color": "white"}},
            text=[f"uncompressed<br>{picture.baseline['latency_ms']:.3g} ms"],
            **hover,
        )
    )
    values = [p.metrics[colour] for p in picture.points] or [0.0]
    figure.update_layout(
        xaxis={"title": "size of the exported file, KB", "type": "log"},
        coloraxis={"colorscale": "Viridis", "cmin": min(values), "cmax": max(values)},
        legend={"orientation": "h", "y": -0.18},
        template="plotly_white",
    )
    return figure


def _hover(point: Point, picture: Picture) -> str:
    m = point.metrics
    recipe = "<br>".join(map(_plain, point.recipe.split(" > ")))
    return (
        f"<b>trial {point.number}</b><br>{recipe}<br>{m['size_bytes'] / 1e3:.1f} KB "
        f"({m['compression_ratio']:.1f}x smaller)<br>"
        f"{_plain(picture.quality)} {m[picture.quality]:.4f}<br>{m['latency_ms']:.3g} ms ({m['speedup']:.2f}x faster)"
    )


def _plain(text: str) -> str:
    """The text as plotly shows it, which takes some tags and links for what they are."""
    return html.escape(visible(text), quote=False)


def _draw_size(figure: Any, picture: Picture) -> None:
    size = picture.bounds.get("size_bytes")
    if size:
        figure.add_vline(x=size.bound / 1e3, **LINE)
        # Annotations take the exponent on a logarithmic axis, where lines take the value.
        place = {"x": math.log10(size.bound / 1e3), "y": 0, "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        figure.add_annotation(text=f"at most {size.bound / 1e3:g} KB", showarrow=False, **place)


def _draw_bounds(figure: Any, picture: Picture) -> None:
    _draw_size(figure, picture)
    quality = picture.bounds.get(picture.quality)
    if quality:
        figure.add_hline(y=quality.bound, **LINE)
        place = {"x": 1, "xref": "paper", "y": quality.bound, "xanchor": "right", "yanchor": "bottom"}
        figure.add_annotation(text=f"{quality.sense.replace('_', ' ')} {quality.bound:.4g}", showarrow=False, **place)


def _quality_span(picture: Picture) -> tuple[float, float]:
    """The values of quality between which the candidates differ that matter; collapsed ones lie past the worse end."""
    values = [p.metrics[picture.quality] for p in picture.points] + [picture.baseline[picture.quality]]
    low, high = min(values), max(values)
    quality = picture.bounds.get(picture.quality)
    if quality and quality.sense == "at_least":
        low = max(low, quality.bound - 5 * max(high - quality.bound, 0.005))
    elif quality:
        high = min(high, quality.bound + 5 * max(quality.bound - low, 0.005))
    return low, high


def _zoom(picture: Picture) -> tuple[float, float]:
    """The range of quality that is shown."""
    low, high = _quality_span(picture)
    margin = 0.08 * max(high - low, 0.01)
    return low - margin, high + margin


def front_png(picture: Picture) -> bytes:
    """The same as a picture, zoomed to the candidates that come near the budget."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = list(picture.points)
    colours = [p.metrics["latency_ms"] for p in shown] or [picture.baseline["latency_ms"]]
    scale = {"norm": LogNorm(min(colours), max(colours) * 1.001), "cmap": "viridis"}
    marks = None
    for label, style, chosen in (
        ("past a limit", {"marker": "x", "s": 36}, [p for p in shown if not p.feasible]),
        ("within the budget", {"marker": "o", "s": 40, "alpha": 0.6}, [p for p in shown if p.feasible and not p.front]),
        ("front", {"marker": "o", "s": 90, "edgecolors": "black", "zorder": 3}, picture.staircase()),
    ):
        x = [p.metrics["size_bytes"] / 1e3 for p in chosen]
        y = [p.metrics[picture.quality] for p in chosen]
        look: dict[str, Any] = {**style, **scale}
        drawn = axes.scatter(x, y, c=[p.metrics["latency_ms"] for p in chosen], label=label, **look)
        marks = drawn if chosen else marks
    base = (picture.baseline["size_bytes"] / 1e3, picture.baseline[picture.quality])
    axes.scatter(*base, marker="*", s=160, color="black", label="uncompressed")
    size, quality = picture.bounds.get("size_bytes"), picture.bounds.get(picture.quality)
    if size:
        axes.axvline(size.bound / 1e3, linestyle="--", color="firebrick", linewidth=1, label="budget")
    if quality:
        axes.axhline(quality.bound, linestyle="--", color="firebrick", linewidth=1, label=None if size else "budget")
    axes.set_ylim(_zoom(picture))
    axes.set(xscale="log", xlabel="size of the exported file, KB")
    axes.set_ylabel(visible(f"{picture.quality}, validation"), parse_math=False)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(visible(picture.study), parse_math=False)
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right", fontsize=8)
    if marks is not None:
        bar = figure.colorbar(marks, label="latency, ms", format=StrMethodFormatter("{x:g}"))
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    number_points(axes, picture)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def number_points(axes: Any, picture: Picture) -> None:
    """Number the front's points, where that covers neither points nor numbers; left out where it would."""
    from matplotlib.transforms import Bbox

    axes.figure.draw_without_rendering()  # from here on places are final
    points = picture.staircase()
    places = [(point.metrics["size_bytes"] / 1e3, point.metrics[picture.quality]) for point in points]
    room = ROOM * axes.figure.dpi / 72
    taken = [Bbox.from_extents(x - room, y - room, x + room, y + room) for x, y in axes.transData.transform(places)]
    for point, place in zip(points, places, strict=True):
        for offset in PLACES:
            text = axes.annotate(
                str(point.number),
                place,
                xytext=offset,
                textcoords="offset points",
                fontsize=8,
                ha="center",
                va="center",
                in_layout=False,
            )
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
