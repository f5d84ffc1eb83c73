"""Trials as Ray tasks."""

import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import ONE_THREAD, Target
from ..errors import AutocompressError, ExecutorError, TaskError
from ..outcome import Baseline, Candidate, Failed, Result
from ..tasks.objects import HeldTask
from ..trial.trial import TrialSpec
from .base import Finished, Note, Value
from .cluster import Cluster
from .work import KILLED, Sent, Shared, guarded, measure_in_time, prepare_in_time, read_end, warm

LATE = "ran past its time limit"
DIED = "its worker died"  # how, is known on its own machine only
POLL_SECONDS = 0.25
CALLS, CUT_OFF_CALLS = 2, 5  # how often one call is tried where its worker, or else its node, is lost


@dataclass
class _Job:
    number: int
    prepared: Any
    measured: Any
    late_at: float
    words: tuple[Path, Path]


class RayExecutor:
    """Runs trials as Ray tasks: one to make the file, one of its own to time it.

    address: auto joins a cluster that was started to be shared, else starts a private one with `workers` processors;
    local always starts one. A private cluster that is lost is started anew, and its trials come back as cut off.
    The folder of the task's code reaches the workers through Ray's runtime environment; with an image, in whose
    containers they run, it has to be there. note is told what is worth a line; gpus are what each training gets, and
    each measurement where the target is a GPU. held is the task where it is an object, which is put into Ray's object
    store once. Raises ExecutorError where no cluster can be had, here and whenever a joined one is lost, and TaskError
    for an object that cannot be sent.
    """

    def __init__(
        self,
        address: str,
        workers: int,
        code: Path | None,
        target: Target = ONE_THREAD,
        note: Note = lambda _: None,
        image: str | None = None,
        gpus: float = 0.0,
        held: HeldTask | None = None,
    ) -> None:
        self._held = held
        self._cluster = Cluster(address, workers, code, target, note, image, gpus)
        self._ray = self._cluster.ray
        self._workers, self._names = workers, itertools.count()
        # A cluster that was joined may be at work for others.
        self.processors = workers if self._cluster.joined is None else 1
        # Ray's own retries are off: the controller counts attempts, and Ray retries an out-of-memory kill for ever.
        options: dict[str, Any] = {"num_cpus": 1, "max_retries": 0}
        training: dict[str, Any] = {"num_gpus": gpus} if gpus else {}
        marked: dict[str, Any] = {"resources": {target.resource: 0.001}} if target.resource else {}
        if target.runtime == "onnxruntime-cuda":
            marked |= training
        self._prepare = self._ray.remote(**options, **training)(prepare_in_time).options(name="prepare")
        self._measure = self._ray.remote(**options, **marked)(measure_in_time).options(name="measure")
        self._call = self._ray.remote(**options, **marked)(guarded)
        self._train = self._ray.remote(**options, **training)(guarded) if gpus else self._call
        self._warm = self._ray.remote(**options)(warm)
        self._baseline: Baseline | None = None
        self._shared: Shared | None = None
        self._sent: Sent | None = None
        self._jobs: dict[Any, _Job] = {}
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        """Make a cluster ready."""
        # Workers import torch, which takes seconds, while the baseline is found or trained.
        self._warming = [self._warm.remote() for _ in range(self._workers)]
        if self._baseline is not None:
            self._put_baseline(self._baseline)
        if self._held is not None:
            self._sent = Sent(self._held.key, self._put(self._held))

    def _put(self, held: HeldTask) -> Any:
        try:
            return self._ray.put(held.task)
        except Exception as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise TaskError(
                f"task: {held.code.partition(':')[2]} cannot be sent to workers: {said}: leave out what cannot be "
                'pickled (open files, locks, generators), or use executor="inline"'
            ) from error

    def share(self, baseline: Baseline) -> None:
        """Put the baseline into Ray's object store once."""
        self._baseline = baseline
        if not self._settle():
            self._put_baseline(baseline)

    def _put_baseline(self, baseline: Baseline) -> None:
        value = self._ray.put(baseline)
        self._shared = Shared(value.hex(), value)

    def call(self, function: Callable[..., Value], *arguments: Any, trains: bool = False) -> Value:
        """Run a function on a worker, once more if it is lost. Raises what it raised, or ExecutorError."""
        result = self._called(self._train if trains else self._call, function, arguments)
        if isinstance(result, AutocompressError):
            raise result
        if isinstance(result, Failed):
            raise ExecutorError(
                f"{function.__name__} failed: {result.reason}: `autocompress plan CONFIG` shows the traceback"
            )
        value: Value = result
        return value

    def _called(self, remote: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        lost = cut_off = 0
        while True:
            words = self._words("call")
            ref = remote.remote(function, arguments, words, self._sent)
            while not (done := self._wait([ref], POLL_SECONDS)) and not self._cluster.lost():
                pass
            reason = "its cluster was lost"
            try:
                if done:
                    return self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                blameless, reason = self._blameless(error), self._ended(error, (words,)).reason
                lost += not blameless
                if lost == CALLS:
                    raise ExecutorError(f"{function.__name__} failed on two workers: {reason}") from error
            cut_off += 1
            if cut_off == CUT_OFF_CALLS:
                raise ExecutorError(f"{function.__name__} was cut off {cut_off} times: {reason}")
            self._settle()

    def submit(self, spec: TrialSpec) -> None:
        """Queue both tasks of a trial; the second starts when the first has ended."""
        words = self._words("prepare"), self._words("measure")
        prepared = self._prepare.remote(spec, self._shared, words[0], self._sent)
        measured = self._measure.remote(prepared, spec, self._shared, words[1], self._sent)
        self._jobs[measured] = _Job(spec.number, prepared, measured, time.monotonic() + spec.time_limit, words)

    def finished(self, wait: float) -> list[Finished]:
        """The trials that ended, by themselves, with their worker, or with their node or cluster.

        Raises ExecutorError when the cluster was lost and is not ours to start.
        """
        if not self._jobs:
            return []
        done = self._wait(list(self._jobs), 0) or self._wait(list(self._jobs), wait, 1)
        ended = [self._collect(self._jobs.pop(ref)) for ref in done]
        if self._cluster.lost() or any(finished.cut_off for finished in ended):
            left = list(self._jobs.values())
            if self._settle():
                gone = Failed("its cluster was lost", lost=True)
                ended += [Finished(job.number, gone, lambda: None, cut_off=True) for job in left]
        return ended

    def _wait(self, refs: list[Any], seconds: float, count: int | None = None) -> list[Any]:
        """What is done of these; all that is, or up to a count of them."""
        try:
            done, _ = self._ray.wait(refs, num_returns=count or len(refs), timeout=seconds, fetch_local=False)
        except OSError:  # this machine's node is gone, as the cluster will find
            return []
        return list(done)

    def _collect(self, job: _Job) -> Finished:
        try:
            outcome: Result = self._ray.get(job.measured)
        except self._ray.exceptions.RayError as error:
            if self._blameless(error):
                gone = Failed(_reason(error), lost=True)
                return Finished(job.number, gone, lambda: None, cut_off=True)
            ended = self._ended(error, job.words)
            late = ended.reason in (KILLED, DIED) and time.monotonic() >= job.late_at
            return Finished(job.number, Failed(LATE) if late else ended, lambda: None)
        self._cluster.proved()
        return Finished(job.number, outcome, lambda: self._fetch(job))

    def _fetch(self, job: _Job) -> Candidate | None:
        # Ray ends this whole process where it reads from a node that is gone.
        if self._cluster.silent():
            return None
        try:
            made = self._ray.get(job.prepared)
        except self._ray.exceptions.RayError:
            return None
        return made if isinstance(made, Candidate) else None

    def _blameless(self, error: Exception) -> bool:
        """Whether a task was lost with its node or cluster, and not by its own doing."""
        lost = self._ray.exceptions
        with_node = (lost.NodeDiedError, lost.LocalRayletDiedError, lost.ObjectLostError, lost.RaySystemError)
        never_begun = lost.RuntimeEnvSetupError
        return isinstance(error, (*with_node, never_begun)) or self._cluster.silent()

    def _ended(self, error: Exception, words: tuple[Path, ...]) -> Failed:
        """How a task was lost: in the words of its worker, where it left any, else in Ray's."""
        reason = _reason(error)
        said = next((end for path in words if (end := read_end(path)) is not None), None)
        for path in words:
            path.unlink(missing_ok=True)
        if said is None or reason != DIED:
            return Failed(reason, lost=True)
        return Failed(said[0], lost=True, details=said[1])

    def _words(self, name: str) -> Path:
        """Where a worker may leave its last words."""
        return self._cluster.room.folder / f"{next(self._names)}-{name}"

    def _settle(self) -> bool:
        """Wait until the cluster answers, started anew where it was lost, which is returned."""
        if not self._cluster.settled():
            self._jobs.clear()
            self._cluster.renew()
            self._begin()
            return True
        return False

    def cancel(self) -> None:
        """Kill the workers of all running trials."""
        with contextlib.suppress(self._ray.exceptions.RayError, OSError):
            for job in self._jobs.values():
                for ref in (job.measured, job.prepared):
                    self._ray.cancel(ref, force=True)
        self._jobs.clear()

    def close(self) -> None:
        """Disconnect; ends the cluster that was started here. May be called again."""
        self._cluster.close()


def _reason(error: Exception) -> str:
    """What became of a worker, in one line."""
    name, text = type(error).__name__, str(error)
    if "OutOfMemory" in name or "OutOfMemory" in text:
        return "its worker ran out of memory and was killed"
    if "WorkerCrashed" in name or "WorkerCrashed" in text or "died unexpectedly" in text:
        return DIED
    if "NodeDied" in name or "NodeDied" in text or "LocalRayletDied" in name:
        return "its node was lost"
    rows = text.strip().splitlines() or ["no message"]
    # What a task itself raised stands below its traceback.
    return rows[-1].strip() if name.startswith("RayTaskError") else f"{name}: {rows[0]}"
