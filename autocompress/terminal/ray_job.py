"""A controller as a Ray job: it takes its search's lock, and is then what it is as a process of the server's machine.

python -m autocompress.terminal.ray_job FOLDER RUN: FOLDER is that of the search's runs, which the server shares with
this machine; what is to be done is in RUN.json there. Only `latest` runs go on, and `drain` names one that is to end.
"""

import fcntl
import json
import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ..service.jobs import Runs, locked
from .plain import output

LOCK_S, LOOK_S = 30.0, 0.5


def main() -> None:
    """Run what a search's run is to do, unless another run is meant by now, or lives."""
    runs, run = Runs(Path(sys.argv[1])), int(sys.argv[2])
    # Ray blocks interrupts in all that it starts.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    work = _work(runs.folder, run)
    lock = os.open(runs.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # never closed: death alone frees it
    if not _taken(lock):
        sys.exit(f"error: run {run}: an earlier run of this search lives: it was not waited for any longer")
    if int((runs.folder / "latest").read_text()) != run:
        sys.exit(f"error: run {run}: a later run of this search was begun: this one is not wanted any more")
    output().print(f"run {run}: its log is {runs.log(run)}", soft_wrap=True)
    sys.stdout.flush()
    _redirect(runs.output(run), sys.stdout.fileno())
    _redirect(runs.log(run), sys.stderr.fileno())
    os.environ.update(work["environment"])
    os.chdir(work["cwd"])
    threading.Thread(target=_listen, args=(runs.folder / "drain", run), daemon=True).start()
    sys.argv[1:] = [str(lock), str(run), str(runs.exit(run)), *work["arguments"]]
    os.set_inheritable(lock, True)
    _become(work["command"])


def _work(folder: Path, run: int) -> dict[str, Any]:
    path = folder / f"{run}.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        sys.exit(
            f"error: {path}: cannot be read on this machine ({error.strerror}): the folder that `autocompress serve "
            "--folder` names has to be at the same path, and of the same user, on the cluster's head"
        )
    path.unlink()  # it may hold secrets, and is needed no more
    return found


def _taken(lock: int) -> bool:
    """Take the lock, once who holds it is dead; False where that lasts."""
    deadline = time.monotonic() + LOCK_S
    while not locked(lock, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_S)
    return True


def _redirect(path: Path, descriptor: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(file, descriptor)
    os.close(file)


def _listen(path: Path, run: int) -> None:
    """Interrupt this process when it is told to drain."""
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    while True:
        time.sleep(LOOK_S)
        try:
            wanted = int(path.read_text()) >= run
        except (OSError, ValueError):
            continue
        if wanted:
            path.unlink(missing_ok=True)
            signal.pthread_kill(main_thread, signal.SIGINT)


def _become(command: list[str]) -> None:
    """Run a module (`-m NAME`) or a file of Python as if this process had been started with it."""
    if "-m" in command:
        runpy.run_module(command[command.index("-m") + 1], run_name="__main__", alter_sys=True)
    else:
        sys.argv[0] = command[-1]
        runpy.run_path(command[-1], run_name="__main__")


if __name__ == "__main__":
    main()
