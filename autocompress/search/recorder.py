"""A listener that hands on to MLflow what a search finds."""

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ..artifacts.runtime import Model
from ..data import SPLITS
from ..errors import StudyError
from ..front import Front, hypervolumes
from ..outcome import Metrics
from ..tasks.examples import example_inputs
from ..tracking.background import Background
from ..tracking.figures import Picture, front_html, front_png
from ..tracking.mlflow import MlflowTracker
from ..tracking.notes import export_command, search_page
from ..tracking.protocol import Barred, Data, MemoryTracker, Note, Row, StudyInfo, Summary, Tracker
from ..tracking.report import report_html
from ..tracking.steps import StepsPicture, draw_steps
from ..wording import limit_text, verdict_lines, warning_lines
from .explain import Found, picks
from .explanation import found_of, knee_picture
from .plan import Plan
from .prefixes import Known
from .records import Record
from .report import heading, shown_members, study_report
from .results import Results, points
from .state import State, View
from .store import StudyStore

FIGURE_SECONDS = 60.0
SAVE_SECONDS = 10.0  # all ids of runs are written again each time


class Recorder:
    """Logs every trial once, and renews front, hypervolume and figures; never waits for the tracker.

    view is told of outages, and at the end of what is left and what could not be logged.
    """

    def __init__(self, plan: Plan, store: StudyStore, view: View) -> None:
        self._setup, self._store, self._view = plan.setup, store, view
        self._tracker = Background(make_tracker(plan, view.note), view.note)
        self._logged: set[int] = set()
        self._drawn: tuple[float, tuple[int, ...]] = (time.monotonic(), ())
        self._saved = -math.inf
        self._tracking = plan.setup.config.tracking
        info = _study_info(plan)
        self._tracker.put(lambda tracker: tracker.begin(info), needed=True)

    def update(self, state: State) -> None:
        """Log the trials that ended since, and now and then draw the front where it changed."""
        if len(self._logged) == len(state.records):
            return
        for number in sorted(state.records.keys() - self._logged):
            if (row := _row(state.records[number])) is not None:
                self._tracker.put(_logging(row))
                self._logged.add(number)
        now = time.monotonic()
        if now - self._saved > SAVE_SECONDS:
            self._saved = now
            self._save_run_ids()
        if state.front.trials != self._drawn[1] and now - self._drawn[0] > FIGURE_SECONDS:
            self._drawn = (now, state.front.trials)
            self._summarize(state, figures=True)

    def conclude(self, state: State, interrupted: bool) -> None:
        """Log the last front, what was measured of it at the end and, where the search came to one, its models."""
        test = self._store.get("test") or {}
        for key in {**self._store.confirmed, **test}.keys() - {"baseline"}:
            record = state.records[int(key)]
            metrics = {**getattr(record.outcome, "metrics", {}), **test.get(key, {})}
            if (row := _row(record)) is not None:
                self._tracker.put(_confirming(row, metrics))
        if not interrupted:
            self._log_models(state.front)
        self._summarize(state, figures=bool(state.records), steps=self._knee(state), last=True)
        if not interrupted and self._tracking is not None and self._tracking.registers:
            aliases = {how: number for number, names in picks(found_of(Results(self._store))).items() for how in names}
            self._tracker.put(_registering(aliases))

    def close(self, status: str) -> None:
        """End the parent run as FINISHED or KILLED, and say what is not logged."""
        self._tracker.put(lambda tracker: tracker.end(status))
        left = self._tracker.close(self._show)
        # The storage may be what ended the search; a resumed one finds the runs by their tags.
        with contextlib.suppress(StudyError):
            self._save_run_ids()
        if left and self._tracking is not None:
            self._view.note(_missing(left, self._tracker.barred))

    def _show(self, left: int) -> None:
        self._view.phase(f"logging to MLflow: {left} entries left (Ctrl-C leaves them out)")

    def _save_run_ids(self) -> None:
        ids = {str(number): run_id for number, run_id in self._tracker.run_ids().items()}
        for key, value in {"run_ids": ids, "mlflow_page": self._tracker.page()}.items():
            if value and value != self._store.get(key):
                self._store.set(key, value)

    def _knee(self, state: State) -> StepsPicture | None:
        """What is known, without measuring, of what the steps of the front's knee bought and cost."""
        baseline = {**state.baseline.metrics, **self._store.confirmed.get("baseline", {})}
        found = Found(state.records, state.front, state.objectives, state.quality, baseline, state.limits, state.lower)
        known = Known(state.records, self._setup.files, self._store.get("made_of") or {})
        return knee_picture(state.study, found, known)

    def _summarize(self, state: State, figures: bool, steps: StepsPicture | None = None, last: bool = False) -> None:
        front = state.front
        # A point is written once: those after a running trial would lack what it adds.
        settled = min((*state.running, *state.waiting), default=math.inf)
        outcomes = {number: record.outcome for number, record in state.records.items() if record.outcome is not None}
        grown = hypervolumes(outcomes, state.objectives, state.baseline.metrics, state.lower)
        volumes = {number: value for number, value in grown.items() if number < settled}
        picture = Picture(
            state.study, state.quality, points(state.records, front.trials), state.baseline.metrics, state.limits
        )
        results = Results(self._store)
        note = study_words(results, self._tracking.server if self._tracking else None)
        report = study_report(results, self._setup.config.storage) if last and self._tracking else None

        def send(tracker: Tracker) -> None:
            """Draw, in the tracker's thread, and hand on."""
            files = (
                {"figures/front.html": front_html(picture), "figures/front.png": front_png(picture)} if figures else {}
            )
            if steps is not None:
                files["figures/knee_steps.png"] = draw_steps(steps)
            if report is not None:
                files["report.html"] = report_html(report)
            tracker.refresh(Summary(front.trials, front.verdict, volumes, files, note=note))

        self._tracker.put(send)

    def _log_models(self, front: Front) -> None:
        inputs = tuple(tensor.numpy() for tensor in example_inputs(self._setup.task))
        for number in front.trials:
            candidate = self._setup.files.load(number)
            if candidate is not None:
                model = Model(candidate.onnx)
                shown = inputs[0] if len(inputs) == 1 else dict(zip(model.inputs, inputs, strict=True))
                self._tracker.put(_modelling(number, candidate.onnx, (shown, model(*inputs))))


def _missing(left: int, barred: Barred | None) -> str:
    lacks = f"MLflow lacks {left} entries"
    if barred is None:
        return f"{lacks}: run `autocompress search ... --resume` when it is back, which logs them"
    return f"{lacks} ({barred.reason}): {barred.fix}, and run `autocompress search ... --resume`, which logs them"


def make_tracker(plan: Plan, note: Callable[[str], None]) -> Tracker:
    """The tracker that a config asks for; note is told of what it had to put right."""
    tracking = plan.setup.config.tracking
    if tracking is None:
        return MemoryTracker()
    return MlflowTracker(tracking.uri, Path(plan.setup.files.folder.parent), note)


def _study_info(plan: Plan) -> StudyInfo:
    config = plan.setup.config
    data = config.shown()
    flat = {f"budget.{key}": value for key, value in data["budget"].items() if value not in (None, {})}
    flat |= {f"search.{key}": value for key, value in data["search"].items()}
    return StudyInfo(
        config.study,
        (config.tracking.experiment if config.tracking else None) or config.study,
        {**flat, "objectives": ", ".join(plan.objectives), "search_space": config.search_space},
        yaml.safe_dump(data, sort_keys=False),
        plan.baseline.metrics,
        plan.setup.quality,
        config.document.source,
        _data(plan),
    )


def _data(plan: Plan) -> Data:
    """The task's data: by what the config says of them, or by the task that yields them."""
    task = plan.setup.config.task
    name = task if isinstance(task, str) else str(task.get("data", task.get("kind")))
    examples = {split: len(plan.setup.task.split(split)) for split in SPLITS}  # type: ignore[arg-type]
    return Data(name, plan.setup.made_of["data"], examples)


def study_words(results: Results, server: str | None = None) -> Note:
    """What is said of a study: budget, verdict, the front by what one would pick it for, and what to type next.

    server is the address of the service that runs it, if one does.
    """
    document, members = results.document(), shown_members(results)
    knee = next((member.number for member in members if "knee" in member.picks), None)
    commands = () if knee is None else (export_command(results.name, knee, server),)
    verdict = [*verdict_lines(document, results.limits, results.quality), *warning_lines(document)]
    budget = tuple(map(limit_text, results.limits))
    page = search_page(server, results.name) if server else None
    return Note(budget, tuple(verdict), heading(results.quality), tuple(members), commands, page)


def _row(record: Record) -> Row | None:
    """A trial as it is logged; None while it runs."""
    if record.outcome is None:
        return None
    return Row(record.number, record.recipe, record.outcome, record.started_ms, record.ended_ms)


def _logging(row: Row) -> Callable[[Tracker], None]:
    return lambda tracker: tracker.log(row)


def _confirming(row: Row, metrics: Metrics) -> Callable[[Tracker], None]:
    return lambda tracker: tracker.log_confirmed(row, metrics)


def _registering(aliases: dict[str, int]) -> Callable[[Tracker], None]:
    return lambda tracker: tracker.register(aliases)


def _modelling(number: int, data: bytes, example: tuple[Any, Any]) -> Callable[[Tracker], None]:
    return lambda tracker: tracker.log_model(number, data, example)
