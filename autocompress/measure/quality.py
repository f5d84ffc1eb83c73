"""Quality of an exported file on a split of its task."""

import math

import numpy as np

from ..artifacts.runtime import Model
from ..data import batches, seed_all
from ..errors import ArtifactError
from ..tasks import Task
from ..tasks.protocol import task_metrics


def measure_quality(model: Model, task: Task, split: str, batch_size: int = 64) -> dict[str, float]:
    """The task's metrics on a whole split, computed from the file's outputs.

    Raises ArtifactError for a metric that is no finite number, which no limit could hold and no front could order.
    """
    seed_all(0)  # for splits that draw random numbers
    outputs, targets = [], []
    for batch in batches(task.split(split), batch_size):
        outputs.append(model(*(tensor.numpy() for tensor in batch.inputs)))
        targets.append(batch.targets.numpy())
    metrics = task_metrics(task, split, np.concatenate(outputs), np.concatenate(targets))
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise ArtifactError(
                f"{name} of the exported model is {value} on the {split} split: its outputs are useless"
            )
    return metrics
