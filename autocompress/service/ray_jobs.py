"""Controllers as jobs of a Ray cluster, which go on when the server that submitted them is gone.

The folder of a search is at the same path here and on the cluster's head, where jobs run. A job first takes the lock
there, so that what is true of processes is true of jobs: of two at most one searches. Ray tells what the lock cannot:
that a job was submitted and has not come so far. What a job is to do lies in a file that its owner alone may read, so
that neither its command line nor its runtime environment, which Ray shows, holds a secret.
"""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from .jobs import COMMAND, JobsAway, Runs

Answer = TypeVar("Answer")
ANSWER_S, LOOK_S, AGAIN_S = 10.0, 15.0, 3.0
API = "RAY_API_SERVER_ADDRESS"
GONE = ("FAILED", "STOPPED", "SUCCEEDED")
# What controllers are given of the server's own environment: who they are to MLflow and to Postgres.
GIVEN = ("MLFLOW_TRACKING_", "PG")
_LOOK = (
    "import sys\n"
    "from ray.dashboard.utils import get_address_for_submission_client\n"
    "print(get_address_for_submission_client(sys.argv[1]))\n"
)


class RayJobs:
    """The jobs of a cluster, by Ray's own client; after it did not answer, it is not asked for a while."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client: Any = None
        self._again_at, self._why = 0.0, ""
        self._lock = threading.Lock()

    def submit(self, identity: str, entrypoint: str, environment: Mapping[str, str]) -> None:
        """Submit a job, once for every identity however often it is called. Raises JobsAway."""
        submitted = {"entrypoint": entrypoint, "submission_id": identity}
        try:
            self._ask(lambda client: client.submit_job(**submitted, runtime_env={"env_vars": dict(environment)}))
        except JobsAway as error:
            if "already exists" not in str(error):
                raise

    def status(self, identity: str) -> str | None:
        """What Ray says of a job: PENDING, RUNNING, or one of GONE; None for one it does not know. Raises JobsAway."""
        found = self._ask(lambda client: client.get_job_status(identity))
        return None if found is None else str(found.value)

    def stop(self, identity: str) -> bool:
        """Have a job sent SIGTERM, and SIGKILL if it lives on for long; False for one unknown. Raises JobsAway."""
        return bool(self._ask(lambda client: client.stop_job(identity)))

    def logs(self, identity: str) -> str:
        """What a job printed before it opened its own log, or why it did not come so far. Raises JobsAway."""
        return str(self._ask(lambda client: client.get_job_logs(identity)) or "")

    def _ask(self, request: Callable[[Any], Answer]) -> Answer | None:
        """An answer of the cluster; None where it does not know the job."""
        with self._lock:
            if time.monotonic() < self._again_at:
                raise JobsAway(self._why)
            try:
                if self._client is None:
                    self._client = _connect(self._find())
                return request(self._client)
            except KeyError:
                return None
            except Exception as error:  # of requests, of Ray, or an answer that makes no sense: all mean the same
                self._client = None
                self._again_at = time.monotonic() + AGAIN_S
                self._why = f"Ray's jobs at {self._address}: {_reason(error)}"
                raise JobsAway(self._why) from error

    def _find(self) -> str:
        """The address of the cluster's job server: as Ray's own variable says, or as the cluster itself does."""
        if os.environ.get(API):
            return os.environ[API]
        host, _, port = self._address.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_S):
            pass  # Ray would try for a minute
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        # In a process of its own, as Ray ends one that has no token to give.
        command = [sys.executable, "-W", "ignore", "-c", _LOOK, self._address]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LOOK_S, check=False)
        except subprocess.TimeoutExpired:
            raise OSError(f"it did not say within {LOOK_S:.0f} s where its jobs are") from None
        if done.returncode != 0:
            raise OSError((done.stderr.strip().splitlines() or ["it names no job server"])[-1])
        return done.stdout.strip()


def _connect(url: str) -> Any:
    """Ray's client of a job server, which waits for no answer for ever and raises KeyError for an unknown job."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc,unused-ignore]
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, **{"timeout": ANSWER_S, **options})

        def _raise_error(self, response: Any) -> None:
            if response.status_code == 404:
                raise KeyError
            super()._raise_error(response)

    before = os.environ.get(API)
    os.environ[API] = url  # else Ray takes RAY_ADDRESS, whatever it is given
    try:
        return Client(url)
    finally:
        if before is None:
            del os.environ[API]


def _reason(error: Exception) -> str:
    """Why a cluster does not answer, in one line; what Ray's server raised stands last in its answer."""
    rows = [row.strip() for row in str(error).splitlines() if row.strip(" .")] or [type(error).__name__]
    if "uthenticat" in rows[-1]:
        return (
            "the cluster wants a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file with the one that it "
            "was started with"
        )
    if isinstance(error, OSError):
        return f"nothing answers ({rows[-1][:200]}): start it again, with ray[default] on its head"
    return rows[-1][:300]


@dataclass(frozen=True)
class RayJob(Runs):
    """A controller as Ray jobs, one a run, named by search and run; command is what a run begins with."""

    jobs: RayJobs
    command: Sequence[str] = COMMAND
    grace_s: float = 20.0
    given: Mapping[str, str] = field(default_factory=lambda: os.environ)
    outlives: ClassVar[bool] = True

    def start(self, run: int, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> bool:
        """Submit a run; False where an earlier one still lives. Raises JobsAway."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.alive():
            return False
        for left in self.folder.glob("*.json"):
            left.unlink(missing_ok=True)  # of a run that never came so far
        given = {name: value for name, value in self.given.items() if name.startswith(GIVEN)}
        work = {
            "command": [*self.command[1:]],
            "arguments": [*arguments],
            "cwd": str(cwd),
            "environment": {**given, **environment},
        }
        _write(self.folder / f"{run}.json", json.dumps(work))
        # An earlier job that comes late after all finds that it is not wanted any more.
        _write(self.folder / "latest", str(run))
        stop = {"RAY_JOB_STOP_WAIT_TIME_S": f"{self.grace_s:.0f}"}
        self.jobs.submit(self._identity(run), entrypoint(self.folder, run), stop)
        return True

    def alive(self) -> bool:
        """Whether a controller lives, or was submitted and is not dead. Raises JobsAway."""
        if self.held():
            return True
        run = self._latest()
        if run is None or self.code(run) is not None:
            return False
        return self.jobs.status(self._identity(run)) not in (None, *GONE)

    def signal(self, run: int, number: signal.Signals) -> bool:
        """Tell a run to drain, by a file, or have Ray end it, at last by force. Raises JobsAway."""
        if not self.alive():
            return False
        if number is signal.SIGINT:
            _write(self.folder / "drain", str(run))
            return True
        latest = self._latest()
        return latest is not None and self.jobs.stop(self._identity(latest))

    def log(self, run: int) -> Path:
        """What a run wrote to standard error, or what Ray says of one that did not come so far."""
        path = super().log(run)
        if not path.exists() and run:
            with contextlib.suppress(JobsAway):
                if text := self.jobs.logs(self._identity(run)):
                    path = self.folder / f"{run}.ray.log"
                    _write(path, text)
        return path

    def _identity(self, run: int) -> str:
        return f"autocompress-{self.folder.parent.name}-{run}"

    def _latest(self) -> int | None:
        try:
            return int((self.folder / "latest").read_text())
        except (OSError, ValueError):
            return None


def entrypoint(folder: Path, run: int) -> str:
    """The command of a job: with this server's Python where the head has it at the same path, else with its own."""
    arguments = shlex.join(["-P", "-m", "autocompress.terminal.ray_job", str(folder), str(run)])
    return f'python={shlex.quote(sys.executable)}; [ -x "$python" ] || python=python; exec "$python" {arguments}'


def _write(path: Path, text: str) -> None:
    """Write a file whole, for its owner alone."""
    new = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    new.replace(path)
