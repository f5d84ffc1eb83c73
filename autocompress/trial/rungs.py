"""The rungs of a trial: looks at its trainings while they run, which end those that come to nothing."""

import contextlib
import copy
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from ..config import less_is_better
from ..errors import ArtifactError
from ..measure.quality import measure_quality
from ..outcome import Limit, Metrics, Stopped
from ..recipe import Recipe
from ..tasks import Task
from ..tasks.models import as_function
from ..training import examined, renew_statistics
from .facts import TOLERANCE
from .peers import Peers
from .run import TrialSpec

# Shares of a training, a third of the next each (Li et al., 2020: asynchronous successive halving), and its end.
SHARES = {"a ninth": 1 / 9, "a third": 1 / 3, "all": 1.0}


class Outpaced(Exception):
    """A training that was ended at a rung; `outcome` is how its trial ends."""

    def __init__(self, outcome: Stopped) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


@dataclass
class Rungs:
    """Where one trial stood on each rung; peers are others, None to train to the end whatever comes of it.

    tolerance is by what share its facts may be off.
    """

    task: Task
    peers: Peers | None
    limits: tuple[Limit, ...]
    tolerance: Mapping[str, float]
    facts: Metrics = field(default_factory=dict)
    stood: dict[str, Metrics] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: TrialSpec, task: Task) -> "Rungs":
        """Those of a trial that has not begun."""
        return cls(task, spec.peers, spec.limits, spec.tolerance)

    @contextlib.contextmanager
    def watching(self, recipe: Recipe, index: int) -> Iterator[None]:
        """Look at the training of a recipe's step; raises Outpaced where it is to end."""
        left = _trainings_after(recipe, index)
        with examined(lambda model, before, now: self._look(model, left, before, now)):
            yield

    def after(self, model: nn.Module, recipe: Recipe, index: int) -> None:
        """Look at a model after a training that others follow; raises Outpaced where it was in vain."""
        left = _trainings_after(recipe, index)
        if left:
            self._look(model, left, SHARES["a third"], 1.0)

    def _look(self, model: nn.Module, left: int, before: float, now: float) -> None:
        """One look at each rung that was reached since the last."""
        reached = [name for name, share in SHARES.items() if before < share <= now]
        if not reached or self.peers is None:
            return
        counted = {*self.peers.objectives, *(limit.metric for limit in self.limits)}
        with _undisturbed():
            found = {name: value for name, value in _quality(model, self.task).items() if name in counted}
        for name in reached if found else ():
            rung = f"{name} of {'the last training' if not left else f'a training with {left} to follow'}"
            self.stood[rung] = found
            stopped = self.peers.judge(rung, found, self._best_facts(self.peers), self.limits)
            if stopped is not None:
                raise Outpaced(replace(stopped, facts=self.facts, rungs=self.stood))

    def _best_facts(self, peers: Peers) -> Metrics:
        """The facts as they would be where they are off in the trial's favour."""
        found = {}
        for name, value in self.facts.items():
            off = self.tolerance.get(name, TOLERANCE.get(name, 0.0))
            found[name] = value * (1 - off if less_is_better(name, peers.lower) else 1 + off)
        return found


def _trainings_after(recipe: Recipe, index: int) -> int:
    return sum(step.kind == "train" for step in recipe.steps[index + 1 :])


def _quality(model: nn.Module, task: Task) -> Metrics:
    """The task's metrics of a copy on the validation split; none where they are no numbers, as early on they may be."""
    probe = copy.deepcopy(model).eval()
    renew_statistics(probe, task.split("train"), 64)
    try:
        return measure_quality(as_function(probe), task, "validation")
    except ArtifactError:
        return {}


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave the random numbers of a training as they are, whatever is drawn meanwhile."""
    plain, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(plain)
    np.random.set_state(array)
