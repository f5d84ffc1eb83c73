"""Learning from the uncompressed model's logits."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, mse_loss, softmax
from torch.utils.data import Dataset

from ..data import Batch, batches, in_memory, train_transform
from ..tasks.protocol import classifies, training_loss
from ..training import Loss
from .base import Context

MOST_BYTES = 2 * 10**9  # of logits that are kept


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float, logits: bool) -> Tensor:
    """Kullback-Leibler divergence of softened distributions, times temperature squared (Hinton et al., 2015, 2).

    student, teacher: (N, classes, ...), averaged over all other dimensions. Outputs that are no logits, or of a single
    class, are matched by squared error (Ba and Caruana, 2014, 2.2).
    """
    if not logits or teacher.dim() < 2 or teacher.shape[1] < 2:
        return mse_loss(student, teacher)
    classes = student.shape[1]
    student, teacher = (output.movedim(1, -1).reshape(-1, classes) for output in (student, teacher))
    divergence = kl_div(log_softmax(student / temperature, 1), softmax(teacher / temperature, 1), reduction="batchmean")
    return divergence * temperature**2


def blended(context: Context, alpha: float, temperature: float) -> Loss:
    """A loss of which a share `alpha` is distillation and the rest the task's own."""
    teacher, logits = Teacher(context) if alpha else None, classifies(context.task)

    def loss(output: Tensor, batch: Batch) -> Tensor:
        """Both losses of one batch in their shares."""
        own = training_loss(context.task, output, batch.targets) if alpha < 1 else output.new_zeros(())
        soft = distillation_loss(output, teacher(batch), temperature, logits) if teacher else output.new_zeros(())
        return alpha * soft + (1 - alpha) * own

    return loss


def _same_each_time(dataset: Dataset[Any]) -> bool:
    """Whether examples are trained on as they are, and held in memory."""
    return in_memory(dataset) and train_transform(dataset) is None


class Teacher:
    """The teacher's logits: computed once where split and logits are held in memory, else batch by batch."""

    def __init__(self, context: Context) -> None:
        self.model, self._context = context.teacher, context
        self.stored: Tensor | None = None
        self.stored = self._all(context) if _same_each_time(context.train) and self._fit(context) else None

    def _fit(self, context: Context) -> bool:
        """Whether the logits of all examples, such as those of every pixel, take little enough memory."""
        one = self._forward(next(batches(context.train, 1)))
        return one.nbytes * len(context.train) <= MOST_BYTES  # type: ignore[arg-type]

    def _all(self, context: Context) -> Tensor:
        return context.cached("logits", lambda: torch.cat([self(batch) for batch in batches(context.train, 256)]))

    def _forward(self, batch: Batch) -> Tensor:
        place = batch.given[0].device
        if place.type == "cpu":
            model = self.model
        else:
            model = self._context.cached(f"teacher on {place}", lambda: copy.deepcopy(self.model).to(place))
        with torch.no_grad():
            output: Tensor = model(*batch.inputs)
        return output

    def __call__(self, batch: Batch) -> Tensor:
        """The logits for a batch, where the batch is."""
        return self._forward(batch) if self.stored is None else self.stored[batch.index].to(batch.given[0].device)
