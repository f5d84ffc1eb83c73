"""Errors of the user's code: which member raised them, and where."""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

from ..errors import AutocompressError, TaskError

OURS = Path(__file__).parents[1]


@contextlib.contextmanager
def blaming(what: str, fix: str = "") -> Iterator[None]:
    """Turn what a block raises into a TaskError that names the member, the file and the line; ours pass as they are."""
    try:
        yield
    except AutocompressError:
        raise
    except Exception as error:
        hint = f"; {fix}" if fix else ""
        raise TaskError(f"{what} raised {one_line(error)}{place(error)}{hint}") from error


def one_line(error: BaseException) -> str:
    """An error's type and text."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def place(error: BaseException) -> str:
    """Where the user's code raised an error, as ` (file.py, line 7)`: the innermost line that no library holds."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and not Path(frame.filename).is_relative_to(OURS)
    ]
    own = [frame for frame in frames if Path(frame.filename).is_file()]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
