"""The small tasks that recipes are tried on: images, text, series and a table, of what scikit-learn ships or a seed."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor, nn

from autocompress import Classification, Training
from autocompress.data import stratified_split

SHARES = (0.5, 0.4, 0.1)  # much to choose by, so that half a point of accuracy is more than one example
CANVAS, NOISE = 10, 0.1  # the side of the images that digits are scattered over, and what lies around them
CLASSES, WORDS, LENGTH, TEXTS = 8, 40, 16, 2400  # of the text
SHARPNESS = 0.9  # how far the pairs of words of a class differ from those of all


class Convolutional(nn.Module):
    """Two convolutions and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, 1, 1), nn.Conv2d(32, 64, 3, 1, 1)
        self.fc1, self.fc2 = nn.Linear(256, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


def normed(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution with batch normalization."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = normed(inputs, outputs, 3, stride), normed(outputs, outputs, 3)
        self.shortcut = normed(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class Inverted(nn.Module):
    """A wide depthwise convolution between two 1x1 convolutions (Sandler et al., 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 3 * inputs
        self.expand, self.depthwise = normed(inputs, wide, 1), normed(wide, wide, 3, stride, wide)
        self.project, self.adds = normed(wide, outputs, 1), inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(torch.relu(self.depthwise(torch.relu(self.expand(x)))))
        return x + y if self.adds else y


class Staged(nn.Module):
    """A first convolution, blocks, the mean over places, and a linear layer."""

    def __init__(self, first: int, blocks: list[nn.Module], last: int) -> None:
        super().__init__()
        self.first, self.blocks, self.fc = normed(1, first, 3), nn.Sequential(*blocks), nn.Linear(last, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(torch.relu(self.first(x))).mean((2, 3)))


class Reader(nn.Module):
    """Embedded words through an LSTM, its last state classified."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 48)
        self.recurrent, self.head = nn.LSTM(48, 64, batch_first=True), nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embed(x))
        return self.head(states.mean(1))


class Encoder(nn.Module):
    """Two transformer encoder layers over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Linear(8, 48), nn.Parameter(torch.randn(8, 48) / 7)
        layer = nn.TransformerEncoderLayer(48, 4, 128, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x) + self.places).mean(1))


def linear(*widths: int) -> nn.Sequential:
    """Linear layers with rectifiers between them."""
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def resnet() -> nn.Module:
    """ResNet-8 of the CIFAR form, half as wide again."""
    return Staged(24, [Block(24, 24, 1), Block(24, 48, 2), Block(48, 96, 2)], 96)


def mobilenet() -> nn.Module:
    """Three inverted residuals."""
    return Staged(16, [Inverted(16, 32, 2), Inverted(32, 32, 1), Inverted(32, 64, 2)], 64)


def split(
    model: Callable[[], nn.Module], inputs: Tensor, labels: Any, epochs: int, rate: float = 5e-3
) -> Classification:
    """A task of these examples, stratified."""
    targets = torch.as_tensor(np.asarray(labels), dtype=torch.int64)
    parts = stratified_split(targets.numpy(), SHARES, seed=0)
    train, validation, test = ((inputs[part], targets[part]) for part in parts)
    return Classification(model, train, validation, test, Training(epochs=epochs, learning_rate=rate))


def digits() -> tuple[Tensor, Tensor]:
    """1,797 images of 8x8 pixels in 0 to 1, and their digits."""
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)


def scattered() -> tuple[Tensor, Tensor]:
    """The digits, each somewhere on a larger image and under noise."""
    images, labels = digits()
    generator = torch.Generator().manual_seed(0)
    canvas = NOISE * torch.randn((len(images), 1, CANVAS, CANVAS), generator=generator)
    places = torch.randint(0, CANVAS - 7, (len(images), 2), generator=generator).tolist()
    for image, (row, column), digit in zip(canvas, places, images, strict=True):
        image[:, row : row + 8, column : column + 8] += digit
    return canvas, labels


def text() -> tuple[Tensor, Tensor]:
    """Texts of 16 words, each class with its own habits of which word follows which."""
    generator = np.random.default_rng(0)
    habits = generator.dirichlet(np.full(WORDS, 0.05), size=(CLASSES, WORDS))
    shared = generator.dirichlet(np.full(WORDS, 0.05), size=WORDS)
    follows = (SHARPNESS * habits + (1 - SHARPNESS) * shared).cumsum(2)
    labels = np.arange(TEXTS) % CLASSES
    words = generator.integers(0, WORDS, (TEXTS, LENGTH))
    for place in range(1, LENGTH):
        chance = generator.random((TEXTS, 1))
        words[:, place] = (follows[labels, words[:, place - 1]] < chance).sum(1).clip(max=WORDS - 1)
    return torch.tensor(words), torch.tensor(labels)


def digits_linear() -> Classification:
    """Linear layers on digits."""
    images, labels = digits()
    return split(lambda: linear(64, 256, 256, 10), images.flatten(1), labels, epochs=20)


def digits_convolutional() -> Classification:
    """A convolutional network on digits."""
    return split(Convolutional, *digits(), epochs=20)


def scattered_resnet() -> Classification:
    """A residual network on scattered digits."""
    return split(resnet, *scattered(), epochs=30)


def scattered_mobilenet() -> Classification:
    """A network of depthwise convolutions on scattered digits."""
    return split(mobilenet, *scattered(), epochs=40)


def text_lstm() -> Classification:
    """A recurrent network on texts."""
    return split(Reader, *text(), epochs=20)


def rows_transformer() -> Classification:
    """A transformer on digits, row by row."""
    images, labels = digits()
    return split(Encoder, images[:, 0], labels, epochs=25, rate=3e-3)


def cancer_linear() -> Classification:
    """Linear layers on a table of 30 measures of 569 tumours."""
    table, labels = load_breast_cancer(return_X_y=True)
    table = (table - table.mean(0)) / table.std(0)
    return split(lambda: linear(30, 64, 64, 2), torch.tensor(table, dtype=torch.float32), labels, epochs=20)
