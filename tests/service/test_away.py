"""A real server whose database and MLflow go away and come back; what it says anywhere holds no secret."""

import json
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from served import Server, archive, served, until
from test_outage import free_port, mlflow_server

from autocompress.service.tokens import Tokens

PASSWORD = "hunter2-of-mlflow"


def submit(server: Server, study: str, trials: int, **pretend: Any) -> None:
    """A search of so many trials by a controller that pretends as it is told."""
    config = {"study": study, "task": "task.py:tiny", "search_space": "space.yaml", "tracking": None}
    files = {"search.yaml": json.dumps(config), "pretend.json": json.dumps(pretend), "task.py": ""}
    sent = server.client.post("/api/v1/searches", files={"archive": archive(files)}, data={"trials": str(trials)})
    assert sent.status_code == 201, sent.text


def test_a_database_that_is_locked_for_long_stops_nothing_for_good(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        submit(server, "one", 12, seconds=0.1)
        until(lambda: server.get("one")["events"] >= 4)
        with closing(sqlite3.connect(tmp_path / "autocompress.db", timeout=60)) as holder:
            holder.execute("BEGIN EXCLUSIVE")  # as a copy or a repair does
            over = time.monotonic() + 3.0  # two leases
            until(lambda: server.client.get("/healthz").status_code == 200 and time.monotonic() > over)
            holder.rollback()
        assert server.wait("one", "finished", "failed")["error"] is None
        trials = [event for event in server.client.get("/api/v1/searches/one/events").text.splitlines()
                  if event == "event: trial"]  # fmt: skip
        assert len(trials) == 12


def ended(server: Server) -> dict[str, Any]:
    """The real search, once it ended: it waits for an MLflow that is away a while."""
    found: dict[str, Any] = until(lambda: (row := server.get("tiny"))["state"] in ("finished", "failed") and row, 300)
    return found


def said(server: Server) -> dict[str, str]:
    """All that a server and its controllers wrote, and all that it answers of its searches."""
    folder = server.folder
    runs = [path for path in folder.glob("service/searches/*/runs/*") if path.suffix in (".log", ".out")]
    logs = [folder / "server.log", *runs]
    found = {str(path): path.read_text(errors="replace") for path in logs}
    for path in server.client.get("/api/v1/openapi.json").json()["paths"]:
        filled = path.replace("{study}", "tiny").replace("{trial}", "0").replace("{figure}", "front.json")
        if "{request}" not in path:
            answer = server.client.get(filled)
            found[filled] = f"{answer.headers}{answer.text}"
    return found


def test_mlflow_may_come_late_and_no_secret_is_told_anywhere(tmp_path: Path) -> None:
    port = free_port()
    stored = tmp_path / "mlflow"
    stored.mkdir()
    impatient = {**os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    with served(tmp_path, env=impatient, tracking=f"http://ann:{PASSWORD}@127.0.0.1:{port}") as server:
        secrets = [PASSWORD, server.client.headers["authorization"].split("_", 2)[2]]
        tokens: Tokens = server.tokens()
        secrets.append(tokens.create("ann").split("_", 2)[2])
        server.submit("tiny", tracking={"experiment": "late"}, search={"trials": 1, "workers": 1})
        assert ended(server)["error"] is None
        log = server.client.get("/api/v1/searches/tiny/logs").text
        assert "MLflow is away" in log
        with mlflow_server(stored, port):
            server.client.patch("/api/v1/searches/tiny", json={"trials": 2})
            server.client.post("/api/v1/searches/tiny/resume")
            until(lambda: server.get("tiny")["run"] == 2)
            assert ended(server)["error"] is None
            assert "MLflow is away" not in server.client.get("/api/v1/searches/tiny/logs").text
        with closing(sqlite3.connect(stored / "server.db")) as database:
            tags = database.execute("SELECT value FROM tags WHERE key = 'autocompress.trial'").fetchall()
        assert sorted(tags) == [("0",), ("1",)]
        told = said(server)
        told |= {str(path): path.read_bytes().decode(errors="replace") for path in stored.rglob("*") if path.is_file()}
    assert len(told) > 25
    assert [(where, secret) for where, text in told.items() for secret in secrets if secret in text] == []
