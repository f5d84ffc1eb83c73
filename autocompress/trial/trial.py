"""One trial: what a worker executes. `prepare` makes the file, `measure` times it; both return values, never raise."""

import traceback
from dataclasses import replace

import torch

from ..artifacts.export import strip
from ..artifacts.packing import float_weights
from ..artifacts.runtime import Model
from ..config import ONE_THREAD, Target
from ..errors import AutocompressError, NothingToDo, TechniqueError
from ..measure.latency import measure_latency, measure_together
from ..measure.quality import judge, measure_quality
from ..measure.size import compare_size, measure_size
from ..outcome import Baseline, Candidate, Completed, Facts, Failed, Infeasible, Metrics, Result, Stopped, violations
from ..tasks import TaskReference, load_task
from ..tasks.examples import model_inputs
from ..training import training_on
from ..turns import pause, working
from .facts import find_facts, screen_facts
from .run import Run, TrialSpec
from .rungs import Outpaced, Rungs
from .stages import NOTHING, pack_weights
from .worker import Clock, doing, during, use_threads

CONFIRM_SECONDS = 2.0  # for each file of a front, at the end
# What every trial is timed by; a phase that a cached stage or a short recipe leaves out took no time.
PHASES = ("restore", "facts", "decide", "apply", "train", "export", "load")

__all__ = ["TrialSpec", "confirm", "failure", "measure", "prepare", "time_together"]


def prepare(spec: TrialSpec, baseline: Baseline) -> Candidate | Result:
    """Compress, train, export, load and judge one candidate: all of a trial but its latency, or its facts alone."""
    clock = Clock(dict.fromkeys(PHASES, 0.0))
    try:
        with working(), training_on(spec.how):
            return _prepare(spec, baseline, clock)
    except Exception as error:
        return failure(error, clock.seconds)


def failure(error: BaseException, seconds: dict[str, float] | None = None) -> Failed:
    """What went wrong, as a value: our own errors by their message, others with their type and what was being done.

    The traceback is kept with them, and with an error of ours that another library's is behind.
    """
    place = doing(error)
    ours = isinstance(error, AutocompressError)
    details = "" if ours and error.__cause__ is None else "".join(traceback.format_exception(error))
    if ours:
        return Failed(str(error), False, isinstance(error, TechniqueError), details, seconds or {}, place)
    text = " ".join(str(error).split())[:300]
    reason = "ran out of memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {text}"
    if isinstance(error, torch.OutOfMemoryError):
        reason = "ran out of the accelerator's memory, also with half of a batch at a time: lower batch_size"
    return Failed(f"{place}: {reason}" if place else reason, False, False, details, seconds or {}, place)


def _prepare(spec: TrialSpec, baseline: Baseline, clock: Clock) -> Candidate | Result:
    use_threads(spec.target.threads)
    with clock("restore"):
        run = Run.start(spec, baseline)
    if not spec.train:
        with clock("facts"):
            return Facts(find_facts(run, spec, baseline), clock.seconds)
    rungs = Rungs.of(spec, run.context.task)
    ended = _carry_out(run, rungs, spec, baseline, clock)
    if ended is not None:
        return replace(ended, seconds=clock.seconds)
    pause()
    packed = run.file(clock)
    data = strip(packed).SerializeToString()
    if run.decisions and all(NOTHING in decision for decision in run.decisions):
        raise NothingToDo(run.decisions[0][NOTHING])
    pause()
    with clock("load"), during("loading the compressed file"):
        model = Model(data, spec.target)
    with clock("quality"), during("running the compressed file on the validation split"):
        quality, remarks = judge(model, run.context.task, "validation")
    metrics = {**measure_size(data), **quality}
    metrics |= compare_size(metrics, baseline.metrics)
    weights = pack_weights(run.model)
    return Candidate(
        data,
        run.decisions,
        weights,
        metrics,
        clock.seconds,
        float_weights(packed),
        remarks,
        rungs.facts,
        rungs.stood,
    )


def _carry_out(
    run: Run, rungs: Rungs, spec: TrialSpec, baseline: Baseline, clock: Clock
) -> Infeasible | Stopped | None:
    """All steps that change the module, with what ends the trial before the last of them, where something does."""
    while (index := run.next_step()) is not None:
        if not rungs.facts and run.recipe.steps[index].kind == "train":
            with clock("facts"):
                rungs.facts, rejected = screen_facts(run, spec, baseline)
            if rejected is not None:
                return rejected
        collapsed = run.screen(index, clock)
        if collapsed is not None:
            return replace(collapsed, facts=rungs.facts)
        try:
            run.step(index, clock, watch=rungs.watching(run.recipe, index))
            if run.recipe.steps[index].kind == "train":
                with clock("train"):
                    rungs.after(run.model, run.recipe, index)
        except Outpaced as outpaced:
            return outpaced.outcome
    return None


def measure(candidate: Candidate | Result, spec: TrialSpec, baseline: Baseline) -> Result:
    """Time a candidate's file against the baseline's and hold all its metrics against the limits."""
    if not isinstance(candidate, Candidate):
        return candidate
    clock = Clock(candidate.seconds)
    try:
        with clock("latency"):
            inputs = model_inputs(load_task(spec.task), spec.target.batch_size)
            timed = measure_latency(
                baseline.onnx,
                candidate.onnx,
                inputs,
                spec.latency_seconds,
                spec.target,
                baseline.metrics["latency_ms"],
                spec.alone,
            )
    except Exception as error:
        return failure(error, clock.seconds)
    metrics = {**candidate.metrics, **timed}
    past = violations(spec.limits, metrics)
    over = [label for label, value in past.items() if value > 0]
    if over:
        reason = f"past the limit on {', '.join(over)}"
        return Infeasible(metrics, past, reason, clock.seconds, candidate.facts, candidate.rungs)
    return Completed(metrics, past, clock.seconds, candidate.remarks, candidate.facts, candidate.rungs)


def time_together(
    baseline: bytes,
    files: dict[str, bytes],
    reference: TaskReference,
    target: Target,
    baseline_ms: float | None = None,
) -> tuple[float, dict[str, Metrics]]:
    """The baseline's latency in ms, and latency and speed-up of several files, all in the same sessions.

    baseline_ms: where it was measured before.
    """
    inputs = model_inputs(load_task(reference), target.batch_size)
    return measure_together(baseline, files, inputs, CONFIRM_SECONDS, target, baseline_ms)


def confirm(data: bytes, reference: TaskReference, target: Target = ONE_THREAD) -> Metrics:
    """The metrics of a file on the test split, each with the prefix `test_`."""
    found = measure_quality(Model(data, target), load_task(reference), "test")
    return {f"test_{name}": value for name, value in found.items()}
