"""The one brain: asks, hands out, tells, retries, and ends with an answer."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import yaml

from ..artifacts.runtime import Model
from ..executors import Executor, Finished
from ..front import Front, find_front, hypervolume
from ..outcome import Baseline, Completed, Failed, Limit, Outcome, Stopped
from ..recipe import Recipe
from ..tasks.examples import example_inputs
from ..tracking.background import Background
from ..tracking.figures import Picture, front_html, front_png
from ..tracking.protocol import Row, StudyInfo, Summary, Tracker
from ..trial.trial import TrialSpec, confirm
from .results import points
from .setup import Setup
from .store import Record, StudyStore

POLL_SECONDS, FIGURE_SECONDS, REPEATS = 0.25, 60.0, 60


@dataclass
class State:
    """What a live view shows."""

    study: str
    target: int
    objectives: tuple[str, ...]
    quality: str
    baseline: Baseline
    limits: tuple[Limit, ...]
    started: float = field(default_factory=time.monotonic)
    front: Front | None = None
    records: dict[int, Record] = field(default_factory=dict)
    running: dict[int, Recipe] = field(default_factory=dict)
    draining: bool = False
    begun_with: int = 0
    deadline: float | None = None
    used_up: bool = False


class View(Protocol):
    """Somebody who looks on; calls come often and must return at once."""

    def phase(self, text: str) -> None:
        """What is going on before and after the trials."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def update(self, state: State) -> None:
        """Trials started or ended, or time went by."""


class Stop:
    """Counts interrupts: the first drains, the second stops at once."""

    def __init__(self) -> None:
        self.level = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over SIGINT and SIGTERM where this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._terminate)
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: object) -> None:
        self.level += 1
        if self.level > 2:
            raise KeyboardInterrupt

    def _terminate(self, number: int, frame: object) -> None:
        self.level = 2


class Controller:
    """Runs one study on an executor. Its state is the store; everything else can be lost."""

    def __init__(self, setup: Setup, store: StudyStore, executor: Executor, tracker: Tracker, view: View) -> None:
        self._setup, self._store, self._executor, self._view = setup, store, executor, view
        self._tracker = Background(tracker, view.note)
        self._stop = Stop()
        self._logged: set[int] = set()
        self._drawn: tuple[float, tuple[int, ...]] = (time.monotonic(), ())
        self._front_files: tuple[int, ...] = ()

    def run(self, baseline: Baseline, limits: tuple[Limit, ...]) -> Front:
        """Search until trials, time or the user say stop; returns the front, confirmed on the test split."""
        config = self._setup.config
        objectives = tuple(self._store.objectives)
        self._state = State(config.study, config.search.trials, objectives, self._setup.quality, baseline, limits)
        if config.search.timeout is not None:
            self._state.deadline = time.monotonic() + config.search.timeout
        self._executor.share(baseline)
        status = "KILLED"
        try:
            with self._stop.listening():
                self._begin()
                self._loop()
                front = self._conclude()
            status = "KILLED" if self.interrupted else "FINISHED"
            return front
        finally:
            self._finish_tracking(status)

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped the search."""
        return self._stop.level > 0

    def _begin(self) -> None:
        config = self._setup.config
        data = config.model_dump(mode="json")
        flat = {f"budget.{key}": value for key, value in data["budget"].items() if value not in (None, {})}
        flat |= {f"search.{key}": value for key, value in data["search"].items()}
        info = StudyInfo(
            config.study,
            (config.tracking.experiment if config.tracking else None) or config.study,
            {**flat, "objectives": ", ".join(self._state.objectives), "search_space": config.search_space},
            yaml.safe_dump(data, sort_keys=False),
            self._state.baseline.metrics,
        )
        self._tracker.put(lambda tracker: tracker.begin(info))
        self._store.use_sampler(config.search.sampler, config.search.seed)
        if not self._store.records():
            for parameters in self._setup.space.start:
                self._store.enqueue(parameters)
        for number in self._store.running():
            self._submit(number, self._store.adopt(number, self._setup.space))
        self._state.begun_with = len(self._store.finished())
        self._refresh()

    def _loop(self) -> None:
        while True:
            self._fill()
            if not self._state.running:
                return
            for finished in self._executor.finished(POLL_SECONDS):
                self._take(finished)
            if self._stop.level > 1:
                self._executor.cancel()
                return
            if self._stop.level == 1 and not self._state.draining:
                self._state.draining = True
                self._view.note("stopping: waiting for the running trials; press Ctrl-C again to stop at once")
            self._view.update(self._state)

    def _fill(self) -> None:
        """Keep every worker busy while there are trials and time left."""
        search = self._setup.config.search
        while self._stop.level == 0 and not self._state.used_up and len(self._state.running) < search.workers:
            if len(self._store.finished()) + len(self._state.running) >= search.trials:
                return
            if self._state.deadline is not None and time.monotonic() >= self._state.deadline:
                return
            asked = self._ask()
            if asked is None:
                return
            self._submit(*asked)
            self._view.update(self._state)

    def _ask(self) -> tuple[int, Recipe] | None:
        """A recipe that was not tried yet; repeats are told at once with what is known of them."""
        size = self._setup.space.count()
        for repeat in range(REPEATS):
            if len(self._state.records) + len(self._state.running) >= size:
                break
            # A sampler that repeats itself has converged: what is left is found by chance.
            number, recipe = self._store.ask(self._setup.space, at_random=repeat > 5)
            known = self._known(recipe)
            if known is None:
                return number, recipe
            first, outcome = known
            self._store.tell(number, outcome, duplicate_of=first)
        self._state.used_up = True
        self._view.note("the search space is used up: every recipe that it suggests was tried")
        return None

    def _known(self, recipe: Recipe) -> tuple[int, Outcome] | None:
        for number, record in self._state.records.items():
            if record.outcome is not None and record.fingerprint == recipe.fingerprint:
                return number, record.outcome
        for number, running in self._state.running.items():
            if running.fingerprint == recipe.fingerprint:
                return number, Stopped("the same recipe is running")
        return None

    def _submit(self, number: int, recipe: Recipe) -> None:
        config, target = self._setup.config, self._setup.config.target
        self._store.count_attempt(number)
        self._state.running[number] = recipe
        spec = TrialSpec(
            number=number,
            recipe=recipe.to_data(),
            task=self._setup.reference,
            seed=config.search.seed,
            limits=self._state.limits,
            threads=target.threads,
            batch_size=target.batch_size,
            cache=str(self._setup.files.stages),
            time_limit=config.search.trial_timeout,
        )
        self._executor.submit(spec)

    def _take(self, finished: Finished) -> None:
        """Tell one trial, or try it again when its worker was lost."""
        recipe = self._state.running.pop(finished.number)
        outcome = finished.outcome
        if isinstance(outcome, Failed) and outcome.lost:
            attempts = self._store.records()[finished.number].attempts
            if attempts <= self._setup.config.search.retries and self._stop.level == 0:
                self._view.note(f"trial {finished.number}: {outcome.reason}: trying again")
                self._submit(finished.number, recipe)
                return
            outcome = replace(outcome, reason=f"{outcome.reason} ({attempts} attempts)")
        if isinstance(outcome, Completed):
            candidate = finished.candidate()
            if candidate is not None:
                self._setup.files.store(finished.number, candidate)
        self._store.tell(finished.number, outcome)
        if isinstance(outcome, Failed):
            self._view.note(f"trial {finished.number} failed: {outcome.reason}")
        self._refresh()

    def _refresh(self) -> None:
        """Find the front anew, keep its files only, and hand on what MLflow lacks."""
        state = self._state
        state.records = self._store.finished()
        state.front = find_front(self._store.outcomes(), state.objectives)
        self._setup.files.keep_only(state.front.trials)
        for number, record in state.records.items():
            if number not in self._logged and record.outcome is not None:
                row = Row(number, record.recipe, record.outcome, record.started_ms, record.ended_ms)
                self._tracker.put(_logging(row))
                self._logged.add(number)
        self._save_run_ids()
        now = time.monotonic()
        if state.front.trials != self._drawn[1] and now - self._drawn[0] > FIGURE_SECONDS:
            self._drawn = (now, state.front.trials)
            self._send_summary(figures=True)
        self._view.update(state)

    def _save_run_ids(self) -> None:
        ids = {str(number): run_id for number, run_id in self._tracker.run_ids().items()}
        if ids and ids != self._store.get("run_ids"):
            self._store.set("run_ids", ids)

    def _send_summary(self, figures: bool) -> None:
        front = self._state.front
        assert front is not None
        # A point is written once: those after a running trial would lack what it adds.
        settled = min(self._state.running, default=math.inf)
        volumes = {n: v for n, v in hypervolumes(self._state.records, self._state).items() if n < settled}
        state = self._state
        picture = Picture(
            state.study, state.quality, points(state.records, front.trials), state.baseline.metrics, state.limits
        )

        def send(tracker: Tracker) -> None:
            files = (
                {"figures/front.html": front_html(picture), "figures/front.png": front_png(picture)} if figures else {}
            )
            tracker.refresh(Summary(front.trials, front.verdict, volumes, files))

        self._tracker.put(send)

    def _conclude(self) -> Front:
        """Confirm the front on the test split, once, and log it as models."""
        front = self._state.front
        assert front is not None
        if self._stop.level < 2:
            self._confirm(front)
        self._store.set("verdict", front.verdict)
        self._send_summary(figures=bool(self._state.records))
        if not self.interrupted:
            self._log_models(front)
        return front

    def _confirm(self, front: Front) -> None:
        if front.trials:
            self._view.phase(f"confirming {len(front.trials)} candidates on the test split")
        known: dict[str, Any] = dict(self._store.get("test") or {})
        config = self._setup.config
        rows = {"baseline": self._state.baseline.onnx} if front.trials else {}
        for number in front.trials:
            candidate = self._setup.files.load(number)
            if candidate is not None:
                rows[str(number)] = candidate.onnx
        for key, data in rows.items():
            if key not in known:
                known[key] = self._executor.call(confirm, data, self._setup.reference, config.target.threads)
            if key != "baseline":
                self._tracker.put(_testing(int(key), known[key]))
        self._store.set("test", known)

    def _log_models(self, front: Front) -> None:
        inputs = tuple(tensor.numpy() for tensor in example_inputs(self._setup.task))
        shown = inputs[0] if len(inputs) == 1 else {f"input_{i}": array for i, array in enumerate(inputs)}
        for number in front.trials:
            candidate = self._setup.files.load(number)
            if candidate is not None:
                output = Model(candidate.onnx)(*inputs)
                self._tracker.put(_modelling(number, candidate.onnx, (shown, output)))

    def _finish_tracking(self, status: str) -> None:
        self._tracker.put(lambda tracker: tracker.end(status))
        left = self._tracker.close()
        self._save_run_ids()
        if left:
            self._view.note(
                f"MLflow lacks {left} entries: run `autocompress search ... --resume` when it is back, which logs them"
            )


def _logging(row: Row) -> Callable[[Tracker], None]:
    return lambda tracker: tracker.log(row)


def _testing(number: int, metrics: dict[str, float]) -> Callable[[Tracker], None]:
    return lambda tracker: tracker.log_test(number, metrics)


def _modelling(number: int, data: bytes, example: tuple[Any, Any]) -> Callable[[Tracker], None]:
    return lambda tracker: tracker.log_model(number, data, example)


def hypervolumes(records: dict[int, Record], state: State) -> dict[int, float]:
    """The hypervolume of the feasible trials after each trial, by number."""
    done: list[dict[str, float]] = []
    values: dict[int, float] = {}
    for number, record in sorted(records.items()):
        if isinstance(record.outcome, Completed):
            done.append(record.outcome.metrics)
        values[number] = hypervolume(done, state.objectives, state.baseline.metrics)
    return values
