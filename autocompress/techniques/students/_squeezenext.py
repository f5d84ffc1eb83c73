"""SqueezeNext with 23 layers, or more and fewer (Gholami et al., 2018)."""

from torch import Tensor, nn
from torch.nn.functional import relu

from ._blocks import conv, repeated, scaled

STEM, LAST = 64, 128
STAGES = ((32, 6, 1), (64, 6, 2), (128, 8, 2), (256, 1, 2))  # channels, blocks and the first one's stride


class Block(nn.Module):
    """Two pointwise convolutions that narrow, a 3x3 one in two parts, and one that widens, beside a shortcut (3.1).

    The first narrows by half, or by four where there are fewer outputs than inputs; not where it has a stride.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = inputs if stride > 1 else inputs // (4 if inputs > outputs else 2)
        self.layers = nn.Sequential(
            conv(inputs, inner, 1, stride, bias=True),
            conv(inner, inner // 2, 1, bias=True),
            conv(inner // 2, inner, (1, 3), bias=True),
            conv(inner, inner, (3, 1), bias=True),
            conv(inner, outputs, 1, bias=True),
        )
        changes = stride > 1 or inputs != outputs
        self.shortcut = conv(inputs, outputs, 1, stride, bias=True) if changes else nn.Sequential()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Half of the height and width where the stride is two."""
        return relu(self.layers(x) + self.shortcut(x))

    @property
    def halving(self) -> list[nn.Module]:
        """The layers that halve height and width, side by side."""
        first: nn.Module = self.layers.get_submodule("0.0")
        return [first, self.shortcut[0]] if self.stride > 1 else []


class SqueezeNext(nn.Module):
    """Four stages of blocks on images (N, channels, height, width)."""

    def __init__(self, channels: int, outputs: int, width: float, depth: float = 1.0) -> None:
        super().__init__()
        before = scaled(STEM, width)
        self.stem = conv(channels, before, 7, 2, bias=True)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential()
        for after, count, stride in STAGES:
            after, first = scaled(after, width), stride
            for _ in range(repeated(count, depth)):
                self.blocks.append(Block(before, after, first))
                before, first = after, 1
        self.last = conv(before, scaled(LAST, width), 1, bias=True)
        self.classifier = nn.Linear(scaled(LAST, width), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """One row of outputs an image."""
        outputs: Tensor = self.classifier(self.last(self.blocks(self.pool(self.stem(x)))).mean((2, 3)))
        return outputs

    @property
    def reductions(self) -> list[list[nn.Module]]:
        """The layers that halve height and width, those side by side together."""
        pairs = [block.halving for block in self.blocks if isinstance(block, Block) and block.halving]
        return [[self.stem[0]], [self.pool], *pairs]
