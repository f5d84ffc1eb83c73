"""What runs on a Ray worker, and what a worker leaves behind of how it ended."""

import contextlib
import faulthandler
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO

from ..errors import AutocompressError, TaskError
from ..outcome import Baseline, Candidate, Failed, Result
from ..tasks.objects import has, receive
from ..trial.trial import TrialSpec, failure, measure, prepare

KILLED = "its worker was killed"
_FATAL = "Fatal Python error: "


def warm() -> None:
    """Nothing more than to be there: finding this function imports all that a trial needs."""


@dataclass(frozen=True)
class Sent:
    """A task that is an object, in Ray's object store: fetched from there once a worker."""

    key: str
    value: Any


@dataclass(frozen=True)
class Shared:
    """The baseline of all trials, in Ray's object store: read from there once a worker, however many it runs."""

    key: str
    value: Any


_BASELINES: dict[str, Baseline] = {}  # on a worker: the one that it keeps


def baseline_of(shared: Shared) -> Baseline:
    """What was shared, in the place of what was shared before."""
    if shared.key not in _BASELINES:
        import ray

        found = ray.get(shared.value)
        _BASELINES.clear()
        _BASELINES[shared.key] = found
    return _BASELINES[shared.key]


def fetch(sent: Sent | None) -> None:
    """Have the task here that was sent along. Raises TaskError where this worker cannot make it."""
    if sent is None or has(sent.key):
        return
    import ray

    lost = (ray.exceptions.ObjectLostError, ray.exceptions.NodeDiedError, ray.exceptions.LocalRayletDiedError)
    try:
        task = ray.get(sent.value)
    except lost:
        raise
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise TaskError(
            f"task: a worker cannot make the object that was sent to it: {said}: install there what it is made of, or "
            'use executor="inline"'
        ) from None
    receive(sent.key, task)


def guarded(function: Callable[..., Any], arguments: Sequence[Any], words: Path, sent: Sent | None = None) -> Any:
    """Call a function; an error of ours comes back as a value, any other as Failed."""
    with last_words(words):
        try:
            fetch(sent)
            return function(*arguments)
        except AutocompressError as error:
            return error.with_traceback(None)
        except SystemExit as end:
            return _left(end)
        except Exception as error:
            return failure(error)


def prepare_in_time(spec: TrialSpec, shared: Shared, words: Path, sent: Sent | None = None) -> Candidate | Result:
    """Make a trial's file within its time limit."""
    with last_words(words), _alarm(spec.time_limit):
        try:
            fetch(sent)
            return prepare(spec, baseline_of(shared))
        except TaskError as error:
            return failure(error)
        except SystemExit as end:
            return _left(end)


def measure_in_time(
    candidate: Candidate | Result, spec: TrialSpec, shared: Shared, words: Path, sent: Sent | None = None
) -> Result:
    """Time a trial's file within its time limit."""
    with last_words(words), _alarm(spec.time_limit):
        try:
            fetch(sent)
            return measure(candidate, spec, baseline_of(shared))
        except TaskError as error:
            return failure(error)
        except SystemExit as end:
            return _left(end)


def _left(end: SystemExit) -> Failed:
    """Ray would end the worker without a word."""
    return Failed(f"the task's code called sys.exit({'' if end.code is None else repr(end.code)})")


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """End this worker when the block takes longer, wherever it is stuck; what it held half made goes with it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class _Parting:
    """Takes the place of os._exit, which nothing else could tell from a kill, and notes it where last words are due."""

    def __init__(self, leave: Callable[[int], NoReturn]) -> None:
        self.leave = leave
        self.file: TextIO | None = None
        self.process = 0

    def __call__(self, status: int) -> NoReturn:
        # A fork, such as a data loader's, leaves this way when it is done.
        if self.file is not None and os.getpid() == self.process:
            self.file.write(f"os._exit({status})\n")
        self.leave(status)


_PARTING = _Parting(os._exit)


@contextlib.contextmanager
def last_words(path: Path) -> Iterator[None]:
    """Leave in a file how this process ends, should it end within the block: to Ray all sudden ends are one.

    Only on the machine whose search it is, where the file's folder is; removed after a block that came to its end.
    """
    if not path.parent.is_dir():
        yield
        return
    os._exit = _PARTING
    with path.open("w", buffering=1) as file:
        file.write("began\n")
        _PARTING.file, _PARTING.process = file, os.getpid()
        faulthandler.enable(file, all_threads=False)
        try:
            yield
        finally:
            _PARTING.file = None
            faulthandler.enable(all_threads=False)  # on standard error, as Ray has it
    path.unlink(missing_ok=True)


def read_end(path: Path) -> tuple[str, str] | None:
    """How a worker ended by its last words, and the details; None where it left none."""
    try:
        words = path.read_text(errors="replace")
    except OSError:
        return None
    rows = words.splitlines()
    fatal = next((row for row in rows if row.startswith(_FATAL)), None)
    if fatal is not None:
        return f"its worker crashed: {fatal.removeprefix(_FATAL)}", words
    left = next((row for row in rows if row.startswith("os._exit(")), None)
    return (KILLED, "") if left is None else (f"its worker was ended by {left}", "")
