"""The lightweight networks by name: torchvision's at any width, and those that it does not have."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ._blocks import repeated, scaled
from ._mobilenet_v1 import MobileNetV1
from ._shufflenet_v1 import ShuffleNetV1
from ._squeezenext import SqueezeNext

Reductions = list[list[nn.Module]]


@dataclass(frozen=True)
class Form:
    """What a network is made for: channels of its images, outputs, and multiples of its widths and depths."""

    channels: int
    outputs: int
    width: float
    depth: float = 1.0


def squeezenet(form: Form) -> nn.Module:
    """SqueezeNet 1.1 (Iandola et al., 2016), without the rectifier behind its last convolution.

    That one would hold outputs at zero or above, where regressions and logits need both signs.
    """
    from torchvision.models.squeezenet import Fire, SqueezeNet

    network: Any = SqueezeNet("1_1", form.outputs, dropout=0.0)
    width = functools.partial(scaled, width=form.width)
    before = width(64)
    network.features[0] = nn.Conv2d(form.channels, before, 3, 2, 1)
    for place, layer in enumerate(network.features):
        if isinstance(layer, Fire):
            expand = width(layer.expand1x1.out_channels)
            network.features[place] = Fire(before, width(layer.squeeze.out_channels), expand, expand)
            before = 2 * expand
        elif isinstance(layer, nn.MaxPool2d):
            network.features[place] = nn.MaxPool2d(3, 2, 1)
    network.classifier = nn.Sequential(nn.Conv2d(before, form.outputs, 1), nn.AdaptiveAvgPool2d(1))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    found: nn.Module = network
    return found


def mobilenet_v2(form: Form) -> nn.Module:
    """MobileNetV2 (Sandler et al., 2018), whose last convolution is as narrow as all others where width is below 1."""
    from torchvision.models import MobileNetV2
    from torchvision.ops import Conv2dNormActivation

    network = MobileNetV2(form.outputs, form.width, dropout=0.0)
    last = network.features[-1]
    before, after = last[0].in_channels, scaled(1280, form.width)
    if after != last[0].out_channels:
        network.features[-1] = Conv2dNormActivation(before, after, 1, activation_layer=nn.ReLU6)
        network.classifier[1] = nn.Linear(after, form.outputs)
        nn.init.kaiming_normal_(network.features[-1][0].weight, mode="fan_out")
    return _with_channels(network, form.channels)


def mobilenet_v3(form: Form) -> nn.Module:
    """MobileNetV3, the small one (Howard et al., 2019)."""
    from torchvision.models import mobilenet_v3_small

    made = mobilenet_v3_small(weights=None, width_mult=form.width, num_classes=form.outputs, dropout=0.0)
    return _with_channels(made, form.channels)


def shufflenet_v2(form: Form) -> nn.Module:
    """ShuffleNetV2 (Ma et al., 2018), whose stem and last convolution follow the width as well."""
    from torchvision.models import ShuffleNetV2

    # Half of a stage's channels pass each of its units, so that they are even.
    widths = [scaled(channels, form.width, 4) for channels in (24, 116, 232, 464, 1024)]
    return _with_channels(ShuffleNetV2([4, 8, 4], widths, form.outputs), form.channels)


def efficientnet(form: Form) -> nn.Module:
    """EfficientNet-B0 (Tan and Le, 2019, Table 1)."""
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    rows = ((1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 2), (6, 3, 2, 40, 80, 3),
            (6, 5, 1, 80, 112, 3), (6, 5, 2, 112, 192, 4), (6, 3, 1, 192, 320, 1))  # fmt: skip
    stages = [MBConvConfig(*row, width_mult=form.width, depth_mult=form.depth) for row in rows]
    return _with_channels(EfficientNet(stages, 0.0, 0.0, form.outputs), form.channels)


def efficientnet_v2(form: Form) -> nn.Module:
    """EfficientNetV2-S (Tan and Le, 2021, Table 4)."""
    from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig

    fused = ((1, 3, 1, 24, 24, 2), (4, 3, 2, 24, 48, 4), (4, 3, 2, 48, 64, 4))
    plain = ((4, 3, 2, 64, 128, 6), (6, 3, 1, 128, 160, 9), (6, 3, 2, 160, 256, 15))
    stages = [
        kind(expand, kernel, stride, scaled(ins, form.width), scaled(outs, form.width), repeated(layers, form.depth))
        for kind, rows in ((FusedMBConvConfig, fused), (MBConvConfig, plain))
        for expand, kernel, stride, ins, outs, layers in rows
    ]
    norm = functools.partial(nn.BatchNorm2d, eps=1e-3)
    network = EfficientNet(stages, 0.0, 0.0, form.outputs, norm, scaled(1280, form.width))
    return _with_channels(network, form.channels)


NETWORKS: Mapping[str, Callable[[Form], nn.Module]] = {
    "squeezenet": squeezenet,
    "squeezenext": lambda form: SqueezeNext(form.channels, form.outputs, form.width, form.depth),
    "mobilenet_v1": lambda form: MobileNetV1(form.channels, form.outputs, form.width),
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3": mobilenet_v3,
    "shufflenet_v1": lambda form: ShuffleNetV1(form.channels, form.outputs, form.width),
    "shufflenet_v2": shufflenet_v2,
    "efficientnet": efficientnet,
    "efficientnet_v2": efficientnet_v2,
}
DEEP = ("squeezenext", "efficientnet", "efficientnet_v2")  # whose depth is a setting of its own


def _with_channels(network: Any, channels: int) -> nn.Module:
    """A network of torchvision's for images of other than three channels."""
    parent, name = next(
        (parent, name)
        for parent in network.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.Conv2d)
    )
    first: Any = getattr(parent, name)
    if channels != first.in_channels:
        made = nn.Conv2d(channels, first.out_channels, first.kernel_size, first.stride, first.padding, bias=False)
        nn.init.kaiming_normal_(made.weight, mode="fan_out")
        setattr(parent, name, made)
    found: nn.Module = network
    return found


def reductions_of(network: nn.Module) -> Reductions:
    """The layers that halve height and width, in their order, those side by side together."""
    from torchvision.models import ShuffleNetV2

    if isinstance(network, ShuffleNetV2):
        firsts = [stage[0] for stage in (network.stage2, network.stage3, network.stage4)]
        pairs = [[unit.branch1[0], unit.branch2[3]] for unit in firsts]
        return [[network.conv1[0]], [network.maxpool], *pairs]
    if isinstance(network, ShuffleNetV1 | SqueezeNext):
        return network.reductions
    return [[layer] for layer in network.modules() if _stride(layer) == 2]


def _stride(layer: nn.Module) -> int:
    if not isinstance(layer, nn.Conv2d | nn.MaxPool2d):
        return 1
    return layer.stride if isinstance(layer.stride, int) else layer.stride[0]
