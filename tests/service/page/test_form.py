"""What a form means: a plan, a search, or what is wrong with it."""

import sys
from typing import Any

import pytest
import yaml
from served import ANN, archive
from signed import Site

from autocompress.service.page.form import budget, experiments
from autocompress.service.submission import DERIVED

FILLED = {"project": "archive", "config": "search.yaml", "action": "search", "size": "", "trials": "", "priority": "0"}


def send(site: Site, who: str = "ann", packed: bytes | None = None, **values: str) -> Any:
    """The form as a browser sends it; a file that was not chosen is an empty one without a name."""
    file = (
        ("project.tar.gz", packed, "application/gzip") if packed is not None else ("", b"", "application/octet-stream")
    )
    return site.ask("POST", "/new", who, data={**FILLED, **values}, files={"archive": file})


def test_a_form_becomes_a_search_with_its_budget_once(site: Site) -> None:
    values = {"study": "mine", "size": "20", "size_unit": "KB", "accuracy_drop": "1.5", "speedup": "2", "trials": "7",
              "timeout": "10m", "workers": "3", "priority": "-2", "key": "k"}  # fmt: skip
    packed = archive(budget={"size_bytes": 100, "compression_ratio": 3})
    for _ in range(2):
        answer = send(site, packed=packed, **values)
        assert (answer.status_code, answer.headers.get("location")) == (303, "/searches/mine"), answer.text
    found = site.parts.queue.find(ANN, "mine")
    assert (found.trials, found.timeout_s, found.workers, found.priority) == (7, 600.0, 3, -2)
    derived = yaml.safe_load((site.parts.places.project(found) / DERIVED).read_text())
    assert derived["budget"] == {"size": "20 KB", "accuracy_drop": 0.015, "speedup": 2.0, "compression_ratio": 3}
    assert len(list((site.parts.settings.folder / "searches").iterdir())) == 1


def test_a_bundled_experiment_is_chosen_by_name_and_keeps_its_budget(site: Site) -> None:
    page = site.text("/new")
    assert "mnist5k_lenet (size 16 KB, speedup 2.0, accuracy_drop 0.01)" in page
    assert send(site, project="bundled", experiment="mnist5k_lenet").headers["location"] == "/searches/mnist5k-lenet"
    found = site.parts.queue.find(ANN, "mnist5k-lenet")
    derived = yaml.safe_load((site.parts.places.project(found) / DERIVED).read_text())
    assert derived["budget"] == {"size": "16 KB", "speedup": 2.0, "accuracy_drop": 0.01}
    assert "mnist5k_lenet" in experiments()


@pytest.mark.parametrize(
    ("values", "packed", "words"),
    [
        ({}, None, "one of archive and experiment is needed"),
        ({"size": "0"}, archive(), "write a number greater than 0"),
        ({"speedup": "fast"}, archive(), "budget.speedup"),
        ({"accuracy": "7"}, archive(), "budget.accuracy"),
        ({"timeout": "10"}, archive(), "is no number with a unit"),
        ({"trials": "0"}, archive(), "greater than or equal to 1"),
        ({"config": "../x.yaml"}, archive(), "leads out of the archive"),
        ({"study": "<script>alert(1)</script>"}, archive(), "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ({}, b"nothing", "cannot be read"),
    ],
)
def test_what_is_wrong_is_said_beside_what_was_filled_in(
    site: Site, values: dict[str, str], packed: bytes | None, words: str
) -> None:
    answer = send(site, packed=packed, workers="5", **values)
    assert answer.status_code in (400, 422)
    assert words in answer.text
    assert "<script>alert" not in answer.text
    assert 'name="workers" type="number" min="1" max="4096" value="5"' in answer.text
    assert list((site.parts.settings.folder / "searches").glob("*")) == []


def test_a_plan_is_said_and_begins_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        """import json, sys; print(json.dumps({"lines": ["budget: <b>" + open(sys.argv[2]).read()], "left_out": {}}))"""
    )
    monkeypatch.setattr("autocompress.service.exports.COMMAND", (sys.executable, "-S", "-c", code))
    answer = send(site, packed=archive(), action="plan", size="3", size_unit="MB")
    assert answer.status_code == 200, answer.text
    assert "<li>budget: &lt;b&gt;" in answer.text
    assert "size: 3 MB" in answer.text
    assert 'name="size" type="number" step="any" min="0" inputmode="decimal" value="3"' in answer.text
    assert list((site.parts.settings.folder / "searches").iterdir()) == []


def test_points_of_accuracy_are_shares_of_one() -> None:
    assert budget({"accuracy_drop": "1", "size": "60", "latency": "0.2", "latency_unit": "us", "accuracy": ""}) == {
        "accuracy_drop": 0.01, "size": "60 KB", "latency": "0.2 us"}  # fmt: skip
