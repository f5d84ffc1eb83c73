"""The whole stack, natively: logins, searches by two servers, deaths, and no password where none belongs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import postgres
import psutil
import psycopg
import pytest
import stack
from served import archive, client_for
from served import until as quickly
from tiny import Ran, make_project, run

pytestmark = pytest.mark.stack
TRIALS = 2
PATIENCE_S = 600.0


def until(condition: Any) -> Any:
    """Wait for what may take long, as all that a search imports is imported on this machine several times."""
    return quickly(condition, PATIENCE_S)


@dataclass
class Up:
    """A stack, and a client of one of its servers."""

    stack: stack.Stack
    client: httpx2.Client

    def secret(self, name: str) -> str:
        return (self.stack.secrets / name).read_text().strip().rpartition(":")[2]

    def get(self, study: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/api/v1/searches/{study}").json()
        return found

    def connected(self, role: str, password: str, database: str) -> psycopg.Connection:
        port = int(self.stack.variables["POSTGRES_PORT"])
        return psycopg.connect(host="127.0.0.1", port=port, user=role, password=password, dbname=database)

    def controller(self, study: str) -> psutil.Process | None:
        """The process that a search's lock says it is."""
        lock = self.stack.folder / "searches" / "searches" / self.get(study)["id"] / "runs" / "lock"
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            return psutil.Process(json.loads(lock.read_text())["pid"])
        return None


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    if not postgres.installed():
        pytest.skip("Postgres is not installed")
    with stack.running() as made:
        found = Up(made, client_for(made.url, made.token.read_text().strip()))
        yield found
        found.client.close()
    assert made.left() == []
    assert not made.folder.exists()


def ray_answers(up: Up, **environment: str) -> bool:
    """Whether Ray lets in whoever has such an environment."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    head = next(process for process in up.stack.processes if process.name == "ray-head")
    clean = {name: value for name, value in head.environment.items() if not name.startswith("RAY_AUTH")}
    where = f"--address=127.0.0.1:{up.stack.variables['RAY_PORT']}"
    done = subprocess.run([*command, where], env={**clean, **environment}, capture_output=True, check=False)
    return done.returncode == 0


def test_wrong_passwords_are_refused_everywhere_and_right_ones_are_not(up: Up) -> None:
    for role in ("autocompress", "mlflow"):
        up.connected(role, up.secret(f"{role}_pgpass"), role).close()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            up.connected(role, "wrong", role)
        other = {"autocompress": "mlflow_auth", "mlflow": "autocompress"}[role]
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            up.connected(role, up.secret(f"{role}_pgpass"), other)
    asked = f"{up.stack.tracking}/api/2.0/mlflow/experiments/search?max_results=1"
    for login, status in (
        (None, 401),
        (("admin", "wrong"), 401),
        (("admin", "password1234"), 401),
        (("admin", up.secret("mlflow_password")), 200),
    ):
        assert httpx2.get(asked, auth=login, timeout=60).status_code == status
    assert not ray_answers(up, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
    assert ray_answers(up, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=up.secret("ray_token"))
    token = up.stack.token.read_text().strip()
    for given, status in ((f"Bearer {token[:-1]}", 401), ("", 401), (f"Bearer {token}", 200)):
        answer = httpx2.get(f"{up.stack.url}/api/v1/searches", headers={"Authorization": given}, timeout=60)
        assert answer.status_code == status


def config_of(study: str) -> dict[str, Any]:
    return {"study": study, "search": {"trials": TRIALS, "workers": 1}, "tracking": {"experiment": study}}


def watched(up: Up, folder: Path, study: str) -> subprocess.Popen[bytes]:
    """A search that a person begins from a folder of theirs, and watches to its end."""
    make_project(folder, **config_of(study))
    command = [sys.executable, "-c", "from autocompress.terminal.cli import main; main()", "search", "search.yaml"]
    environment = {**os.environ, "AUTOCOMPRESS_TOKEN_FILE": str(up.stack.token)}
    server = str(up.client.base_url).rstrip("/")
    with (folder / "log").open("wb") as log:
        return subprocess.Popen([*command, "--server", server], cwd=folder, env=environment, stdout=log, stderr=log)


def commands(up: Up) -> str:
    """The command lines of all that the stack started, as everybody on the machine can see them."""
    found = []
    for process in up.stack.left():
        with suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return "\n".join(found)


def test_two_servers_share_the_searches_and_one_takes_over_what_a_killed_one_held(up: Up, tmp_path: Path) -> None:
    first = next(process for process in up.stack.processes if process.name == "server")
    sent = up.client.post("/api/v1/searches", files={"archive": archive(**config_of("killed"))})
    assert sent.status_code == 201, sent.text
    until(lambda: up.get("killed")["state"] == "running")
    port = str(stack.free_ports(1)[0])
    up.stack.wait(up.stack.start("server", SERVER_PORT=port))
    up.client.close()
    up.client = client_for(f"http://127.0.0.1:{port}", up.stack.token.read_text().strip())
    person = watched(up, tmp_path, "alive")
    until(lambda: "baseline" in log_of(up, "killed") and "baseline" in log_of(up, "alive"))
    seen = commands(up)
    controller = up.controller("killed")
    assert controller is not None
    first.popen.kill()
    first.popen.wait()
    controller.kill()
    up.stack.processes.remove(first)
    assert [until(lambda study=study: finished(up, study))["run"] for study in ("killed", "alive")] == [2, 1]
    assert person.wait(PATIENCE_S) == 0, (tmp_path / "log").read_text()
    check_trials(up)
    check_tracking(up)
    check_secrets(up, seen)


def log_of(up: Up, study: str) -> str:
    """What the controller of a search wrote."""
    answer = up.client.get(f"/api/v1/searches/{study}/logs")
    return answer.text if answer.status_code == 200 else ""


def finished(up: Up, study: str) -> dict[str, Any] | None:
    found = up.get(study)
    assert found["state"] != "failed", found
    return found if found["state"] == "finished" else None


def check_trials(up: Up) -> None:
    """Nothing was lost, run twice or left running."""
    with up.connected("autocompress", up.secret("autocompress_pgpass"), "autocompress") as connection:
        rows = connection.execute(
            "SELECT study_name, state, count(*), count(DISTINCT number) FROM trials JOIN studies USING (study_id) "
            "GROUP BY study_name, state ORDER BY study_name"
        ).fetchall()
        held = connection.execute("SELECT count(*) FROM service_searches WHERE lease_owner IS NOT NULL").fetchone()
        told = connection.execute("SELECT count(*) FROM service_events WHERE kind = 'trial'").fetchone()
    assert rows == [(study, "COMPLETE", TRIALS, TRIALS) for study in ("alive", "killed")]
    assert (held, told) == ((0,), (2 * TRIALS,))


def check_tracking(up: Up) -> None:
    """Every trial is a run of the MLflow server, which wants a password for it."""
    for study in ("killed", "alive"):
        runs = mlflow(up, "runs/search", {"experiment_ids": [experiment(up, study)], "max_results": 100})["runs"]
        tags = [{tag["key"]: tag["value"] for tag in row["data"]["tags"]} for row in runs]
        assert sorted(int(t["autocompress.trial"]) for t in tags if "autocompress.trial" in t) == list(range(TRIALS))
        assert {row["info"]["status"] for row in runs} == {"FINISHED"}


def experiment(up: Up, name: str) -> str:
    found = mlflow(up, "experiments/search", {"filter": f"name = '{name}'", "max_results": 2})["experiments"]
    return str(found[0]["experiment_id"])


def mlflow(up: Up, path: str, body: dict[str, Any]) -> Any:
    url, login = f"{up.stack.tracking}/api/2.0/mlflow/{path}", ("admin", up.secret("mlflow_password"))
    answer = httpx2.post(url, json=body, auth=login, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def check_secrets(up: Up, seen: str) -> None:
    """No secret stands in a log, a config, an artifact or a command line."""
    secrets = {path.name: up.secret(path.name) for path in up.stack.secrets.iterdir() if path.suffix != ".ini"}
    assert len(secrets) == 6
    assert "autocompress serve" in seen
    assert "gcs_server" in seen
    shown = seen + commands(up)
    places = [up.stack.folder / name for name in ("logs", "searches", "artifacts", "home", "ray")]
    files = [path for place in places for path in place.rglob("*") if path.is_file() and path != up.stack.token]
    assert any(path.name == ".autocompress-service.yaml" for path in files)
    for name, secret in secrets.items():
        assert secret not in shown, name
        found = [path for path in files if secret.encode() in path.read_bytes()]
        assert found == [], name


def remotely(up: Up, folder: Path, *arguments: str) -> Ran:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOCOMPRESS_TOKEN_FILE", str(up.stack.token))
        return run(folder, *arguments, "--server", str(up.client.base_url).rstrip("/"))


def test_a_front_is_seen_and_a_model_exported_from_where_another_server_searched(up: Up, tmp_path: Path) -> None:
    front = remotely(up, tmp_path, "front", "killed", "--json").json()
    assert (front["verdict"], front["counts"]["completed"]) == ("feasible", TRIALS)
    assert all(row["run_id"] for row in front["front"])
    ran = remotely(up, tmp_path, "export", "killed", "--pick", "smallest", "--out", "chosen")
    assert ran.code == 0, ran.err
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "chosen" / "model.onnx")
    assert session.get_inputs()
    assert {"recipe.yaml", "measurement.json", "SHA256SUMS"} <= {path.name for path in (tmp_path / "chosen").iterdir()}


def place(process: psutil.Process) -> str:
    """The folder of the stack that a process belongs to."""
    with suppress(psutil.Error):
        return process.environ().get(stack.MARK, "")
    return ""


def test_a_second_stack_beside_it_ends_on_sigterm_with_all_that_it_started(up: Up) -> None:
    beside = psutil.Popen(
        [sys.executable, str(Path(stack.__file__))], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    (folder,) = until(lambda: {place(child) for child in beside.children(recursive=True)} - {""})
    assert folder != str(up.stack.folder)
    until(lambda: (Path(folder) / "logs" / "mlflow-2.log").is_file())  # Postgres and Ray's head run, or are about to
    beside.send_signal(signal.SIGTERM)
    assert beside.wait(PATIENCE_S) == 0
    assert not Path(folder).exists()
    assert [process for process in psutil.process_iter() if place(process) == folder] == []
    assert up.client.get("/readyz").status_code == 200
