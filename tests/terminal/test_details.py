"""Where the page of a search is, as `ui` says it."""

from pathlib import Path

import pytest
from studies import metrics, studied
from tiny import run

from autocompress.errors import StudyError
from autocompress.outcome import Completed
from autocompress.terminal.details import tracking_place


def test_ui_says_where_the_newest_search_is(tmp_path: Path) -> None:
    results = studied(tmp_path, Completed(metrics(100, 0.97, 2.0), {}))
    results.store.set("config", {"tracking": {"uri": "http://me:secret@host:5000/"}})
    first = run(tmp_path, "ui")
    assert first.out == "the tracking server is at http://me:***@host:5000/\n"
    results.store.set("mlflow_page", "#/experiments/1/runs/2?workflowType=machine_learning")
    lines = run(tmp_path, "ui").out.splitlines()
    page = "http://me:***@host:5000/#/experiments/1/runs/2?workflowType=machine_learning"
    assert lines[1] == f"the newest search: {page}"


def test_a_file_is_looked_for_beside_the_study(tmp_path: Path) -> None:
    results = studied(tmp_path, Completed(metrics(100, 0.97, 2.0), {}))
    storage = f"sqlite:///{tmp_path}/autocompress.db"
    with pytest.raises(StudyError, match="no tracked study"):
        tracking_place(storage)
    results.store.set("config", {"tracking": {"uri": "sqlite:///mlflow.db"}})
    (tmp_path / "mlflow.db").touch()
    assert tracking_place(storage) == (f"sqlite:///{tmp_path}/mlflow.db", "")
