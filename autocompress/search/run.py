"""Running a search from a config, and planning one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..config import SearchConfig
from ..errors import StudyError
from ..executors import Executor
from ..front import Front
from ..outcome import Baseline, Limit
from ..tracking.mlflow import MlflowTracker
from ..tracking.protocol import MemoryTracker, Tracker
from .controller import Controller, View
from .setup import Setup, check_limits, make_executor, objectives, obtain_baseline, set_up, warnings
from .store import StudyStore, study_names


@dataclass(frozen=True)
class Result:
    """How a search ended."""

    store: StudyStore
    front: Front
    interrupted: bool


@dataclass(frozen=True)
class Plan:
    """What a search would start from."""

    setup: Setup
    baseline: Baseline
    limits: tuple[Limit, ...]
    objectives: tuple[str, ...]


@contextmanager
def workers(setup: Setup, kind: str, view: View) -> Iterator[Executor]:
    """An executor that is closed at the end."""
    view.phase("starting Ray" if kind == "ray" else "starting")
    executor = make_executor(setup, kind)
    try:
        yield executor
    finally:
        executor.close()


def plan(config: SearchConfig, kind: str, view: View) -> Plan:
    """Check everything, and train and measure the baseline; starts no study."""
    view.phase("checking the task")
    setup = set_up(config)
    with workers(setup, kind, view) as executor:
        return _plan(setup, executor, view)


def _plan(setup: Setup, executor: Executor, view: View) -> Plan:
    view.phase("training and measuring the baseline" if setup.task.baseline else "measuring the baseline")
    baseline = obtain_baseline(setup, executor)
    for text in warnings(setup, baseline):
        view.note(f"warning: {text}")
    return Plan(setup, baseline, check_limits(setup, baseline), objectives(setup, baseline))


def run_search(config: SearchConfig, kind: str, resume: bool, view: View) -> Result:
    """Run or resume the study of a config. Raises StudyError when its name is taken or held."""
    view.phase("checking the task")
    setup = set_up(config)
    _check_name(setup, resume)
    with setup.files.lock(), workers(setup, kind, view) as executor:
        planned = _plan(setup, executor, view)
        store = _open(planned)
        controller = Controller(setup, store, executor, make_tracker(config, setup), view)
        front = controller.run(planned.baseline, planned.limits)
        return Result(store, front, controller.interrupted)


def _check_name(setup: Setup, resume: bool) -> None:
    config = setup.config
    if config.study not in study_names(config.storage):
        return
    store = StudyStore.open(config.storage, config.study)
    if store.get("identity") != setup.identity:
        raise StudyError(
            f"study {config.study!r} in {config.storage} belongs to another config, search space or task file: "
            "choose another `study:` name"
        )
    if not resume:
        raise StudyError(
            f"study {config.study!r} is in {config.storage} already, with {len(store.finished())} trials: "
            "add --resume to go on with it, or choose another `study:` name"
        )


def _open(planned: Plan) -> StudyStore:
    setup, config = planned.setup, planned.setup.config
    if config.study in study_names(config.storage):
        return StudyStore.open(config.storage, config.study)
    attributes = {
        "identity": setup.identity,
        "config": config.model_dump(mode="json"),
        "config_path": config.document.source,
        "root": str(config.root),
        "folder": str(setup.files.folder),
        "quality": setup.quality,
        "baseline": planned.baseline.metrics,
        "baseline_seconds": planned.baseline.seconds,
        "baseline_key": setup.baseline_key,
        "limits": [vars(limit) for limit in planned.limits],
    }
    return StudyStore.create(config, planned.objectives, attributes)


def make_tracker(config: SearchConfig, setup: Setup) -> Tracker:
    """The tracker that a config asks for."""
    if config.tracking is None:
        return MemoryTracker()
    return MlflowTracker(config.tracking.uri, setup.files.folder.parent)
