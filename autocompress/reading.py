"""Files that people name, read whole: regular files alone, and no larger than they may be.

A device never ends and a FIFO never starts, so what is at a path is looked at before anything is read from it.
"""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

TEXT_BYTES = 1_000_000  # configs, spaces, recipes, measurements and other text that people read
CODE_BYTES = 16_000_000  # a task's Python file
JSON_BYTES = 256_000_000  # decisions of large models
MODEL_BYTES = 2**31 - 1  # protobuf holds no more in one file
WEIGHT_BYTES = 8_000_000_000
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


class Unreadable(OSError):
    """What is no regular file, or a larger one than may be read: its text names path, rule and fix."""


def open_file(path: Path, most: int) -> BufferedReader:
    """A regular file of at most `most` bytes, open to be read; links are followed.

    Raises what open() raises, and Unreadable (an OSError too). Never waits for a writer.
    """
    _check(path, os.stat(path), most)  # devices and sockets are not even opened
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check(path, os.fstat(descriptor), most)  # by now it may be another file
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a regular file of at most `most` bytes. Raises as open_file does."""
    with open_file(path, most) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1)
    if len(data) > size:
        raise Unreadable(f"{path}: holds more than it says, or grows while it is read: give a file that stays as it is")
    return data


def _check(path: Path, found: os.stat_result, most: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no file")
        raise Unreadable(f"{path}: is {kind}: give a regular file")
    if found.st_size > most:
        raise Unreadable(f"{path}: holds {found.st_size:,} bytes, and at most {most:,} are read: give a smaller file")
