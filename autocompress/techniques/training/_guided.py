"""What techniques share that let layers of a student learn from layers of its teacher, beside the outputs."""

from abc import abstractmethod
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

from ...data import Batch, seed_all
from ...errors import NothingToDo
from ...recipe import Kind, Range
from ...training import fit
from ..base import Context, Decision, Technique
from ..features import Feature, Read, before_head, watched
from ..teacher import LOGITS, Mix, Teacher, mixed

Features = dict[str, Feature]
Pairs = dict[str, str]


class Guided(Technique):
    """What hints, attention transfer and patient distillation share."""

    family: ClassVar[str] = "distillation"
    kind: ClassVar[Kind] = "train"
    read: ClassVar[Read] = torch.clone  # what is looked at of a layer's output (N, channels, ...)

    epochs: Annotated[int, Range(4, 24, step=4)] = Field(3, ge=1, le=10_000)
    learning_rate: Annotated[float, Range(1e-3, 2e-2, log=True)] = Field(2e-3, gt=0, lt=10)
    temperature: Annotated[float, Range(1, 8, step=1)] = Field(4.0, gt=0, le=100)
    alpha: Annotated[float, Range(0.3, 1.0, step=0.1)] = Field(0.7, ge=0, le=1)
    beta: Annotated[float, Range(0.1, 10, log=True)] = Field(1.0, ge=0, le=10_000)
    batch_size: int = Field(64, ge=1)

    @abstractmethod
    def pairs(self, student: nn.Module, context: Context) -> tuple[Pairs, Features, Features]:
        """Which layer of the student learns from which of the teacher, and what layers of both put out.

        Raises TechniqueError where that cannot be said.
        """

    @abstractmethod
    def distance(self, own: Feature, other: Feature) -> nn.Module:
        """What makes one number of two such features, the student's first; may hold weights, which are then trained."""

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """Which layer learns from which."""
        return {"pairs": self.pairs(model, context)[0]}

    def train(self, model: nn.Module, context: Context) -> None:
        """Run the epochs on the training split; beta weighs the layers' share beside that of the outputs."""
        pairs, own, others = self.pairs(model, context)
        seed_all(context.seed)
        distances = [self.distance(own[name], others[other]) for name, other in pairs.items()]
        read = type(self).read
        teacher = Teacher(context, {other: others[other] for other in pairs.values()}, read)
        with watched(model, {name: own[name] for name in pairs}, read) as seen:
            mix = mixed(context, self.alpha, self.temperature)
            loss = GuidedLoss(mix, self.beta, teacher, seen, pairs, distances)
            fit(model, context.train, loss, context.training(self), context.seed)


class GuidedLoss(nn.Module):
    """The loss of the outputs, and beta times the mean distance of features; the weights of distances are its own."""

    def __init__(
        self, mix: Mix, beta: float, teacher: Teacher, seen: dict[str, Tensor], pairs: Pairs, distances: list[nn.Module]
    ) -> None:
        super().__init__()
        self.distances = nn.ModuleList(distances)
        self._mix, self._beta, self._teacher, self._seen, self._pairs = mix, beta, teacher, seen, pairs

    def forward(self, output: Tensor, batch: Batch) -> Tensor:
        """The loss of one batch, whose outputs the student has just made."""
        shown = self._teacher.shown(batch)
        apart = [
            distance(self._seen.pop(own), shown[other])
            for distance, (own, other) in zip(self.distances, self._pairs.items(), strict=True)
        ]
        return self._mix(output, shown[LOGITS], batch) + self._beta * torch.stack(apart).mean()


def inside(step: Technique, student: nn.Module, context: Context) -> tuple[Features, Features]:
    """What the layers before the output layers put out, of the student and of the teacher."""
    try:
        return before_head(student, context), before_head(context.teacher, context)
    except NothingToDo as nothing:
        raise NothingToDo(f"{step.technique}: {nothing}") from None


def met(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Two features (N, channels, ...) with the same positions: both averaged over areas, as few as either has.

    Where one has more axes of positions than the other, both are averaged over all positions.
    """
    if one.dim() != other.dim():
        return one.flatten(2).mean(2) if one.dim() > 2 else one, other.flatten(2).mean(2) if other.dim() > 2 else other
    size = [min(pair) for pair in zip(one.shape[2:], other.shape[2:], strict=True)]
    return pooled(one, size), pooled(other, size)


def pooled(feature: Tensor, size: list[int]) -> Tensor:
    """A feature (N, channels, ...) averaged over so many areas along each axis of positions."""
    if list(feature.shape[2:]) == size:
        return feature
    pool = {1: adaptive_avg_pool1d, 2: adaptive_avg_pool2d, 3: adaptive_avg_pool3d}[len(size)]
    found: Tensor = pool(feature, size)  # type: ignore[arg-type]
    return found


class Adapter(nn.Module):
    """A linear map of channels, the same at each position: a 1x1 convolution, or a linear layer for vectors."""

    def __init__(self, channels: int, others: int) -> None:
        super().__init__()
        self.map = nn.Conv1d(channels, others, 1)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, channels, ...) -> (N, others, ...)."""
        found: Tensor = self.map(feature.flatten(2) if feature.dim() > 2 else feature[..., None])
        return found.view(len(feature), -1, *feature.shape[2:])
