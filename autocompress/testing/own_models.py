"""Models as people have them, each with its data; some become plain modules by `build_model` alone."""

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d
from torch.nn.utils import prune

from .models import MODELS, Recurrent
from .splits import CLASSES, WORDS, mappings, pairs, sentences, series


class Attending(nn.Module):
    """Attention whose keys and values have widths of their own, with a normalization around it."""

    sees: ClassVar = series

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(6, 16), nn.Linear(6, 12), nn.Linear(6, 20)
        self.attention = nn.MultiheadAttention(16, 2, kdim=12, vdim=20, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x)
        x = self.norm(query + self.attention(query, self.key(x), self.value(x), need_weights=False)[0])
        output: Tensor = self.head(x.mean(1))
        return output


class Gated(Recurrent):
    """The same with gated units."""

    kind = nn.GRU


class Shuffled(nn.Module):
    """Channels that become pixels between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 16, 3, padding=1)
        self.grow = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.PixelShuffle(2), nn.ReLU())
        self.leave = nn.Conv2d(8, 12, 3, stride=2)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(torch.relu(self.leave(self.grow(torch.relu(self.enter(x))))).mean((2, 3)))
        return output


class Tied(nn.Module):
    """One matrix that is the table of the words and part of the head; a parameter with a common name."""

    sees: ClassVar = sentences

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 24)
        self.inner = nn.Linear(24, 24)
        self.again = nn.Linear(24, WORDS, bias=False)
        self.again.weight = self.embedding.weight
        self.output = nn.Parameter(torch.randn(WORDS, CLASSES) * 0.2)

    def forward(self, words: Tensor, padding: Tensor) -> Tensor:
        x = self.embedding(words).masked_fill(padding[..., None], 0.0).mean(1)
        output: Tensor = self.again(torch.relu(self.inner(x))) @ self.output
        return output


def weight_norm_of_old(layer: nn.Module) -> nn.Module:
    """A layer with torch's older weight normalization, which warns that there is a newer one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


class Normalized(nn.Module):
    """Weights that are computed from others: normalized as of old and by a parametrization, and pruned by torch."""

    def __init__(self) -> None:
        super().__init__()
        self.old = weight_norm_of_old(nn.Conv2d(3, 16, 3))
        self.new = nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 24, 3))
        self.pruned: Any = prune.random_unstructured(nn.Linear(24 * 4, 32), "weight", 0.3)  # type: ignore[no-untyped-call]
        self.head = nn.utils.parametrizations.spectral_norm(nn.Linear(32, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool2d(torch.relu(self.old(x)), 2)
        x = adaptive_avg_pool2d(torch.relu(self.new(x)), 2).flatten(1)
        output: Tensor = self.head(torch.relu(self.pruned(x)))
        return output


class TwoInputs(nn.Module):
    """An image and numbers that belong to it."""

    sees: ClassVar = pairs

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3)
        self.numbers = nn.Linear(6, 12)
        self.head = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, CLASSES))

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        x = torch.cat([torch.relu(self.conv(image)).mean((2, 3)), torch.relu(self.numbers(numbers))], 1)
        output: Tensor = self.head(x)
        return output


class Mapped(TwoInputs):
    """The same from examples that are mappings."""

    sees: ClassVar = mappings


class InPlace(nn.Module):
    """A first operation that changes what the model is given; 64-bit floats, all frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 32), nn.ReLU(), nn.Linear(32, CLASSES))
        self.double().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x.sub_(0.1).div_(1.1))
        return output


class Lazy(nn.Module):
    """Layers that learn their inputs' widths when they are first called."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyConv2d(12, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(24), nn.ReLU())
        self.head = nn.LazyLinear(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.layers(x))
        return output


OWN: dict[str, Callable[[], nn.Module]] = {
    **{name: MODELS[name] for name in ("sentences", "recurrent", "signals", "unet")},
    "attending": Attending,
    "gated": Gated,
    "shuffled": Shuffled,
    "tied": Tied,
    "normalized": Normalized,
    "two_inputs": TwoInputs,
    "mapped": Mapped,
    "in_place": InPlace,
    "lazy": Lazy,
}
