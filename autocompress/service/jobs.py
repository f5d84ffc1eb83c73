"""Controllers as processes of this machine; whether one lives is told by a lock that it is born with.

The server takes the lock and hands it to the process before that runs a line, then lets go of its own hold. So the
lock is free exactly when the controller is dead, whoever started it and however it or its server died, and no second
one can be started while it lives. A number of a process alone says less: it may be another's by now.
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
from typing import Any

COMMAND = (sys.executable, "-P", "-m", "autocompress.terminal.job")
_CHILDREN: list[subprocess.Popen[bytes]] = []  # those that this process started, to be waited for


@dataclass(frozen=True)
class ProcessJob:
    """The runs of one search's controller, which are in a folder; command is what a run begins with.

    Another kind of job, such as Ray's, has the same methods.
    """

    folder: Path
    command: Sequence[str] = COMMAND

    def start(self, run: int, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> bool:
        """Start a run in a session of its own, with output to files; False where an earlier one still lives."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _opened(self.folder / "lock") as lock:
            if not _locked(lock, fcntl.LOCK_EX):
                return False
            with self.output(run).open("wb") as out, self.log(run).open("wb") as err:
                process = subprocess.Popen(
                    [*self.command, str(lock), str(run), str(self._exit(run)), *arguments],
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
        if not (self.folder / "lock").exists():
            return False
        with _opened(self.folder / "lock") as lock:
            return not _locked(lock, fcntl.LOCK_SH)  # those who look do not stand in each other's way

    def code(self, run: int) -> int | None:
        """How a run ended; None where it was killed."""
        try:
            return int(self._exit(run).read_text())
        except (OSError, ValueError):
            return None

    def ended_at(self, run: int) -> float | None:
        """When a run was last seen alive, in seconds since 1970; None where it never was."""
        for path in (self._exit(run), self.log(run)):
            with contextlib.suppress(OSError):
                return path.stat().st_mtime
        return None

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

    def output(self, run: int) -> Path:
        """What a run wrote to standard output."""
        return self.folder / f"{run}.out"

    def log(self, run: int) -> Path:
        """What a run wrote to standard error."""
        return self.folder / f"{run}.log"

    def _exit(self, run: int) -> Path:
        return self.folder / f"{run}.exit"

    def _who(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / "lock").read_text())
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


def _locked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
