"""ShuffleNetV1 with pointwise convolutions in three groups (Zhang et al., 2018)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from ._blocks import conv, scaled

GROUPS, STEM = 3, 24
STAGES = ((240, 4), (480, 8), (960, 4))  # channels and units (Table 1, g = 3)
NARROWED = 4  # by what a unit's inner channels are fewer than its outputs


class Unit(nn.Module):
    """A grouped pointwise convolution, a shuffle, a depthwise and another grouped pointwise one (Figure 2).

    With a stride of two, averages of the inputs stand beside what they compute, else it is added to the inputs.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        inner = outputs // NARROWED
        self.narrow = conv(inputs, inner, 1, groups=groups)
        self.depthwise = conv(inner, inner, 3, stride, groups=inner, active=False)
        self.widen = conv(inner, outputs - inputs if stride > 1 else outputs, 1, groups=GROUPS, active=False)
        self.beside = nn.AvgPool2d(3, stride, 1) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Half of the height and width where the stride is two."""
        inner = self.narrow(x).unflatten(1, (GROUPS, -1)).transpose(1, 2).flatten(1, 2)
        found = self.widen(self.depthwise(inner))
        return relu(x + found if self.beside is None else torch.cat([self.beside(x), found], 1))


class ShuffleNetV1(nn.Module):
    """Three stages of units on images (N, channels, height, width)."""

    def __init__(self, channels: int, outputs: int, width: float) -> None:
        super().__init__()
        before = scaled(STEM, width, GROUPS)
        self.stem = conv(channels, before, 3, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        units: list[Unit] = []
        for after, count in ((scaled(after, width, NARROWED * GROUPS), count) for after, count in STAGES):
            # The very first pointwise convolution has too few inputs to be grouped (section 3.3).
            units.append(Unit(before, after, 2, GROUPS if units else 1))
            units += [Unit(after, after, 1, GROUPS) for _ in range(count - 1)]
            before = after
        self.units = nn.Sequential(*units)
        self.classifier = nn.Linear(before, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """One row of outputs an image."""
        outputs: Tensor = self.classifier(self.units(self.pool(self.stem(x))).mean((2, 3)))
        return outputs

    @property
    def reductions(self) -> list[list[nn.Module]]:
        """The layers that halve height and width, those side by side together."""
        pairs = [[u.depthwise[0], u.beside] for u in self.units if isinstance(u, Unit) and u.beside is not None]
        return [[self.stem[0]], [self.pool], *pairs]
