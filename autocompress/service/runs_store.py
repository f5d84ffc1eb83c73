"""MLflow's SQLite file, made whole before controllers use it.

Controllers that open a fresh one at once fail, and one that is killed while the tables are made leaves a file that
MLflow can neither use nor repair.
"""

import os
import subprocess
import sys
from pathlib import Path

from ..errors import ServiceError, unwritten
from ..urls import is_server, sqlite_file

# MLflow in a process of its own, as for `autocompress ui`: a server has no other use for it.
MAKE = "import sys; from mlflow import MlflowClient; MlflowClient(sys.argv[1]).search_experiments(max_results=1)"
MAKING_S = 300.0


def make_runs_store(uri: str) -> None:
    """Make MLflow's tables where the URI means a SQLite file that is not there yet. Raises ServiceError, WriteError."""
    path = None if not uri or is_server(uri) else sqlite_file(uri)
    if path is None or path.exists():
        return
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", MAKE, f"sqlite:///{new}"],
            capture_output=True,
            text=True,
            timeout=MAKING_S,
            check=False,
        )
        if done.returncode != 0:
            raise ServiceError(
                f"tracking store {path}: cannot be made: {(done.stderr.strip() or '?').splitlines()[-1]}"
            )
        _put(new, path)
    except subprocess.TimeoutExpired:
        raise ServiceError(f"tracking store {path}: took longer than {MAKING_S:.0f} s to make: try again") from None
    except OSError as error:
        raise unwritten(error, path) from error
    finally:
        for left in path.parent.glob(f"{new.name}*"):
            left.unlink(missing_ok=True)


def _put(new: Path, path: Path) -> None:
    """Move a file to its place, unless another server was faster."""
    try:
        os.link(new, path)
    except FileExistsError:
        return
