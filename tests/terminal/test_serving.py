"""The commands of who runs the service, and what they and --server say where something is missing."""

import json
import os
from pathlib import Path

import pytest
from tiny import run

from autocompress.errors import ServiceError
from autocompress.terminal import serving
from autocompress.terminal.options import Controllers


def test_a_token_is_shown_once_and_listed_without_its_secret(tmp_path: Path) -> None:
    made = run(tmp_path, "token", "create", "ann")
    assert made.code == 0
    assert made.out.startswith("act_")
    assert run(tmp_path, "token", "create", "ada", "--admin", "--days", "1").code == 0
    listed = run(tmp_path, "token", "list", "--json")
    rows = listed.json()
    assert [(row["name"], row["admin"], row["revoked"]) for row in rows] == [("ann", False, None), ("ada", True, None)]
    assert made.out.strip()[-43:] not in json.dumps(rows)
    assert rows[0]["id"] in made.out
    assert run(tmp_path, "token", "revoke", "ann").code == 0
    assert "ann" in run(tmp_path, "token", "list").out
    assert run(tmp_path, "token", "revoke", "carl").err == (
        "error: token 'carl': there is none of that name or id: see `autocompress token list`\n"
    )


def test_quotas_are_given_with_a_token_and_changed_later(tmp_path: Path) -> None:
    assert run(tmp_path, "token", "create", "ann", "--searches", "2", "--trial-seconds", "60").code == 0
    changed = run(tmp_path, "token", "quota", "ann", "--workers", "4", "--json")
    quota = {"searches": 2, "workers": 4, "trial_seconds": 60.0}
    assert changed.json() == {"name": "ann", **quota, "running": 0, "used_seconds": 0.0}
    assert run(tmp_path, "token", "quota", "ann", "--json").json() == changed.json()
    back = run(tmp_path, "token", "quota", "ann", "--reset", "--searches", "0")
    assert back.out.splitlines()[1:4] == [
        "searches: 0", "workers: as the server says", "trial seconds: as the server says"]  # fmt: skip
    assert run(tmp_path, "token", "quota", "ann", "--searches", "-1").code == 2


@pytest.mark.parametrize(
    "arguments", [["serve"], ["token", "create", "ann"], ["token", "list"], ["list", "--server", "http://h"]]
)
def test_without_the_extra_it_is_said_what_to_install(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "NEEDS", ("not_there",))
    ran = run(tmp_path, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == ("error: the service needs not_there, not installed here: pip install 'autocompress[service]'\n")


def test_no_password_is_an_argument(tmp_path: Path) -> None:
    for given in (["--storage", "postgresql://me:secret@here/a"], ["--tracking=http://me:secret@here:5000"]):
        ran = run(tmp_path, "serve", *given)
        assert (ran.code, "secret" in ran.err) == (2, False)
        assert "me:***@here" in ran.err
        assert "holds a password" in ran.err


@pytest.mark.parametrize("link", ["compress.team", "javascript:alert(1)", "http://a:b@c", "http://a) [x](http://b"])
def test_links_lead_to_pages_and_hold_no_password(link: str, tmp_path: Path) -> None:
    for option in ("--url", "--mlflow-url"):
        ran = run(tmp_path, "serve", option, link)
        assert ran.code == 2
        assert "is no address of a page: write http://HOST:PORT, without a password" in " ".join(ran.err.split())


def test_a_storage_is_named_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "storage").write_text("sqlite:///other.db\n")
    monkeypatch.setenv("AUTOCOMPRESS_STORAGE_FILE", str(tmp_path / "storage"))
    assert run(tmp_path, "token", "create", "ann").code == 0
    assert (tmp_path / "other.db").is_file()
    assert not (tmp_path / "autocompress.db").exists()


def test_what_mlflow_is_told_may_lie_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("secret\n")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD_FILE", str(tmp_path / "password"))
    serving.take_secrets()
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "secret"


def test_a_port_in_use_is_an_answer(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = run(tmp_path, "serve", "--port", str(port))
    assert ran.code == 2
    assert f"error: 127.0.0.1:{port}: cannot be listened on: address already in use" in ran.err


def test_a_server_that_is_not_there_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_TOKEN", "none")
    ran = run(tmp_path, "front", "one", "--server", "http://127.0.0.1:9")
    assert ran.code == 2
    assert "error: http://127.0.0.1:9: cannot be reached" in ran.err
    assert "give --server URL" in run(tmp_path, "attach", "one").err


@pytest.mark.parametrize(("ray", "usual"), [("auto", "process"), ("local", "process"), ("head:6379", "ray")])
def test_searches_are_jobs_of_a_cluster_that_is_named_unless_told_otherwise(ray: str, usual: str) -> None:
    assert serving._controllers(None, ray) == usual
    assert serving._controllers(Controllers.process, ray) == "process"


def test_a_cluster_that_ends_with_the_server_runs_no_jobs() -> None:
    with pytest.raises(ServiceError, match="--ray auto is no cluster of its own: name one by --ray HOST:PORT"):
        serving._controllers(Controllers.ray, "auto")
