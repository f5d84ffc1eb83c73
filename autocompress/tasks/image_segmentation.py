"""Segmentation of images without code: a folder of images and of masks with the class of every pixel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn

from ..data import SPLITS
from ..errors import TaskError
from ..training import Training
from .bounds import check_room
from .folders import check_folder
from .image_data import SplitShares, alike_classes
from .image_folder import read_images
from .image_tensors import ImagePreparation, ImageSettings, ImageTensors
from .kinds import Load, TaskKind
from .mask_files import MOST_CLASSES, Masks, Pairs, read_masks, read_pairs
from .networks import UNet
from .protocol import Segmentation
from .remarks import Remarks
from .tables import divided
from .weights import load_weights, read_weights

USUAL = Training(epochs=30, learning_rate=3e-3, batch_size=16)
LEVELS = 8  # what the built-in network divides height and width by


class ImageSegmentationConfig(ImageSettings, TaskKind):
    """The `task:` mapping of a search config with `kind: image_segmentation`.

    data is `folder:DIR` with images/ and masks/ of the same names, or with train/, val/ and test/ that hold both. Masks
    are PNG files of one class index a pixel, by palette or gray value; `classes` names the indices from 0, and pixels
    of the index `ignore` count neither in training nor in quality. model is called with `classes`, how many there are,
    takes images (N, channels, input_size, input_size) normalized as for image_classification, and returns logits (N,
    classes, input_size, input_size).
    """

    networks: ClassVar[Mapping[str, type]] = {"unet": UNet}
    preparation: ClassVar[type[ImagePreparation]] = ImagePreparation
    kind: Literal["image_segmentation"]
    model: str = Field("unet", pattern=r"^(unet|.+:.+)$")
    data: str = Field(pattern=r"^folder:.+$")
    weights: str | None = None
    classes: tuple[str, ...] = ()
    ignore: int | None = Field(None, ge=0, lt=MOST_CLASSES)
    split: SplitShares = SplitShares()
    baseline: Training | None = None

    @model_validator(mode="after")
    def _fits(self) -> "ImageSegmentationConfig":
        if self.model == "unet" and self.input_size % LEVELS:
            near = self.input_size // LEVELS * LEVELS
            raise ValueError(
                f"input_size {self.input_size} is no multiple of {LEVELS}, which the model unet needs: take {near} or "
                f"{near + LEVELS}"
            )
        if self.classes and not 2 <= len(set(self.classes)) == len(self.classes) <= MOST_CLASSES:
            raise ValueError(f"classes are 2 to {MOST_CLASSES} different names, in the order of the masks' indices")
        return self

    def build(self, root: Path, load: Load) -> Segmentation:
        """The task; relative paths start at root. Raises TaskError."""
        path, remarks = root / self.places()[0], Remarks()
        weights = read_weights(root / self.weights) if self.weights else None
        make = load(self.code, root)
        pairs = _pairs_by_split(self, path, remarks)
        form = self.form
        check_room(sum(map(len, pairs.values())), form.values + form.size**2, path)
        first: dict[int, Path] = {}
        masks = {name: read_masks(pairs[name], form.size, first, remarks) for name in SPLITS}
        classes = _classes(self, first, path)
        for name in ("validation", "test"):
            pixels = 4 * len(classes) * form.size**2
            check_room(len(pairs[name]), pixels, path, f"{name} outputs of {len(classes)} classes a pixel")
        said = [*_unseen(self, masks, classes, path), *alike_classes(classes)]
        splits: dict[str, Any] = {}
        for name in SPLITS:
            images = read_images([image for image, _ in pairs[name]], form, remarks)
            splits[name] = ImageTensors(torch.from_numpy(images), torch.from_numpy(masks[name]), self.statistics)
        known = {"classes": len(classes), **({"channels": self.channels} if self.model in self.networks else {})}

        def model() -> nn.Module:
            """A new model, with the config's weights where it names some."""
            made: nn.Module = make(**known)
            if weights is not None:
                load_weights(made, weights, self.weights or "")
            return made

        return Segmentation(
            model,
            **splits,
            baseline=self.baseline or (USUAL if weights is None else None),
            classes=classes,
            ignore=self.ignore,
            notes=tuple(f"task.data: {text}" for text in (*remarks.lines(), *said)),
            preparation=ImagePreparation.of(self),
            inputs=(f"{self.how()}; outputs are logits of the classes of every pixel",),
        )


def _pairs_by_split(config: ImageSegmentationConfig, path: Path, remarks: Remarks) -> Mapping[str, Pairs]:
    check_folder(path)
    found = read_pairs(path, remarks)
    if isinstance(found, dict):
        return found
    parts = divided(config.split, np.zeros(len(found)))
    return {name: [found[index] for index in part] for name, part in parts.items()}


def _classes(config: ImageSegmentationConfig, first: Mapping[int, Path], path: Path) -> tuple[str, ...]:
    """The names of the classes. Raises TaskError for indices that no name stands for, or that leave a gap."""
    indices = sorted(first.keys() - {config.ignore})
    if not indices:
        raise TaskError(f"task.data: {path}: every pixel of its masks has the index {config.ignore}, which is ignored")
    high = indices[-1]
    if config.classes:
        if high >= len(config.classes):
            raise TaskError(
                f"task.data: {first[high]}: holds index {high}, but task.classes names {len(config.classes)}, 0 to "
                f"{len(config.classes) - 1}: name it, or leave its pixels out by task.ignore"
            )
        return config.classes
    gaps = sorted(set(range(high)) - {*indices, config.ignore})
    if gaps or high < 1:
        shown = ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")
        raise TaskError(
            f"task.data: {path}: its masks hold the indices {shown} ({high} first in {first[high].name}): they go from "
            "0 without a gap, two at least; save them so, name all in task.classes, or leave one out by task.ignore"
        )
    return tuple(str(index) for index in range(high + 1))


def _unseen(
    config: ImageSegmentationConfig, masks: Mapping[str, Masks], classes: tuple[str, ...], path: Path
) -> list[str]:
    """What is to be said of classes that a split has no pixel of. Raises TaskError for a split where none counts."""
    said = []
    for name in SPLITS:
        counts = _counts(masks[name])
        if config.ignore is not None:
            counts[config.ignore] = 0
        if not counts.any():
            raise TaskError(f"task.ignore: {path}: no pixel of the {name} split has another index: check both")
        missing = [repr(label) for index, label in enumerate(classes) if not counts[index] and index != config.ignore]
        if missing:
            why = "which the model cannot learn" if name == "train" else "which counts only where the model names it"
            said.append(f"{name} has no pixel of class {', '.join(missing)}, {why}")
    return said


def _counts(masks: Masks) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = np.sum([np.bincount(mask.ravel(), minlength=MOST_CLASSES) for mask in masks], axis=0)
    return counts
