"""Controllers as jobs of a real cluster whose parts die: no search is lost, run twice or left running."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from nodes import Cluster, cluster
from pursued import TRIALS, check, ran, submit
from served import Server, controllers, served, until

from autocompress.service.ray_jobs import API, RayJob, RayJobs, entrypoint

# Says what it was given, and then sleeps, or does as it is told.
CHILD = """
import json, os, socket, sys, time
lock, run, path, *command = sys.argv[1:]
os.ftruncate(int(lock), 0)
os.pwrite(int(lock), json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "run": int(run)}).encode(), 0)
print(os.getcwd(), os.environ.get("MLFLOW_TRACKING_PASSWORD"), os.environ["MORE"], os.environ.get("HIDDEN"), flush=True)
code = 0
try:
    time.sleep(float(command[0]))
except KeyboardInterrupt:
    code = 130
open(path, "w").write(str(code))
"""
SECRET = "hush-3f9a"


@pytest.fixture(scope="module")
def ray() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="", dir="/tmp") as folder, cluster(Path(folder)) as made:
        yield made


@pytest.fixture
def jobs(ray: Cluster) -> Iterator[RayJobs]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "RAY_AUTH_MODE"):
            patch.setenv(name, ray.environment[name])
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # is for others
        read_tokens_anew()
        yield RayJobs(ray.address)
    read_tokens_anew()


def read_tokens_anew() -> None:
    """Ray keeps the token and the mode that a process found first, with which later tests would come too."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@pytest.fixture
def job(jobs: RayJobs, tmp_path: Path) -> Iterator[RayJob]:
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    given = {"MLFLOW_TRACKING_PASSWORD": SECRET, "HIDDEN": "1"}
    made = RayJob(tmp_path / "runs", jobs, (sys.executable, str(child)), 1.0, given)
    yield made
    until(lambda: not made.alive() or (made.signal(0, signal.SIGKILL) and False))


def begun(job: RayJob, run: int = 1) -> str:
    """What a run printed first."""
    return str(until(lambda: job.output(run).is_file() and job.output(run).read_text()))


def test_a_job_is_alive_from_its_submission_on_and_started_once(job: RayJob, tmp_path: Path) -> None:
    assert not job.alive()
    assert job.start(1, ["60"], tmp_path, {"MORE": "more"})
    assert job.alive()
    assert not job.held()  # it is on its way
    assert not job.start(2, ["60"], tmp_path, {"MORE": ""})
    job.jobs.submit(job._identity(1), entrypoint(job.folder, 1), {})  # by another server, say: it is the same job
    assert begun(job) == f"{tmp_path} {SECRET} more None\n"
    assert job.signal(1, signal.SIGINT)
    until(lambda: not job.alive())
    assert job.code(1) == 130
    assert not job.signal(1, signal.SIGINT)
    ended = job.ended_at(1)
    assert ended is not None
    assert abs(ended - job.log(1).stat().st_mtime) < 60


def test_what_ray_shows_of_a_job_holds_no_secret(job: RayJob, tmp_path: Path) -> None:
    job.start(1, ["0"], tmp_path, {"MORE": SECRET})
    assert SECRET in begun(job)
    until(lambda: not job.alive())
    shown = job.jobs._ask(lambda client: f"{client.list_jobs()} {client.get_job_logs(job._identity(1))}")
    assert job._identity(1) in str(shown)
    assert SECRET not in str(shown)
    assert not list(job.folder.glob("*.json"))


def test_a_killed_job_is_dead_without_a_code_and_one_that_holds_on_is_killed(job: RayJob, tmp_path: Path) -> None:
    job.start(1, ["60"], tmp_path, {"MORE": ""})
    begun(job)
    os.kill(json.loads(job.lock.read_text())["pid"], signal.SIGKILL)
    until(lambda: not job.alive())
    assert job.code(1) is None
    assert job.start(2, ["60"], tmp_path, {"MORE": ""})
    begun(job, 2)
    assert job.signal(2, signal.SIGTERM)
    until(lambda: not job.alive())
    assert job.code(2) is None


def test_a_head_without_the_folder_says_so(jobs: RayJobs, tmp_path: Path) -> None:
    elsewhere = RayJob(tmp_path / "elsewhere" / "runs", jobs)
    jobs.submit(elsewhere._identity(1), entrypoint(elsewhere.folder, 1), {})
    until(lambda: jobs.status(elsewhere._identity(1)) == "FAILED")
    elsewhere.folder.mkdir(parents=True)
    assert "has to be at the same path" in elsewhere.log(1).read_text()


ASK = """
import sys
from autocompress.service.jobs import JobsAway
from autocompress.service.ray_jobs import RayJobs
try:
    RayJobs(sys.argv[1]).status("one")
except JobsAway as error:
    print(error)
"""


def test_a_cluster_that_does_not_answer_or_wants_a_token_says_so(ray: Cluster) -> None:
    def says(address: str, **environment: str) -> str:
        command = [sys.executable, "-W", "ignore", "-c", ASK, address]
        given = {**ray.environment, **environment}
        return subprocess.run(command, env=given, capture_output=True, text=True, check=True, timeout=60).stdout

    assert says("127.0.0.1:1").startswith("Ray's jobs at 127.0.0.1:1: nothing answers (")
    wants = f"Ray's jobs at {ray.address}: the cluster wants a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
    assert says(ray.address, RAY_AUTH_MODE="disabled").startswith(wants)
    assert says(ray.address, RAY_AUTH_MODE="disabled", **{API: ray.jobs}).startswith(wants)
    assert says(ray.address, RAY_AUTH_TOKEN="0" * 64).startswith(wants)
    assert says(ray.address) == ""


@pytest.fixture(scope="module")
def server(ray: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(ray, tmp_path_factory.mktemp("server")) as running:
        yield running


def serving(ray: Cluster, folder: Path) -> AbstractContextManager[Server]:
    return served(folder, 3, ray.environment, ray=ray.address, controllers="ray")


def driver(server: Server, study: str) -> int:
    return controllers(server.folder, study)[0]


def test_a_search_by_jobs_is_drained_and_resumed_and_ends(server: Server) -> None:
    submit(server, "refused", refuses="task.py: no such task: name one")
    submit(server, "long", trials=1000, seconds=0.1)
    assert server.wait("refused", "failed")["error"] == "task.py: no such task: name one"
    until(lambda: len(ran(server, "long")) > 2)
    server.client.post("/api/v1/searches/long/pause")
    server.wait("long", "paused")
    assert controllers(server.folder, "long") == []
    assert server.get("long")["spent_s"] > 0
    server.client.patch("/api/v1/searches/long", json={"trials": len(ran(server, "long")) + 3})
    server.client.post("/api/v1/searches/long/resume")
    server.wait("long", "finished")
    check(server, "long", len(ran(server, "long")))


def test_a_killed_driver_is_started_again_and_a_cancelled_one_ends(server: Server) -> None:
    submit(server, "killed", seconds=0.2)
    submit(server, "cancelled", trials=1000, seconds=0.1)
    until(lambda: len(ran(server, "killed")) >= 3 and ran(server, "cancelled"))
    os.kill(driver(server, "killed"), signal.SIGKILL)
    server.client.post("/api/v1/searches/cancelled/cancel")
    assert server.wait("killed", "finished")["run"] == 2
    check(server, "killed")
    until(lambda: not controllers(server.folder, "cancelled"))


def test_drivers_go_on_when_their_server_stops_or_is_killed_and_are_taken_over(ray: Cluster, tmp_path: Path) -> None:
    with serving(ray, tmp_path) as stopped:
        submit(stopped, "lives", trials=80, seconds=0.1)
        submit(stopped, "dies", trials=60, seconds=0.1)
        until(lambda: ran(stopped, "lives") and ran(stopped, "dies"))
        lives, dies = driver(stopped, "lives"), driver(stopped, "dies")
        stopped.process.send_signal(signal.SIGTERM)
        stopped.process.wait(30)
        with serving(ray, tmp_path) as killed:
            killed.kill()
            os.kill(dies, signal.SIGKILL)
            assert driver(killed, "lives") == lives
            with serving(ray, tmp_path) as heir:
                for study, trials in (("lives", 80), ("dies", 60)):
                    heir.wait(study, "finished")
                    check(heir, study, trials)
                assert [heir.get(study)["run"] for study in ("lives", "dies")] == [1, 2]


def test_searches_wait_for_a_head_that_died_and_go_on_when_it_is_back(ray: Cluster, server: Server) -> None:
    submit(server, "outlives", trials=40, seconds=0.1)
    until(lambda: ran(server, "outlives"))
    ray.end()
    until(lambda: not controllers(server.folder, "outlives"))
    submit(server, "waits")
    until(lambda: "search 'waits': waits: Ray's jobs at" in (server.folder / "server.log").read_text())
    assert server.get("outlives")["state"] == "running"
    ray.begin()
    for study, trials in (("outlives", 40), ("waits", TRIALS)):
        server.wait(study, "finished")
        check(server, study, trials)
