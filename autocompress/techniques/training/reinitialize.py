"""Fresh weights in a network that keeps its structure."""

from typing import ClassVar

import torch
from torch import nn

from ...errors import NothingToDo
from ...recipe import Kind
from ..base import Context, Decision, Technique
from ..fresh import begin_anew


class Reinitialize(Technique):
    """Draw all weights anew, so that later steps train this network from scratch (Liu et al., 2019).

    Layers draw theirs as torch does when it makes them; other parameters come from the normal distribution with the
    mean and deviation that they have. Weights that were pruned stay zero.
    """

    technique: ClassVar[str] = "reinitialize"
    family: ClassVar[str] = "training"
    kind: ClassVar[Kind] = "structure"
    anew: ClassVar[bool] = True
    fresh: ClassVar[bool] = True

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The seed of the weights."""
        if next(model.parameters(), None) is None:
            raise NothingToDo("reinitialize finds no weights in the model: leave the step out")
        return {"seed": context.seed}

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Other weights, which follow from the recorded seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(decision["seed"])
            begin_anew(model, every=True)
        return model
