"""How much is read of what a user names: known before anything is read, so that reading comes to an end."""

import stat
from pathlib import Path

from ..errors import TaskError

MOST_BYTES = 4 * 10**9  # of an NPZ or weights file, and of the images that are held in memory
MOST_IMAGE_BYTES = 10**9  # of one image file
MOST_UNPACKED = 100  # times its own size: what compresses better holds no images
MOST_FILES = 1_000_000
MOST_CLASSES = 10_000


def check_file(path: Path, key: str, most: int = MOST_BYTES) -> None:
    """Raise TaskError unless a path is a regular file of at most `most` bytes; key says what it was named for."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise TaskError(f"{key}: {path}: no such file: check the path") from None
    except OSError as error:
        raise TaskError(f"{key}: {path}: cannot be read ({error.strerror}): check the path") from None
    if not stat.S_ISREG(status.st_mode):
        raise TaskError(f"{key}: {path}: is a folder, device or pipe: name a regular file")
    if status.st_size > most:
        raise TaskError(f"{key}: {path}: has {status.st_size:,} bytes, at most {most:,} are read: make it smaller")


def check_room(
    count: int, each: int, where: Path, what: str = "images of task.input_size", key: str = "input_size"
) -> None:
    """Raise TaskError when so many images, or what else, of `each` bytes in memory would not be held.

    key: the setting of which a smaller one takes less.
    """
    if count * each > MOST_BYTES:
        raise TaskError(
            f"task.data: {where}: {count:,} {what} take {count * each:,} bytes, at most {MOST_BYTES:,} are held: "
            f"choose a smaller {key}, or write a task whose Dataset reads them one by one"
        )


def check_classes(count: int, where: Path) -> None:
    """Raise TaskError for more classes than a classifier is made for."""
    if count > MOST_CLASSES:
        raise TaskError(
            f"task.data: {where}: has {count:,} different labels, at most {MOST_CLASSES:,} are taken as classes: "
            "for regression write a task of your own"
        )
