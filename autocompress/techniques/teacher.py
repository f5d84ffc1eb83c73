"""Learning from the uncompressed model: its logits, and what its layers put out."""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, mse_loss, softmax

from ..data import Batch, batches, in_memory, train_transform
from ..errors import TechniqueError
from ..tasks.examples import input_signature
from ..tasks.protocol import classifies, training_loss
from ..training import Loss, training_device
from .base import Context
from .features import Feature, Read, watched

MOST_BYTES = 2 * 10**9  # of what is kept
TEMPERATURE = 4.0  # where distillation is but a part of another technique
LOGITS = ""  # what they are called beside layers, which all have names


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


Mix = Callable[[Tensor, Tensor | None, Batch], Tensor]


def mixed(context: Context, alpha: float, temperature: float) -> Mix:
    """What makes of outputs, the teacher's and a batch a loss: a share `alpha` of distillation, the rest the task's."""
    logits = classifies(context.task)

    def mix(output: Tensor, teacher: Tensor | None, batch: Batch) -> Tensor:
        """Both losses of one batch in their shares; teacher: nothing where alpha is 0."""
        if teacher is not None and teacher.shape != output.shape:
            raise TechniqueError(
                f"distillation: the teacher's outputs have shape {tuple(teacher.shape)} and the model's "
                f"{tuple(output.shape)}: give the model the teacher's outputs, or use finetune"
            )
        own = training_loss(context.task, output, batch.targets) if alpha < 1 else output.new_zeros(())
        soft = output.new_zeros(()) if teacher is None else distillation_loss(output, teacher, temperature, logits)
        return alpha * soft + (1 - alpha) * own

    return mix


def blended(context: Context, alpha: float, temperature: float) -> Loss:
    """A loss of which a share `alpha` is distillation and the rest the task's own."""
    teacher, mix = Teacher(context) if alpha else None, mixed(context, alpha, temperature)
    return lambda output, batch: mix(output, teacher(batch) if teacher else None, batch)


class Teacher:
    """What the teacher says of a batch: computed once where the split and all of it are held in memory, else each time.

    Beside its logits it is what `read` makes of the outputs of these layers of it.
    """

    def __init__(self, context: Context, layers: Mapping[str, Feature] | None = None, read: Read = torch.clone) -> None:
        self.model, self._context = context.teacher, context
        self._layers, self._read = dict(layers or {}), read
        self.stored = self._all() if self._same_each_time() else None

    def __call__(self, batch: Batch) -> Tensor:
        """The logits for a batch, where the batch is."""
        return self.shown(batch)[LOGITS]

    def shown(self, batch: Batch) -> dict[str, Tensor]:
        """The logits, under the name "", and what is read of each layer, for a batch, where the batch is."""
        if self.stored is None:
            return self._forward(batch)
        place = batch.given[0].device
        return {name: kept[batch.index].to(place) for name, kept in self.stored.items()}

    def _same_each_time(self) -> bool:
        """Whether examples are trained on as they are, and it takes little enough memory to keep all that is said."""
        train = self._context.train
        if not in_memory(train) or train_transform(train) is not None:
            return False
        # The outputs of layers are as long as the longest of a batch, so that they belong to it.
        if self._layers and self._context.cached("signature", lambda: input_signature(self._context.task)).varying:
            return False
        one = self._forward(next(batches(train, 1)))
        return sum(part.nbytes for part in one.values()) * len(train) <= MOST_BYTES  # type: ignore[arg-type]

    def _all(self) -> dict[str, Tensor]:
        """Both for all examples. Logits are kept for all trials, of other layers those that were asked for last."""
        kept: dict[str, Tensor] = {LOGITS: self._context.cached("logits", lambda: self._rows({})[LOGITS])}
        if not self._layers:
            return kept
        asked, known = (self._read, self._layers), self._context.cache.get("features")
        if known is None or known[0] != asked:
            self._context.cache.pop("features", None)  # room for those that come
            known = self._context.cache["features"] = (asked, self._rows(self._layers))
        return {**known[1], **kept}

    def _rows(self, layers: Mapping[str, Feature]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        count, place = len(self._context.train), training_device()  # type: ignore[arg-type]
        for batch in batches(self._context.train, 256):
            for name, there in self._forward(batch.to(place), layers).items():
                part = there.cpu()
                if name not in found:
                    found[name] = part.new_empty((count, *part.shape[1:]))
                found[name][batch.index] = part
        return found

    def _forward(self, batch: Batch, layers: Mapping[str, Feature] | None = None) -> dict[str, Tensor]:
        place = batch.given[0].device
        if place.type == "cpu":
            model = self.model
        else:
            model = self._context.cached(f"teacher on {place}", lambda: copy.deepcopy(self.model).to(place))
        with torch.no_grad(), watched(model, self._layers if layers is None else layers, self._read) as seen:
            output: Tensor = model(*batch.inputs)
        return {**seen, LOGITS: output}
