"""scikit-learn's 1,797 handwritten digits of 8x8 pixels: 1,000 to train on, 400 to choose by, 397 to confirm on."""

import torch
from network import DigitsNet
from sklearn.datasets import load_digits
from torch import nn

from autocompress import Classification, Training


def digits(network: type[nn.Module] = DigitsNet) -> Classification:
    """Plain slices, so that any process can cut the same splits without this file."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    targets = torch.tensor(labels)
    parts = (slice(0, 1000), slice(1000, 1400), slice(1400, 1797))
    train, validation, test = ((images[part], targets[part]) for part in parts)
    return Classification(network, train, validation, test, Training(epochs=3, learning_rate=5e-3, batch_size=32))
