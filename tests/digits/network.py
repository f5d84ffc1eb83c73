"""The network of the digits task, in a file of its own so that the task file has a sibling to import."""

import torch
from torch import nn


class DigitsNet(nn.Module):
    """64 pixels, two hidden layers of 32, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 32)
        self.second = nn.Linear(32, 32)
        self.last = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x.flatten(1)))
        return self.last(torch.relu(self.second(x)))
