"""What a task is made of, as digests: what is kept of a task is kept under them, wherever it lies."""

import hashlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from ..data import SPLITS, Batch, batches, in_memory, seed_all
from ..recipe import digest
from .code import code_digest
from .examples import example_inputs
from .loading import TaskReference, locate
from .models import add_weights, build_model
from .objects import OBJECT
from .protocol import Task, classifies, lower_is_better

EXAMPLES = 256  # of a split that is read example by example, evenly spaced


def task_facts(reference: TaskReference, task: Task, seed: int) -> dict[str, str]:
    """Digests of a task's code, settings, data and model, by these words.

    The data are what the splits yield, and the model is its initial or given weights and what it computes: so a
    retrained weights file, relabelled images or another activation are other facts, and another folder is not.
    """
    settings = {
        "settings": reference.settings,
        "training": task.baseline.model_dump() if task.baseline else None,
        "metrics": [task.quality, classifies(task), *lower_is_better(task)],
    }
    return {
        "code": _code(reference),
        "settings": digest(settings),
        "data": digest([_split(task.split(name)) for name in SPLITS]),
        "model": _model(task, seed),
    }


def _code(reference: TaskReference) -> str:
    """The code behind a task: its file and what that imports beside it; of an installed package, its version."""
    name = reference.code.rpartition(":")[0]
    if name == OBJECT:
        return reference.code_digest
    if name.endswith(".py"):
        root = locate(reference)
        return code_digest(root / name, root)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    place = Path(spec.origin or "") if spec else Path()
    if not place.is_file() or {"site-packages", "dist-packages"} & set(place.parts):
        return f"{reference.code} {getattr(sys.modules.get(name.partition('.')[0]), '__version__', '')}"
    return code_digest(place, place.parents[name.count(".") + (place.name == "__init__.py")])


def _split(dataset: Dataset[Any]) -> list[Any]:
    """How many examples a split has and what they hold; where two readings differ, its targets alone."""
    count = len(dataset)  # type: ignore[arg-type]
    if in_memory(dataset):
        return [count, _rows(dataset)]
    step = max(1, count // EXAMPLES)
    sample = Subset(dataset, range(0, count, step))
    first, second = _rows(sample), _rows(sample)
    return [count, first if first == second else first[1:]]


def _rows(dataset: Dataset[Any]) -> list[str]:
    """A digest of the inputs, and one of the targets."""
    seed_all(0)
    inputs, targets = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    for batch in batches(dataset, 1024):
        _update(inputs, batch)
        named = batch.targets.items() if isinstance(batch.targets, Mapping) else [("", batch.targets)]
        for name, tensor in named:
            targets.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return [inputs.hexdigest(), targets.hexdigest()]


def _update(found: Any, batch: Batch) -> None:
    for tensor in batch.given:
        found.update(f"{tensor.dtype}{tuple(tensor.shape[1:])}".encode())
        found.update(tensor.contiguous().numpy().tobytes())


def _fixed(like: Tensor) -> Tensor:
    """Numbers in the place of an input's, whatever the data are; whole ones, which may be indices, are the data's."""
    if not like.is_floating_point():
        return like.clone()
    return torch.linspace(-1, 1, like.numel(), dtype=like.dtype).reshape(like.shape)


def _model(task: Task, seed: int) -> str:
    """Names, shapes and numbers of a model's weights, and its outputs to two digits: processors differ in others."""
    model = build_model(task, seed).eval()
    found = hashlib.blake2b(digest_size=16)
    add_weights(found, model)
    with torch.no_grad():
        output = model(*(_fixed(tensor) for tensor in example_inputs(task)))
    found.update(" ".join(f"{value:.1e}" for value in output.flatten().tolist()).encode())
    return found.hexdigest()
