"""Where trials run: on Ray workers, or in this process."""

import atexit
import contextlib
import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from .errors import AutocompressError, ConfigError, ExecutorError, suggest
from .outcome import Baseline, Candidate, Failed, Outcome
from .tasks.loading import SHIPPED_FOLDER
from .trial.trial import TrialSpec, failure, measure, prepare

Value = TypeVar("Value")
KINDS = ("ray", "inline")
KNOCK_SECONDS = 10.0
LATE = "ran past its time limit"
SHIPPED_BYTES, SHIPPED_FILES = 20_000_000, 500
LISTED_FILES = 20_000  # how far a folder that also holds a data set is looked through for code
NOT_SHIPPED = {"__pycache__", "mlruns", "mlartifacts", "node_modules", "venv"}


@dataclass(frozen=True)
class Finished:
    """A trial that came back; `candidate` fetches what it made, where it made something."""

    number: int
    outcome: Outcome
    candidate: Callable[[], Candidate | None]


class Executor(Protocol):
    """Runs trials and single calls somewhere; knows nothing of studies."""

    def share(self, baseline: Baseline) -> None:
        """Give every later trial this baseline."""

    def call(self, function: Callable[..., Value], *arguments: Any) -> Value:
        """Run one function where the trials run and wait for it."""

    def submit(self, spec: TrialSpec) -> None:
        """Start a trial."""

    def finished(self, wait: float) -> list[Finished]:
        """The trials that ended, after waiting up to `wait` seconds for the first."""

    def cancel(self) -> None:
        """Give up all running trials."""

    def close(self) -> None:
        """Let go of workers."""


class InlineExecutor:
    """Runs each trial at once in this process: for tests and debugging."""

    def __init__(self) -> None:
        self._baseline: Baseline | None = None
        self._done: list[Finished] = []

    def share(self, baseline: Baseline) -> None:
        """Keep the baseline."""
        self._baseline = baseline

    def call(self, function: Callable[..., Value], *arguments: Any) -> Value:
        """Call it."""
        return function(*arguments)

    def submit(self, spec: TrialSpec) -> None:
        """Run the trial to its end; a time limit would end this process too, and is not kept."""
        assert self._baseline is not None
        candidate = prepare(spec, self._baseline)
        outcome = measure(candidate, spec, self._baseline)
        made = candidate if isinstance(candidate, Candidate) else None
        self._done.append(Finished(spec.number, outcome, lambda: made))

    def finished(self, wait: float) -> list[Finished]:
        """What was run since the last call."""
        done, self._done = self._done, []
        return done

    def cancel(self) -> None:
        """Nothing runs between calls."""

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class _Job:
    number: int
    prepared: Any
    measured: Any
    late_at: float


@contextlib.contextmanager
def opened(kind: str, address: str, workers: int, code: Path | None, resource: str | None) -> Iterator[Executor]:
    """Workers on Ray, or none (the same functions in this process), for a while. Raises ConfigError or ExecutorError.

    kind: ray or inline; the rest as RayExecutor takes it.
    """
    if kind not in KINDS:
        raise ConfigError(f"--executor {kind}: {suggest(kind, KINDS)}")
    executor = InlineExecutor() if kind == "inline" else RayExecutor(address, workers, code, resource)
    try:
        yield executor
    finally:
        executor.close()


class RayExecutor:
    """Runs trials as Ray tasks: one to make the file, one of its own to time it.

    address: auto joins a running cluster, else starts a local one with `workers` processors; local always starts one.
    The folder of the task's code reaches the workers through Ray's runtime environment.
    """

    def __init__(self, address: str, workers: int, code: Path | None, resource: str | None = None) -> None:
        self._ray = _start(address, workers, code)
        # Ray's own retries are off: the controller counts attempts, and Ray retries an out-of-memory kill for ever.
        options: dict[str, Any] = {"num_cpus": 1, "max_retries": 0}
        marked = {"resources": {resource: 0.001}} if resource else {}
        self._prepare = self._ray.remote(**options)(_prepare_in_time).options(name="prepare")
        self._measure = self._ray.remote(**options, **marked)(_measure_in_time).options(name="measure")
        self._call = self._ray.remote(**options, **marked)(_guarded)
        self._baseline: Any = None
        self._jobs: dict[Any, _Job] = {}
        # Workers import torch, which takes seconds, while the baseline is found or trained.
        self._warming = [self._ray.remote(**options)(_warm).remote() for _ in range(workers)]

    def share(self, baseline: Baseline) -> None:
        """Put the baseline into Ray's object store once."""
        self._baseline = self._ray.put(baseline)

    def call(self, function: Callable[..., Value], *arguments: Any) -> Value:
        """Run a function on a worker, once more if it is lost. Raises what it raised, or ExecutorError."""
        try:
            result = self._ray.get(self._call.remote(function, arguments))
        except self._ray.exceptions.RayError:
            try:
                result = self._ray.get(self._call.remote(function, arguments))
            except self._ray.exceptions.RayError as error:
                raise ExecutorError(f"{function.__name__} failed on two workers: {_reason(error)}") from error
        if isinstance(result, AutocompressError):
            raise result
        if isinstance(result, Failed):
            raise ExecutorError(
                f"{function.__name__} failed: {result.reason}: `autocompress plan CONFIG` shows the traceback"
            )
        value: Value = result
        return value

    def submit(self, spec: TrialSpec) -> None:
        """Queue both tasks of a trial; the second starts when the first has ended."""
        prepared = self._prepare.remote(spec, self._baseline)
        measured = self._measure.remote(prepared, spec, self._baseline)
        self._jobs[measured] = _Job(spec.number, prepared, measured, time.monotonic() + spec.time_limit)

    def finished(self, wait: float) -> list[Finished]:
        """The trials that ended, by themselves or with their worker."""
        if not self._jobs:
            return []
        done, _ = self._ray.wait(list(self._jobs), num_returns=len(self._jobs), timeout=0)
        if not done:
            done, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=wait)
        return [self._collect(self._jobs.pop(ref)) for ref in done]

    def _collect(self, job: _Job) -> Finished:
        try:
            outcome: Outcome = self._ray.get(job.measured)
        except self._ray.exceptions.RayError as error:
            late = time.monotonic() >= job.late_at
            failed = Failed(LATE) if late else Failed(_reason(error), lost=True)
            return Finished(job.number, failed, lambda: None)
        return Finished(job.number, outcome, lambda: self._fetch(job))

    def _fetch(self, job: _Job) -> Candidate | None:
        try:
            made = self._ray.get(job.prepared)
        except self._ray.exceptions.RayError:
            return None
        return made if isinstance(made, Candidate) else None

    def cancel(self) -> None:
        """Kill the workers of all running trials."""
        for job in self._jobs.values():
            for ref in (job.measured, job.prepared):
                self._ray.cancel(ref, force=True)
        self._jobs.clear()

    def close(self) -> None:
        """Disconnect; ends the cluster that was started here."""
        self._ray.shutdown()


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """End this worker when the block takes longer, wherever it is stuck; what it held half made goes with it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _prepare_in_time(spec: TrialSpec, baseline: Baseline) -> Candidate | Outcome:
    with _alarm(spec.time_limit):
        return prepare(spec, baseline)


def _measure_in_time(candidate: Candidate | Outcome, spec: TrialSpec, baseline: Baseline) -> Outcome:
    with _alarm(spec.time_limit):
        return measure(candidate, spec, baseline)


def _warm() -> None:
    """Nothing more than to be there: finding this function imports all that a trial needs."""


def _guarded(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    try:
        return function(*arguments)
    except AutocompressError as error:
        return error.with_traceback(None)
    except Exception as error:
        return failure(error)


def _reason(error: Exception) -> str:
    """What became of a worker, in one line."""
    name, text = type(error).__name__, str(error)
    if "OutOfMemory" in name or "OutOfMemory" in text:
        return "its worker ran out of memory and was killed"
    if "WorkerCrashed" in name or "WorkerCrashed" in text or "died unexpectedly" in text:
        return "its worker was killed"
    if "NodeDied" in name or "NodeDied" in text:
        return "its node was lost"
    rows = text.strip().splitlines() or ["no message"]
    # What a task itself raised stands below its traceback.
    return rows[-1].strip() if name.startswith("RayTaskError") else f"{name}: {rows[0]}"


def _start(address: str, workers: int, code: Path | None) -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "runtime_env": _environment(code)}
    local = {"address": "local", "num_cpus": workers, "include_dashboard": False, **common}
    try:
        if address == "local":
            ray.init(**local)
        elif address == "auto":
            try:
                ray.init(address="auto", **common)
            except ConnectionError:
                ray.init(**local)
        else:
            _knock(address)
            ray.init(address=address, **common)
    except ExecutorError:
        raise
    except Exception as error:
        raise ExecutorError(f"Ray cannot be reached or started ({address}): {str(error).splitlines()[0]}") from error
    return ray


def _knock(address: str) -> None:
    """Raise ExecutorError unless something listens there: Ray itself would keep trying for minutes."""
    from ray.util import get_node_ip_address

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ExecutorError(f"ray.address: {address!r}: write auto, local or HOST:PORT")
    # Ray takes the loopback interface to mean this node's own address.
    own = str(get_node_ip_address())  # type: ignore[no-untyped-call]
    hosts = [host, own] if host in ("127.0.0.1", "localhost", "[::1]") else [host]
    for name in hosts:
        with contextlib.suppress(OSError), socket.create_connection((name.strip("[]"), int(port)), KNOCK_SECONDS):
            return
    raise ExecutorError(f"ray.address: nothing listens at {address}: start a cluster there, or write auto or local")


def _environment(code: Path | None) -> dict[str, Any]:
    """Ray's runtime environment: one thread a worker, and the user's code.

    A py_module, not a working_dir, so that workers stay in the folder that the user started from.
    """
    environment: dict[str, Any] = {"env_vars": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}}
    return environment if code is None else {**environment, "py_modules": [str(stage_code(code))]}


def stage_code(folder: Path) -> Path:
    """Copy a folder's Python files and small other files, as far as the caps go, to where they can be sent from."""
    stage = Path(tempfile.mkdtemp(prefix="autocompress-")) / SHIPPED_FOLDER
    stage.mkdir()
    atexit.register(shutil.rmtree, stage.parent, ignore_errors=True)
    total = count = 0
    for path in _files(folder):
        size = path.stat().st_size
        if total + size > SHIPPED_BYTES or count >= SHIPPED_FILES:
            continue
        copy = stage / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        total, count = total + size, count + 1
    return stage


def _files(folder: Path) -> list[Path]:
    """The files that may be sent along, all code before any data."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in NOT_SHIPPED)
        found += [Path(parent, name) for name in sorted(files) if not name.startswith(".")]
        if len(found) > LISTED_FILES:
            break
    return sorted((path for path in found if path.is_file()), key=lambda path: path.suffix != ".py")
