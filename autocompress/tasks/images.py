"""Image classification without code: a named model, a folder or an NPZ file of images, and perhaps weights."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ..errors import TaskError, suggest
from ..training import Training
from .class_weights import Weighted
from .image_data import ImageData, SplitShares, alike_classes, missing_classes
from .image_files import Form
from .image_folder import read_folder
from .kinds import Load, TaskKind
from .npz import read_npz
from .protocol import Classification
from .weights import load_weights, read_weights

# Statistics of ImageNet (RGB), which torchvision's and timm's classifiers were made for.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageClassificationConfig(Weighted, TaskKind):
    """The `task:` mapping of a search config with `kind: image_classification`."""

    kind: Literal["image_classification"]
    model: str = Field(pattern=r"^.+:.+$")
    data: str = Field(pattern=r"^(folder|npz):.+$")
    weights: str | None = None
    input_size: int = Field(64, ge=8, le=1024)
    channels: Literal[1, 3] = 3
    background: Literal["white", "black"] = "white"  # what shows through transparent pixels
    split: SplitShares = SplitShares()
    baseline: Training | None = None

    def build(self, root: Path, load: Load) -> Classification:
        """The task; relative paths start at root. Raises TaskError."""
        return image_classification(self, root, load)


def statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, by which intensities from 0 to 1 are normalized."""
    return (MEAN, STD) if channels == 3 else ((sum(MEAN) / 3,), (sum(STD) / 3,))


class ImageTensors(TensorDataset):
    """Images kept as bytes (N, C, H, W) and normalized when they are read."""

    in_memory = True

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        super().__init__(images, targets)
        channels = images.shape[1]
        mean, std = statistics(channels)
        top = 255 if images.dtype == torch.uint8 else 1  # images of more than 8 bits are floats from 0 to 1
        self.scale = 1 / (top * torch.tensor(std).view(-1, 1, 1))
        self.shift = torch.tensor(mean).view(-1, 1, 1) / torch.tensor(std).view(-1, 1, 1)

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        images, targets = (tensor[index] for tensor in self.tensors)
        return images.float() * self.scale - self.shift, targets


def image_classification(config: ImageClassificationConfig, root: Path, load: Load) -> Classification:
    """Build the task that a config describes; relative paths start at `root`.

    load resolves `file.py:callable` and `package.module:callable`. Raises TaskError for anything that is not there
    or does not fit.
    """
    kind, _, name = config.data.partition(":")
    path = root / name
    if not path.exists():
        raise TaskError(f"task.data: {path}: no such {'folder' if kind == 'folder' else 'file'}: check the path")
    if kind == "folder" and not path.is_dir():
        raise TaskError(f"task.data: {path}: is a file: name a folder, or write npz:{name}")
    form = Form(config.input_size, config.channels, config.background)
    data = (read_folder if kind == "folder" else read_npz)(path, form, config.split)
    weights = read_weights(root / config.weights) if config.weights else None
    targets = {name: part for name, (_, part) in data.parts.items()}
    notes = (
        *data.notes,
        *missing_classes(targets, data.classes, data.shares, weights is not None),
        *alike_classes(data.classes),
    )
    factory = _model_factory(config, root, len(data.classes), load)

    def make_model() -> nn.Module:
        """A new model, with the config's weights where it names some."""
        model = factory()
        if weights is not None:
            load_weights(model, weights, config.weights or "")
        return model

    default = None if weights is not None else Training(epochs=15, learning_rate=2e-3)
    splits: dict[str, Any] = {name: _dataset(data, name) for name in data.parts}
    return Classification(
        make_model,
        **splits,
        baseline=config.baseline or default,
        classes=data.classes,
        class_weights=config.weights_of(data.classes, targets["train"]),
        notes=tuple(f"task.data: {text}" for text in notes),
    )


def _dataset(data: ImageData, name: str) -> TensorDataset:
    images, labels = (torch.from_numpy(np.ascontiguousarray(part)) for part in data.parts[name])
    return TensorDataset(images.float(), labels) if data.ready else ImageTensors(images, labels)


def _model_factory(
    config: ImageClassificationConfig, root: Path, classes: int, load: Callable[[str, Path], Any]
) -> Callable[[], nn.Module]:
    source, _, name = config.model.partition(":")
    if source == "torchvision":
        from torchvision import models

        if name not in models.list_models():
            raise TaskError(f"task.model: torchvision has no model {name!r}: {_near(name, models.list_models())}")
        extra = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
        return lambda: models.get_model(name, weights=None, num_classes=classes, **extra)
    if source == "timm":
        try:
            import timm
        except ImportError:
            raise TaskError("task.model: timm is not installed: pip install 'autocompress[timm]'") from None
        if not timm.is_model(name):
            raise TaskError(f"task.model: timm has no model {name!r}: {_near(name, timm.list_models())}")
        return lambda: timm.create_model(name, pretrained=False, num_classes=classes, in_chans=config.channels)
    made = load(config.model, root)
    return (lambda: made(num_classes=classes)) if _takes_classes(made) else made


def _takes_classes(made: Callable[..., Any]) -> bool:
    """Whether the user's model can be told the number of classes."""
    try:
        inspect.signature(made).bind(num_classes=2)
    except (TypeError, ValueError):
        return False
    return True


def _near(name: str, known: list[str]) -> str:
    clause = suggest(name, known)
    return clause if clause.startswith("did") else "see the library's list of models"
