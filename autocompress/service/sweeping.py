"""What nobody needs any more is removed: folders of submissions that died on the way, and old or too many exports.

Every server sweeps; what another one works on is told by a lock, which ends with whoever held it.
"""

import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from .database import Database, Search
from .settings import Settings

YOUNG_S = 600.0  # what was touched so lately is left alone: somebody may be about to use it
EVERY_S = 300.0
LOCK = "lock"


@contextlib.contextmanager
def in_use(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a folder that is there as one that is worked on; tells whether it is held, which it is if one waits."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


@dataclass
class Sweeper:
    """Sweeps a server's folder again and again, in a thread of its own."""

    settings: Settings
    database: Database
    clock: Callable[[], float] = time.time
    _stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._loop, name="sweeper")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after the folder that is being removed."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(SQLAlchemyError, OSError):  # the database or the disk is away: next time
                self.sweep()
            self._stopping.wait(EVERY_S)

    def sweep(self) -> None:
        """Remove what nobody needs any more."""
        folders = [path for path in _listed(self.settings.folder / "searches") if path.is_dir()]
        for folder in folders:
            if self._old(folder, YOUNG_S):
                self._remove_if_dead(folder)
        self._limit_exports([path / "exports" for path in folders])

    def _remove_if_dead(self, folder: Path) -> None:
        """Remove a folder that no search has, unless it is still being filled."""
        if self._known(folder.name):
            return
        with contextlib.suppress(FileNotFoundError), in_use(folder, wait=False) as mine:
            # Looked up again: whoever fills a folder writes its search before letting go of it.
            if mine and not self._known(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def _known(self, identity: str) -> bool:
        with self.database.transaction() as session:
            return session.scalar(select(Search.id).where(Search.id == identity)) is not None

    def _limit_exports(self, folders: list[Path]) -> None:
        """Remove exports that nobody asked for in a long time, and the oldest while all take too much room."""
        exports = [found for folder in folders for found in _listed(folder) if found.name != LOCK]
        exports = sorted(exports, key=_touched)
        sizes = {path: _size(path) for path in exports}
        total = sum(sizes.values())
        for path in exports:
            left = path.name.startswith(".")  # by one who was killed while writing
            too_old = self._old(path, self.settings.exports_days * 86_400.0)
            if not self._old(path, YOUNG_S) or not (left or too_old or total > self.settings.exports_bytes):
                continue
            with in_use(path.parent, wait=False) as mine:
                if mine and self._old(path, YOUNG_S):
                    _remove(path)
                    total -= sizes[path]

    def _old(self, path: Path, seconds: float) -> bool:
        return self.clock() - _touched(path) > seconds


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _touched(path: Path) -> float:
    """When something was last written or used; now, as it were, where it has gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    total = 0
    for file in files:
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
