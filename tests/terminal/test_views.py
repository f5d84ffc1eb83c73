"""What a terminal shows, from real states."""

import io
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from autocompress.config import Budget
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
    clock,
    front_table,
    gain_lines,
    limit_text,
    limit_value,
    loosening_lines,
    panel,
    seconds_left,
    size,
    verdict_lines,
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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (9.9, "0:09"), (61, "1:01"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (60_000, "60.0 KB"), (1_725_550, "1.7 MB"), (25.3e9, "25.3 GB")],
)
def test_size_counts_in_thousands(value: float, text: str) -> None:
    assert size(value) == text


def test_recipe_line_shows_steps_in_order_with_the_settings_that_matter() -> None:
    line = recipe_line(RECIPE.to_data())
    assert line == "channel_pruning(ratio 0.5, l1, layer) > finetune(epochs 3) > float16"
    assert recipe_line({"steps": []}) == "(no steps)"


def test_limits_in_words() -> None:
    assert [limit_text(limit) for limit in LIMITS] == ["size_bytes at most 60.0 KB", "accuracy at least 0.975"]


def document(verdict: str, **changes: Any) -> dict[str, Any]:
    counts = {"completed": 3, "infeasible": 1, "stopped": 0, "failed": 2}
    nothing = {"front": [], "nearest_miss": None, "binding_limit": None}
    return {"verdict": verdict, "counts": counts, **nothing, **changes}


def test_verdict_of_a_feasible_search() -> None:
    assert verdict_lines(document("feasible", front=[{}, {}]), LIMITS, "accuracy") == [
        "6 trials: 3 completed, 1 infeasible, 2 failed",
        "feasible: 2 on the front meet the budget (size_bytes at most 60.0 KB, accuracy at least 0.975)",
    ]


def test_what_more_trials_are_expected_to_add_in_shares_of_what_there_is() -> None:
    gain = {"trials": 40, "seconds": 200.0, "hypervolume": 0.5, "gain": 0.01, "low": 0.001, "high": 0.0375}
    line = (
        "another 40 trials (3:20 of a worker's time) are expected to add 2% to the front's hypervolume "
        "(8 times of 10 between 0.2% and 7.5%)"
    )
    assert gain_lines(gain) == [line]
    assert verdict_lines(document("feasible", front=[{}], expected_gain=gain), (), "accuracy")[-1] == line
    assert gain_lines(None) == []


def test_verdict_without_limits_says_so() -> None:
    assert verdict_lines(document("feasible", front=[{}]), (), "accuracy")[-1].endswith("(no limits)")


def test_verdict_of_an_infeasible_search_names_the_nearest_miss_and_what_binds() -> None:
    miss = {"trial": 7, "metrics": metrics(80_000, 0.98, 0.125), "recipe": RECIPE.to_data()}
    lines = verdict_lines(document("infeasible", nearest_miss=miss, binding_limit="size"), LIMITS, "accuracy")
    assert lines[1].startswith("infeasible: nothing meets the budget (size_bytes at most 60.0 KB")
    assert lines[2].startswith("nearest miss: trial 7: 80.0 KB 21.6x 0.9800")
    assert lines[2].endswith(recipe_line(RECIPE.to_data()))
    assert lines[3].startswith("the limit that binds: size:")


def loosened(limit: str, sense: str, bound: float, alone: float | None, together: float | None) -> dict[str, Any]:
    trial = None if alone is None else 4
    return {"limit": limit, "sense": sense, "bound": bound, "alone": alone, "trial": trial, "together": together}


def test_loosened_limits_in_the_units_of_the_budget() -> None:
    rows = [
        loosened("size", "at_most", 60_000, 72_345, 70_000),
        loosened("accuracy_drop", "at_most", 0.01, None, 0.0234),
        loosened("latency", "at_most", 0.2, 0.25, 0.2),
        loosened("speedup", "at_least", 1.5, 1.3579, None),
    ]
    assert loosening_lines(rows) == [
        "what was measured would meet the budget with",
        "  size alone at 72.4 KB (trial 4)",
        "  accuracy_drop alone: at no value, as no trial meets all other limits",
        "  latency alone at 0.250 ms (trial 4)",
        "  speedup alone at 1.35x (trial 4)",
        "  or, for the nearest miss, size at 70.0 KB, accuracy_drop at 0.0234 (2.34 points), speedup is not known",
    ]
    assert loosening_lines(rows[2:3])[-1] == "  latency alone at 0.250 ms (trial 4)"
    assert loosening_lines([]) == []


@given(st.floats(1e-3, 1e11))
def test_a_loosened_size_is_never_tighter_as_it_is_written_and_within_a_hundredth(value: float) -> None:
    found = Budget.model_validate({"size": limit_value({"limit": "size", "sense": "at_most"}, value)}).size
    assert found is not None
    assert value <= found <= value * 1.0101


@given(st.floats(-1e3, 1e3).filter(lambda value: abs(value) > 1e-3))
def test_a_loosened_number_is_never_tighter_as_it_is_written(value: float) -> None:
    low, high = (float(limit_value({"limit": "f1", "sense": sense}, value)) for sense in ("at_least", "at_most"))
    assert low <= value <= high
    assert high - low <= 0.0101 * abs(value)


def test_verdict_of_a_miss_that_was_rejected_before_it_was_measured() -> None:
    miss = {"trial": 7, "metrics": {"size_bytes": 80_000}, "recipe": {"steps": []}}
    lines = verdict_lines(document("infeasible", nearest_miss=miss, binding_limit="size"), LIMITS, "accuracy")
    assert lines[2] == "nearest miss: trial 7: 80.0 KB: (no steps)"


def test_verdict_where_nothing_finished() -> None:
    lines = verdict_lines(document("nothing_finished"), LIMITS, "accuracy")
    assert lines[-1].startswith("nothing finished:")
    empty = dict.fromkeys(("completed", "infeasible", "stopped", "failed"), 0)
    assert verdict_lines(document("nothing_finished", counts=empty), LIMITS, "accuracy")[0] == "no trials ended"


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
