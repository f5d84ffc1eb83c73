"""A model on its way through a recipe: from the longest cached stage, step by step, to a file."""

import contextlib
import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from safetensors.torch import load
from torch import nn

from ..artifacts.directory import versions
from ..artifacts.export import export_onnx
from ..artifacts.packing import pack
from ..artifacts.parity import TOLERANCE, check_parity
from ..artifacts.runtime import Model
from ..config import ONE_THREAD, Target, Train
from ..data import seed_all
from ..errors import NothingToDo, TaskError
from ..outcome import Baseline, Infeasible, Limit
from ..recipe import Recipe, digest
from ..tasks import Task, TaskReference, load_task
from ..tasks.examples import example_inputs, input_signature
from ..tasks.models import alike, build_model, kept_apart
from ..techniques import Context, Decision, Technique, expanded, recipe_from_data
from ..techniques.sources import code_from_elsewhere, package_code
from ..training import ON_CPU
from ..turns import pause
from .peers import Peers
from .screening import find_collapse
from .stages import NOTHING, StageCache, changed, rebuild, replay
from .worker import Clock, during

Watch = contextlib.AbstractContextManager[None]
UNWATCHED = contextlib.nullcontext()


@dataclass(frozen=True)
class TrialSpec:
    """Everything that a worker needs to run one trial, except the baseline, which all trials share."""

    number: int
    recipe: dict[str, Any]
    task: TaskReference
    seed: int
    limits: tuple[Limit, ...] = ()
    target: Target = ONE_THREAD
    cache: str | None = None
    latency_seconds: float = 0.6
    alone: bool = True  # let the other trials on the node pause while this one's file is timed
    time_limit: float = 3600.0  # seconds on a worker, for making the file and for timing it alike
    how: Train = ON_CPU  # where and how it trains
    train: bool = True  # else only the facts of its file are asked for
    # By what share of a limit the facts of a file may be off before it is trained, by metric.
    tolerance: Mapping[str, float] = field(default_factory=dict)
    peers: Peers | None = None  # those that its trainings are held against, rung by rung; None trains it to the end


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


@dataclass
class Run:
    """A model on its way through a recipe."""

    recipe: Recipe
    model: nn.Module
    decisions: list[Decision]
    context: Context
    cache: StageCache | None
    early: bytes

    @classmethod
    def start(cls, spec: TrialSpec, baseline: Baseline) -> "Run":
        """Load the task and go on from the longest stage that is cached, or from the uncompressed model."""
        task = load_task(spec.task)
        teacher, shared = _teacher(spec.task, baseline, spec.seed)
        recipe = expanded(recipe_from_data(spec.recipe))
        how = spec.how.model_dump(exclude={"gpus_per_trial", "loader_workers"})
        base = digest([baseline.fingerprint, spec.task.key, spec.seed, versions(), package_code(), how])
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
        return cls(recipe, model.eval(), decisions, context, cache, baseline.early)

    def next_step(self) -> int | None:
        """The index of the next step that changes the module; None where only encode steps, or none, are left."""
        index = len(self.decisions)
        left = index < len(self.recipe.steps) and self.recipe.steps[index].kind != "encode"
        return index if left else None

    def screen(self, index: int, clock: Clock) -> Infeasible | None:
        """Before the first training after a change of structure: reject what has collapsed."""
        step = self.recipe.steps[index]
        if not index or step.kind != "train" or self.recipe.steps[index - 1].kind != "structure":
            return None
        if self._untrained_since_anew(index):
            return None  # its outputs cannot say anything yet
        with clock("decide"):
            rate = getattr(step, "learning_rate", 1e-3)
            collapse = find_collapse(self.model, self.context.teacher, self.context.task, rate)
        return None if collapse is None else Infeasible({}, {"collapse": 1.0}, collapse, clock.seconds)

    def untrained(self) -> "Run":
        """A copy with all steps carried out that change the module, and no training: the structure as it will be."""
        run = replace(self, model=copy.deepcopy(self.model), cache=None)
        while (index := run.next_step()) is not None:
            run.step(index, Clock(), train=False)
        return run

    def _context(self, index: int) -> Context:
        """The seed of a step comes from the recipe up to it, so that stages can be shared between trials."""
        seed = int(digest([self.context.seed, self.recipe.prefix(index + 1).to_data()])[:7], 16)
        seed_all(seed)
        student = self.model if self._anew(index) is not None else None
        folder, others = self.context.folder, code_from_elsewhere([type(self.recipe.steps[index])])
        if folder is not None and others:
            folder = folder / others[0][:32]  # scans of a technique that is edited are made again
        early = self._early if self.early else None
        return replace(self.context, seed=seed, early=early, student=student, folder=folder)

    def _anew(self, index: int) -> int | None:
        """The last step before this one that put another network in the model's place."""
        steps = zip(self.recipe.steps[:index], self.decisions, strict=False)
        found = [at for at, (step, decision) in enumerate(steps) if step.anew and NOTHING not in decision]
        return found[-1] if found else None

    def _untrained_since_anew(self, index: int) -> bool:
        anew = self._anew(index)
        return anew is not None and all(step.kind != "train" for step in self.recipe.steps[anew:index])

    def _early(self) -> nn.Module:
        """The architecture with early weights, compressed by the decisions so far."""
        model = build_model(self.context.task, self.context.seed)
        model.load_state_dict(load(self.early))
        return replay(model, self.recipe, self.decisions)

    def step(self, index: int, clock: Clock, train: bool = True, watch: Watch = UNWATCHED) -> None:
        """Decide, apply and train one step, watched, and keep the stage when it was trained."""
        step = self.recipe.steps[index]
        assert isinstance(step, Technique)
        context = self._context(index)
        pause()
        self.model = self._carried_out(index, self.model, context, clock)
        if step.kind != "train" or NOTHING in self.decisions[-1]:
            return
        if not train:
            self.model = step.untrained(self.model, self.decisions[-1]).eval()
            return
        with clock("train"), during(f"{self._place(index)}, training"), watch:
            step.train(self.model, context)
        self.model.eval()
        if self.cache is not None:
            with clock("store"):
                self.cache.store(self.recipe.prefix(index + 1), self.decisions, self.model)

    def file(self, clock: Clock, check: bool = True) -> onnx.ModelProto:
        """The module as a file, encoded and packed; check: that it computes what the module does."""
        with clock("export"), during("exporting the compressed model"):
            task = self.context.task
            example, signature = example_inputs(task), self.context.cached("signature", lambda: input_signature(task))
            exported = export_onnx(self.model, example, signature)
            if check:
                parity = max((step.parity for step in self.recipe.steps), default=TOLERANCE)
                check_parity(self.model, exported, example, parity, signature)
        exported = self.encode(exported, clock)
        with clock("export"), during("packing the compressed model"):
            return pack(exported)

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
