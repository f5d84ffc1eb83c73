"""MLflow's file is made once, whole or not at all."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from autocompress.errors import ServiceError
from autocompress.service import runs_store
from autocompress.service.runs_store import make_runs_store


def test_the_tables_are_all_there_and_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    make_runs_store(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"experiments", "runs", "alembic_version"} <= tables
    assert not any(name.startswith("_alembic_tmp") for name in tables)
    assert [found.name for found in tmp_path.iterdir()] == ["mlflow.db"]
    path.write_bytes(b"mine")
    make_runs_store(f"sqlite:///{path}")
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("code", ["raise SystemExit('no tables')", "import sys; open(sys.argv[1][10:], 'w'); 1 / 0"])
def test_what_cannot_be_made_leaves_nothing(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_store, "MAKE", code)
    with pytest.raises(ServiceError, match=r"mlflow.db: cannot be made: (no tables|ZeroDivisionError)"):
        make_runs_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["", "http://127.0.0.1:9", "postgresql://here/runs"])
def test_servers_make_their_own(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs_store, "MAKE", "raise SystemExit('it was begun')")
    make_runs_store(uri)
    assert list(tmp_path.iterdir()) == []
