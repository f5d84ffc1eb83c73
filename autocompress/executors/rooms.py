"""A folder of this machine's temporary files for one process, which a later process removes if this one is killed."""

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import ExecutorError

LOCK = "lock"
# Ray's sockets lie below a room, and the path of a socket has at most 107 characters, on macOS 103.
LONGEST_SOCKET = "/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store"
LONGEST_ROOM = 103 - len(LONGEST_SOCKET)


class Room:
    """A folder that is locked while this process lives, and removed when it ends.

    The system lets go of the lock on any death, so that a room whose lock is free is nobody's: opening a room removes
    those. Raises ExecutorError where the user's folder of rooms belongs to somebody else.
    """

    def __init__(self) -> None:
        rooms = _rooms()
        with _held(rooms / LOCK):  # so that nobody takes a room without its lock yet for a dead one
            for left in rooms.iterdir():
                if left.is_dir() and _dead(left):
                    shutil.rmtree(left, ignore_errors=True)
            self.folder = Path(tempfile.mkdtemp(dir=rooms, prefix=""))
            self._lock = _locked(self.folder / LOCK)
        self._process = os.getpid()
        atexit.register(self.close)

    def close(self) -> None:
        """Remove the folder, which is nobody's from then on; may be called again."""
        if os.getpid() != self._process:  # a fork of the process whose room this is
            return
        atexit.unregister(self.close)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _rooms() -> Path:
    """The user's folder of rooms: below the temporary folder, or /tmp where its path is too long for sockets."""
    name = f"autocompress-{os.getuid()}"
    rooms = Path(tempfile.gettempdir(), name)
    if len(str(rooms / "12345678")) > LONGEST_ROOM:
        rooms = Path("/tmp", name)
    try:
        rooms.mkdir(mode=0o700, exist_ok=True)
        owner = rooms.stat().st_uid
    except OSError as error:
        raise ExecutorError(f"{rooms}: cannot be used for temporary files: {error}: set TMPDIR") from None
    if owner != os.getuid():
        raise ExecutorError(f"{rooms}: belongs to another user (number {owner}): remove it, or set TMPDIR")
    return rooms


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock, or nothing where another process does."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _dead(room: Path) -> bool:
    lock = _locked(room / LOCK)
    if lock is None:
        return False
    os.close(lock)
    return True
