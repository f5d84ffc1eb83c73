"""Controllers as jobs: what every kind of job does, and the kind that is a process of this machine.

Whether a controller lives is told by a lock, which is free exactly when it is dead, whoever started it and however it
or its server died; no second one runs while it is held. A number of a process alone says less: it may be another's by
now. A process is born with its lock: the server takes it and hands it over before the process runs a line, then lets
go of its own hold.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ..errors import AutocompressError

COMMAND = (sys.executable, "-P", "-m", "autocompress.terminal.job")
_CHILDREN: list[subprocess.Popen[bytes]] = []  # those that this process started, to be waited for


class JobsAway(AutocompressError):
    """Where the jobs run does not answer, so that nothing is known of them for now."""


class Job(Protocol):
    """The runs of one search's controller: at most one lives at a time, and each leaves how it ended.

    Every method may raise JobsAway. outlives says whether a controller goes on when its server is stopped.
    """

    outlives: ClassVar[bool]

    def start(self, run: int, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> bool:
        """Start a run in a folder; False where an earlier one still lives."""

    def alive(self) -> bool:
        """Whether a controller lives, or is about to."""

    def code(self, run: int) -> int | None:
        """How a run ended; None where it was killed."""

    def ended_at(self, run: int) -> float | None:
        """When a run was last seen alive, in seconds since 1970; None where it never was."""

    def signal(self, run: int, number: signal.Signals) -> bool:
        """Send a signal to the controller, SIGKILL to all that it started; False where it is not to be reached."""

    def log(self, run: int) -> Path:
        """What a run wrote to standard error."""


@dataclass(frozen=True)
class Runs:
    """What the runs of one search's controller leave in a folder, and the lock of the one that lives."""

    folder: Path

    def held(self) -> bool:
        """Whether the lock is held, on this machine or on another that shares the folder."""
        if not self.lock.exists():
            return False
        with _opened(self.lock) as lock:
            return not locked(lock, fcntl.LOCK_SH)  # those who look do not stand in each other's way

    def code(self, run: int) -> int | None:
        """How a run ended; None where it was killed."""
        try:
            return int(self.exit(run).read_text())
        except (OSError, ValueError):
            return None

    def ended_at(self, run: int) -> float | None:
        """When a run was last seen alive, in seconds since 1970; None where it never was."""
        for path in (self.exit(run), self.log(run)):
            with contextlib.suppress(OSError):
                return path.stat().st_mtime
        return None

    @property
    def lock(self) -> Path:
        """The file whose lock a controller holds for as long as it lives; it says who that is."""
        return self.folder / "lock"

    def output(self, run: int) -> Path:
        """What a run wrote to standard output."""
        return self.folder / f"{run}.out"

    def log(self, run: int) -> Path:
        """What a run wrote to standard error."""
        return self.folder / f"{run}.log"

    def exit(self, run: int) -> Path:
        """Where a run leaves its exit code."""
        return self.folder / f"{run}.exit"


@dataclass(frozen=True)
class ProcessJob(Runs):
    """A controller as a process of this machine; command is what a run begins with."""

    command: Sequence[str] = COMMAND
    outlives: ClassVar[bool] = False

    def start(self, run: int, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> bool:
        """Start a run in a session of its own, with output to files; False where an earlier one still lives."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _opened(self.lock) as lock:
            if not locked(lock, fcntl.LOCK_EX):
                return False
            with self.output(run).open("wb") as out, self.log(run).open("wb") as err:
                process = subprocess.Popen(
                    [*self.command, str(lock), str(run), str(self.exit(run)), *arguments],
                    cwd=cwd,
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                    pass_fds=(lock,),
                )
        _CHILDREN.append(process)
        return True

    def alive(self) -> bool:
        """Whether a controller lives, on this machine or on another that shares the folder."""
        _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]
        return self.held()

    def signal(self, run: int, number: signal.Signals) -> bool:
        """Send a signal to the controller, SIGKILL to all of its session; False where it is not to be reached."""
        who = self._who()
        if who.get("run") != run or who.get("host") != socket.gethostname():
            return False
        try:
            handle = os.pidfd_open(int(who["pid"]))
        except OSError:
            return False
        try:
            if not self.alive():  # so the number, which was opened before, is the controller's and nobody else's
                return False
            if number is signal.SIGKILL:
                os.killpg(int(who["pid"]), number)
            else:
                signal.pidfd_send_signal(handle, number)
        except OSError:
            return False
        finally:
            os.close(handle)
        return True

    def _who(self) -> dict[str, Any]:
        try:
            found = json.loads(self.lock.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def locked(descriptor: int, how: int) -> bool:
    """Take a lock, LOCK_EX or LOCK_SH, without waiting; whether it could be had."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
