"""Rejecting a candidate before its training is paid for, because it cannot recover."""

import copy
import math

import torch
from torch import nn
from torch.utils.data import Subset

from ..data import Batch, batches, seed_all
from ..errors import TaskError
from ..tasks import Task
from ..training import Training, fit, place_of, placed

SAMPLE, PROBE, BATCH = 256, 1280, 64
SHUFFLES = 19  # an output that says nothing beats all of them once in twenty times


def find_collapse(model: nn.Module, teacher: nn.Module, task: Task, learning_rate: float) -> str | None:
    """Why training would be wasted on a model; None when it would not.

    A model has collapsed when its outputs say nothing of the targets, and still do not after a short training of a
    copy: pruning often takes the accuracy to chance, from where most networks recover and dead ones do not. Where the
    outputs of the uncompressed teacher say nothing either, as with targets that are all alike, nobody can tell.
    """
    seed_all(0)
    train = task.split("train")
    count = len(train)  # type: ignore[arg-type]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    sample = next(batches(Subset(train, order[:SAMPLE]), SAMPLE))
    if informs(model, task, sample) or not informs(teacher, task, sample):
        return None
    probe = copy.deepcopy(model)
    settings = Training(epochs=1, learning_rate=learning_rate, batch_size=BATCH)
    try:
        fit(probe, Subset(train, order[:PROBE]), lambda o, b: task.loss(o, b.targets), settings, 0)
    except TaskError:
        if math.isfinite(_loss(model, task, sample)):
            return None  # it diverges: the training itself says so, with the fix
        return "collapsed: the loss is no number, nor after a short training: take away less"
    if informs(probe, task, sample):
        return None
    return (
        f"collapsed: the outputs say nothing of the targets, nor after {min(PROBE, count)} examples of training: "
        "take away less"
    )


def informs(model: nn.Module, task: Task, batch: Batch) -> bool:
    """Whether outputs fit their own targets better than those of other examples: a permutation test at 5%."""
    generator = torch.Generator().manual_seed(0)
    model = placed(model.eval())
    batch = batch.to(place_of(model))
    with torch.no_grad():
        outputs = model(*batch.inputs)
        own = float(task.loss(outputs, batch.targets))
        orders = [torch.randperm(len(outputs), generator=generator) for _ in range(SHUFFLES)]
        # A NaN compares false, and tells nothing.
        return all(own < float(task.loss(outputs[order], batch.targets)) for order in orders)


def _loss(model: nn.Module, task: Task, batch: Batch) -> float:
    model = placed(model.eval())
    batch = batch.to(place_of(model))
    with torch.no_grad():
        return float(task.loss(model(*batch.inputs), batch.targets))
