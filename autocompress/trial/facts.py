"""Facts of a candidate: what its file's size and speed will be, known before anything is trained."""

from collections.abc import Mapping

from ..artifacts.export import strip
from ..errors import AutocompressError
from ..measure.latency import measure_latency
from ..measure.size import compare_size, measure_size
from ..outcome import Baseline, Infeasible, Limit, Metrics
from ..tasks.examples import model_inputs
from .run import Run, TrialSpec
from .worker import Clock

SPEEDS = ("latency_ms", "speedup")
FACTS = ("size_bytes", "params", "nonzero_params", "compression_ratio", "space_saving", *SPEEDS)
BURSTS_SECONDS = 0.1  # in one session: opening those of a large file takes longer than running them
# By what share of a limit facts may be off before a search has seen how far they are.
TOLERANCE = {**dict.fromkeys(FACTS, 0.03), **dict.fromkeys(SPEEDS, 0.2)}


def find_facts(run: Run, spec: TrialSpec, baseline: Baseline, timed: bool = True) -> Metrics:
    """The facts of the file that a run will come to, from the file of its structure as it is before training.

    Sizes are off by what training moves in the entropy of weights, mostly under 1%; speeds, from short bursts beside
    other work, by up to a fifth. Those are left out unless timed.
    """
    data = strip(run.untrained().file(Clock(), check=False)).SerializeToString()
    found = measure_size(data)
    found |= compare_size(found, baseline.metrics)
    if not timed:
        return found
    inputs = model_inputs(run.context.task, spec.target.batch_size)
    usual = baseline.metrics["latency_ms"]
    speeds = measure_latency(baseline.onnx, data, inputs, BURSTS_SECONDS, spec.target, usual, False, sessions=1)
    return {**found, **{name: speeds[name] for name in SPEEDS}}


def screen_facts(run: Run, spec: TrialSpec, baseline: Baseline) -> tuple[Metrics, Infeasible | None]:
    """The facts of a run that is about to train, and a rejection where they are surely past a limit.

    Nothing is known, and nothing rejected, where no limit is on a fact, or where the structure cannot be carried out
    on weights that are not trained: what comes of the trial then tells why.
    """
    limits = [limit for limit in spec.limits if limit.metric in FACTS]
    if not limits:
        return {}, None
    try:
        facts = find_facts(run, spec, baseline, timed=any(limit.metric in SPEEDS for limit in limits))
    except (AutocompressError, RuntimeError, ValueError):
        return {}, None
    return facts, reject(facts, limits, spec.tolerance)


def reject(facts: Metrics, limits: list[Limit], tolerance: Mapping[str, float]) -> Infeasible | None:
    """A rejection where facts are past a limit by more than they may be off, as a share of it."""
    past = {limit.label: limit.violation(facts) for limit in limits}
    over = [limit for limit in limits if past[limit.label] > tolerance.get(limit.metric, TOLERANCE[limit.metric])]
    if not over:
        return None
    words = ", ".join(f"{limit.metric} {facts[limit.metric]:,.6g} against {limit.bound:,.6g}" for limit in over)
    known = {name: value for name, value in facts.items() if name != "latency_ms"}  # it was not measured in full
    return Infeasible(known, past, f"would be past the limit, before any training: {words}", facts=facts)
