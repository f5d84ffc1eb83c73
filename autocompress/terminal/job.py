"""A command as the service runs it: says which process it is, and leaves its exit code in a file.

python -m autocompress.terminal.job LOCK RUN EXIT COMMAND...: LOCK is the descriptor of a file whose lock this process
was born with, and which it writes its number into; RUN is how often the command was started; EXIT is a file.
"""

import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from types import FrameType

from ..service.states import AWAY


def main() -> None:
    """Run the command; an exit file is written for every end but a violent one."""
    lock, run, path, *command = sys.argv[1:]
    os.set_inheritable(int(lock), False)  # what is started from here must not look like this process
    insist()
    who = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "run": int(run)}).encode()
    os.ftruncate(int(lock), 0)
    os.pwrite(int(lock), who, 0)
    code = _run(command)
    signal.setitimer(signal.ITIMER_REAL, 0)
    new = Path(f"{path}.new")
    new.write_text(f"{code}\n")
    new.replace(path)
    sys.exit(code)


def insist(every_s: float = 1.0) -> None:
    """Let an interrupt not get lost: it is raised again until it ends the command, or is handed to who drains it.

    Libraries swallow a KeyboardInterrupt that comes in their callbacks, and whoever sends it does so once.
    """

    def interrupted(number: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, every_s, every_s)
        raise KeyboardInterrupt

    def again(number: int, frame: FrameType | None) -> None:
        if signal.getsignal(signal.SIGINT) is not interrupted:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.raise_signal(signal.SIGINT)
        elif not _ending():
            raise KeyboardInterrupt

    # Set here also because a server in the background of a script ignores interrupts, and so would its children.
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGALRM, again)


def _ending() -> bool:
    """Whether a KeyboardInterrupt is on its way out: what cleans up then is let be."""
    error: BaseException | None = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _run(command: list[str]) -> int:
    try:
        from .cli import app
        from .ending import INTERRUPTED, exit_code

        return exit_code(lambda: app(command, prog_name="autocompress", standalone_mode=False), AWAY)
    except KeyboardInterrupt:  # while the command line was being imported
        return INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    main()
