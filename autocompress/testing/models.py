"""Small odd models and a task that they learn in seconds: random prototypes of four classes, seen through noise."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d

from ..tasks import Classification
from ..tasks.models import plain_attention
from ..training import Training
from .splits import CLASSES, SHAPE, WORDS, images, sentences, series

__all__ = ["CLASSES", "MODELS", "SHAPE", "make_task", "seeded"]


class Plain(nn.Module):
    """Two convolutions, then two linear layers over what they leave of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3)
        self.conv2 = nn.Conv2d(16, 24, 3)
        self.fc1 = nn.Linear(24 * 4, 32)
        self.fc2 = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool2d(torch.relu(self.conv1(x)), 2)
        x = adaptive_avg_pool2d(torch.relu(self.conv2(x)), 2)
        output: Tensor = self.fc2(torch.relu(self.fc1(x.flatten(1))))
        return output


class Mlp(nn.Module):
    """Linear layers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * 12 * 12, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output


class Residual(nn.Module):
    """Two residual blocks with batch normalization, the second with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.inner1 = nn.Sequential(_conv_bn(16, 16, 3), nn.ReLU(), _conv_bn(16, 16, 3))
        self.inner2 = nn.Sequential(_conv_bn(16, 24, 3, stride=2), nn.ReLU(), _conv_bn(24, 24, 3))
        self.project = _conv_bn(16, 24, 1, stride=2)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.inner1(x))
        x = torch.relu(self.project(x) + self.inner2(x))
        output: Tensor = self.head(x.mean((2, 3)))
        return output


def _conv_bn(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Concat(nn.Module):
    """Branches of unlike width that are concatenated, once in the middle and once before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 16, 3, padding=1)
        self.right = nn.Conv2d(3, 8, 5, padding=2)
        self.mix = nn.Conv2d(24, 24, 3, padding=1)
        self.head = nn.Linear(48, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(torch.cat([self.left(x), self.right(x)], 1))
        x = torch.cat([torch.relu(self.mix(x)), x], 1)
        output: Tensor = self.head(max_pool2d(x, 4).mean((2, 3)))
        return output


class Grouped(nn.Module):
    """A depthwise and a grouped convolution between plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 32, 1)
        self.grouped = nn.Conv2d(32, 32, 3, groups=2)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.stem(x))))
        x = torch.relu(self.grouped(torch.relu(self.pointwise(x))))
        output: Tensor = self.head(x.mean((2, 3)))
        return output


class CalledTwice(nn.Module):
    """One convolution that the forward pass calls two times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.again = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16 * 4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.again(torch.relu(self.stem(x))))
        x = torch.relu(self.again(x))
        output: Tensor = self.head(adaptive_avg_pool2d(x, 2).flatten(1))
        return output


class TwoNames(nn.Module):
    """One linear layer that stands under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3 * 12 * 12, 32)
        self.first = nn.Linear(32, 32)
        self.second = self.first
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(torch.relu(self.stem(x.flatten(1)))))
        output: Tensor = self.head(torch.relu(self.second(x)))
        return output


class Sentences(nn.Module):
    """Embeddings and torch's own transformer encoder over sentences of unlike length."""

    sees: ClassVar = sentences

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, words: Tensor, padding: Tensor) -> Tensor:
        x = self.encoder(self.embedding(words), src_key_padding_mask=padding)
        output: Tensor = self.head(x.masked_fill(padding[..., None], 0.0).sum(1) / (~padding).sum(1, keepdim=True))
        return output


class Recurrent(nn.Module):
    """A long short-term memory with a small head."""

    sees: ClassVar = series
    kind: ClassVar[Callable[..., nn.RNNBase]] = nn.LSTM

    def __init__(self) -> None:
        super().__init__()
        self.memory = self.kind(6, 24, batch_first=True)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.memory(x)[0][:, -1])
        return output


class Signals(nn.Module):
    """Convolutions over time with group normalization."""

    sees: ClassVar = series

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(6, 16, 3, padding=1),
            nn.GroupNorm(4, 16),
            nn.ReLU(inplace=True),
            nn.Conv1d(16, 24, 3),
            nn.GroupNorm(4, 24),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(24, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x.transpose(1, 2))
        return output


class Unet(nn.Module):
    """Down, up by a transposed convolution, and a connection that skips both."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 12, 3, padding=1)
        self.down = nn.Conv2d(12, 16, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(16, 12, 2, stride=2)
        self.join = nn.Conv2d(24, 16, 3, padding=1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        x = torch.cat([x, torch.relu(self.up(torch.relu(self.down(x))))], 1)
        output: Tensor = self.head(torch.relu(self.join(x)).mean((2, 3)))
        return output


# What techniques are held to: every odd one of images, and four of the shapes that people's own models have.
MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "mlp": Mlp,
    "residual": Residual,
    "concat": Concat,
    "grouped": Grouped,
    "called_twice": CalledTwice,
    "two_names": TwoNames,
    "sentences": Sentences,
    "recurrent": Recurrent,
    "signals": Signals,
    "unet": Unet,
}


def make_task(
    model: Callable[[], nn.Module], examples: int = 64, baseline: Training | None = None, seed: int = 0
) -> Classification:
    """A task for one of the models, with `examples` training images and half as many in the other two splits.

    A model that sees something else than images says so by an attribute `sees`.
    """
    generator = torch.Generator().manual_seed(seed)
    data = getattr(model, "sees", images)(generator)
    return Classification(model, data(examples), data(examples // 2), data(examples // 2), baseline)


def seeded(model: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A model with the initial weights of that seed, in evaluation mode."""
    plain_attention()
    torch.manual_seed(seed)
    return model().eval()
