"""One trial: what a worker executes. `prepare` makes the file, `measure` times it; both return values, never raise."""

import functools
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from safetensors.torch import load
from torch import nn

from ..artifacts.directory import versions
from ..artifacts.export import TOLERANCE, check_parity, export_onnx, strip
from ..artifacts.packing import float_weights, pack
from ..artifacts.runtime import Model
from ..data import seed_all
from ..errors import AutocompressError, NothingToDo, TaskError, TechniqueError
from ..measure.latency import measure_latency, measure_together
from ..measure.quality import judge, measure_quality
from ..measure.size import compare_size, measure_size
from ..outcome import Baseline, Candidate, Completed, Failed, Infeasible, Limit, Metrics, Outcome, violations
from ..recipe import Recipe, digest
from ..tasks import Task, TaskReference, load_task
from ..tasks.examples import example_inputs, model_inputs
from ..tasks.models import alike, build_model, kept_apart
from ..techniques import Context, Decision, Technique, expanded, recipe_from_data
from ..turns import pause, working
from .screening import find_collapse, too_large
from .stages import NOTHING, StageCache, changed, pack_weights, rebuild, replay
from .worker import Clock, doing, during, use_threads

# What every trial is timed by; a phase that a cached stage or a short recipe leaves out took no time.
CONFIRM_SECONDS = 2.0  # for each file of a front, at the end
PHASES = ("restore", "decide", "apply", "train", "export", "load")


@dataclass(frozen=True)
class TrialSpec:
    """Everything that a worker needs to run one trial, except the baseline, which all trials share."""

    number: int
    recipe: dict[str, Any]
    task: TaskReference
    seed: int
    limits: tuple[Limit, ...] = ()
    threads: int = 1
    batch_size: int = 1
    cache: str | None = None
    latency_seconds: float = 0.6
    alone: bool = True  # let the other trials on the node pause while this one's file is timed
    time_limit: float = 3600.0  # seconds on a worker, for making the file and for timing it alike


@functools.lru_cache(maxsize=2)
def _teacher(reference: TaskReference, baseline: Baseline, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """The uncompressed model, and an empty cache that lives as long, once a process."""
    task = load_task(reference)
    model = build_model(task, seed)
    model.load_state_dict(load(baseline.weights))
    _check_same(model.eval(), task, baseline)
    return model.requires_grad_(False), {}


def _check_same(model: nn.Module, task: Task, baseline: Baseline) -> None:
    """Raise TaskError unless the model that was built here computes what the baseline's file does."""
    example = example_inputs(task)
    expected = torch.from_numpy(Model(baseline.onnx)(*(tensor.numpy() for tensor in example)))
    with torch.no_grad():
        output = model(*(tensor.clone() for tensor in example))
    if not alike(output, expected, TOLERANCE):
        names = ", ".join(name for name, _ in kept_apart(model)) or "none"
        raise TaskError(
            "task.model() makes another network here than the one that the baseline was measured on: it has tensors "
            f"that its state_dict leaves out ({names}), or reads files or settings that differ here; register such "
            "tensors as persistent buffers, or make them from a fixed seed"
        )


def prepare(spec: TrialSpec, baseline: Baseline) -> Candidate | Outcome:
    """Compress, train, export, load and judge one candidate; everything of a trial but its latency."""
    clock = Clock(dict.fromkeys(PHASES, 0.0))
    try:
        with working():
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
    return Failed(f"{place}: {reason}" if place else reason, False, False, details, seconds or {}, place)


def _prepare(spec: TrialSpec, baseline: Baseline, clock: Clock) -> Candidate | Outcome:
    use_threads(spec.threads)
    with clock("restore"):
        run = _Run.start(spec, baseline)
    for index in range(len(run.decisions), len(run.recipe.steps)):
        if run.recipe.steps[index].kind == "encode":
            break
        rejected = run.screen(index, clock)
        if rejected is not None:
            return rejected
        run.step(index, clock)
    pause()
    with clock("export"), during("exporting the compressed model"):
        example = example_inputs(run.context.task)
        exported = export_onnx(run.model, example)
        check_parity(run.model, exported, example, max((step.parity for step in run.recipe.steps), default=TOLERANCE))
    exported = run.encode(exported, clock)
    with clock("export"), during("packing the compressed model"):
        packed = pack(exported)
        data = strip(packed).SerializeToString()
    if run.decisions and all(NOTHING in decision for decision in run.decisions):
        raise NothingToDo(run.decisions[0][NOTHING])
    pause()
    with clock("load"), during("loading the compressed file"):
        model = Model(data, spec.threads)
    with clock("quality"), during("running the compressed file on the validation split"):
        quality, remarks = judge(model, run.context.task, "validation")
    metrics = {**measure_size(data), **quality}
    metrics |= compare_size(metrics, baseline.metrics)
    weights = pack_weights(run.model)
    return Candidate(data, run.decisions, weights, metrics, clock.seconds, float_weights(packed), remarks)


@dataclass
class _Run:
    """A model on its way through a recipe."""

    recipe: Recipe
    model: nn.Module
    decisions: list[Decision]
    context: Context
    limits: tuple[Limit, ...]
    cache: StageCache | None
    early: bytes

    @classmethod
    def start(cls, spec: TrialSpec, baseline: Baseline) -> "_Run":
        """Load the task and go on from the longest stage that is cached, or from the uncompressed model."""
        task = load_task(spec.task)
        teacher, shared = _teacher(spec.task, baseline, spec.seed)
        recipe = expanded(recipe_from_data(spec.recipe))
        base = digest([baseline.fingerprint, spec.task.key, spec.seed, versions()])
        cache = StageCache(Path(spec.cache), base) if spec.cache else None
        found = cache.longest(recipe) if cache else None
        model = build_model(task, spec.seed)
        if found is None:
            model.load_state_dict(load(baseline.weights))
            decisions: list[Decision] = []
        else:
            length, decisions, weights = found
            model = rebuild(model, recipe.prefix(length), decisions, weights)
        scans = Path(spec.cache) / "scans" / base[:32] if spec.cache else None
        context = Context(task, teacher, spec.seed, shared, folder=scans)
        return cls(recipe, model.eval(), decisions, context, spec.limits, cache, baseline.early)

    def screen(self, index: int, clock: Clock) -> Infeasible | None:
        """Before the first training after a change of structure: reject what cannot fit, or has collapsed."""
        step = self.recipe.steps[index]
        if step.kind != "train" or (index and self.recipe.steps[index - 1].kind != "structure"):
            return None
        size = next((limit for limit in self.limits if limit.metric == "size_bytes"), None)
        if size is not None and all(later.kind != "structure" for later in self.recipe.steps[index:]):
            rejected = too_large(self.model, size, min(step.weight_bits for step in self.recipe.steps))
            if rejected is not None:
                return replace(rejected, seconds=clock.seconds)
        if not index:
            return None
        with clock("decide"):
            rate = getattr(step, "learning_rate", 1e-3)
            collapse = find_collapse(self.model, self.context.teacher, self.context.task, rate)
        return None if collapse is None else Infeasible({}, {"collapse": 1.0}, collapse, clock.seconds)

    def _context(self, index: int) -> Context:
        """The seed of a step comes from the recipe up to it, so that stages can be shared between trials."""
        seed = int(digest([self.context.seed, self.recipe.prefix(index + 1).to_data()])[:7], 16)
        seed_all(seed)
        return replace(self.context, seed=seed, early=self._early if self.early else None)

    def _early(self) -> nn.Module:
        """The architecture with early weights, compressed by the decisions so far."""
        model = build_model(self.context.task, self.context.seed)
        model.load_state_dict(load(self.early))
        return replay(model, self.recipe, self.decisions)

    def step(self, index: int, clock: Clock) -> None:
        """Decide, apply and train one step, and keep the stage when it was trained."""
        step = self.recipe.steps[index]
        assert isinstance(step, Technique)
        context = self._context(index)
        pause()
        self.model = self._carried_out(index, self.model, context, clock)
        if step.kind == "train" and NOTHING not in self.decisions[-1]:
            with clock("train"), during(f"{self._place(index)}, training"):
                step.train(self.model, context)
            self.model.eval()
            if self.cache is not None:
                with clock("store"):
                    self.cache.store(self.recipe.prefix(index + 1), self.decisions, self.model)

    def encode(self, exported: onnx.ModelProto, clock: Clock) -> onnx.ModelProto:
        """Carry out the encode steps on the exported file."""
        for index in range(len(self.decisions), len(self.recipe.steps)):
            exported = self._carried_out(index, exported, self._context(index), clock)
        return exported

    def _carried_out(self, index: int, subject: Any, context: Context, clock: Clock) -> Any:
        """A module or file after a step's decision, which is noted; itself where the step finds nothing to do."""
        step = self.recipe.steps[index]
        assert isinstance(step, Technique)
        try:
            with clock("decide"), during(f"{self._place(index)}, deciding"):
                decision = step.decide(subject, context)
            with clock("apply"), during(f"{self._place(index)}, changing the model"):
                subject = changed(step, subject, decision)
        except NothingToDo as nothing:
            decision = {NOTHING: str(nothing)}
        self.decisions = [*self.decisions, decision]
        return subject

    def _place(self, index: int) -> str:
        return f"step {index + 1}, {self.recipe.steps[index].technique}"


def measure(candidate: Candidate | Outcome, spec: TrialSpec, baseline: Baseline) -> Outcome:
    """Time a candidate's file against the baseline's and hold all its metrics against the limits."""
    if not isinstance(candidate, Candidate):
        return candidate
    clock = Clock(candidate.seconds)
    try:
        with clock("latency"):
            inputs = model_inputs(load_task(spec.task), spec.batch_size)
            timed = measure_latency(
                baseline.onnx,
                candidate.onnx,
                inputs,
                spec.latency_seconds,
                spec.threads,
                baseline.metrics["latency_ms"],
                spec.alone,
            )
    except Exception as error:
        return failure(error, clock.seconds)
    metrics = {**candidate.metrics, **timed}
    past = violations(spec.limits, metrics)
    over = [label for label, value in past.items() if value > 0]
    if over:
        return Infeasible(metrics, past, f"past the limit on {', '.join(over)}", clock.seconds)
    return Completed(metrics, past, clock.seconds, candidate.remarks)


def time_together(
    baseline: bytes,
    files: dict[str, bytes],
    reference: TaskReference,
    batch_size: int,
    threads: int,
    baseline_ms: float | None = None,
) -> tuple[float, dict[str, Metrics]]:
    """The baseline's latency in ms, and latency and speed-up of several files, all in the same sessions.

    baseline_ms: where it was measured before.
    """
    inputs = model_inputs(load_task(reference), batch_size)
    return measure_together(baseline, files, inputs, CONFIRM_SECONDS, threads, baseline_ms)


def confirm(data: bytes, reference: TaskReference, threads: int = 1) -> Metrics:
    """The metrics of a file on the test split, each with the prefix `test_`."""
    found = measure_quality(Model(data, threads), load_task(reference), "test")
    return {f"test_{name}": value for name, value in found.items()}
