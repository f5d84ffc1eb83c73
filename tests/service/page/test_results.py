"""A search's own pages, from its study."""

from pathlib import Path

import pytest
from served import ANN
from signed import Site
from signed import site as opened
from studies import metrics, studied

from autocompress.outcome import Completed, Failed, Infeasible

EVIL = "<img src=x onerror=alert(1)>\"'&amp;{{ 7 * 7 }}\u202e"
SHOWN = "&lt;img src=x onerror=alert(1)&gt;&#34;&#39;&amp;amp;{{ 7 * 7 }}\\u202e"


@pytest.fixture
def made(tmp_path: Path, site: Site) -> Site:
    """A search of which two trials are on the front, one is past a limit and one failed."""
    studied(
        tmp_path,
        Completed(metrics(100, 0.97, 2.0), {}, {"train": 6.0, "export": 2.0}),
        Completed({**metrics(150, 0.98, 3.0), "latency_ms_low": 0.3, "latency_ms_high": 0.4}, {}, remarks=[EVIL]),
        Infeasible(metrics(210, 0.98, 2.0), {"size": 0.05}, f"past the limit {EVIL}"),
        Failed(f"ran out of memory {EVIL}", details=f"Traceback\n{EVIL}"),
    )
    site.search("made", tell=True, state="finished", verdict="feasible", run=1, trials=8)
    return site


def test_the_front_is_a_table_with_what_is_said_of_the_budget(made: Site) -> None:
    page = made.text("/searches/made")
    assert "feasible: 2 on the front meet the budget" in page
    assert '<a id="trial-link-0" data-detail="0" href="/searches/made/trials/0">0</a>' in page
    for cell in ("100 B", "10.0x", "0.9700", "0.5000", "2.00x", "smallest"):
        assert f">{cell}" in page, cell
    assert "size_bytes at most 200 B" in page
    assert '<progress max="8" value="4"' in page
    # What has ended is not followed, and can be resumed but not paused or cancelled.
    assert "data-live" not in page
    assert 'id="ask-resume"' in page
    assert 'id="ask-pause"' not in page
    assert 'id="cancelling"' not in page


@pytest.mark.parametrize(
    ("tracking", "given", "link"),
    [
        ("http://me:secret@mlflow:5000/", None, "http://me:***@mlflow:5000/#/experiments/1/runs/2"),
        ("http://mlflow:5000", "https://team/mlflow", "https://team/mlflow/#/experiments/1/runs/2"),
        ("sqlite:///mlflow.db", None, None),
    ],
)
def test_a_search_leads_to_its_run_in_mlflow_where_that_has_an_address(
    tracking: str, given: str | None, link: str | None, tmp_path: Path
) -> None:
    with opened(tmp_path, tracking=tracking, mlflow_url=given) as site:
        study = studied(tmp_path, Completed(metrics(100, 0.97, 2.0), {}))
        site.search("made", tell=True, state="finished", verdict="feasible", run=1)
        assert 'id="mlflow"' not in site.text("/searches/made")
        study.store.set("mlflow_page", "#/experiments/1/runs/2")
        page = site.text("/searches/made")
        assert ('id="mlflow"' in page) == (link is not None)
        assert link is None or f'<a class="soft" id="mlflow" href="{link}"' in page


def test_figures_come_with_every_measured_trial_as_a_point(made: Site) -> None:
    found = made.ask("GET", "/searches/made/figures").json()
    assert set(found["figures"]) == {"quality", "speed"}
    assert found["points"]["0"] == {
        "size": 100.0, "quality": 0.97, "latency": 0.5, "front": True, "feasible": True,
        "label": "trial 0: 100 B, accuracy 0.9700, 0.5 ms",
    }  # fmt: skip
    assert [found["points"][number]["front"] for number in "012"] == [True, True, False]
    assert found["points"]["2"]["feasible"] is False
    speed = found["figures"]["speed"]["data"]
    (front,) = (trace for trace in speed if trace["name"].startswith("front"))
    assert front["error_y"]["array"][1] == pytest.approx(0.4 - 1 / 3)
    assert found["figures"]["speed"]["layout"]["yaxis"]["type"] == "log"


def test_a_trial_has_its_recipe_reasons_and_a_way_to_its_file(made: Site) -> None:
    page = made.text("/searches/made/trials/0")
    assert 'href="/searches/made/export?trial=0"' in page
    assert "svd(" in page
    assert "the limit that binds" in page
    assert "75%" in page  # of 8 s went into training
    assert "autocompress export made --trial 0 --out chosen --server http://testserver" in page
    past = made.text("/searches/made/trials/2")
    assert "past the limit" in past
    assert "export?trial=2" not in past
    failed = made.text("/searches/made/trials/3")
    assert "Traceback\n" in failed
    assert made.ask("GET", "/searches/made/trials/99").status_code == 404
    assert made.ask("GET", "/searches/made/export?trial=99").status_code == 404
    assert made.ask("GET", "/searches/made/trials/x").status_code == 422


def test_every_trial_is_listed_newest_first(made: Site) -> None:
    page = made.text("/searches/made/trials")
    places = [page.index(f'href="/searches/made/trials/{number}"') for number in (3, 2, 1, 0)]
    assert places == sorted(places)
    assert 'rel="next"' not in page
    rest = made.text("/searches/made/trials?before=2")
    assert "/trials/2" not in rest
    assert "/trials/1" in rest


def test_two_trials_stand_side_by_side(made: Site) -> None:
    page = made.text("/searches/made/compare?trial=0&trial=1")
    assert '<tr><th scope="row">size_bytes</th><td>100 (100 B)</td><td>150 (150 B)</td><td>+50.0%</td></tr>' in page
    assert '<tr><th scope="row">accuracy</th><td>0.97</td><td>0.98</td><td>+0.0100</td></tr>' in page
    assert page.count('<section class="recipe"') == 2
    for query in ("", "?trial=0", "?trial=0&trial=1&trial=2"):
        assert "such as two of the front: 0, 1." in made.text(f"/searches/made/compare{query}")
    assert made.ask("GET", "/searches/made/compare?trial=0&trial=99").status_code == 404


def test_why_and_where_the_time_went(made: Site) -> None:
    page = made.text("/searches/made/why")
    assert "past the limit on size: 1 trials" in page
    assert "completed (2)" in page


def test_the_end_of_a_log_is_shown_as_text(made: Site) -> None:
    assert "Nothing was written" in made.text("/searches/made/log")
    search = made.parts.queue.find(ANN, "made")
    path = made.parts.log(search, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first\n" + b"x" * 100_000 + b"\n</code><script>alert(1)</script>\x1b[31m\xff\nlast\n")
    page = made.text("/searches/made/log")
    assert "first" not in page
    assert "&lt;/code&gt;&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m" in page
    assert "last\n</code>" in page
    assert "/api/v1/searches/made/logs?run=1" in page


def test_nothing_that_a_study_says_becomes_part_of_a_page(made: Site) -> None:
    made.search("broken", state="failed", error=EVIL)
    for path in ("/", "/searches/broken", "/searches/made/trials", "/searches/made/trials/1", "/searches/made/trials/3",
                 "/searches/made/compare?trial=1&trial=3", "/searches/made/why"):  # fmt: skip
        page = made.text(path)
        assert SHOWN in page, path
        assert "<img src=x" not in page, path
        assert "\u202e" not in page, path
    figures = made.ask("GET", "/searches/made/figures")
    assert figures.headers["content-type"] == "application/json"


def test_a_search_of_which_nothing_is_known_has_pages(site: Site) -> None:
    site.search("new")
    page = site.text("/searches/new")
    assert "this search waits for its turn" in page
    assert 'data-live="/api/v1/searches/new/events?after=1"' in page
    assert "plotly" not in page.partition("</head>")[0].replace("plotly.js-style-global", "")
    assert "Nothing was written" in site.text("/searches/new/log")
    for path in ("trials", "why", "compare", "export", "trials/0"):
        answer = site.ask("GET", f"/searches/new/{path}")
        assert (answer.status_code, "it has no trials yet" in answer.text) == (409, True)
    site.search("bad", state="failed", error="task.py: no such task")
    assert "no trial ended" in site.text("/searches/bad")


def test_a_search_is_steered_and_changed(site: Site) -> None:
    site.search("new")
    for asked, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        answer = site.ask("POST", f"/searches/new/{asked}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/searches/new")
        assert f'<span class="state {state}">' in site.text("/searches/new")
    refused = site.ask("POST", "/searches/new/resume")
    assert refused.status_code == 409
    assert "cannot resume a search that is cancelled" in refused.text
    assert site.ask("POST", "/searches/new/fly").status_code == 422


def test_what_is_left_empty_stays_when_a_search_is_changed(site: Site) -> None:
    site.search("new", priority=4)
    filled = {"trials": "9", "timeout": "2m", "workers": "", "priority": ""}
    assert site.ask("POST", "/searches/new/change", data=filled).status_code == 303
    found = site.parts.queue.find(ANN, "new")
    assert (found.trials, found.timeout_s, found.workers, found.priority) == (9, 120.0, None, 4)
    for wrong in ({"trials": "0"}, {"timeout": "2"}, {"timeout": "-1m"}, {"workers": "many"}):
        assert site.ask("POST", "/searches/new/change", data=wrong).status_code == 422
    assert site.parts.queue.find(ANN, "new").trials == 9
