"""What a terminal shows, from real states."""

import io
import time
from typing import Any

import pytest
from rich.console import Console

from autocompress.front import find_front
from autocompress.outcome import Baseline, Completed, Failed, Infeasible, Limit, Metrics, Outcome
from autocompress.recipe import Recipe, recipe_line
from autocompress.search.records import Record
from autocompress.search.state import State
from autocompress.techniques import recipe_from_data
from autocompress.terminal.plain import Screen
from autocompress.terminal.views import (
    LiveView,
    PlainView,
    best_so_far,
    front_table,
    panel,
    seconds_left,
)

OBJECTIVES = ("size_bytes", "accuracy", "latency_ms")
BASE: Metrics = {
    "size_bytes": 1_725_550,
    "accuracy": 0.985,
    "latency_ms": 0.25,
    "compression_ratio": 1.0,
    "speedup": 1.0,
}
LIMITS = (Limit("size_bytes", "at_most", 60_000.0, "size"), Limit("accuracy", "at_least", 0.975, "accuracy_drop"))
RECIPE = recipe_from_data(
    {
        "version": 1,
        "steps": [
            {"technique": "channel_pruning", "ratio": 0.5, "importance": "l1", "scope": "layer"},
            {"technique": "finetune", "epochs": 3},
            {"technique": "float16"},
        ],
    }
)


def metrics(size_bytes: float, accuracy: float, latency: float) -> Metrics:
    speed = {"speedup": 0.25 / latency, "speedup_low": 0.24 / latency, "speedup_high": 0.26 / latency}
    return {
        "size_bytes": size_bytes,
        "accuracy": accuracy,
        "latency_ms": latency,
        "compression_ratio": BASE["size_bytes"] / size_bytes,
        **speed,
    }


def state(outcomes: dict[int, Outcome], running: dict[int, Recipe] | None = None) -> State:
    """A search of ten trials that stands here."""
    records = {number: Record(number, RECIPE.to_data(), outcome, 1, None, 0, 1) for number, outcome in outcomes.items()}
    front = find_front(outcomes, OBJECTIVES)
    baseline = Baseline(b"", b"", b"", BASE, {}, "fingerprint")
    return State(
        "lenet", 10, OBJECTIVES, "accuracy", baseline, LIMITS, front=front, records=records, running=running or {}
    )


def shown(renderable: Any, width: int = 120) -> str:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def cells(line: str) -> list[str]:
    return line.split()


def test_recipe_line_shows_steps_in_order_with_the_settings_that_matter() -> None:
    line = recipe_line(RECIPE.to_data())
    assert line == "channel_pruning(ratio 0.5, l1, layer) > finetune(epochs 3) > float16"
    assert recipe_line({"steps": []}) == "(no steps)"


def test_front_table_has_a_row_for_the_baseline_and_for_each_trial() -> None:
    row = {"trial": 3, "metrics": metrics(50_000, 0.98, 0.125), "recipe": RECIPE.to_data()}
    lines = shown(front_table("front", [row], BASE, "accuracy")).splitlines()
    values = [cells(line) for line in lines if "KB" in line or "MB" in line]
    assert values == [
        ["-", "1.7", "MB", "1.0x", "0.9850", "0.2500", "1.00x"],
        ["3", "50.0", "KB", "34.5x", "0.9800", "0.1250", "2.00x", "(1.92-2.08)"],
    ]
    assert any(line.split()[:2] == ["3", "channel_pruning(ratio"] for line in lines)


def test_front_table_shows_the_test_split_once_it_is_known() -> None:
    row = {"trial": 3, "metrics": {**metrics(50_000, 0.98, 0.125), "test_accuracy": 0.97}, "recipe": RECIPE.to_data()}
    text = shown(front_table("front", [row], {**BASE, "test_accuracy": 0.9750}, "accuracy"))
    assert "test accuracy" in text
    assert [cells(line)[5] for line in text.splitlines() if "KB" in line or "MB" in line] == ["0.9750", "0.9700"]


def test_front_table_leaves_a_gap_where_a_metric_is_missing() -> None:
    row = {"trial": 3, "metrics": {"size_bytes": 50_000, "latency_ms": 0.125}, "recipe": {"steps": []}}
    lines = shown(front_table("front", [row], BASE, "accuracy")).splitlines()
    head = next(line for line in lines if "smaller" in line)
    mine = next(line for line in lines if "KB" in line)
    # Columns are right-aligned: a value ends where its heading does.
    assert mine.index("0.1250") + len("0.1250") == head.index(" ms ") + len(" ms")


def test_front_table_fits_a_narrow_terminal() -> None:
    rows = [{"trial": n, "metrics": metrics(50_000, 0.98, 0.125), "recipe": RECIPE.to_data()} for n in range(3)]
    assert max(map(len, shown(front_table("front", rows, BASE, "accuracy"), width=72).splitlines())) <= 72


def test_best_so_far_takes_each_objective_over_the_front_in_its_own_direction() -> None:
    here = state({1: Completed(metrics(50_000, 0.96, 0.1), {}), 2: Completed(metrics(80_000, 0.98, 0.2), {})})
    assert best_so_far(here) == [("size_bytes", "50.0 KB"), ("accuracy", "0.98"), ("latency_ms", "0.1")]
    assert best_so_far(state({})) == []


def test_panel_of_a_search_with_a_front() -> None:
    here = state(
        {
            1: Completed(metrics(50_000, 0.96, 0.1), {}),
            2: Infeasible(metrics(80_000, 0.98, 0.2), {"size": 0.33}, "past the limit on size"),
            4: Failed("broken"),
        },
        {5: RECIPE},
    )
    text = shown(panel(here))
    assert "lenet  3/10 trials (1 completed, 1 infeasible, 0 stopped, 1 failed), 1 running" in text
    assert "best so far: size_bytes 50.0 KB   accuracy 0.96   latency_ms 0.1" in text
    assert "running 5: channel_pruning" in text
    assert [cells(line)[0] for line in text.splitlines() if "KB" in line and "x" in line and "best" not in line] == [
        "1"
    ]


@pytest.mark.parametrize("outcomes", [{}, {0: Failed("broken")}, {0: Infeasible({}, {"size": 1.0}, "too big")}])
def test_panel_of_a_search_without_a_front(outcomes: dict[int, Outcome]) -> None:
    text = shown(panel(state(outcomes)))
    assert f"{len(outcomes)}/10 trials" in text
    assert "best so far" not in text
    assert "front so far" not in text


def test_panel_before_the_first_front_is_known() -> None:
    here = state({})
    assert "0/10 trials (0 completed" in shown(panel(here))


def test_time_left_follows_the_pace_of_this_run_and_stops_at_the_deadline() -> None:
    here = state({number: Failed("broken") for number in range(6)})
    here.begun_with = 4  # found when resuming: they say nothing about the pace
    here.started = time.monotonic() - 10
    # Two trials in 10 s: the other four take 20 s.
    assert seconds_left(here) == pytest.approx(20, abs=1)
    here.deadline = time.monotonic() + 5
    assert seconds_left(here) == pytest.approx(5, abs=1)
    here.begun_with = 6
    assert seconds_left(here) == pytest.approx(5, abs=1)
    here.deadline = None
    assert seconds_left(here) is None


def test_plain_view_prints_one_line_for_each_finished_trial() -> None:
    out = io.StringIO()
    view = PlainView(Screen(file=out, width=40))
    outcomes: dict[int, Outcome] = {}
    view.update(state(outcomes))
    for number in range(3):
        outcomes[number] = Completed(metrics(50_000 - number, 0.96, 0.1), {})
        for _ in range(3):  # time goes by
            view.update(state(outcomes))
    lines = out.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/10", "2/10", "3/10"]
    assert all("best: size_bytes 50.0 KB" in line for line in lines)


def test_plain_view_prints_text_as_it_is() -> None:
    out = io.StringIO()
    view = PlainView(Screen(file=out, width=20))
    view.phase("checking [bold] the task that has a long name")
    view.note("trial 3 failed: [0/1]")
    view.close()
    assert out.getvalue().splitlines() == ["checking [bold] the task that has a long name", "trial 3 failed: [0/1]"]


def test_live_view_gives_the_terminal_back() -> None:
    out = io.StringIO()
    view = LiveView(Screen(file=out, width=100, force_terminal=True))
    view.phase("starting")
    view.update(state({1: Completed(metrics(50_000, 0.96, 0.1), {})}))
    view.note("trial 2 failed: [bold]")
    view.phase("confirming")
    view.update(state({}))
    view.close()
    text = out.getvalue()
    assert "trial 2 failed: [bold]" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0  # the cursor is visible again
