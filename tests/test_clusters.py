"""Clusters: two searches side by side, clusters that are lost, and a shared one of two nodes that wants a token."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from commandline import PATIENCE, Project, Running, Trial
from faulty import faulty_project
from nodes import clean_environment, free_ports, keep_token, start
from tiny import Ran

from autocompress.config import Target
from autocompress.errors import ExecutorError
from autocompress.executors import RayExecutor

TRIALS = 2


def alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that only waits for its parent to notice its end does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def below(running: Running, name: str) -> psutil.Process:
    """The process of this name that a search started."""
    (found,) = (one for one in psutil.Process(running.process.pid).children(recursive=True) if one.name() == name)
    return found


def held_by(project: Project) -> set[int]:
    """The workers that came to a trial that is held."""
    return {int(path.suffix[1:]) for path in (project.folder / "digits").glob("held.*")}


def wait_for_another(running: Running, project: Project, known: set[int]) -> int:
    """Wait until a worker is held that was not held before; returns it."""
    running.wait_until(lambda: bool(held_by(project) - known))
    (found,) = held_by(project) - known
    return found


@dataclass(frozen=True)
class Story:
    """Two searches side by side, one of which is killed and resumed, and the other loses its cluster."""

    first: Project
    second: Project
    rooms: Path
    left_by_the_kill: set[Path]
    after_the_kill: dict[int, Trial]
    resumed: Ran
    outlived: Ran
    last: list[psutil.Process]


def rooms_in(folder: Path) -> set[Path]:
    """The folders of searches that are there."""
    return {path.parent for path in folder.glob("autocompress-*/*/lock")}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Trials are held by a file while processes are killed, so that they are sure to be running."""
    temporary = Path(tempfile.mkdtemp(prefix="", dir="/tmp"))
    projects = []
    for name in ("first", "second"):
        project = faulty_project(
            tmp_path_factory.mktemp(name),
            {24: "hold", 16: "hold"},
            [0.25, 0.5],
            search={"trials": TRIALS, "workers": 1, "retries": 1, "seed": 0},
            tracking=None,
            ray={"address": "auto"},
        )
        project.env["TMPDIR"] = str(temporary)
        (project.folder / "digits" / "hold").touch()
        projects.append(project)
    first, second = projects
    search = ["search", first.config]
    with ExitStack() as stack:
        killed, lives = (stack.enter_context(project.start(*search)) for project in projects)
        known = {wait_for_another(killed, first, set())}
        theirs = {wait_for_another(lives, second, set())}
        own = {path.parent for path in temporary.glob("autocompress-*/*/session_*")}
        assert len(own) == 2, "one joined the cluster of the other"
        killed.process.kill()
        killed.end()
        after_the_kill = first.trials()
        left = rooms_in(temporary)

        below(lives, "raylet").kill()
        theirs.add(wait_for_another(lives, second, theirs))
        below(lives, "gcs_server").kill()

        resumed = stack.enter_context(first.start(*search, "--resume"))
        held_now = wait_for_another(resumed, first, known)
        known.add(held_now)
        psutil.Process(held_now).kill()
        wait_for_another(resumed, first, known)
        left -= rooms_in(temporary)
        (first.folder / "digits" / "hold").unlink()
        ended = resumed.end()

        wait_for_another(lives, second, theirs)
        (second.folder / "digits" / "hold").unlink()
        last = psutil.Process(lives.process.pid).children(recursive=True)
        outlived = lives.end()
    yield Story(first, second, temporary, left, after_the_kill, ended, outlived, last)
    shutil.rmtree(temporary)


def test_a_search_outlives_another_that_is_killed_and_its_own_cluster(story: Story) -> None:
    assert story.outlived.code == 0, story.outlived.err
    assert story.outlived.err.count("the Ray cluster of this search was lost: starting it anew") == 2
    assert story.outlived.err.count(": trying again") == 2
    # What Ray itself has to say, in C++ or of its raylet's last lines, is not for users.
    assert "raylet" not in story.outlived.out + story.outlived.err
    trials = story.second.trials()
    assert {trial.outcome["type"] for trial in trials.values()} == {"completed"}
    assert len(trials) == TRIALS
    # With one retry, two lost clusters would have been one too many.
    assert [trial.attributes["attempts"] for trial in trials.values()] == [1, 1]


def test_an_attempt_that_the_search_itself_cut_off_is_not_counted(story: Story) -> None:
    assert [trial.state for trial in story.after_the_kill.values()] == ["RUNNING"]
    assert "attempts" not in story.after_the_kill[0].attributes
    assert story.resumed.code == 0, story.resumed.err
    assert story.resumed.err.count("its worker was killed: trying again") == 1
    trials = story.first.trials()
    assert {trial.outcome["type"] for trial in trials.values()} == {"completed"}
    assert trials[0].attributes["recipe"] == story.after_the_kill[0].attributes["recipe"]
    assert [trial.attributes["attempts"] for trial in trials.values()] == [2, 1]


def test_a_resumed_search_removes_what_the_killed_one_left_and_none_leaves_a_thing(story: Story) -> None:
    assert len(story.left_by_the_kill) >= 2  # Ray's session and the copy of the code
    assert rooms_in(story.rooms) == set()
    psutil.wait_procs(story.last, timeout=PATIENCE)
    assert not [process for process in story.last if alive(process)]


def test_a_resource_that_a_private_cluster_cannot_have_is_refused_before_anything_waits_for_it() -> None:
    with pytest.raises(ExecutorError, match="'bench': this search's own cluster has no such resource"):
        RayExecutor("local", 1, None, Target(resource="bench"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="Ray finds a GPU here")
def test_a_gpu_that_a_private_cluster_has_not_is_refused_before_anything_waits_for_it() -> None:
    with pytest.raises(ExecutorError, match="Ray finds no 1 GPU on this machine: join a cluster that has one"):
        RayExecutor("local", 1, None, Target(runtime="onnxruntime-cuda"), gpus=1.0)


JOIN = """
import json, operator, sys, time
from autocompress.config import Target
from autocompress.errors import ExecutorError
from autocompress.executors import RayExecutor, cluster
import ray

cluster.PATIENCE_SECONDS = 2
for address in sys.argv[1:]:
    notes = []
    try:
        executor = RayExecutor(address, 1, None, Target(resource="bench"), notes.append)
    except ExecutorError as error:
        print(json.dumps(str(error)))
        continue
    sum = executor.call(operator.add, 40, 2)
    print(json.dumps([ray.get_runtime_context().gcs_address, len(ray.nodes()), sum, notes]), flush=True)
    try:
        if address == sys.argv[2]:
            executor.call(time.sleep, 3600)
    except ExecutorError as error:
        print(json.dumps(str(error)))
    executor.close()
"""


@dataclass(frozen=True)
class Shared:
    """A cluster of two nodes that were started as people start them."""

    address: str
    environment: dict[str, str]
    head: subprocess.Popen[bytes]

    def join(self, *addresses: str, **environment: str) -> subprocess.Popen[str]:
        """A process that joins by each address, and stays where it came to the second."""
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", JOIN, *addresses],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """`ray start --head` where the user has a token, which Ray then asks everybody for, and a second node."""
    with tempfile.TemporaryDirectory(prefix="", dir="/tmp") as folder:
        address = f"127.0.0.1:{free_ports(1)[0]}"
        environment = clean_environment(Path(folder))
        keep_token(Path(folder))
        with ExitStack() as stack:
            head = start(
                stack, Path(folder, "a"), environment, "--head", f"--port={address.split(':')[1]}", "--num-cpus=0"
            )
            joining = {**environment, "RAY_AUTH_MODE": "token"}
            start(stack, Path(folder, "b"), joining, f"--address={address}", "--num-cpus=1", '--resources={"bench": 1}')
            yield Shared(address, environment, head)


def test_a_cluster_that_wants_a_token_says_so_to_who_has_none_or_another(shared: Shared, tmp_path: Path) -> None:
    other = {"HOME": str(tmp_path)}, {"RAY_AUTH_TOKEN": "0" * 64}
    (none, silent), (wrong, quiet) = (
        shared.join(shared.address, "-", **environment).communicate(timeout=PATIENCE) for environment in other
    )
    wants = f"ray.address: the cluster at {shared.address} wants a token: "
    assert json.loads(none.splitlines()[0]) == (
        f"{wants}set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with it, "
        "or copy the file ~/.ray/auth_token from the machine where the cluster was started"
    )
    assert json.loads(wrong.splitlines()[0]).startswith(
        f"{wants}it is not the one that is known here: set RAY_AUTH_TOKEN"
    )
    assert silent == quiet == ""


def test_a_started_cluster_is_joined_by_auto_and_by_address_with_the_token_that_ray_keeps_and_its_loss_is_said(
    shared: Shared,
) -> None:
    process = shared.join("auto", shared.address)
    assert process.stdout is not None
    full, nodes, total, notes = json.loads(process.stdout.readline())
    assert full.split(":")[1] == shared.address.split(":")[1]
    assert (nodes, total, notes) == (2, 42, [f"ray.address: auto: joined the cluster at {full}"])
    assert json.loads(process.stdout.readline()) == [full, 2, 42, []]
    (gcs,) = (one for one in psutil.Process(shared.head.pid).children() if one.name() == "gcs_server")
    gcs.kill()
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert json.loads(out).startswith(
        f"the Ray cluster at {shared.address} was lost: start it again, then go on with --resume"
    )
