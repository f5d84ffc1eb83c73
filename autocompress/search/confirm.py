"""The front when the search is over: timed again with nothing else running, and looked at once on the test split."""

import contextlib

from ..errors import WriteError
from ..executors import Executor
from ..front import Front, find_front
from ..outcome import Candidate, Metrics, latency_now
from ..trial.trial import confirm, prepare, time_together
from ..wording import counted
from .plan import Plan
from .state import View
from .store import StudyStore

ROUNDS = 5  # a candidate that falls off a front may let others in


def confirm_front(plan: Plan, store: StudyStore, executor: Executor, view: View) -> Front:
    """The front by its last measurements, which are kept with the study, as are those on the test split.

    A limit on speed that held while other trials ran need not hold now, nor the other way.
    """
    front = _timed(plan, store, executor, view)
    known: dict[str, Metrics] = dict(store.get("test") or {})
    keys = ["baseline", *map(str, front.trials)] if front.trials else []
    if front.trials:
        view.phase(f"confirming {counted(len(front.trials), 'candidate')} on the test split")
    for key in keys:
        data = plan.baseline.onnx if key == "baseline" else _file(int(key), plan, store, executor)
        if data is None:
            view.note(f"trial {key} is not confirmed on the test split: its file could not be made again")
        elif key not in known:
            known[key] = executor.call(confirm, data, plan.setup.reference, plan.setup.config.target)
    store.set("test", known)
    return front


def _timed(plan: Plan, store: StudyStore, executor: Executor, view: View) -> Front:
    """Time the front's files, all together, and those that come onto it because of that."""
    target, done = plan.setup.config.target, set[int]()
    baseline_ms: float | None = None
    front = find_front(store.outcomes(), plan.objectives, plan.lower)
    for _ in range(ROUNDS):
        todo = [number for number in front.trials if number not in done]
        files = {str(number): _file(number, plan, store, executor) for number in todo}
        found = {key: data for key, data in files.items() if data is not None}
        if not found:
            break
        view.phase(f"timing {counted(len(found), 'candidate')} again, with nothing else running")
        # What comes onto the front later is counted from the same milliseconds.
        baseline_ms, timed = executor.call(
            time_together,
            plan.baseline.onnx,
            found,
            plan.setup.reference,
            target,
            baseline_ms,
        )
        store.confirm({"baseline": latency_now(plan.baseline.metrics, baseline_ms), **timed})
        done.update(todo)
        front = find_front(store.outcomes(), plan.objectives, plan.lower)
    plan.setup.files.keep_only(front.trials)
    return front


def _file(number: int, plan: Plan, store: StudyStore, executor: Executor) -> bytes | None:
    """A trial's file, made again where it is not kept, as of one that was not on the front until now."""
    kept = plan.setup.files.load(number)
    if kept is None:
        spec = plan.setup.trial(number, store.records()[number].recipe)
        made = executor.call(prepare, spec, plan.baseline, trains=True)
        if not isinstance(made, Candidate):
            return None
        with contextlib.suppress(WriteError):  # a full disk: it can be made once more
            plan.setup.files.store(number, made)
        kept = made
    return kept.onnx
