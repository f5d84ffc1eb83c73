"""Runs the searches that a server holds: starts their controllers, watches them, and tells what happened.

What is to be done with a search follows from its row and its controller alone (states.next_deed), so that a server
that takes over goes on exactly where a dead one stopped.
"""

import contextlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from ..errors import AutocompressError
from . import events
from .database import Database, Search
from .jobs import COMMAND, Job, JobsAway, ProcessJob
from .leases import Leases
from .observer import Observer
from .quotas import workers
from .ray_jobs import RayJob, RayJobs
from .settings import Settings
from .states import AWAY, Deed, State, next_deed
from .studies import Studies
from .submission import Places, command

MOST_LOSSES = 3  # controllers in a row that were killed before a trial ended
AGAIN_S = 10.0  # until a controller is started again whose storage or cluster was away
OVERDUE_S = 60.0  # without a look at the searches, a server is not ready


@dataclass
class Runner:
    """A server's work on its searches; job_command begins the command line of a controller."""

    settings: Settings
    database: Database
    job_command: tuple[str, ...] = COMMAND
    clock: Callable[[], float] = time.time
    _observers: dict[str, Observer] = field(default_factory=dict)
    _terminated: dict[str, float] = field(default_factory=dict)
    _said: dict[str, str] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _seen: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._leases = Leases(self.database, self.settings.name, self.settings.lease_s, self.clock, self.settings.quota)
        self._places = Places(self.settings)
        self.studies = Studies(self.database)
        self._ray = RayJobs(self.settings.ray) if self.settings.controllers == "ray" else None
        self._thread = threading.Thread(target=self._loop, name="runner")

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the controllers, which leaves their trials to be taken up again, and hand the searches back."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._hand_back()

    @property
    def ready(self) -> bool:
        """Whether the searches were looked at of late."""
        return self._thread.is_alive() and time.monotonic() - self._seen < OVERDUE_S

    def _loop(self) -> None:
        while not self._stopping.wait(self.settings.poll_s):
            try:
                self.turn()
                self._seen = time.monotonic()
            except (SQLAlchemyError, AutocompressError, OSError) as error:
                # The database or the disk is away: the leases run out, and all goes on when it is back.
                _log(str(error).splitlines()[0])
            except Exception:
                traceback.print_exc()

    def turn(self) -> None:
        """Look once at every search that is held, and take more where there is room."""
        held = self._leases.held()
        self._leases.wake()
        if self._leases.claim(max(0, self.settings.slots - len(held))):
            held = self._leases.held()
        self._leases.suspend(held)
        for search in held:
            try:
                self._tend(search)
            except JobsAway as error:
                self._say_once(search.study, f"search {search.study!r}: waits: {error}")
        for gone in self._observers.keys() - {search.id for search in held}:
            del self._observers[gone]

    def job(self, search: Search) -> Job:
        """The controller of a search."""
        folder = self._places.search(search.id) / "runs"
        if self._ray is None:
            return ProcessJob(folder, self.job_command)
        return RayJob(folder, self._ray, self.job_command, self.settings.grace_s)

    def _say_once(self, study: str, text: str) -> None:
        if self._said.get(study) != text:
            _log(text)
        self._said[study] = text

    def _tend(self, search: Search) -> None:
        job = self.job(search)
        alive, code = job.alive(), job.code(search.run)
        outdated = search.run_revision != search.revision
        deed = next_deed(State(search.state), search.begun, alive, code, outdated)
        self._observe(search)
        match deed:
            case Deed.start:
                self._start(search, job, code)
            case Deed.interrupt if search.interrupted != search.run:
                if job.signal(search.run, signal.SIGINT):
                    self._leases.write(search, interrupted=search.run)
            case Deed.terminate:
                self._terminate(search, job)
            case Deed.release | Deed.pause | Deed.finish | Deed.fail:
                self._settle(search, job, deed, code)

    def _start(self, search: Search, job: Job, code: int | None) -> None:
        if search.begun and code == AWAY and self.clock() - (job.ended_at(search.run) or 0.0) < AGAIN_S:
            return
        lost = search.begun and code is None
        losses = search.losses + 1 if lost else 0
        if losses > MOST_LOSSES:
            self._settle(search, job, Deed.fail, None)
            return
        if lost:
            _log(f"search {search.study!r}: its controller was killed: starting it again")
        values: dict[str, Any] = {
            "run": search.run + 1,
            "run_revision": search.revision,
            "run_started": self.clock(),
            "begun": True,
            "losses": losses,
            "spent_s": search.spent_s + self._spent(search, job),
        }
        # Written first: a run that is counted but was never begun counts as killed, and is begun again.
        if not self._leases.write(search, **values):
            return
        search.run, search.spent_s = search.run + 1, values["spent_s"]
        most = workers(search.workers, self._leases.standing(search.owner).quota)
        arguments = command(search, self._places.derived(search), self.settings.executor, most)
        try:
            if not job.start(search.run, arguments, self._places.project(search), {}):
                _log(f"search {search.study!r}: another controller of it lives: waiting for it")
        except JobsAway:
            self._leases.write(search, losses=search.losses)  # not the controller's doing
            raise

    def _terminate(self, search: Search, job: Job) -> None:
        since = self._terminated.setdefault(search.id, time.monotonic())
        late = time.monotonic() - since > self.settings.grace_s
        job.signal(search.run, signal.SIGKILL if late else signal.SIGTERM)

    def _settle(self, search: Search, job: Job, deed: Deed, code: int | None) -> None:
        """Tell how a search's run ended, and let go of it."""
        self._terminated.pop(search.id, None)
        new = {Deed.pause: State.paused, Deed.finish: State.finished, Deed.fail: State.failed}.get(deed)
        values: dict[str, Any] = {
            "begun": False,
            "run_started": None,
            "spent_s": search.spent_s + self._spent(search, job),
        }
        verdict = getattr(self._observers.get(search.id), "verdict", None)
        if deed is Deed.finish:
            values |= {"verdict": verdict or "nothing_finished", "error": None}
        elif deed is Deed.fail:
            values |= {"error": _reason(job, search.run, code)}
        self._leases.settle(search, new, **values)

    def _spent(self, search: Search, job: Job) -> float:
        ended = job.ended_at(search.run)
        if not search.begun or search.run_started is None or ended is None:
            return 0.0
        return max(0.0, ended - search.run_started)

    def _observe(self, search: Search) -> None:
        if not search.begun:
            return
        observer = self._observers.get(search.id)
        if observer is None:
            told = events.told_trials(self.database, search.id)
            with self.database.transaction() as session:
                front = events.last(session, search.id, "front")
            observer = self._observers[search.id] = Observer(self.studies, search.study, told, front)
        for kind, data in observer.look():
            if not self._leases.tell(search, kind, data):
                del self._observers[search.id]
                return
            if kind == "trial" and search.losses:
                self._leases.write(search, losses=0)

    def _hand_back(self) -> None:
        deadline = time.monotonic() + self.settings.grace_s
        held = list(self._leases.held())
        held = [search for search in held if not self._left_running(search)]
        while held and time.monotonic() < deadline + 5.0:
            late = time.monotonic() > deadline
            for search in held:
                with contextlib.suppress(JobsAway):
                    self.job(search).signal(search.run, signal.SIGKILL if late else signal.SIGTERM)
            time.sleep(0.1)
            for search in [search for search in held if self._dead(search)]:
                held.remove(search)
                self._leave(search)

    def _left_running(self, search: Search) -> bool:
        """Let go of a search whose controller needs no server: whoever takes it finds it as it is."""
        if not self.job(search).outlives or search.state == State.cancelled:
            return False
        return self._leases.settle(search, None)

    def _dead(self, search: Search) -> bool:
        try:
            return not self.job(search).alive()
        except JobsAway:
            return False

    def _leave(self, search: Search) -> None:
        """Give a search back whose controller ended, or was ended, in a state that says so."""
        job = self.job(search)
        code = job.code(search.run)
        self._observe(search)
        deed = next_deed(State(search.state), search.begun, False, code, search.run_revision != search.revision)
        if deed is Deed.start:
            spent = search.spent_s + self._spent(search, job)
            self._leases.settle(search, State.queued, begun=False, run_started=None, spent_s=spent)
        else:
            self._settle(search, job, deed, code)


def _reason(job: Job, run: int, code: int | None) -> str:
    if code is None:
        return f"its controller was killed {MOST_LOSSES + 1} times before a trial ended: see its log for the cause"
    try:
        lines = job.log(run).read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (told or lines or [f"its controller ended with code {code}"])[-1]


def _log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
