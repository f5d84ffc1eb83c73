"""The pictures of a search: what stands in the page, and that both are drawn for every kind of search."""

import base64
import io
import itertools
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from autocompress.outcome import Limit, Metrics
from autocompress.tracking.figures import (
    Picture,
    Point,
    front_figure,
    front_html,
    front_png,
    number_points,
    speed_figure,
)

BASELINE: Metrics = {"size_bytes": 1_725_550.0, "accuracy": 0.985, "latency_ms": 0.25}
SIZE = Limit("size_bytes", "at_most", 60_000.0, "size")
ACCURACY = Limit("accuracy", "at_least", 0.975, "accuracy_drop")


def point(number: int, size: float, accuracy: float, feasible: bool = True, front: bool = False) -> Point:
    metrics = {"size_bytes": size, "accuracy": accuracy, "latency_ms": 0.05 + size / 1e6, "speedup": 2.5}
    metrics["compression_ratio"] = BASELINE["size_bytes"] / size
    return Point(number, metrics, f"channel_pruning(ratio=0.{number}) > float16", feasible, front)


POINTS = (
    point(1, 90_000, 0.98, feasible=False),
    point(2, 50_000, 0.979, front=True),
    point(3, 55_000, 0.976),
    point(4, 30_000, 0.9755, front=True),
)
PICTURES = {
    "full": Picture("lenet", "accuracy", POINTS, BASELINE, (SIZE, ACCURACY)),
    "nothing feasible": Picture("lenet", "accuracy", POINTS[:1], BASELINE, (SIZE, ACCURACY)),
    "one point": Picture("lenet", "accuracy", POINTS[1:2], BASELINE, (SIZE,)),
    "no points": Picture("lenet", "accuracy", (), BASELINE, (SIZE, ACCURACY)),
    "no limits": Picture("lenet", "accuracy", POINTS, BASELINE, ()),
    "other limits": Picture("lenet", "accuracy", POINTS, BASELINE, (Limit("speedup", "at_least", 1.5, "speedup"),)),
    "twice the same": Picture("lenet", "accuracy", (POINTS[1], POINTS[1]), BASELINE, (ACCURACY,)),
    "collapsed": Picture("lenet", "accuracy", (point(1, 9_000, 0.0, feasible=False),), BASELINE, (ACCURACY,)),
}


class Addresses(HTMLParser):
    """Everything that a browser would fetch when it opens the page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "href", "data", "srcset")]


def page(name: str) -> str:
    return front_html(PICTURES[name]).decode()


def figure(text: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The traces and the layout that the page hands to plotly."""
    start = re.search(r"Plotly\.newPlot\(\s*\"[^\"]+\",\s*", text)
    assert start is not None
    decoder = json.JSONDecoder()
    traces, end = decoder.raw_decode(text, start.end())
    layout, _ = decoder.raw_decode(text, re.compile(r"\s*,\s*").match(text, end).end())  # type: ignore[union-attr]
    return traces, layout


def values(axis: Any) -> list[float]:
    """Numbers of a trace, which plotly packs where they are arrays."""
    if isinstance(axis, dict):
        return np.frombuffer(base64.b64decode(axis["bdata"]), axis["dtype"]).tolist()
    return list(axis)


@pytest.mark.parametrize("name", PICTURES)
def test_page_needs_no_network(name: str) -> None:
    text, addresses = page(name), Addresses()
    addresses.feed(text)
    assert addresses.found == []
    assert 'src="http' not in text
    assert "@import" not in text
    assert len(text) > 1_000_000  # plotly itself is in it


@pytest.mark.parametrize("name", PICTURES)
def test_page_holds_every_trial_with_its_recipe(name: str) -> None:
    traces, _ = figure(page(name))
    shown = [text for trace in traces for text in trace["text"]]
    for drawn in PICTURES[name].points:
        first, second = drawn.recipe.split(" > ")
        assert any(f"trial {drawn.number}<" in text and first in text and second in text for text in shown)
    assert sum(text.startswith("uncompressed") for text in shown) == 1
    assert len(shown) == len(PICTURES[name].points) + 1


def test_page_puts_each_trial_where_it_was_measured() -> None:
    traces, layout = figure(page("full"))
    rows = {trace["name"]: list(zip(values(trace["x"]), values(trace["y"]), strict=True)) for trace in traces}
    assert rows == {
        "past a limit (1)": [(90.0, 0.98)],
        "within the budget (1)": [(55.0, 0.976)],
        "front (2)": [(30.0, 0.9755), (50.0, 0.979)],
        "uncompressed": [(1725.55, 0.985)],
    }
    assert layout["xaxis"]["type"] == "log"


def test_page_draws_the_budget_as_lines() -> None:
    _, layout = figure(page("full"))
    lines = [(shape["x0"], shape["x1"], shape["y0"], shape["y1"]) for shape in layout["shapes"]]
    assert (60.0, 60.0, 0, 1) in lines
    assert (0, 1, 0.975, 0.975) in lines
    assert {note["text"] for note in layout["annotations"]} == {"at most 60 KB", "at least 0.975"}


def test_latencies_have_their_intervals_and_the_limit_that_a_speed_up_means() -> None:
    near = {**POINTS[1].metrics, "latency_ms": 0.1, "latency_ms_low": 0.09, "latency_ms_high": 0.13}
    rows = (Point(7, near, "svd", True, True), *POINTS)
    made = speed_figure(Picture("lenet", "accuracy", rows, BASELINE, (SIZE, Limit("speedup", "at_least", 2.5, "s"))))
    front = next(trace for trace in made.data if trace.name.startswith("front"))
    at = list(front.customdata).index(7)
    assert (front.x[at], front.y[at]) == (50.0, 0.1)
    assert front.error_y.array[at] == pytest.approx(0.03)
    assert front.error_y.arrayminus[at] == pytest.approx(0.01)
    others = [error for index, error in enumerate(front.error_y.array) if index != at]
    assert others == [0.0] * len(others)  # nothing is known of their intervals
    assert 0.1 in [shape.y0 for shape in made.layout.shapes]  # 0.25 ms, 2.5 times as fast
    assert made.layout.xaxis.type == made.layout.yaxis.type == "log"


@pytest.mark.parametrize("name", PICTURES)
def test_latencies_are_drawn_for_every_kind_of_search(name: str) -> None:
    assert sum(len(trace.x) for trace in speed_figure(PICTURES[name]).data) == len(PICTURES[name].points) + 1


def test_texts_of_a_figure_are_no_markup() -> None:
    evil = Picture(
        "<a href='http://evil'>", "accuracy", (Point(1, POINTS[0].metrics, "<b>x</b>", True, True),), BASELINE, ()
    )
    for made in (front_figure(evil), speed_figure(evil)):
        assert "<a href" not in made.layout.title.text
        assert "&lt;b&gt;x&lt;/b&gt;" in made.data[2].text[0]
    assert front_png(evil).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["no limits", "other limits"])
def test_page_draws_no_lines_for_what_has_no_limit(name: str) -> None:
    _, layout = figure(page(name))
    assert layout.get("shapes", []) == []
    assert layout.get("annotations", []) == []


@pytest.mark.parametrize("name", PICTURES)
def test_every_feasible_point_and_the_baseline_are_within_the_page_s_range(name: str) -> None:
    _, layout = figure(page(name))
    low, high = layout["yaxis"]["range"]
    feasible = [p.metrics["accuracy"] for p in PICTURES[name].points if p.feasible]
    assert all(low < value < high for value in [*feasible, BASELINE["accuracy"]])


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_a_png_of_880_by_550(name: str) -> None:
    image = Image.open(io.BytesIO(front_png(PICTURES[name])))
    image.load()
    # 8 x 5 inches at 110 dots an inch.
    assert (image.format, image.size) == ("PNG", (880, 550))
    assert len(image.convert("RGB").getcolors(2**24)) > 50  # more than a blank page


def test_picture_shows_where_the_budget_is() -> None:
    def red(name: str) -> int:
        pixels = np.asarray(Image.open(io.BytesIO(front_png(PICTURES[name]))).convert("RGB")).astype(int)
        # The lines are "firebrick", (178, 34, 34), blended with the white ground; nothing else is reddish.
        return int(((pixels[..., 0] - pixels[..., 1:].max(axis=2)) > 60).sum())

    assert red("full") > 200
    assert red("no limits") == 0


def test_pictures_show_the_task_s_own_quality() -> None:
    rows = [Point(0, {**POINTS[1].metrics, "f1": 0.7}, "(no steps)", True, True)]
    limits = (Limit("f1", "at_least", 0.6, "f1"),)
    picture = Picture("other", "f1", rows, {**BASELINE, "f1": 0.8}, limits)
    traces, layout = figure(front_html(picture).decode())
    assert values(traces[2]["y"]) == [0.7]
    assert "f1" in layout["yaxis"]["title"]["text"]
    assert front_png(picture)[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(("steps", "left"), [(12, 12), (1, 12)])
def test_numbers_of_points_cover_no_other_number(steps: int, left: int) -> None:
    # Twelve points side by side have a place for each number; twelve on one spot for as many as there are places.
    rows = [point(40 + i, 9_000 + 150 * (i % steps), 0.97 + 8e-4 * (i % steps), front=True) for i in range(12)]
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.scatter([p.metrics["size_bytes"] / 1e3 for p in rows], [p.metrics["accuracy"] for p in rows])
    axes.set(xscale="log", xlim=(1, 2000), ylim=(0.968, 0.97 + 8e-4 * (steps - 1)))
    number_points(axes, Picture("lenet", "accuracy", rows, BASELINE, ()))
    placed = axes.transData.transform((9, 0.97))
    figure.draw_without_rendering()  # lays out anew, which numbers must not change
    np.testing.assert_allclose(axes.transData.transform((9, 0.97)), placed, rtol=1e-9)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert len({text.get_text() for text in axes.texts}) == len(boxes) == left
