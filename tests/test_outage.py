"""Searches whose MLflow server is away."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commandline import PATIENCE, Project, pause


def free_port() -> int:
    """A port of the loopback interface on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    """A real tracking server, which ends with the block."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination",
        str(folder / "kept"),
    ]
    log = folder / "server.txt"
    with log.open("w") as file:
        server = subprocess.Popen(
            [*command, *stores], cwd=folder, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not listens(port):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            pause(server)
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(PATIENCE)


def listens(port: int) -> bool:
    """Whether something takes connections on this port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_search_without_its_mlflow_server_ends_well_and_logs_what_is_missing_later(tmp_path: Path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    project = Project.make(tmp_path, search={"trials": 2}, tracking={"uri": uri, "experiment": "digits"})
    search = ("search", project.config, "--executor", "inline")
    ended = project.call(*search)
    assert "2 trials: 2 completed" in ended.out
    assert "MLflow is away" in ended.err
    assert "MLflow lacks " in ended.err
    trials = project.trials()

    with mlflow_server(tmp_path, port):
        ended = project.call(*search, "--resume")
        assert not [word for word in ("MLflow is", "MLflow lacks", "MLflow refused") if word in ended.err]
        assert project.trials() == trials  # nothing was run again
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("digits")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        assert {run.info.status for run in runs} == {"FINISHED"}
        logged = {int(r.data.tags["autocompress.trial"]): r for r in runs if "autocompress.trial" in r.data.tags}
        assert logged.keys() == project.counted().keys()
        for row in project.call("front", "digits", "--json").json()["front"]:
            assert row["run_id"] == logged[row["trial"]].info.run_id
            assert logged[row["trial"]].data.metrics["test_accuracy"] == row["metrics"]["test_accuracy"]
