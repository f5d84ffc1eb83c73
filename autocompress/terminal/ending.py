"""How a command ends: its exit code, and errors that people can act on as one line."""

import errno
import os
import sys
from collections.abc import Callable

from ..errors import AutocompressError, ClusterAway, StorageAway, unwritten
from ..urls import without_passwords
from ..wording import visible
from .plain import say

OK, BAD, NOTHING_FITS, NOTHING_FINISHED, INTERRUPTED = 0, 2, 3, 4, 130
# What the system says of a disk that is full or may not be written to, wherever that is noticed.
NO_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def exit_code(command: Callable[[], object], away: int = BAD) -> int:
    """Run a command; errors of ours are one line on standard error and code 2, and defects keep their traceback.

    away is the code where a cluster or the server of the storage does not answer.
    """
    try:
        code = command()
    except AutocompressError as error:
        refused = _refused(error)
        return away if isinstance(error, ClusterAway | StorageAway) else refused
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        if error.errno not in NO_WRITING:
            raise
        return _refused(unwritten(error))
    except Exception as error:
        return _usage_code(error)
    return code if isinstance(code, int) else OK


def _refused(error: AutocompressError) -> int:
    say(f"error: {without_passwords(str(error))}")
    return BAD


def _usage_code(error: Exception) -> int:
    """Show a usage error as the parser would; anything else is a defect and keeps its traceback."""
    show = getattr(error, "show", None)
    if show is None:
        raise error
    vars(error)["message"] = visible(str(getattr(error, "message", "")))
    show()
    return int(getattr(error, "exit_code", BAD))
