"""Taking turns on a node: many processes work, or one measures."""

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MEASURER = """
import sys, time
from autocompress.turns import measuring
print("trying", flush=True)
with measuring(patience=float(sys.argv[1])) as alone:
    print("in", alone, time.monotonic(), flush=True)
    sys.stdin.readline()
    out = time.monotonic()
print("out", out, flush=True)
"""
WORKER = """
import sys, time
from autocompress.turns import pause, working
with working():
    print("working", flush=True)
    while sys.stdin.readline().strip() == "pause":
        pause()
        print("paused", time.monotonic(), flush=True)
print("done", flush=True)
"""


class Talker:
    """A process that is told lines, and read line by line."""

    def __init__(self, code: str, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # a line that was read ahead would be one that select does not see
            env={**os.environ, "TMPDIR": str(folder)},
        )

    def says(self, wait: float = 60.0) -> list[str]:
        """The next line that it prints; nothing when it prints none in time."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], wait)
        return self.process.stdout.readline().decode().split() if ready else []

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())


@contextlib.contextmanager
def talking(code: str, folder: Path, *arguments: str) -> Iterator[Talker]:
    talker = Talker(code, folder, *arguments)
    try:
        yield talker
    finally:
        talker.process.kill()
        talker.process.communicate()


def measurer(folder: Path, patience: float = 60.0) -> contextlib.AbstractContextManager[Talker]:
    """A process that asks for the measuring slot, and keeps it until it is told a line."""
    return talking(MEASURER, folder, str(patience))


def test_two_processes_never_measure_together(tmp_path: Path) -> None:
    with measurer(tmp_path) as first:
        assert first.says() == ["trying"]
        assert first.says()[:2] == ["in", "True"]
        with measurer(tmp_path) as second:
            assert second.says() == ["trying"]
            assert second.says(wait=0.3) == []
            first.tell()
            left, entered = first.says(), second.says()
            assert (left[0], entered[0]) == ("out", "in")
            assert float(entered[2]) >= float(left[1])


@pytest.mark.parametrize("code", [MEASURER, WORKER])
def test_what_a_killed_process_held_is_free(tmp_path: Path, code: str) -> None:
    with talking(code, tmp_path, "60") as first:
        first.says()
        if code == MEASURER:
            assert first.says()[0] == "in"
        first.process.kill()
        with measurer(tmp_path) as second:
            assert second.says() == ["trying"]
            assert second.says()[:2] == ["in", "True"]


def test_who_works_pauses_while_another_measures_and_goes_on_after_it(tmp_path: Path) -> None:
    with talking(WORKER, tmp_path) as worker:
        assert worker.says() == ["working"]
        with measurer(tmp_path) as measures:
            assert measures.says() == ["trying"]
            assert measures.says(wait=0.3) == []  # it waits for the worker to come to a pause
            worker.tell("pause")
            assert measures.says()[:2] == ["in", "True"]
            assert worker.says(wait=0.3) == []
            with talking(WORKER, tmp_path) as late:
                assert late.says(wait=0.3) == []  # nobody begins to work meanwhile
                measures.tell()
                out, went_on = measures.says(), worker.says()
                assert (out[0], went_on[0]) == ("out", "paused")
                assert float(went_on[1]) >= float(out[1])
                assert late.says() == ["working"]


def test_who_never_pauses_is_not_waited_for_longer_than_patience_and_it_is_said(tmp_path: Path) -> None:
    with talking(WORKER, tmp_path) as worker:
        assert worker.says() == ["working"]
        with measurer(tmp_path, patience=0.2) as measures:
            assert measures.says() == ["trying"]
            assert measures.says()[:2] == ["in", "False"]
            worker.tell("pause")
            assert worker.says()[0] == "paused"  # nobody waits for it any more
