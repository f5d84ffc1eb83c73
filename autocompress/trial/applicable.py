"""Which techniques can be applied to a task's model at all: each is tried on it once, before a search."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from ..artifacts.export import export_onnx, strip
from ..artifacts.packing import pack
from ..artifacts.parity import check_parity
from ..artifacts.runtime import Model
from ..config import ONE_THREAD, Target
from ..data import copied, seed_all
from ..errors import ArtifactError, AutocompressError, NothingToDo
from ..outcome import Baseline
from ..recipe import VERSION
from ..tasks import TaskReference, load_task
from ..tasks.examples import example_inputs, input_signature
from ..tasks.models import build_model
from ..techniques import Context, Technique, expanded, recipe_from_data
from .stages import changed
from .worker import doing, during, use_threads

# Layers that every file may hold: a model that gained only such ones is not exported again, which takes seconds.
EXPORTABLE = {nn.Sequential, nn.Identity, nn.Linear, nn.Conv1d, nn.Conv2d}
EXAMPLES = 32  # of the training split: enough to find out whether a step runs, not what it is worth
Tries = Mapping[str, Sequence[dict[str, Any]]]


def find_obstacles(
    reference: TaskReference, baseline: Baseline, seed: int, target: Target, tries: Tries
) -> dict[str, str]:
    """Why a technique cannot be applied to the uncompressed model, for each of which no step that is tried works.

    tries: steps as plain values, by the name of the technique; the first that works is enough.
    """
    use_threads(target.threads)
    trial = _Trial(reference, baseline, seed, target)
    found = {}
    for name, rows in tries.items():
        reasons: list[str] = []
        for row in rows:
            reason = trial.obstacle(row)
            if reason is None:
                break
            reasons.append(reason)
        else:
            found[name] = next(iter(reasons), "no setting of it is valid")
    return found


class _Few:
    """A task with few training examples, evenly spaced."""

    def __init__(self, task: Any) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def split(self, name: str) -> Dataset[Any]:
        """The split, of which the training one is short."""
        dataset: Dataset[Any] = self._task.split(name)
        count = len(dataset)  # type: ignore[arg-type]
        return Subset(dataset, range(0, count, -(-count // EXAMPLES))) if name == "train" else dataset


class _Trial:
    """The uncompressed model and its file, on copies of which steps are tried."""

    def __init__(self, reference: TaskReference, baseline: Baseline, seed: int, target: Target) -> None:
        self._task: Any = _Few(load_task(reference))
        self._seed, self._early, self._target = seed, baseline.early, target
        self._model = self._with(baseline.weights)
        self._example, self._signature = example_inputs(self._task), input_signature(self._task)
        with torch.no_grad():
            self._shape = self._model(*copied(self._example)).shape
        self._file: onnx.ModelProto | None = None

    def _with(self, weights: bytes) -> nn.Module:
        model = build_model(self._task, self._seed)
        model.load_state_dict(load(weights))
        return model.eval()

    def obstacle(self, row: dict[str, Any]) -> str | None:
        """Why a step cannot be carried out, on its own; None where it can."""
        step = expanded(recipe_from_data({"version": VERSION, "steps": [row]})).steps[0]
        assert isinstance(step, Technique)
        seed_all(self._seed)
        try:
            self._carry_out(step)
        except NothingToDo as error:
            return f"needs {step.needs}" if step.needs and not step.layers else str(error)
        except AutocompressError as error:
            return str(error)
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            return f"fails on this model, {doing(error)}: {type(error).__name__}: {text}"
        return None

    def _carry_out(self, step: Technique) -> None:
        teacher = copy.deepcopy(self._model).requires_grad_(False)
        early = (lambda: self._with(self._early)) if self._early else None
        context = Context(self._task, teacher, self._seed, early=early)
        subject = self._given(step)
        with during("deciding"):
            decision = step.decide(subject, context)
        with during("changing the model"):
            after = changed(step, subject, decision)
        if step.kind == "encode":
            self._run_file(after)
            return
        if step.kind == "train":
            with during("training"):
                _short(step).train(after, context)
        self._run(after.eval(), step)

    def _given(self, step: Technique) -> Any:
        if step.kind != "encode":
            return copy.deepcopy(self._model)
        if self._file is None:
            self._file = export_onnx(copy.deepcopy(self._model), self._example, self._signature)
        given = onnx.ModelProto()
        given.CopyFrom(self._file)
        return given

    def _run(self, model: nn.Module, step: Technique) -> None:
        with during("running the changed model"), torch.no_grad():
            _check_shape(model(*copied(self._example)), self._shape)
        if not _kinds(model) <= _kinds(self._model) | EXPORTABLE:
            with during("exporting the changed model"):
                exported = export_onnx(model, self._example, self._signature)
                check_parity(model, exported, self._example, step.parity, self._signature)
                if self._target.runtime != ONE_THREAD.runtime:
                    self._run_file(exported)

    def _run_file(self, model: onnx.ModelProto) -> None:
        with during("running the changed file"):
            file = Model(strip(pack(model)).SerializeToString(), self._target)
            _check_shape(torch.from_numpy(file(*(tensor.numpy() for tensor in self._example))), self._shape)


def _short(step: Technique) -> Technique:
    """A step of training with one epoch."""
    return step.model_copy(update={"epochs": 1}) if "epochs" in type(step).model_fields else step


def _check_shape(output: Tensor, expected: torch.Size) -> None:
    if output.shape != expected:
        raise ArtifactError(f"the output has shape {tuple(output.shape)} where the model's has {tuple(expected)}")


def _kinds(model: nn.Module) -> set[type[nn.Module]]:
    """What an export can fail for where the model runs: the kinds of its layers, whatever their shapes."""
    return {type(module) for module in model.modules()}
