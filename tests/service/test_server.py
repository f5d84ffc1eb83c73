"""Real servers and real deaths: nothing is lost, nothing is run twice, and nothing is left running."""

import hashlib
import io
import os
import signal
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pursued import TRIALS, check, events, ran, submit
from served import PATIENCE, Server, client_for, controllers, served, until
from tiny import Ran, make_project, run

from autocompress.service.allowances import Allowances
from autocompress.service.database import Database
from autocompress.service.quotas import Quota


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has a real search to do beside what is pretended, which the last test looks at."""
    with served(tmp_path_factory.mktemp("server"), slots=4) as running:
        running.submit("tiny")
        yield running


def test_searches_end_and_are_told(server: Server) -> None:
    submit(server, "plain")
    submit(server, "refused", refuses="task.py: no such task: name one")
    assert server.wait("plain", "finished")["verdict"] == "feasible"
    check(server, "plain")
    front = server.client.get("/api/v1/searches/plain/front").json()
    assert [row["trial"] for row in front["front"]] == [TRIALS - 1]
    trial = server.client.get("/api/v1/searches/plain/trials/3").json()
    assert trial["metrics"]["size_bytes"] == 97.0
    assert server.client.get("/api/v1/searches/plain/trials/99").status_code == 404
    assert list(events(server, "plain", after=3)) == list(events(server, "plain"))[3:]
    assert server.wait("refused", "failed")["error"] == "task.py: no such task: name one"


def test_a_search_is_paused_resumed_changed_and_cancelled_while_it_runs(server: Server) -> None:
    submit(server, "long", trials=1000, seconds=0.1)
    until(lambda: len(ran(server, "long")) > 2)
    server.client.post("/api/v1/searches/long/pause")
    server.wait("long", "paused")
    assert controllers(server.folder, "long") == []
    server.client.post("/api/v1/searches/long/resume")
    done = len(ran(server, "long"))
    until(lambda: len(ran(server, "long")) > done)
    server.client.patch("/api/v1/searches/long", json={"trials": done + 10})
    assert server.wait("long", "finished")["run"] == 3
    check(server, "long", len(ran(server, "long")))
    server.client.patch("/api/v1/searches/long", json={"trials": 1000})
    server.client.post("/api/v1/searches/long/resume")
    total = len(ran(server, "long"))
    until(lambda: len(ran(server, "long")) > total)
    server.client.post("/api/v1/searches/long/cancel")
    until(lambda: not controllers(server.folder, "long"))
    assert server.get("long")["state"] == "cancelled"


def test_a_killed_controller_is_started_again_and_one_that_always_dies_fails(server: Server) -> None:
    submit(server, "killed", seconds=0.1)
    submit(server, "dying", dies_after=2)
    until(lambda: len(ran(server, "killed")) >= 3)
    os.kill(controllers(server.folder, "killed")[0], signal.SIGKILL)
    assert server.wait("killed", "finished")["run"] == 2
    check(server, "killed")
    assert "was killed 4 times" in server.wait("dying", "failed")["error"]


def test_a_killed_servers_searches_go_on_and_its_heir_starts_nothing_twice(tmp_path: Path, storage: str) -> None:
    with served(tmp_path, storage=storage) as dead:
        submit(dead, "alive", trials=25, seconds=0.15)
        submit(dead, "killed", trials=TRIALS, seconds=0.15)
        submit(dead, "queued")
        until(lambda: ran(dead, "alive") and ran(dead, "killed"))
        (alive,), (killed,) = controllers(tmp_path, "alive"), controllers(tmp_path, "killed")
        dead.kill()
        os.kill(killed, signal.SIGKILL)
        assert controllers(tmp_path, "alive") == [alive]
        with served(tmp_path, storage=storage) as heir:
            for study in ("alive", "killed", "queued"):
                heir.wait(study, "finished")
            assert [heir.get(study)["run"] for study in ("alive", "killed", "queued")] == [1, 2, 1]
            check(heir, "alive", 25)
            check(heir, "killed")
            check(heir, "queued")


def test_a_search_pauses_itself_when_its_owners_seconds_are_used_up_and_goes_on_with_more(server: Server) -> None:
    token = server.tokens().create("carl")
    allowances = Allowances(Database(f"sqlite:///{server.folder / 'autocompress.db'}"), Quota())
    allowances.give("carl", Quota(searches=1, workers=1, trial_seconds=30.0))
    with client_for(server.url, token) as carl:
        theirs = replace(server, client=carl)
        submit(theirs, "spent", trials=1000, seconds=0.1, counts=10.0)
        paused = until(lambda: (row := theirs.get("spent"))["state"] == "paused" and row, 3 * PATIENCE)
        assert "carl has used up today's 30 seconds of trials" in paused["reason"]
        assert paused["resumes"] > paused["created"]
        done = len(ran(theirs, "spent"))
        assert 3 <= done < 1000
        assert carl.get("/api/v1/me").json()["used_trial_seconds"] >= 30.0
        allowances.give("carl", Quota(trial_seconds=1e6))
        assert theirs.wait("spent", "running")["reason"] is None
        until(lambda: len(ran(theirs, "spent")) > done)
        carl.post("/api/v1/searches/spent/cancel")
        until(lambda: not controllers(server.folder, "spent"))
        assert "twice" not in ran(theirs, "spent")


def test_two_servers_on_one_database_share_its_searches(server: Server) -> None:
    studies = [f"s{index}" for index in range(4)]
    with served(server.folder, slots=1) as other:
        for study in studies:
            submit(server, study, trials=4)
        for study in studies:
            other.wait(study, "finished")
            check(other, study, 4)
            assert server.get(study)["run"] == 1


def remotely(server: Server, folder: Path, *arguments: str) -> Ran:
    """A command on the server, as a person in a folder gives it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOCOMPRESS_TOKEN_FILE", str(server.folder / "service" / "admin.token"))
        return run(folder, *arguments, "--server", server.url)


def test_the_same_commands_work_on_a_server(server: Server, tmp_path: Path) -> None:
    make_project(tmp_path, study="mine")
    (tmp_path / "pretend.json").write_text("{}")
    (tmp_path / "data.bin").write_text("large")
    (tmp_path / ".autocompressignore").write_text("data.bin\n")
    searched = remotely(server, tmp_path, "search", "search.yaml", "--trials", "5")
    assert searched.code == 0, searched.err
    assert "left out: data.bin: named in .autocompressignore" in searched.err
    assert [f"trial {number} completed" in searched.err for number in range(6)] == [True] * 5 + [False]
    assert "mine: the front" in searched.out
    assert not (tmp_path / "autocompress.db").exists()
    again = remotely(server, tmp_path, "search", "search.yaml")
    assert (again.code, "this name is in use" in again.err) == (2, True)
    more = remotely(server, tmp_path, "search", "search.yaml", "--resume", "--trials", "7", "--json")
    assert more.json()["counts"]["completed"] == 7
    attached = remotely(server, tmp_path, "attach", "mine")
    assert attached.code == 0
    assert [f"trial {number} completed" in attached.err for number in range(8)] == [True] * 7 + [False]
    assert remotely(server, tmp_path, "front", "mine", "--json").json() == more.json()
    assert "trial 6," in remotely(server, tmp_path, "front", "mine", "--csv").out
    assert remotely(server, tmp_path, "show", "mine", "2", "--json").json()["metrics"]["size_bytes"] == 98.0
    assert "mine" in remotely(server, tmp_path, "list").out
    assert remotely(server, tmp_path, "pause", "mine").code == 2
    assert remotely(server, tmp_path, "resume", "mine", "--trials", "1000").code == 0
    server.wait("mine", "running")
    assert "mine: pausing" in remotely(server, tmp_path, "pause", "mine").err
    assert remotely(server, tmp_path, "attach", "mine").code == 130
    assert "mine: cancelled" in remotely(server, tmp_path, "cancel", "mine").err
    assert remotely(server, tmp_path, "search", "search.yaml", "--cold").code == 2


def test_a_real_search_from_an_archive_to_an_exported_model(server: Server, tmp_path: Path) -> None:
    assert server.wait("tiny", "finished", "failed")["error"] is None
    kinds = [kind for _, kind, _ in events(server, "tiny")]
    assert kinds.count("trial") == 3
    assert "front" in kinds
    assert server.client.get("/api/v1/searches/tiny/explain").json()["verdict"] == "feasible"
    steps = server.client.get("/api/v1/searches/tiny/explain", params={"trial": 0}).json()["steps"]
    assert steps[0]["technique"] == "svd"
    assert "trials" in server.client.get("/api/v1/searches/tiny/logs").text
    url = "/api/v1/searches/tiny/export"
    got = server.client.get(url, params={"pick": "smallest"})
    assert got.status_code == 200, got.text
    assert got.headers["x-checksum-sha256"] == hashlib.sha256(got.content).hexdigest()
    with zipfile.ZipFile(io.BytesIO(got.content)) as found:
        files = {Path(name).name: found.read(name) for name in found.namelist()}
    sums = dict(reversed(line.split("  ")) for line in files.pop("SHA256SUMS").decode().splitlines())
    assert sums == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert {"model.onnx", "recipe.yaml"} <= sums.keys()
    exported = remotely(server, tmp_path, "export", "tiny", "--pick", "smallest", "--out", "chosen", "--json")
    assert exported.code == 0, exported.err
    assert {
        path.name: path.read_bytes() for path in (tmp_path / "chosen").iterdir() if path.name != "SHA256SUMS"
    } == files
    explained = remotely(server, tmp_path, "explain", "tiny", "0", "--figure", "steps.png")
    assert explained.code == 0, explained.err
    assert "what each step bought and cost" in explained.out
    assert (tmp_path / "steps.png").read_bytes()[:4] == b"\x89PNG"
    assert remotely(server, tmp_path, "explain", "tiny", "--json").json()["verdict"] == "feasible"
    assert "tiny" in remotely(server, tmp_path, "explain", "tiny").out
    assert remotely(server, tmp_path, "explain", "tiny", "--figure", "steps.png").code == 2
    assert "trials" in remotely(server, tmp_path, "logs", "tiny").out
    assert remotely(server, tmp_path, "logs", "tiny", "--run", "9").code == 2
    make_project(tmp_path, study="planned", search={"trials": 7, "workers": 1})
    planned = remotely(server, tmp_path, "plan", "search.yaml", "--json")
    assert planned.json()["config"]["search"]["trials"] == 7, planned.err
    assert planned.json()["baseline"]["size_bytes"] > 0
    part = server.client.get(url, params={"pick": "smallest"}, headers={"Range": "bytes=4-9"})
    assert (part.status_code, part.content) == (206, got.content[4:10])


def test_a_server_that_is_told_to_stop_hands_its_searches_back(server: Server) -> None:
    submit(server, "handed", trials=25, seconds=0.1)
    until(lambda: len(ran(server, "handed")) > 1)
    with server.client.stream("GET", "/api/v1/searches/handed/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        assert server.process.stdout is not None
        server.process.stdout.close()  # as if who started it were gone
        server.process.send_signal(signal.SIGTERM)
        assert any("running" in line for line in lines)  # and it ends by itself
    assert server.process.wait(15) == 0
    assert controllers(server.folder) == []
    with served(server.folder) as heir:
        heir.wait("handed", "finished")
        told = [data["state"] for _, kind, data in events(heir, "handed") if kind == "state"]
        assert told == ["queued", "running", "queued", "running", "finished"]
        check(heir, "handed", 25)
