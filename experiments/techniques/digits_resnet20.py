"""ResNet-20 of the CIFAR form on the 8x8 digits that scikit-learn ships."""

import torch
from networks import CifarResNet
from sklearn.datasets import load_digits

from autocompress import Classification, Training
from autocompress.data import stratified_split


def digits_resnet20() -> Classification:
    """1,078 images to train on, 359 to choose by and 360 to confirm on, stratified."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    targets = torch.tensor(labels)
    parts = stratified_split(labels, (0.6, 0.2, 0.2), seed=0)
    train, validation, test = ((images[part], targets[part]) for part in parts)
    model = lambda: CifarResNet(20, channels=1)  # noqa: E731
    return Classification(model, train, validation, test, Training(epochs=20, learning_rate=5e-3))
