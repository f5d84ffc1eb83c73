"""Taking turns on a node: many processes work, or one measures; by file locks, which the system frees on any death."""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE_SECONDS = 3.0  # what one phase of a trial may take before it comes to a pause
LOOK_SECONDS = 0.002

_working: list[int] = []  # the lock of this process on the room, where it works on a trial


@contextlib.contextmanager
def working() -> Iterator[None]:
    """Be one of those who work on this node; pause() lets somebody measure in between."""
    room = _lock("room")
    _enter(room)
    _working.append(room)
    try:
        yield
    finally:
        _working.remove(room)
        os.close(room)


def pause() -> None:
    """Let whoever waits to measure do so; costs microseconds where nobody does, and nothing outside of working()."""
    for room in _working:
        gate = _lock("gate")
        try:
            fcntl.flock(gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(room, fcntl.LOCK_UN)
            _enter(room)
        finally:
            os.close(gate)


def _enter(room: int) -> None:
    """Come in by the gate, which whoever waits to measure holds shut, so that workers do not keep it waiting."""
    gate = _lock("gate")
    try:
        fcntl.flock(gate, fcntl.LOCK_SH)
        fcntl.flock(room, fcntl.LOCK_SH)
    finally:
        os.close(gate)


@contextlib.contextmanager
def measuring(alone: bool = True, patience: float = PATIENCE_SECONDS) -> Iterator[bool]:
    """Hold the node's only measuring slot; says whether those who work there pause meanwhile.

    alone: wait for them to come to a pause, for `patience` seconds at most. Measurements of all searches on a node
    wait for one another, however long that takes.
    """
    slot, gate, room = _lock("slot"), _lock("gate"), _lock("room")
    try:
        fcntl.flock(slot, fcntl.LOCK_EX)
        yield alone and _clear(gate, room, time.monotonic() + patience)
    finally:
        for descriptor in (room, gate, slot):
            os.close(descriptor)


def _clear(gate: int, room: int, until: float) -> bool:
    fcntl.flock(gate, fcntl.LOCK_EX)  # held by others only while they come in
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(room, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= until:
            fcntl.flock(gate, fcntl.LOCK_UN)
            return False
        time.sleep(LOOK_SECONDS)


def _lock(name: str) -> int:
    path = Path(tempfile.gettempdir()) / f"autocompress-{name}.lock"
    try:
        return os.open(path, os.O_RDONLY)  # reading is enough to lock, and the file may be another user's
    except FileNotFoundError:
        return os.open(path, os.O_CREAT | os.O_RDONLY, 0o644)
