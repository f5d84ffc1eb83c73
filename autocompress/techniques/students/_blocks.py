"""What networks that are written here are made of: scaled numbers of channels, and a convolution with its norm."""

from torch import nn

DIVISOR = 8


def scaled(channels: int, width: float, divisor: int = DIVISOR) -> int:
    """That many channels times a width, as a multiple of the divisor (Sandler et al., 2018: MobileNetV2's rounding).

    At least one multiple, and never more than a tenth below the product.
    """
    wanted = channels * width
    found = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    return found + divisor if found < 0.9 * wanted else found


def repeated(layers: int, depth: float) -> int:
    """That many layers times a depth, at least one."""
    return max(1, round(layers * depth))


def conv(
    inputs: int,
    outputs: int,
    size: int | tuple[int, int],
    stride: int = 1,
    groups: int = 1,
    active: bool = True,
    bias: bool = False,
) -> nn.Sequential:
    """A convolution that a stride alone makes smaller, its normalization, and a rectifier where it is active."""
    sides = (size, size) if isinstance(size, int) else size
    padding = (sides[0] // 2, sides[1] // 2)
    layer = nn.Conv2d(inputs, outputs, sides, stride, padding, groups=groups, bias=bias)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), *([nn.ReLU(inplace=True)] if active else []))
