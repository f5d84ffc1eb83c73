"""A network of one layer over random pixels, whose own answers are the labels: nothing of it is trained here."""

import torch
from torch import nn

from autocompress import Classification


def network() -> nn.Module:
    """64 pixels, 4 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def split(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Examples and their labels."""
    pixels = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return pixels, network()(pixels).argmax(1)


def one_layer() -> Classification:
    """The task."""
    return Classification(network, train=split(0), validation=split(1), test=split(2))
