"""MobileNetV1 (Howard et al., 2017)."""

from torch import Tensor, nn

from ._blocks import conv, scaled

STEM = 32
# Channels behind each pair of a depthwise and a pointwise convolution, and the stride of the first (Table 1).
PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


class MobileNetV1(nn.Module):
    """Depthwise convolutions, each followed by a pointwise one, on images (N, channels, height, width)."""

    def __init__(self, channels: int, outputs: int, width: float) -> None:
        super().__init__()
        before = scaled(STEM, width)
        layers = [conv(channels, before, 3, 2)]
        for after, stride in ((scaled(after, width), stride) for after, stride in PAIRS):
            layers.append(nn.Sequential(conv(before, before, 3, stride, groups=before), conv(before, after, 1)))
            before = after
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(before, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """One row of outputs an image."""
        outputs: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return outputs
