"""Distillation of what one layer puts out."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from ...errors import NothingToDo, TechniqueError
from ..base import Context, nearest
from ..features import Feature, features
from ._guided import Adapter, Features, Guided, Pairs, inside, met


class HintDistill(Guided):
    """Train a layer to give hints of the teacher's by a linear adapter, beside distilling logits (Romero et al., 2015).

    hint names a layer of the uncompressed model, guided one of the compressed model: the one of the same name unless
    given. Without names each is the last layer before the output layer. The adapter, a 1x1 convolution, learns with
    the model and is thrown away; feature maps of unlike size are averaged to the smaller one. Both parts of the loss
    are trained together, not one after the other.
    """

    technique: ClassVar[str] = "hint_distill"

    hint: str = ""
    guided: str = ""

    def pairs(self, student: nn.Module, context: Context) -> tuple[Pairs, Features, Features]:
        """The layers that are named, or the last before the output layer."""
        if not self.hint and not self.guided:
            own, others = inside(self, student, context)
        else:
            own, others = features(student, context.example), features(context.teacher, context.example)
        hint = self._named("hint", self.hint or (self.guided if self.guided in others else ""), others, "uncompressed")
        guided = self._named("guided", self.guided or (self.hint if self.hint in own else ""), own, "compressed")
        return {guided: hint}, own, others

    def _named(self, key: str, name: str, known: Features, which: str) -> str:
        if not known:
            raise NothingToDo(f"hint_distill finds no layer before the output layer of the {which} model: use distill")
        if not name and (self.hint or self.guided):
            raise TechniqueError(
                f"hint_distill: {key}: the {which} model has no layer {self.hint or self.guided!r}: name one of its "
                f"own, such as {nearest(self.hint or self.guided, list(known))}"
            )
        if name and name not in known:
            raise TechniqueError(
                f"hint_distill: {key}: {name!r} is no layer of the {which} model that puts out features: take "
                f"{nearest(name, list(known))}"
            )
        return name or next(reversed(known))

    def distance(self, own: Feature, other: Feature) -> nn.Module:
        """The squared error of the adapted feature."""
        return Hint(own.channels, other.channels)


class Hint(nn.Module):
    """How far an adapted feature is from a hint: the mean squared error, as a share of the hint's mean square.

    So the weight of the loss means the same for any layer; Romero et al. (2015), equation 3, sum the squares.
    """

    def __init__(self, channels: int, others: int) -> None:
        super().__init__()
        self.adapter = Adapter(channels, others)
        # At zero it pulls on no layer before it has learned what the layer tells.
        nn.init.zeros_(self.adapter.map.weight)

    def forward(self, own: Tensor, hint: Tensor) -> Tensor:
        """(N, channels, ...) and (N, others, ...) -> one number."""
        own, hint = met(own, hint)
        missed: Tensor = self.adapter(own) - hint
        return missed.square().mean() / hint.square().mean().clamp_min(torch.finfo(hint.dtype).tiny)
