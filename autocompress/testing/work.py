"""What a technique does to the odd models: decided, applied, trained and exported once a process, then looked at."""

import copy
import functools
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from ..artifacts.export import export_onnx, strip
from ..artifacts.packing import pack
from ..data import batches
from ..errors import NothingToDo, TechniqueError
from ..recipe import Kind
from ..tasks import Classification
from ..techniques import Context, Decision, Technique
from ..training import Training, fit
from ..trial.stages import pack_weights
from .models import MODELS, make_task, seeded

# Settings that only cost time, made small where a technique has them.
QUICK = {"epochs": 3, "examples": 48, "batch_size": 16, "learning_rate": 5e-3}


def quick(kind: type[Technique]) -> Technique:
    """A technique with its defaults, but little work."""
    return kind.model_validate({key: value for key, value in QUICK.items() if key in kind.model_fields})


@functools.cache
def task_of(model: str) -> Classification:
    """The task of one odd model."""
    return make_task(MODELS[model])


@functools.cache
def teacher_of(model: str) -> nn.Module:
    """The odd model after a little training: what techniques are given, and what distillation learns from."""
    task, teacher = task_of(model), seeded(MODELS[model])
    settings = Training(epochs=6, learning_rate=5e-3, batch_size=16)
    fit(teacher, task.split("train"), lambda output, batch: task.loss(output, batch.targets), settings, 0)
    return teacher.eval()


def context_of(model: str, seed: int = 7) -> Context:
    """A fresh context, whose cache nobody has filled."""
    task: Any = task_of(model)
    return Context(task, copy.deepcopy(teacher_of(model)).requires_grad_(False), seed)


def example_of(model: str, count: int = 3) -> tuple[Tensor, ...]:
    """Validation inputs."""
    return next(batches(task_of(model).split("validation"), count)).inputs


def damaged(model: str) -> nn.Module:
    """The trained model with noise on its weights: something for training to repair."""
    generator = torch.Generator().manual_seed(3)
    found = copy.deepcopy(teacher_of(model))
    with torch.no_grad():
        for parameter in found.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.5 * parameter.std(correction=0) * noise)
    return found


@functools.cache
def exported_of(model: str) -> onnx.ModelProto:
    """The export of the trained model, which encode techniques are given."""
    return export_onnx(copy.deepcopy(teacher_of(model)), example_of(model))


def given(kind: Kind, model: str) -> Any:
    """What techniques of that kind are applied to, a fresh copy: a module, or its file for encode techniques."""
    if kind == "encode":
        found = onnx.ModelProto()
        found.CopyFrom(exported_of(model))
        return found
    return damaged(model) if kind == "train" else copy.deepcopy(teacher_of(model))


def contents(model: Any) -> bytes:
    """Every number of a module or a file, as bytes that can be compared."""
    return pack_weights(model) if isinstance(model, nn.Module) else model.SerializeToString(deterministic=True)


@dataclass(frozen=True)
class Work:
    """What one technique did to one model: `after` is a module, or a file for encode techniques."""

    before: Any
    decision: Decision
    after: Any
    exported: onnx.ModelProto

    @functools.cached_property
    def file(self) -> bytes:
        """The file that would be delivered, made once."""
        file: bytes = strip(pack(self.exported)).SerializeToString()
        return file


def carry_out(step: Technique, model: str) -> tuple[Decision, Any]:
    """Decide, apply and train as a trial does. Raises TechniqueError when the technique refuses the model."""
    context, found = context_of(model), given(step.kind, model)
    torch.manual_seed(context.seed)
    decision = step.decide(found, context)
    found = step.apply(found, decision)
    if step.kind == "train":
        step.train(found, context)
    return decision, found.eval() if isinstance(found, nn.Module) else found


def layers_of(model: str) -> list[str]:
    """The names of the model's layers that have weights of their own."""
    modules = teacher_of(model).named_modules()
    return [name for name, m in modules if any(p.dim() > 1 for p in m.parameters(recurse=False))]


def restricted(step: Technique, model: str, layer: str) -> tuple[Any, Any, Decision | None]:
    """The model before and after a step that is restricted to one layer, untrained, and the decision.

    No decision where the step finds nothing to do there. Raises TechniqueError for other reasons.
    """
    alone, found = step.model_copy(update={"layers": (layer,)}), given(step.kind, model)
    try:
        decision = alone.decide(found, context_of(model))
    except NothingToDo:
        return found, found, None
    return given(step.kind, model), alone.apply(found, decision), decision


def changed_weights(before: Any, after: Any) -> list[str]:
    """The names of weights that are others than before: more than inputs of theirs went, which others made."""
    old, new = _weights(before), _weights(after)
    return [name for name, weight in old.items() if name not in new or not _may_lack_inputs(weight, new[name])]


def _weights(model: Any) -> dict[str, Any]:
    if isinstance(model, nn.Module):
        found = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    else:
        found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: values for name, values in found.items() if values.ndim > 1}


def _may_lack_inputs(old: Any, new: Any) -> bool:
    """Whether a weight is the old one, or what is left of it without some inputs, the second axis."""
    if old.shape == new.shape:
        return bool((old == new).all())
    columns = {column.tobytes() for column in np.moveaxis(old, 1, 0)}
    return len(old) == len(new) and all(column.tobytes() in columns for column in np.moveaxis(new, 1, 0))


def untrained_file(step: Technique, model: str) -> bytes:
    """The file of the structure that a training step works on, as it is without training."""
    context, found = context_of(model), given(step.kind, model)
    torch.manual_seed(context.seed)
    decision = step.decide(found, context)
    found = step.untrained(step.apply(found, decision), decision).eval()
    file: bytes = strip(pack(export_onnx(found, example_of(model)))).SerializeToString()
    return file


@dataclass(frozen=True)
class _Key:
    """A step as the key of a cache: settings such as lists have no hash of their own."""

    kind: type[Technique]
    settings: str
    step: Technique = field(compare=False)


def work(step: Technique, model: str) -> Work | TechniqueError:
    """The work of a step on a model, done once for its settings; or the TechniqueError that it refused with."""
    return _work(_Key(type(step), json.dumps(step.to_data(), sort_keys=True), step), model)


@functools.cache
def _work(key: _Key, model: str) -> Work | TechniqueError:
    try:
        decision, after = carry_out(key.step, model)
    except TechniqueError as error:
        return error
    exported = export_onnx(after, example_of(model)) if isinstance(after, nn.Module) else after
    return Work(given(key.step.kind, model), decision, after, exported)


@functools.cache
def plain_bytes(model: str) -> int:
    """Bytes of the uncompressed model's file."""
    return len(strip(exported_of(model)).SerializeToString())


def training_loss(module: nn.Module, model: str) -> float:
    """The task's loss on its whole training split."""
    task = task_of(model)
    batch = next(batches(task.split("train"), 10_000))
    with torch.no_grad():
        return float(task.loss(module.eval()(*batch.inputs), batch.targets))


def json_copy(value: Any) -> Any:
    """What is left of a value after JSON; raises for NaN and infinity, which JSON does not have."""
    return json.loads(json.dumps(value, allow_nan=False))


def relative_rms(actual: Any, expected: Any) -> float:
    """The root mean square of the difference, relative to that of the expected values."""
    return float(np.sqrt(np.mean((actual - expected) ** 2) / np.mean(expected**2)))
