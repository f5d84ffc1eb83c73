"""Distillation without another network."""

import copy
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from ...recipe import Kind, Range
from ...training import fit
from ..base import Context, Technique
from ..teacher import blended


class SelfDistill(Technique):
    """Train in generations, each of which learns from the model that the one before it left (Yang et al., 2019).

    The epochs are shared out evenly among the generations, and the learning rate starts anew in each; the first learns
    from the task alone. alpha weighs the share of the earlier model's softened logits in the loss of the others.
    """

    technique: ClassVar[str] = "self_distill"
    family: ClassVar[str] = "distillation"
    kind: ClassVar[Kind] = "train"

    epochs: Annotated[int, Range(4, 24, step=4)] = Field(4, ge=1, le=10_000)
    learning_rate: Annotated[float, Range(1e-3, 2e-2, log=True)] = Field(2e-3, gt=0, lt=10)
    temperature: Annotated[float, Range(1, 8, step=1)] = Field(2.0, gt=0, le=100)
    alpha: Annotated[float, Range(0.3, 1.0, step=0.1)] = Field(0.5, ge=0, le=1)
    generations: int = Field(2, ge=1, le=100)
    batch_size: int = Field(64, ge=1)

    def train(self, model: nn.Module, context: Context) -> None:
        """Run all generations on the training split, fewer than asked for where there are fewer epochs."""
        count = min(self.generations, self.epochs)
        for generation in range(count):
            epochs = self.epochs * (generation + 1) // count - self.epochs * generation // count
            earlier = copy.deepcopy(model).eval().requires_grad_(False)
            own = replace(context, teacher=earlier, seed=context.seed + generation, cache={}, folder=None)
            alpha = self.alpha if generation else 0.0
            settings = context.training(self.model_copy(update={"epochs": epochs}))
            fit(model, context.train, blended(own, alpha, self.temperature), settings, own.seed)

    def alone(self) -> Technique:
        """The step itself, which learns from no other network."""
        return self
