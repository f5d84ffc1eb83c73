"""What MLflow's runs are called, and what their descriptions hold."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.outcome import Completed, Failed, Infeasible, Outcome, Stopped
from autocompress.recipe import Recipe
from autocompress.techniques import recipe_from_data
from autocompress.tracking.notes import (
    NAME_LENGTH,
    NOTE_LENGTH,
    Places,
    export_command,
    front_view,
    plain,
    run_name,
    search_page,
    study_note,
    trial_note,
)
from autocompress.tracking.protocol import Member, Note, Row

METRICS = {"size_bytes": 9_312.0, "accuracy": 0.96817, "latency_ms": 0.02, "speedup": 6.81}
HEADING = ("size", "smaller", "accuracy", "test accuracy", "ms", "faster (95%)")


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (Completed(METRICS, {"size": -0.1}), "#47 · 9.3 KB · 0.968 · 6.8x"),
        (Completed({**METRICS, "accuracy": 26.4321}, {}), "#47 · 9.3 KB · 26.43 · 6.8x"),
        (Completed({**METRICS, "accuracy": 0.00123}, {}), "#47 · 9.3 KB · 0.00123 · 6.8x"),
        (Infeasible(METRICS, {"size": 0.2, "speedup": 0.1, "accuracy_drop": -1.0}, "past the limits"),
         "#47 · 9.3 KB · 0.968 · 6.8x · past size, speedup"),
        (Infeasible({"size_bytes": 9e5}, {"size": 2.0}, "would be past the limit\non size"),
         "#47 · rejected: would be past the limit on size"),
        (Stopped("weak"), "#47 · stopped: weak"),
        (Failed("RuntimeError: broken"), "#47 · failed: RuntimeError: broken"),
    ],
)  # fmt: skip
def test_a_run_is_named_by_what_it_is(outcome: Outcome, name: str) -> None:
    assert run_name(47, outcome, "accuracy") == name


@given(st.text(), st.integers(0, 10**9))
def test_names_are_short_and_of_one_line_whatever_went_wrong(reason: str, number: int) -> None:
    name = run_name(number, Failed(reason), "accuracy")
    assert name.startswith(f"#{number} · failed: ")
    assert len(name) <= NAME_LENGTH
    assert len(name.splitlines()) == 1


def test_a_trial_is_described_by_its_recipe_and_why_it_ended() -> None:
    recipe = recipe_from_data({"version": 1, "steps": [{"technique": "finetune", "epochs": 4}, "float16"]})
    text = trial_note(Row(3, recipe, Failed("out of memory"), 0, 1), "accuracy")
    assert text == "**#3 · failed: out of memory**\n\n1. finetune(epochs=4)\n2. float16\n\nout of memory"
    assert "(no steps)" in trial_note(Row(3, Recipe(), Completed(METRICS, {}), 0, 1), "accuracy")


def member(number: int, *picks: str) -> Member:
    return Member(number, picks, ("9.3 KB", "185.3x", "0.9682", "", "0.0200", "6.81x"))


def note(*members: Member) -> Note:
    return Note(("size_bytes at most 16.0 KB",), ("2 trials", "feasible: 2"), HEADING, members, ("autocompress x",))


def test_a_study_is_described_by_its_budget_verdict_and_front_with_what_one_would_pick_first() -> None:
    places = Places({1: "#/run/1", 2: "#/run/2"}, {2: "file/2"}, "#/table", "front.png", "report.html")
    lines = study_note("lenet", note(member(1), member(2, "smallest", "knee")), places).splitlines()
    assert lines[0] == "### lenet"
    assert "**feasible: 2**" in lines
    assert "Budget: size\\_bytes at most 16.0 KB" in lines
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0] == ["pick", "trial", *HEADING, "model"]
    cells = ["9.3 KB", "185.3x", "0.9682", "", "0.0200", "6.81x"]
    assert rows[2] == ["smallest, knee", "[#2](#/run/2)", *cells, "[download](file/2)"]
    assert rows[3] == ["", "[#1](#/run/1)", *cells, ""]
    assert "![the front: quality against size](front.png)" in lines
    assert "[The front as a table to sort and compare](#/table)" in lines
    assert "[The report](report.html): one page, for whoever has no MLflow" in lines
    assert "autocompress x" in lines


def test_a_search_of_a_service_leads_to_its_page() -> None:
    page = search_page("https://compress.team/", "le net/5")
    assert page == "https://compress.team/searches/le%20net%2F5"
    text = study_note("lenet", replace(note(member(1)), page=page), Places({}, {}))
    assert f"[The search's own page]({page}): filter, compare, explain and export" in text.splitlines()
    assert "own page" not in study_note("lenet", note(member(1)), Places({}, {}))
    command = export_command("le net", 3, "https://compress.team")
    assert command == "autocompress export 'le net' --trial 3 --out chosen --server https://compress.team"
    assert export_command("lenet", 3) == "autocompress export lenet --trial 3 --out chosen"


def test_a_study_without_front_picture_or_limits_is_described() -> None:
    empty = Note((), ("no trials ended", "nothing finished"), HEADING, (), ())
    text = study_note("lenet", empty, Places({}, {}))
    assert "Budget: no limits" in text
    assert "|" not in text
    assert "![" not in text


def test_a_long_front_is_cut_to_what_a_description_holds() -> None:
    members = [member(number, *(("knee",) if number == 199 else ())) for number in range(200)]
    runs = dict.fromkeys(range(200), f"#/experiments/1/runs/{'f' * 32}")
    text = study_note("lenet", note(*members), Places(runs, runs))
    assert len(text) <= NOTE_LENGTH
    shown = text.count("[download]")
    assert 10 < shown < 200
    assert f"... and {200 - shown} more" in text
    assert "| knee | [#199]" in text


@given(st.text())
def test_nothing_of_a_text_is_taken_for_markup(text: str) -> None:
    shown = plain(text)
    assert "<" not in shown
    assert ">" not in shown
    assert len(shown.splitlines()) <= 1
    # Every sign that Markdown acts on within a line stands behind a backslash.
    assert re.sub(r"\\[\\`*_\[\]|~$]", "", shown) == re.sub(
        r"[\\`*_\[\]|~$]", "", re.sub(r"\\[\\`*_\[\]|~$]", "", shown)
    )


def test_the_view_of_a_front_names_columns_and_rows() -> None:
    view = json.loads(front_view("lenet", "auroc"))
    assert view["searchFilter"] == "tags.`autocompress.study` = 'lenet' AND tags.`autocompress.front` = 'true'"
    assert "metrics.`auroc`" in view["selectedColumns"]
