"""Two tasks on scikit-learn's 8x8 digits: a small MLP, and a small convolutional network on digits with noise."""

import itertools
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

from autocompress import Classification, Training

NOISE = 0.2  # the standard deviation of what is added to pixels in 0..1
PARTS = (slice(0, 1000), slice(1000, 1400), slice(1400, 1797))


def network(kind: str) -> nn.Sequential:
    """64-256-128-10 neurons, or three convolutions and a linear layer."""
    if kind == "mlp":
        layers = [nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)]
        return nn.Sequential(*layers)
    widths, parts = (1, 16, 32, 48), list[nn.Module]()
    for index, (given, made) in enumerate(itertools.pairwise(widths)):
        parts += [nn.Conv2d(given, made, 3, padding=1), nn.ReLU(), *([nn.MaxPool2d(2)] if index else [])]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(192, 10))


def digits(kind: str, noise: float) -> Classification:
    """1,000 digits to train on, 400 to choose by and 397 to test on, in an order of seed 0."""
    generator = torch.Generator().manual_seed(0)
    found: Any = load_digits()
    order = torch.randperm(len(found.target), generator=generator)
    images = torch.tensor(found.images, dtype=torch.float32)[order].unsqueeze(1) / 16
    images = images + noise * torch.randn(images.shape, generator=generator)
    targets = torch.tensor(found.target)[order].long()
    train, validation, test = ((images[part], targets[part]) for part in PARTS)
    settings = Training(epochs=20, learning_rate=4e-3, batch_size=64)
    return Classification(lambda: network(kind), train, validation, test, settings)


def mlp() -> Classification:
    """The MLP on the digits as they are."""
    return digits("mlp", 0.0)


def cnn() -> Classification:
    """The convolutional network on digits with noise."""
    return digits("cnn", NOISE)
