"""Image classification without code: a named model, a folder or an NPZ file of images, and perhaps weights."""

import contextlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn
from torch.utils.data import TensorDataset

from ..errors import TaskError
from ..training import Training
from .class_weights import Weighted
from .image_data import ImageData, SplitShares, alike_classes, missing_classes
from .image_folder import read_folder
from .image_list import listed_files, read_list
from .image_tensors import ImagePreparation, ImageSettings, ImageTensors, Transform, Transformed
from .kinds import Load, TaskKind
from .npz import read_npz
from .pretrained import TRANSFORMING, Pretrained, check_model, find_published, is_published
from .protocol import Classification
from .tables import read_table
from .weights import load_weights, read_weights

TRANSFER = Training(epochs=5, learning_rate=5e-4)  # from weights of other classes


class ImageClassificationConfig(Weighted, ImageSettings, TaskKind):
    """The `task:` mapping of a search config with `kind: image_classification`.

    data is `folder:DIR` of class folders, `npz:FILE`, or a table `csv:FILE` or `parquet:FILE` that names each image's
    file, from the table's folder, in the column `image` ("path" unless given) and its class in the column `target`
    ("label"); rows that share a value of the column `group` stay in one split. train_transform changes images anew each
    time that they are trained on, and never those that are measured. weights is a file, or `torchvision:NAME` or
    `timm:TAG` of those published for the model, from the cache: with a classifier for these classes, which is trained.
    """

    preparation: ClassVar[type[ImagePreparation]] = ImagePreparation
    kind: Literal["image_classification"]
    model: str = Field(pattern=r"^.+:.+$")
    data: str = Field(pattern=r"^(folder|npz|csv|parquet):.+$")
    image: str | None = None
    target: str | None = None
    group: str | None = None
    weights: str | None = None
    train_transform: tuple[Transform, ...] = ()
    split: SplitShares = SplitShares()
    baseline: Training | None = None

    @model_validator(mode="after")
    def _columns_of_tables(self) -> "ImageClassificationConfig":
        given = [name for name in ("image", "target", "group") if getattr(self, name) is not None]
        if given and not self.table:
            raise ValueError(f"{given[0]} names a column of a table, and data is none")
        source = (self.weights or "").partition(":")[0]
        if is_published(self.weights) and self.model.partition(":")[0] != source:
            raise ValueError(f"weights {self.weights} are for a model of {source}'s: write model: {source}:NAME")
        return self

    def places(self) -> list[str]:
        """Where data and weights lie, from the config's folder."""
        if self.weights is None or not is_published(self.weights):
            return super().places()
        return [self.data.partition(":")[2], str(find_published(self.model, self.weights).path)]

    @property
    def table(self) -> bool:
        """Whether a table names the images."""
        return self.data.partition(":")[0] in ("csv", "parquet")

    @property
    def columns(self) -> tuple[str, str, str | None]:
        """The columns of files, classes and groups in a table."""
        return self.image or "path", self.target or "label", self.group

    def read(self, root: Path) -> list[Path]:
        """Files and folders whose state counts, those among them that a table names."""
        places = super().read(root)
        with contextlib.suppress(TaskError):  # said when they are read
            table = read_table(places[0], self.data.partition(":")[0]) if self.table else None
            places += [] if table is None else listed_files(table, places[0], self.columns[0])
        return places

    def build(self, root: Path, load: Load) -> Classification:
        """The task; relative paths start at root. Raises TaskError."""
        return image_classification(self, root, load)


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
    if config.table:
        data = read_list(read_table(path, kind), path, config.form, config.split, config.columns)
    else:
        data = (read_folder if kind == "folder" else read_npz)(path, config.form, config.split)
    start = _start(config)
    weights = read_weights(root / config.weights) if config.weights and start is None else None
    known = start is not None and start.classes == data.classes
    targets = {name: part for name, (_, part) in data.parts.items()}
    notes = (
        *data.notes,
        *missing_classes(targets, data.classes, data.shares, weights is not None or known),
        *alike_classes(data.classes),
    )
    factory = _model_factory(config, root, len(data.classes), load)

    def make_model() -> nn.Module:
        """A new model, with the config's weights where it names some."""
        model = factory()
        if start is not None:
            start.give(model, whole=known)
        if weights is not None:
            load_weights(model, weights, config.weights or "")
        return model

    trained = weights is not None or known
    default = None if trained else TRANSFER if start is not None else Training(epochs=15, learning_rate=2e-3)
    if start is not None and not known:
        notes = (*notes, f"the classifier of {start.name} is made anew for {len(data.classes)} classes, and trained")
    splits: dict[str, Any] = {name: _dataset(data, name, config) for name in data.parts}
    return Classification(
        make_model,
        **splits,
        baseline=config.baseline or default,
        classes=data.classes,
        class_weights=config.weights_of(data.classes, targets["train"]),
        notes=tuple(f"task.data: {text}" for text in notes),
        preparation=None if data.ready else ImagePreparation.of(config),
        inputs=(f"images (N, {config.channels}, height, width) as in {path.name}" if data.ready else config.how(),),
        train_transform=Transformed(config.train_transform) if config.train_transform else None,
    )


def _start(config: ImageClassificationConfig) -> Pretrained | None:
    """Published weights, where the config names some. Raises TaskError where images are made for others."""
    if config.weights is None or not is_published(config.weights):
        return None
    start = Pretrained(find_published(config.model, config.weights))
    if start.statistics != config.statistics:
        mean, std = map(list, start.statistics)
        raise TaskError(
            f"task.weights: {start.name}: is for images of another mean and std: set mean: {mean}, std: {std}"
        )
    return start


def _dataset(data: ImageData, name: str, config: ImageClassificationConfig) -> TensorDataset:
    images, labels = (torch.from_numpy(np.ascontiguousarray(part)) for part in data.parts[name])
    return TensorDataset(images.float(), labels) if data.ready else ImageTensors(images, labels, config.statistics)


def _model_factory(
    config: ImageClassificationConfig, root: Path, classes: int, load: Callable[[str, Path], Any]
) -> Callable[[], nn.Module]:
    source, _, name = config.model.partition(":")
    if source == "torchvision":
        from torchvision import models

        check_model(source, name)
        extra = {"aux_logits": False, "init_weights": True} if name in TRANSFORMING else {}
        if name in TRANSFORMING and is_published(config.weights):
            extra["transform_input"] = True
        return lambda: models.get_model(name, weights=None, num_classes=classes, **extra)
    if source == "timm":
        check_model(source, name)
        import timm

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
