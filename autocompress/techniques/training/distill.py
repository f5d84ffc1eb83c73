"""Distillation of the uncompressed model's logits."""

from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from ...recipe import Kind, Range
from ...training import fit
from ..base import Context, Technique
from ..bits import with_rate
from ..teacher import blended


class Distill(Technique):
    """Train the compressed model to match the uncompressed one's softened logits (Hinton et al., 2015).

    rate is what the loss takes for each bit of a weight once it is rounded and coded, 0 for nothing.
    """

    technique: ClassVar[str] = "distill"
    family: ClassVar[str] = "distillation"
    kind: ClassVar[Kind] = "train"

    epochs: Annotated[int, Range(4, 24, step=4)] = Field(3, ge=1, le=10_000)
    learning_rate: Annotated[float, Range(1e-3, 2e-2, log=True)] = Field(2e-3, gt=0, lt=10)
    temperature: Annotated[float, Range(1, 8, step=1)] = Field(4.0, gt=0, le=100)
    alpha: Annotated[float, Range(0.3, 1.0, step=0.1)] = Field(0.7, ge=0, le=1)
    batch_size: int = Field(64, ge=1)
    rate: float = Field(0.0, ge=0, le=10)

    def train(self, model: nn.Module, context: Context) -> None:
        """Run the epochs on the training split; alpha weighs the teacher's share of the loss."""
        settings = context.training(self)
        loss = with_rate(blended(context, self.alpha, self.temperature), model, self.rate)
        fit(model, context.train, loss, settings, context.seed)
