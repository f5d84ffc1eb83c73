"""Small networks for tasks that name none of their own, and the scaling that stands around any."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

HIDDEN = (128, 64)
WIDTHS, STATE = (32, 48, 64), 64
UNET_WIDTHS = (16, 32, 64, 128)
SOUND_WIDTHS = (32, 48, 64, 96)
WIDEST = 16  # of an embedding
FACTORS = 16


class TabularMLP(nn.Module):
    """Two hidden layers on numbers (N, n) and embedded categories (N, c); outputs (N, outputs).

    Either may be missing, where there is no such column. Widths of embeddings are half of the number of categories, up
    to 16, as Guo and Berkhahn (2016, section 5) keep them small.
    """

    def __init__(self, numbers: int, categories: Sequence[int], outputs: int) -> None:
        super().__init__()
        widths = [min(WIDEST, (size + 1) // 2) for size in categories]
        self.embeddings = nn.ModuleList(
            nn.Embedding(size, width) for size, width in zip(categories, widths, strict=True)
        )
        self.first = nn.Linear(numbers + sum(widths), HIDDEN[0])
        self.second = nn.Linear(*HIDDEN)
        self.last = nn.Linear(HIDDEN[1], outputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        """numbers, codes, or both in this order."""
        parts = [tensor for tensor in inputs if tensor.is_floating_point()]
        codes = [tensor for tensor in inputs if not tensor.is_floating_point()]
        parts += [layer(codes[0][:, index]) for index, layer in enumerate(self.embeddings)]
        hidden = torch.relu(self.first(torch.cat(parts, dim=1)))
        result: Tensor = self.last(torch.relu(self.second(hidden)))
        return result


class SeriesCNN(nn.Module):
    """Three convolutions with strides of two, and the mean over what is left; for series (N, channels, length)."""

    def __init__(self, channels: int, length: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in WIDTHS:
            layers += [nn.Conv1d(channels, width, 5, stride=2, padding=2), nn.BatchNorm1d(width), nn.ReLU()]
            channels = width
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(channels, outputs)

    def forward(self, series: Tensor) -> Tensor:
        """One row of outputs a series."""
        result: Tensor = self.last(self.layers(series).mean(dim=2))
        return result


class SeriesGRU(nn.Module):
    """A gated recurrent unit over time and a layer on its last state; series (N, channels, length)."""

    def __init__(self, channels: int, length: int, outputs: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(channels, STATE, batch_first=True)
        self.last = nn.Linear(STATE, outputs)

    def forward(self, series: Tensor) -> Tensor:
        """One row of outputs a series."""
        states, _ = self.recurrent(series.transpose(1, 2))
        result: Tensor = self.last(states[:, -1])
        return result


class NeuralMF(nn.Module):
    """Neural matrix factorization (He et al., 2017): scores (N,) of items (N,) for users (N,), both as codes.

    The product of two embeddings stands beside a layer on two others, and one layer joins both.
    """

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.user_factors, self.item_factors = _table(users), _table(items)
        self.user_features, self.item_features = _table(users), _table(items)
        self.first = nn.Linear(2 * FACTORS, FACTORS)
        self.last = nn.Linear(2 * FACTORS, 1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """One score a row."""
        product = self.user_factors(users) * self.item_factors(items)
        joined = torch.cat([self.user_features(users), self.item_features(items)], dim=1)
        result: Tensor = self.last(torch.cat([product, torch.relu(self.first(joined))], dim=1))
        return result[:, 0]


def _table(size: int) -> nn.Embedding:
    """Embeddings near zero, so that their products begin as nothing."""
    table = nn.Embedding(size, FACTORS)
    nn.init.normal_(table.weight, std=0.1)
    return table


class PolicyMLP(nn.Module):
    """Two hidden layers on observations (N, observations); one logit an action (N, actions)."""

    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        self.first = nn.Linear(observations, STATE)
        self.second = nn.Linear(STATE, STATE)
        self.last = nn.Linear(STATE, actions)

    def forward(self, observations: Tensor) -> Tensor:
        """One row of logits an observation."""
        result: Tensor = self.last(torch.relu(self.second(torch.relu(self.first(observations)))))
        return result


def spread(values: Tensor, over: tuple[int, ...] = (0,)) -> dict[str, Tensor]:
    """Mean and deviation over some axes, as Scaled takes them; what does not vary has a deviation of 1."""
    std = values.std(dim=over, correction=0, keepdim=True)[0]
    return {"mean": values.mean(dim=over, keepdim=True)[0], "std": torch.where(std > 0, std, torch.ones(()))}


class Scaled(nn.Module):
    """A network between numbers as they come and as networks learn them: inputs minus mean over std, outputs back.

    mean and std: of each column (n,), channel (c, 1) or band (1, b, 1) of the first input, where that holds numbers;
    shift and scale: of the output.
    """

    mean: Tensor
    factor: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        shift: float | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.given, self.moved = mean is not None, shift is not None
        if mean is not None and std is not None:
            self.register_buffer("mean", mean.clone())
            self.register_buffer("factor", 1 / std)
        if shift is not None:
            self.register_buffer("shift", torch.tensor(shift))
            self.register_buffer("scale", torch.tensor(scale))

    def forward(self, *inputs: Tensor) -> Tensor:
        """The network's output, in the units of the targets."""
        if self.given:
            inputs = ((inputs[0] - self.mean) * self.factor, *inputs[1:])
        output: Tensor = self.network(*inputs)
        return output * self.scale + self.shift if self.moved else output


class UNet(nn.Module):
    """A small U-Net (Ronneberger et al., 2015) with batch normalization; images (N, channels, H, W).

    Each of three levels halves height and width, so both are multiples of 8; outputs are logits (N, classes, H, W).
    """

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        *outer, inner = UNET_WIDTHS
        self.down = nn.ModuleList(
            _twice_convolved(before, width) for before, width in zip((channels, *outer[:-1]), outer, strict=True)
        )
        self.deepest = _twice_convolved(outer[-1], inner)
        self.widened = nn.ModuleList(
            nn.ConvTranspose2d(below, width, 2, stride=2)
            for below, width in zip((inner, *outer[:0:-1]), outer[::-1], strict=True)
        )
        self.up = nn.ModuleList(_twice_convolved(2 * width, width) for width in outer[::-1])
        self.last = nn.Conv2d(outer[0], classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of every pixel."""
        hidden, passed = images, []
        for layers in self.down:
            passed.append(layers(hidden))
            hidden = nn.functional.max_pool2d(passed[-1], 2)
        hidden = self.deepest(hidden)
        for widened, layers in zip(self.widened, self.up, strict=True):
            hidden = layers(torch.cat([passed.pop(), widened(hidden)], dim=1))
        result: Tensor = self.last(hidden)
        return result


def _twice_convolved(channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (channels, width):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


class SoundCNN(nn.Module):
    """Four convolutions with strides of two, and the mean over what is left; spectrograms (N, 1, bands, frames)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for width in SOUND_WIDTHS:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(before, classes)

    def forward(self, sounds: Tensor) -> Tensor:
        """One row of logits a sound."""
        result: Tensor = self.last(self.layers(sounds).mean(dim=(2, 3)))
        return result


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Half of the height and width where the stride is two."""
        inner: Tensor = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.shortcut(x))


class CifarResNet(nn.Module):
    """The CIFAR form of ResNet with 6n + 2 layers (He et al., 2016, section 4.2); images (N, channels, H, W)."""

    def __init__(self, depth: int = 20, channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        count = (depth - 2) // 6
        self.conv = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        widths = [16] * count + [32] * count + [64] * count
        pairs = zip([16, *widths[:-1]], widths, strict=True)
        self.blocks = nn.Sequential(*(ResidualBlock(a, b, 2 if a < b else 1) for a, b in pairs))
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """One row of logits an image."""
        result: Tensor = self.fc(self.blocks(torch.relu(self.bn(self.conv(x)))).mean((2, 3)))
        return result


def resnet20(num_classes: int = 10) -> nn.Module:
    """ResNet-20, as `model: autocompress.tasks.networks:resnet20` names it."""
    return CifarResNet(20, num_classes=num_classes)


def resnet56(num_classes: int = 10) -> nn.Module:
    """ResNet-56, as `model: autocompress.tasks.networks:resnet56` names it."""
    return CifarResNet(56, num_classes=num_classes)
