"""The front on the test split: looked at once, when the search is over."""

from ..executors import Executor
from ..front import Front
from ..outcome import Metrics
from ..trial.trial import confirm
from .plan import Plan
from .state import View
from .store import StudyStore


def confirm_front(front: Front, plan: Plan, store: StudyStore, executor: Executor, view: View) -> dict[str, Metrics]:
    """The test split's metrics of the baseline and of the front's trials, by `baseline` or number.

    They are kept with the study; what an earlier search confirmed is not measured again. Returns those of this front.
    """
    if front.trials:
        view.phase(f"confirming {len(front.trials)} candidates on the test split")
    known: dict[str, Metrics] = dict(store.get("test") or {})
    found: dict[str, Metrics] = {}
    rows = {"baseline": plan.baseline.onnx} if front.trials else {}
    for number in front.trials:
        candidate = plan.setup.files.load(number)
        if candidate is not None:
            rows[str(number)] = candidate.onnx
    for key, data in rows.items():
        if key not in known:
            known[key] = executor.call(confirm, data, plan.setup.reference, plan.setup.config.target.threads)
        found[key] = known[key]
    store.set("test", known)
    return found
