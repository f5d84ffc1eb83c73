"""scikit-learn's 1,797 handwritten digits of 8x8 pixels: 1,000 to train on, 400 to choose by, 397 to confirm on."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from network import DigitsNet
from torch import nn

from autocompress import Classification, Training


def digits_file() -> Path:
    """scikit-learn's file, found without importing it, which takes longer than a trial of these takes."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


def digits(network: type[nn.Module] = DigitsNet) -> Classification:
    """Plain slices, so that any process can cut the same splits without this file."""
    table = torch.tensor(np.loadtxt(digits_file(), delimiter=",", dtype=np.float32))
    images, targets = table[:, :-1].view(-1, 1, 8, 8) / 16, table[:, -1].long()
    parts = (slice(0, 1000), slice(1000, 1400), slice(1400, 1797))
    train, validation, test = ((images[part], targets[part]) for part in parts)
    return Classification(network, train, validation, test, Training(epochs=3, learning_rate=5e-3, batch_size=32))
