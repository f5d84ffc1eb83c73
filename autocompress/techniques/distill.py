"""Distillation of the uncompressed model's logits."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, mse_loss, softmax
from torch.utils.data import TensorDataset

from ..data import Batch, batches
from ..recipe import Kind, Range
from ..training import Training, fit
from .base import Context, Technique


class Distill(Technique):
    """Train the compressed model to match the uncompressed one's softened logits (Hinton et al., 2015)."""

    technique: ClassVar[str] = "distill"
    family: ClassVar[str] = "distillation"
    kind: ClassVar[Kind] = "train"

    epochs: Annotated[int, Range(4, 24, step=4)] = Field(3, ge=1, le=10_000)
    learning_rate: Annotated[float, Range(1e-3, 2e-2, log=True)] = Field(2e-3, gt=0, lt=10)
    temperature: Annotated[float, Range(1, 8, step=1)] = Field(4.0, gt=0, le=100)
    alpha: Annotated[float, Range(0.3, 1.0, step=0.1)] = Field(0.7, ge=0, le=1)
    batch_size: int = Field(64, ge=1)

    def train(self, model: nn.Module, context: Context) -> None:
        """Run the epochs on the training split; alpha weighs the teacher's share of the loss."""
        teacher = _Teacher(context)
        settings = Training(epochs=self.epochs, learning_rate=self.learning_rate, batch_size=self.batch_size)

        def loss(output: Tensor, batch: Batch) -> Tensor:
            soft = distillation_loss(output, teacher(batch), self.temperature)
            if self.alpha == 1:
                return soft
            return self.alpha * soft + (1 - self.alpha) * context.task.loss(output, batch.targets)

        fit(model, context.train, loss, settings, context.seed)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened distributions, times temperature squared (Hinton et al., 2015, 2).

    student, teacher: logits, classes last; averaged over all other dimensions. Outputs without classes, of shape (N,)
    or (N, 1), are matched by squared error (Ba and Caruana, 2014, 2.2).
    """
    if teacher.dim() < 2 or teacher.shape[-1] < 2:
        return mse_loss(student, teacher)
    classes = student.shape[-1]
    student, teacher = student.reshape(-1, classes), teacher.reshape(-1, classes)
    divergence = kl_div(log_softmax(student / temperature, 1), softmax(teacher / temperature, 1), reduction="batchmean")
    return divergence * temperature**2


class _Teacher:
    """The teacher's logits: computed once where the split is held in memory, else batch by batch."""

    def __init__(self, context: Context) -> None:
        self.model = context.teacher
        self.stored = self._all(context) if isinstance(context.train, TensorDataset) else None

    def _all(self, context: Context) -> Tensor:
        return context.cached("logits", lambda: torch.cat([self._forward(b) for b in batches(context.train, 256)]))

    def _forward(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            output: Tensor = self.model(*batch.inputs)
        return output

    def __call__(self, batch: Batch) -> Tensor:
        return self._forward(batch) if self.stored is None else self.stored[batch.index]
