"""How a trial ended, and the limits it is held to: values that travel between workers, storage and MLflow."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

Metrics = dict[str, float]


@dataclass(frozen=True)
class Limit:
    """A hard limit on one metric: `at_most` or `at_least` a bound."""

    metric: str
    sense: Literal["at_most", "at_least"]
    bound: float
    label: str

    def violation(self, metrics: Metrics) -> float:
        """How far the metric is past the bound, as a share of the bound; zero or less when the limit holds.

        A metric that was not measured, or is no number, violates by 1, so that nothing unmeasured passes.
        """
        if math.isnan(metrics.get(self.metric, math.nan)):
            return 1.0
        past = metrics[self.metric] - self.bound
        return (past if self.sense == "at_most" else -past) / max(abs(self.bound), 1e-12)


def violations(limits: tuple[Limit, ...], metrics: Metrics) -> dict[str, float]:
    """The violation of every limit, by the limit's label."""
    return {limit.label: limit.violation(metrics) for limit in limits}


@dataclass(frozen=True)
class Completed:
    """Measured, and within every limit."""

    metrics: Metrics
    violations: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)  # what the metrics do not tell
    facts: Metrics = field(default_factory=dict)  # of its file, as they were known before it was trained
    rungs: dict[str, Metrics] = field(default_factory=dict)  # qualities while it was trained
    type: Literal["completed"] = "completed"


@dataclass(frozen=True)
class Infeasible:
    """Past at least one limit: measured in full, or rejected before training, where metrics hold what was known."""

    metrics: Metrics
    violations: dict[str, float]
    reason: str
    seconds: dict[str, float] = field(default_factory=dict)
    facts: Metrics = field(default_factory=dict)  # of its file, as they were known before it was trained
    rungs: dict[str, Metrics] = field(default_factory=dict)  # qualities while it was trained
    type: Literal["infeasible"] = "infeasible"


@dataclass(frozen=True)
class Stopped:
    """Ended early because others were better, before it could be measured.

    expected holds the qualities that it would usually have come to.
    """

    reason: str
    seconds: dict[str, float] = field(default_factory=dict)
    facts: Metrics = field(default_factory=dict)  # of its file, as they were known before it was trained
    rungs: dict[str, Metrics] = field(default_factory=dict)  # qualities while it was trained
    expected: Metrics = field(default_factory=dict)
    type: Literal["stopped"] = "stopped"


@dataclass(frozen=True)
class Failed:
    """Could not be finished.

    `lost` says that the worker went away, so that another attempt may succeed; `refused`, that a technique cannot do
    what the recipe asks on this model, so that no attempt will. doing is what was being done, such as `step 2, svd,
    deciding`; details hold the traceback of what is not our own error.
    """

    reason: str
    lost: bool = False
    refused: bool = False
    details: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    doing: str = ""
    type: Literal["failed"] = "failed"


@dataclass(frozen=True, eq=False)
class Baseline:
    """The uncompressed model: trained weights (safetensors), its exported file, and what was measured on it.

    early holds the weights as they were early in its training; nothing where it came trained. Two are equal when
    their weights are: fingerprint is the SHA-256 of those.
    """

    weights: bytes
    early: bytes
    onnx: bytes
    metrics: Metrics
    seconds: dict[str, float]
    fingerprint: str

    @property
    def trial_seconds(self) -> float:
        """What its training would take a trial, which has the target's threads alone; 0 where it came trained."""
        return self.seconds.get("train_as_trials", self.seconds.get("train", 0.0))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Baseline) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)


@dataclass(frozen=True)
class Candidate:
    """A compressed model on its way to being measured: its file, how it was made, and what is known of it."""

    onnx: bytes
    decisions: list[dict[str, Any]]
    weights: bytes
    metrics: Metrics
    seconds: dict[str, float] = field(default_factory=dict)
    float_weights: list[str] = field(default_factory=list)  # the tensors that the file holds in 32 bits
    remarks: list[str] = field(default_factory=list)  # what the metrics do not tell
    facts: Metrics = field(default_factory=dict)  # of the file, as they were known before it was trained
    rungs: dict[str, Metrics] = field(default_factory=dict)  # qualities while it was trained


@dataclass(frozen=True)
class Facts:
    """Of a recipe that was not trained, because only this was asked for; never told to a study."""

    metrics: Metrics
    seconds: dict[str, float] = field(default_factory=dict)


Outcome = Completed | Infeasible | Stopped | Failed
Result = Outcome | Facts  # what comes back from a worker
_TYPES: dict[str, Any] = {kind.type: kind for kind in (Completed, Infeasible, Stopped, Failed)}


def remeasured(outcome: Outcome, metrics: Metrics, limits: tuple[Limit, ...]) -> Outcome:
    """A measured outcome with some metrics taken again, and held against the limits anew.

    Speed-up and latency as they were while the search ran stand beside them, as search_speedup and search_latency_ms.
    """
    before = measured(outcome)
    if before is None or not isinstance(outcome, Completed | Infeasible):
        return outcome
    kept = {f"search_{name}": before[name] for name in ("speedup", "latency_ms")}
    found = {**before, **kept, **metrics}
    past = violations(limits, found)
    over = [label for label, value in past.items() if value > 0]
    if over:
        reason = f"past the limit on {', '.join(over)}, when it was measured again with nothing else running"
        return Infeasible(found, past, reason, outcome.seconds, outcome.facts, outcome.rungs)
    return Completed(found, past, outcome.seconds, getattr(outcome, "remarks", []), outcome.facts, outcome.rungs)


def latency_now(baseline: Metrics, latency_ms: float) -> Metrics:
    """The uncompressed model's latency where it was taken again, with the interval that its file has against itself."""
    names = [name for name in baseline if name.startswith("latency_ms")]
    return {name: baseline[name] * latency_ms / baseline["latency_ms"] for name in names}


def as_searched(outcome: Outcome) -> Metrics | None:
    """The metrics of an outcome that was within every limit while the search ran, as they were then; else None."""
    metrics = measured(outcome)
    if metrics is None or not (isinstance(outcome, Completed) or "search_speedup" in metrics):
        return None
    kept = {name: metrics[f"search_{name}"] for name in ("speedup", "latency_ms") if f"search_{name}" in metrics}
    return {**metrics, **kept}


def to_data(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain values for JSON."""
    return dict(vars(outcome))


def from_data(data: dict[str, Any]) -> Outcome:
    """The outcome that to_data wrote."""
    outcome: Outcome = _TYPES[data["type"]](**data)
    return outcome


def measured(outcome: Outcome) -> Metrics | None:
    """The metrics of an outcome that was measured in full, else None."""
    match outcome:
        case Completed(metrics=metrics):
            return metrics
        case Infeasible(metrics=metrics) if "latency_ms" in metrics:
            return metrics
        case _:
            return None
