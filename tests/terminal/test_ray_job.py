"""What a Ray job does before it is a controller, and how it is told to drain; for this, no cluster is needed."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from served import until

from autocompress.terminal import ray_job

CHILD = """
import os, sys, time
lock, run, path, *command = sys.argv[1:]
print(os.getcwd(), os.environ["MORE"], *command, flush=True)
code = 0
try:
    time.sleep(60 if command else 0)
except KeyboardInterrupt:
    code = 130
open(path, "w").write(str(code))
"""


def prepared(folder: Path, run: int, latest: int, *arguments: str) -> None:
    """What a server writes before it submits a run."""
    folder.mkdir(exist_ok=True)
    (folder / "child.py").write_text(CHILD)
    work = {"command": [str(folder / "child.py")], "arguments": arguments, "cwd": "/", "environment": {"MORE": "more"}}
    (folder / f"{run}.json").write_text(json.dumps(work))
    (folder / "latest").write_text(str(latest))


def job(folder: Path, run: int) -> subprocess.Popen[str]:
    """The job as Ray starts it."""
    command = [sys.executable, "-P", "-m", "autocompress.terminal.ray_job", str(folder), str(run)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_job_runs_what_its_file_says_holds_the_lock_and_drains_when_it_is_told_to(tmp_path: Path) -> None:
    prepared(tmp_path, 3, 3, "sleep")
    (tmp_path / "drain").write_text("2")  # another run was meant
    with job(tmp_path, 3) as process:
        until(lambda: (tmp_path / "3.out").is_file() and (tmp_path / "3.out").read_text() == "/ more sleep\n")
        assert not (tmp_path / "3.json").exists()
        with (tmp_path / "lock").open() as lock, pytest.raises(OSError, match="unavailable"):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (tmp_path / "drain").write_text("3")
        out, err = process.communicate(timeout=60)
    assert (tmp_path / "3.exit").read_text() == "130"
    assert out == f"run 3: its log is {tmp_path / '3.log'}\n"
    assert err == ""
    assert not (tmp_path / "drain").exists()


def test_a_job_that_is_not_wanted_any_more_or_finds_no_work_refuses(tmp_path: Path) -> None:
    prepared(tmp_path, 1, 2)
    with job(tmp_path, 1) as late, job(tmp_path / "none", 1) as elsewhere:
        assert "a later run of this search was begun" in late.communicate(timeout=60)[1]
        assert "has to be at the same path" in elsewhere.communicate(timeout=60)[1]
    assert (late.returncode, elsewhere.returncode) == (1, 1)
    assert not (tmp_path / "1.exit").exists()


def test_a_job_waits_for_the_lock_of_one_that_dies_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(tmp_path, 1, 1)
    held = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    with job(tmp_path, 1) as process:
        until(lambda: not (tmp_path / "1.json").exists())
        assert not (tmp_path / "1.out").exists()
        prepared(tmp_path, 2, 1)
        monkeypatch.setattr(ray_job, "LOCK_S", 0.0)
        monkeypatch.setattr(sys, "argv", ["", str(tmp_path), "2"])
        with pytest.raises(SystemExit, match="an earlier run of this search lives"):
            ray_job.main()
        os.close(held)
        process.communicate(timeout=60)
    assert (tmp_path / "1.exit").read_text() == "0"
