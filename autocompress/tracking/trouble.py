"""What errors of MLflow and of its requests mean: whose fault they are, and what to do about them."""

import contextlib
import errno
from collections.abc import Iterator

from ..urls import shown
from .protocol import Away, Barred

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
LOGIN = "MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


@contextlib.contextmanager
def judging(uri: str, needed: bool = True) -> Iterator[None]:
    """Tell apart what is at fault, where an error says so itself: raises Away or Barred, or the error as it is.

    needed: without this right nothing can be logged; others are missed for one entry.
    """
    try:
        yield
    except (Away, Barred):
        raise
    except Exception as error:
        status, first = status_of(error), (str(error).strip().splitlines() or [""])[0][:200]
        where = shown(uri)
        if status == 401:
            raise Barred(f"MLflow at {where} wants a login (HTTP 401)", f"set {LOGIN}") from error
        if status == 403 and needed:
            fix = f"ask for the right to edit it, or set {LOGIN} of who has it"
            raise Barred(f"MLflow at {where} does not let this account in (HTTP 403: {first})", fix) from error
        if status in (429, 503, 504) or _passing(error) or _passing(error.__cause__ or error.__context__):
            raise Away(first) from error
        raise


def _passing(error: BaseException | None) -> bool:
    """Whether the network or the disk is at fault: no answer, or one that a later try may be spared."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    # An answer with the status 500 may be this entry's own fault.
    network = type(error).__module__.startswith("requests.") and getattr(error, "response", None) is None
    return network and "too many 500 error responses" not in str(error)


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error of MLflow or of its requests stands for."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    ask = getattr(error, "get_http_status_code", None)
    return None if ask is None else int(ask())
