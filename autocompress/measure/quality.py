"""Quality of an exported file on a split of its task."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..data import batches, join_targets, map_targets, seed_all
from ..errors import ArtifactError
from ..tasks import Task
from ..tasks.protocol import Run, classifies, task_metrics, task_rollout


def judge(model: Run, task: Task, split: str, batch_size: int = 64) -> tuple[dict[str, float], list[str]]:
    """The task's metrics on a whole split, computed from the file's outputs, and what they do not tell.

    Where the task has a rollout, what comes of it is among them. Raises ArtifactError for a metric that is no finite
    number, which no limit could hold and no front could order.
    """
    seed_all(0)  # for splits that draw random numbers
    outputs, targets = [], []
    for batch in batches(task.split(split), batch_size):
        outputs.append(model(*(tensor.numpy() for tensor in batch.inputs)))
        targets.append(map_targets(batch.targets, Tensor.numpy))
    output, target = np.concatenate(outputs), join_targets(targets)
    outputs.clear()  # those of segmentation fill memory
    metrics = task_metrics(task, split, output, target) | task_rollout(task, split, model)
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise ArtifactError(
                f"{name} of the exported model is {value} on the {split} split: its outputs are useless"
            )
    return metrics, remarks(task, split, output, target)


def measure_quality(model: Run, task: Task, split: str, batch_size: int = 64) -> dict[str, float]:
    """The task's metrics on a whole split. Raises ArtifactError as judge does."""
    return judge(model, task, split, batch_size)[0]


def remarks(task: Task, split: str, outputs: NDArray[Any], targets: Any) -> list[str]:
    """What metrics do not tell of a classifier: that it names one class for everything, right as often as that is."""
    if (
        not classifies(task)
        or isinstance(targets, Mapping)
        or outputs.ndim < 2
        or (outputs.ndim > 2 and outputs[:, 0].shape != targets.shape)
    ):
        return []
    if len(np.unique(targets[targets < outputs.shape[1]])) < 2:  # others are left out of what counts
        return []
    parts = (outputs[start : start + 64].argmax(axis=1) for start in range(0, len(outputs), 64))
    named = np.unique(np.concatenate([np.unique(part) for part in parts]))
    if len(named) > 1:
        return []
    classes = getattr(task, "classes", ())
    name = classes[named[0]] if named[0] < len(classes) else str(named[0])
    what = "examples" if outputs.ndim == 2 else "pixels" if outputs.ndim == 4 else "places"
    return [f"names one class, {name!r}, for all {targets.size} {what} of the {split} split"]
