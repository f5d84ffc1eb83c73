"""scikit-learn's 1,797 handwritten digits of 8x8 pixels: 1,000 to train on, 400 to choose by, 397 to confirm on."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from autocompress import Classification, Training


def network() -> nn.Module:
    """64 pixels, two hidden layers of 128, ten classes."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def digits() -> Classification:
    """The task, with a baseline that is trained first."""
    pixels, labels = load_digits(return_X_y=True)
    images, targets = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels)
    parts = (slice(0, 1000), slice(1000, 1400), slice(1400, 1797))
    train, validation, test = ((images[part], targets[part]) for part in parts)
    return Classification(network, train, validation, test, Training(epochs=10, learning_rate=5e-3, batch_size=32))
