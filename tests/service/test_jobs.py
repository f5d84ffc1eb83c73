"""Controllers as processes: alive or dead, whoever started them."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import free_port
from served import until
from tiny import TASK

from autocompress.service.jobs import COMMAND, ProcessJob
from autocompress.service.states import AWAY, Deed, State, next_deed

# Like the command line's own first steps, and then it sleeps, or does as it is told.
CHILD = """
import json, os, signal, socket, sys, time
lock, run, path, *command = sys.argv[1:]
os.pwrite(int(lock), json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "run": int(run)}).encode(), 0)
print("began", flush=True)
try:
    time.sleep(float(command[0]))
except KeyboardInterrupt:
    open(path, "w").write("130")
"""


@pytest.fixture
def job(tmp_path: Path) -> Iterator[ProcessJob]:
    made = ProcessJob(tmp_path / "runs", (sys.executable, "-S", "-c", CHILD))
    yield made
    # One that has not yet said who it is cannot be killed by its number.
    until(lambda: any(made.signal(run, signal.SIGKILL) for run in (1, 2)) or not made.alive())
    until(lambda: not made.alive())


def begun(job: ProcessJob, run: int = 1) -> None:
    until(lambda: job.output(run).is_file() and "began" in job.output(run).read_text())


def test_no_second_one_is_started_beside_one_that_lives(job: ProcessJob, tmp_path: Path) -> None:
    assert not job.alive()
    assert job.start(1, ["60"], tmp_path, {})
    assert job.alive()  # from the first moment, before it runs a line
    assert not ProcessJob(job.folder, job.command).start(2, ["60"], tmp_path, {})
    assert not job.output(2).exists()


def test_a_killed_one_is_dead_and_has_no_code(job: ProcessJob, tmp_path: Path) -> None:
    job.start(1, ["60"], tmp_path, {})
    begun(job)
    assert job.signal(1, signal.SIGKILL)
    until(lambda: not job.alive())
    assert job.code(1) is None
    assert not job.signal(1, signal.SIGKILL)
    assert job.start(2, ["0"], tmp_path, {})


def test_an_interrupted_one_leaves_its_code(job: ProcessJob, tmp_path: Path) -> None:
    job.start(1, ["60"], tmp_path, {})
    begun(job)
    assert not job.signal(2, signal.SIGINT)  # another run is meant
    assert job.signal(1, signal.SIGINT)
    until(lambda: not job.alive())
    assert job.code(1) == 130
    ended = job.ended_at(1)
    assert ended is not None
    assert abs(ended - job.log(1).stat().st_mtime) < 60


def test_a_command_line_leaves_its_code_and_says_who_it_is(tmp_path: Path) -> None:
    job = ProcessJob(tmp_path / "runs", COMMAND)
    assert job.start(1, ["search", "none.yaml"], tmp_path, {})
    until(lambda: not job.alive())
    assert job.code(1) == 2
    assert "error: none.yaml: no such config file" in job.log(1).read_text()
    assert '"run": 1' in (job.folder / "lock").read_text()


def test_a_controller_whose_storage_is_away_says_so_by_its_code(tmp_path: Path) -> None:
    storage = f"postgresql+psycopg://me@127.0.0.1:{free_port()}/a"
    (tmp_path / "search.yaml").write_text(f"task: task.py:tiny\nsearch_space: hybrid\nstorage: {storage}\n")
    (tmp_path / "task.py").write_text(TASK)
    job = ProcessJob(tmp_path / "runs", COMMAND)
    assert job.start(1, ["search", "search.yaml", "--executor", "inline"], tmp_path, {})
    until(lambda: not job.alive())
    assert job.code(1) == AWAY, job.log(1).read_text()
    assert "start its server, or check the URL" in job.log(1).read_text()
    assert next_deed(State.running, True, False, AWAY, False) is Deed.start
