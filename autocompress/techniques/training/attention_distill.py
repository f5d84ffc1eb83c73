"""Distillation of where a network looks."""

import math
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from ...errors import NothingToDo
from ...recipe import Range
from ..base import Context
from ..features import Feature, Read
from ._guided import Features, Guided, Pairs, inside, met


def energy(feature: Tensor) -> Tensor:
    """The sum of squares over channels at each position: (N, channels, ...) -> (N, 1, ...)."""
    return feature.square().sum(1, keepdim=True)


class AttentionDistill(Guided):
    """Train feature maps to have their energy where the teacher's have it (Zagoruyko and Komodakis, 2017).

    A map's attention is its sum of squares over channels, divided by its length. Looked at is the last map of each
    size that the network has; each of the student's learns from the teacher's that is nearest in size, and unlike
    sizes are averaged to the smaller one. Logits are distilled beside it.
    """

    technique: ClassVar[str] = "attention_distill"
    needs: ClassVar[str] = "a feature map, as convolutions make them"
    read: ClassVar[Read] = energy

    beta: Annotated[float, Range(1, 100, log=True)] = Field(10.0, ge=0, le=10_000)

    def pairs(self, student: nn.Module, context: Context) -> tuple[Pairs, Features, Features]:
        """The last map of each size of the student's, with the teacher's nearest in size."""
        own, others = inside(self, student, context)
        at, there = depths(own), depths(others)
        if not at or not there:
            raise NothingToDo(
                "attention_distill finds no convolution that makes a feature map of several positions: use distill"
            )

        def apart(name: str, other: str) -> float:
            """How unlike two maps are in size."""
            return abs(math.log(math.prod(own[name].positions) / math.prod(others[other].positions)))

        return {name: min(there, key=lambda other: apart(name, other)) for name in at}, own, others

    def distance(self, own: Feature, other: Feature) -> nn.Module:
        """The squared distance of the two attention maps."""
        return Attention()


def depths(layers: Features) -> list[str]:
    """The last layer at each size of feature map, in the order of the layers; maps of one position say nothing."""
    last: dict[tuple[int, ...], str] = {}
    for name, feature in layers.items():
        if not feature.last and math.prod(feature.positions) > 1:
            last[feature.positions] = name
    return [name for name in layers if name in last.values()]


class Attention(nn.Module):
    """The squared distance of two attention maps of unit length, averaged over examples: from 0 to 2."""

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """(N, 1, ...) and (N, 1, ...), sums of squares -> one number."""
        own, other = met(own, other)
        return (normalize(own.flatten(1)) - normalize(other.flatten(1))).square().sum(1).mean()
