"""Image classification without code: a named model, a folder or an NPZ file of images, and perhaps weights."""

import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ..data import stratified_split
from ..errors import TaskError, suggest
from ..training import Training
from .protocol import Classification

# Statistics of ImageNet (RGB), which torchvision's and timm's classifiers were made for.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
VALIDATION_NAMES = ("val", "validation", "valid")
Images = NDArray[Any]
Parts = dict[str, tuple[Images, NDArray[Any]]]


class SplitShares(BaseModel):
    """How one set is divided where the data comes as one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation: float = Field(0.2, gt=0, lt=1)
    test: float = Field(0.2, gt=0, lt=1)
    seed: int = Field(0, ge=0)


class ImageClassificationConfig(BaseModel):
    """The `task:` mapping of a search config with `kind: image_classification`."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    kind: Literal["image_classification"]
    model: str = Field(pattern=r"^.+:.+$")
    data: str = Field(pattern=r"^(folder|npz):.+$")
    weights: str | None = None
    input_size: int = Field(64, ge=8, le=1024)
    channels: Literal[1, 3] = 3
    split: SplitShares = SplitShares()
    baseline: Training | None = None

    def places(self) -> list[str]:
        """Where data and weights lie, from the config's folder."""
        return [self.data.partition(":")[2], *([self.weights] if self.weights else [])]


class ImageTensors(TensorDataset):
    """Images kept as bytes (N, C, H, W) and normalized when they are read."""

    in_memory = True

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        super().__init__(images, targets)
        channels = images.shape[1]
        mean, std = (MEAN, STD) if channels == 3 else ((sum(MEAN) / 3,), (sum(STD) / 3,))
        self.scale = 1 / (255 * torch.tensor(std).view(-1, 1, 1))
        self.shift = torch.tensor(mean).view(-1, 1, 1) / torch.tensor(std).view(-1, 1, 1)

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        images, targets = (tensor[index] for tensor in self.tensors)
        return images.float() * self.scale - self.shift, targets


@dataclass(frozen=True)
class ImageClassification(Classification):
    """A classification task whose images come from a folder or an NPZ file; `classes` are their names."""

    classes: tuple[str, ...] = field(default=())


def image_classification(config: ImageClassificationConfig, root: Path, load: Callable[[str, Path], Any]) -> Any:
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
    parts, classes = (_folder if kind == "folder" else _npz)(path, config)
    weights = read_weights(root / config.weights) if config.weights else None
    factory = _model_factory(config, root, len(classes), load)

    def make_model() -> nn.Module:
        """A new model, with the config's weights where it names some."""
        model = factory()
        if weights is not None:
            _load_weights(model, weights, config.weights or "")
        return model

    default = None if weights is not None else Training(epochs=15, learning_rate=2e-3)
    splits: dict[str, Any] = {name: _dataset(*part) for name, part in parts.items()}
    return ImageClassification(make_model, **splits, baseline=config.baseline or default, classes=classes)


def _dataset(images: Images, targets: NDArray[Any]) -> TensorDataset:
    labels = torch.from_numpy(np.asarray(targets))
    labels = labels if labels.is_floating_point() else labels.long()
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    return ImageTensors(tensor, labels) if tensor.dtype == torch.uint8 else TensorDataset(tensor.float(), labels)


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

    def call() -> nn.Module:
        """The user's model, told the number of classes where it takes it."""
        try:
            return made(num_classes=classes)  # type: ignore[no-any-return]
        except TypeError:
            return made()  # type: ignore[no-any-return]

    return call


def _near(name: str, known: list[str]) -> str:
    clause = suggest(name, known)
    return clause if clause.startswith("did") else "see the library's list of models"


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from .pt/.pth that holds tensors only. Raises TaskError for the rest."""
    if not path.is_file():
        raise TaskError(f"weights: {path}: no such file: check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of plain pickles before it refuses them
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise TaskError(
            f"weights: {path}: holds pickled objects, which could run code: save model.state_dict() with safetensors"
        ) from None
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TaskError(
            f"weights: {path}: cannot be read ({reason}): save model.state_dict() with safetensors"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TaskError(f"weights: {path}: is no state dict: save model.state_dict() with safetensors")
    return state


def _load_weights(model: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        rows = [row.strip() for row in str(error).splitlines()[1:]]
        raise TaskError(f"weights: {name}: do not fit the model: {rows[0] if rows else error}") from None


def _folder(path: Path, config: ImageClassificationConfig) -> tuple[Parts, tuple[str, ...]]:
    folders = {child.name: child for child in sorted(path.iterdir()) if child.is_dir()}
    validation = next((name for name in VALIDATION_NAMES if name in folders), None)
    if "train" in folders and validation and "test" in folders:
        named = {"train": folders["train"], "validation": folders[validation], "test": folders["test"]}
        classes = tuple(sorted(child.name for child in named["train"].iterdir() if child.is_dir()))
        return {name: _read_classes(folder, classes, config) for name, folder in named.items()}, classes
    if "train" in folders:
        raise TaskError(f"task.data: {path} has train/ but not both val/ and test/: add them, or put all class folders "
                        "in one folder to have it split")  # fmt: skip
    classes = tuple(folders)
    if len(classes) < 2:
        raise TaskError(f"task.data: {path} has {len(classes)} class folders: it needs one folder a class, two or more")
    images, targets = _read_classes(path, classes, config)
    return _split_one(images, targets, config), classes


def _split_one(images: Images, targets: NDArray[Any], config: ImageClassificationConfig) -> Parts:
    train = 1 - config.split.validation - config.split.test
    if train <= 0:
        raise TaskError(
            "task.split: validation and test together leave nothing to train on: make their sum less than 1"
        )
    shares = (train, config.split.validation, config.split.test)
    parts = stratified_split(targets, shares, config.split.seed)
    named = zip(("train", "validation", "test"), parts, strict=True)
    return {name: (images[part.numpy()], targets[part.numpy()]) for name, part in named}


def _read_classes(
    folder: Path, classes: tuple[str, ...], config: ImageClassificationConfig
) -> tuple[Images, NDArray[Any]]:
    unknown = sorted(child.name for child in folder.iterdir() if child.is_dir() and child.name not in classes)
    if unknown:
        raise TaskError(f"task.data: {folder / unknown[0]}: is no class of the training set ({', '.join(classes)})")
    rows = [(path, label) for label, name in enumerate(classes) for path in _image_files(folder / name)]
    if not rows:
        raise TaskError(f"task.data: {folder} holds no images ({', '.join(sorted(SUFFIXES))}) in its class folders")
    images = np.stack([_read_image(path, config) for path, _ in rows])
    return images, np.array([label for _, label in rows])


def _image_files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES)


def _read_image(path: Path, config: ImageClassificationConfig) -> Images:
    try:
        with Image.open(path) as image:
            return _resize(image, config)
    except (UnidentifiedImageError, OSError) as error:
        raise TaskError(f"task.data: {path}: is not a readable image ({error}): remove or replace it") from None


def _resize(image: Image.Image, config: ImageClassificationConfig) -> Images:
    size = (config.input_size, config.input_size)
    pixels = np.asarray(image.convert("RGB" if config.channels == 3 else "L").resize(size, Image.Resampling.BILINEAR))
    return pixels.reshape(*size, -1).transpose(2, 0, 1)


def _npz(path: Path, config: ImageClassificationConfig) -> tuple[Parts, tuple[str, ...]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:
        raise TaskError(f"task.data: {path}: cannot be read as NPZ without pickles: {error}") from None
    if {"x", "y"} <= arrays.keys():
        _same_length(path, arrays, "x", "y")
        parts = _split_one(_prepare(arrays["x"], config), arrays["y"], config)
    else:
        named = {"train": ("x_train", "y_train"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")}
        missing = [key for pair in named.values() for key in pair if key not in arrays]
        if missing:
            raise TaskError(
                f"task.data: {path} lacks {', '.join(missing)}: store x and y, or x_train, y_train, x_val, y_val, "
                "x_test, y_test"
            )
        for x, y in named.values():
            _same_length(path, arrays, x, y)
        parts = {name: (_prepare(arrays[x], config), arrays[y]) for name, (x, y) in named.items()}
    count = 1 + max((int(targets.max()) for _, targets in parts.values() if targets.size), default=0)
    return parts, tuple(str(label) for label in range(count))


def _same_length(path: Path, arrays: dict[str, NDArray[Any]], x: str, y: str) -> None:
    if arrays[x].ndim == 0 or arrays[x].shape[:1] != arrays[y].shape[:1]:
        counts = [len(arrays[key]) if arrays[key].ndim else "no" for key in (x, y)]
        raise TaskError(
            f"task.data: {path}: {x} and {y} hold {counts[0]} images but {counts[1]} labels: store one each"
        )


def _prepare(images: Images, config: ImageClassificationConfig) -> Images:
    """Bytes (N, H, W) or (N, H, W, C) are images to resize; floating point (N, C, H, W) is taken as it is."""
    if images.dtype != np.uint8:
        return images
    if images.ndim not in (3, 4):
        raise TaskError(f"task.data: byte images have shape {images.shape}: store (N, H, W) or (N, H, W, C)")
    pixels = images[..., 0] if images.ndim == 4 and images.shape[-1] == 1 else images
    rows = [_resize(Image.fromarray(row), config) for row in pixels]
    return np.stack(rows) if rows else np.zeros((0, config.channels, config.input_size, config.input_size), np.uint8)
