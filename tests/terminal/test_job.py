"""A command as the service runs it: who it is and how it ended stand in files."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import make_project

from autocompress.terminal import job


@pytest.mark.parametrize(
    ("command", "code"),
    [(["techniques", "--json"], 0), (["search", "none.yaml"], 2), (["fly"], 2), (["search", "search.yaml"], 75)],
)
def test_the_exit_code_is_left_in_a_file(
    command: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(tmp_path, ray={"address": "127.0.0.1:1"})  # where nothing listens
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)}
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    monkeypatch.setattr(sys, "argv", ["job", str(lock), "3", str(tmp_path / "3.exit"), *command])
    try:
        with pytest.raises(SystemExit) as ended:
            job.main()
    finally:
        os.close(lock)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ended.value.code == code
    assert (tmp_path / "3.exit").read_text() == f"{code}\n"
    who = json.loads((tmp_path / "lock").read_text())
    assert (who["pid"], who["run"]) == (os.getpid(), 3)


# A library that swallows the first interrupt, as callbacks do, and then what the name says.
LOST = """
import signal, sys, time
from autocompress.terminal.job import insist
insist(0.2)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    pass
"""
ENDS = """
try:
    time.sleep(20)
finally:
    try:
        int("x")
    except ValueError:
        time.sleep(0.5)
    time.sleep(0.5)
    print("cleaned up")
"""
DRAINS = """
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
while not heard:
    time.sleep(0.01)
time.sleep(0.5)
print(len(heard))
"""


@pytest.mark.parametrize(("what", "said", "code"), [(ENDS, "cleaned up", -signal.SIGINT), (DRAINS, "1", 0)])
def test_an_interrupt_does_not_get_lost_and_leaves_cleaning_up_alone(what: str, said: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", LOST + what], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout.strip(), done.returncode) == (said, code), done.stderr
