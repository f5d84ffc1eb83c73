"""The networks that every technique is tried on: torchvision's, and small ones of the kinds that it does not have."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from autocompress.tasks.networks import CifarResNet

CLASSES = 10
IMAGE = (3, 64, 64)
SERIES = (24, 12)


class LeNet5(nn.Module):
    """The Caffe form of LeNet-5 with rectifiers, 431,080 parameters, or one of other widths."""

    def __init__(self, first: int = 20, second: int = 50, hidden: int = 500) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, first, 5)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.fc1 = nn.Linear(16 * second, hidden)
        self.fc2 = nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = F.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class Recurrent(nn.Module):
    """A recurrent layer over a series of 24 steps of 12 numbers, its last state classified."""

    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__()
        self.recurrent = kind(SERIES[1], 64, batch_first=True)
        self.hidden = nn.Linear(64, 64)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(x)
        return self.head(torch.relu(self.hidden(states[:, -1])))


class Encoder(nn.Module):
    """Two transformer encoder layers over the same series."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(SERIES[1], 32)
        layer = nn.TransformerEncoderLayer(32, 4, 128, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


def _torchvision(name: str, **settings: object) -> Callable[[], nn.Module]:
    return lambda: models.get_model(name, weights=None, num_classes=CLASSES, **settings)


# Each network with the shape of one of its inputs.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LeNet-5": (LeNet5, (1, 28, 28)),
    "ResNet-20": (CifarResNet, (3, 32, 32)),
    "GRU": (lambda: Recurrent(nn.GRU), SERIES),
    "LSTM": (lambda: Recurrent(nn.LSTM), SERIES),
    "Transformer": (Encoder, SERIES),
    "ResNet-56": (lambda: CifarResNet(56), (3, 32, 32)),
    "ResNet-18": (_torchvision("resnet18"), IMAGE),
    "VGG-11-BN": (_torchvision("vgg11_bn"), IMAGE),
    "DenseNet-121": (_torchvision("densenet121"), IMAGE),
    "MobileNetV2": (_torchvision("mobilenet_v2"), IMAGE),
    "MobileNetV3-small": (_torchvision("mobilenet_v3_small"), IMAGE),
    "ShuffleNetV2": (_torchvision("shufflenet_v2_x1_0"), IMAGE),
    "EfficientNet-B0": (_torchvision("efficientnet_b0"), IMAGE),
    "SqueezeNet": (_torchvision("squeezenet1_1"), IMAGE),
    "GoogLeNet": (_torchvision("googlenet", aux_logits=False, init_weights=False), IMAGE),
    "ViT-B/16": (_torchvision("vit_b_16", image_size=64), IMAGE),
}
