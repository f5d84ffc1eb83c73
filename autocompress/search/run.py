"""Running a search from a config, and planning one."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

from ..config import SearchConfig
from ..errors import StudyError
from ..executors import Executor, opened
from ..front import Front
from ..urls import shown
from .confirm import confirm_front
from .controller import Controller
from .ending import how_it_ended
from .interrupts import Interrupts
from .plan import Plan, make_plan
from .recorder import Recorder
from .repeats import Repeats
from .setup import Setup, changed, check_names, set_up
from .state import View
from .storage import check_tracking, study_names
from .store import StudyStore


@dataclass(frozen=True)
class Result:
    """How a search ended."""

    store: StudyStore
    front: Front
    interrupted: bool
    ended: str = ""  # why, where that was before trials and time were used up


def plan(config: SearchConfig, kind: str, view: View) -> Plan:
    """Check everything, and train and measure the baseline; starts no study."""
    view.phase("checking the task")
    setup = set_up(config)
    check_names(config, setup.task)
    view.phase(_starting(kind))
    with _workers(setup, kind, view) as executor:
        return make_plan(setup, executor, view)


def run_search(config: SearchConfig, kind: str, resume: bool, view: View) -> Result:
    """Run or resume the study of a config. Raises StudyError when its name is taken or held."""
    view.phase("checking the task")
    return search_for(set_up(config), kind, resume, view)


def search_for(setup: Setup, kind: str, resume: bool, view: View) -> Result:
    """Run or resume the study of a config that was set up. Raises StudyError when its name is taken or held."""
    config = setup.config
    check_names(config, setup.task)
    _check_name(setup, resume)
    with setup.files.lock():
        view.phase(_starting(kind))
        with _workers(setup, kind, view) as executor:
            planned = make_plan(setup, executor, view, _left_out(config))
            return _search(planned, _open(planned), executor, view)


def _starting(kind: str) -> str:
    return "starting Ray" if kind == "ray" else "starting"


def _workers(setup: Setup, kind: str, view: View) -> AbstractContextManager[Executor]:
    config = setup.config
    on_cuda = setup.how.device == "cuda" or config.target.runtime == "onnxruntime-cuda"
    gpus = config.train.gpus_per_trial if on_cuda else 0.0
    return opened(kind, config.ray, config.search.workers, setup.code, config.target, view.note, gpus, config.held)


def _search(planned: Plan, store: StudyStore, executor: Executor, view: View) -> Result:
    """Run the trials, confirm the front on the test split, and keep both."""
    interrupts, recorder = Interrupts(), Recorder(planned, store, view)
    status = "KILLED"
    try:
        with interrupts.listening():
            listeners = (recorder, Repeats(view.note), view)
            state = Controller(planned, store, executor, interrupts, listeners, view.note).run()
            if interrupts.level < 2:
                state.front = confirm_front(planned, store, executor, view)
                state.records = store.finished()
            executor.close()  # a cluster that is not looked after takes this process with it when it is lost
            ended = how_it_ended(state, planned.goal)
            store.set("verdict", state.front.verdict)
            store.set("ended", ended)
            recorder.conclude(state, interrupts.level > 0)
        status = "KILLED" if interrupts.level else "FINISHED"
        return Result(store, state.front, interrupts.level > 0, ended)
    finally:
        recorder.close(status)


def _check_name(setup: Setup, resume: bool) -> None:
    config = setup.config
    if config.tracking is not None:
        check_tracking(config.tracking.uri)
    if config.study not in study_names(config.storage):
        return
    store = StudyStore.open(config.storage, config.study)
    other = changed(store.get("made_of") or {}, setup.identity)
    if other:
        raise StudyError(
            f"study {config.study!r} in {shown(config.storage)} was begun with another {', '.join(other)}: its trials "
            "cannot be compared with new ones; put that back, or choose another `study:` name"
        )
    if not resume:
        raise StudyError(
            f"study {config.study!r} is in {shown(config.storage)} already, with {len(store.finished())} trials: "
            "add --resume to go on with it (in Python resume=True), or choose another `study:` name"
        )


def _left_out(config: SearchConfig) -> dict[str, str] | None:
    """What a study left out of its space when it was begun, which stays so; None for a new one."""
    if config.study not in study_names(config.storage):
        return None
    kept: dict[str, str] = StudyStore.open(config.storage, config.study).get("left_out", {})
    return kept


def _open(planned: Plan) -> StudyStore:
    setup, config = planned.setup, planned.setup.config
    if config.study in study_names(config.storage):
        return StudyStore.open(config.storage, config.study)
    attributes = {
        "made_of": setup.identity,
        "config": {**config.model_dump(mode="json"), "objectives": planned.objectives},
        "config_path": config.document.source,
        "root": str(config.root),
        "folder": str(setup.files.folder),
        "quality": setup.quality,
        "lower_is_better": list(planned.lower),
        "baseline": planned.baseline.metrics,
        "baseline_seconds": planned.baseline.seconds,
        "baseline_key": setup.baseline_key,
        "limits": [vars(limit) for limit in planned.limits],
        "left_out": dict(planned.left_out),
    }
    return StudyStore.create(config, planned.objectives, attributes)
