"""Images as a model takes them: size, channels and statistics as settings, and what training adds to them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, Field, model_validator
from torch import Tensor
from torch.utils.data import TensorDataset

from .image_files import Form, Images, intensities, read_image
from .npz import brought
from .preparation import Preparation, is_path, several
from .protocol import Array
from .remarks import Remarks

# Statistics of ImageNet (RGB), which torchvision's and timm's classifiers were made for.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MARGIN = 8  # a crop may move by one of so many parts of an image
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
Share = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]


class ImageSettings(BaseModel):
    """The settings of kinds that take images: square, of so many channels, normalized by mean and deviation."""

    input_size: int = Field(64, ge=8, le=1024)
    channels: Literal[1, 3] = 3
    background: Literal["white", "black"] = "white"  # what shows through transparent pixels
    mean: tuple[Share, ...] | None = None  # of each channel, of intensities from 0 to 1; ImageNet's unless given
    std: tuple[Deviation, ...] | None = None

    @model_validator(mode="after")
    def _a_number_a_channel(self) -> "ImageSettings":
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together: give both, or neither for those of ImageNet")
        for name, given in (("mean", self.mean), ("std", self.std)):
            if given is not None and len(given) != self.channels:
                raise ValueError(f"{name} has {len(given)} numbers for {self.channels} channels: give one each")
        return self

    @property
    def form(self) -> Form:
        """What images are brought to."""
        return Form(self.input_size, self.channels, self.background)

    @property
    def statistics(self) -> Statistics:
        """Mean and deviation of each channel, by which intensities from 0 to 1 are normalized."""
        if self.mean is not None and self.std is not None:
            return self.mean, self.std
        return (MEAN, STD) if self.channels == 3 else ((sum(MEAN) / 3,), (sum(STD) / 3,))

    def how(self) -> str:
        """How an input is made, in words."""
        mean, std = (", ".join(f"{value:.4g}" for value in part) for part in self.statistics)
        return (
            f"images (N, {self.channels}, {self.input_size}, {self.input_size}): intensities from 0 to 1, upright and "
            f"resized, minus the mean {mean} over the deviation {std} of their channels"
        )


class ImageTensors(TensorDataset):
    """Images kept as bytes (N, C, H, W), or floats from 0 to 1, and normalized when they are read."""

    in_memory = True

    def __init__(self, images: Tensor, targets: Tensor, statistics: Statistics) -> None:
        super().__init__(images, targets)
        mean, std = (torch.tensor(part).view(-1, 1, 1) for part in statistics)
        top = 255 if images.dtype == torch.uint8 else 1
        self.scale, self.shift = 1 / (top * std), mean / std

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        images, targets = (tensor[index] for tensor in self.tensors)
        return images.float() * self.scale - self.shift, targets


class ImagePreparation(ImageSettings, Preparation):
    """Files, PIL images, or arrays (H, W) or (H, W, C) of bytes or 16 bits, as they are read for the task."""

    example: ClassVar[str] = '"photo.jpg"'

    def arrays(self, raw: Any) -> tuple[Array, ...]:
        """Normalized images (N, channels, size, size). Raises TaskError, with the fix, for what is no image."""
        whole = raw if isinstance(raw, np.ndarray) and raw.ndim == 4 else several(raw)
        return (np.concatenate([self._normalized(self._seen(each)) for each in whole]),)

    def _seen(self, raw: Any) -> Images:
        if is_path(raw):
            return read_image(Path(raw), self.form, Remarks())
        if isinstance(raw, Image.Image):
            return intensities(raw, self.form, Remarks(), Path("the image"))
        found: Images = brought(np.asarray(raw)[None], self.form, "the array", Remarks())[0]
        return found

    def _normalized(self, image: Images) -> Array:
        pixels = torch.from_numpy(np.array(image))[None]
        found: Array = ImageTensors(pixels, torch.zeros(1), self.statistics)[:][0].numpy()
        return found


def horizontal_flip(images: Tensor) -> Tensor:
    """Images (N, C, H, W), half of them mirrored."""
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)


def random_crop(images: Tensor) -> Tensor:
    """Images (N, C, H, W), each moved by up to an eighth of its size, with its edge repeated where nothing is left."""
    height, width = images.shape[2:]
    down, right = (torch.randint(-(size // MARGIN), size // MARGIN + 1, (len(images), 1)) for size in (height, width))
    rows = (torch.arange(height) + down).clamp(0, height - 1)
    columns = (torch.arange(width) + right).clamp(0, width - 1)
    which = torch.arange(len(images))[:, None, None]
    return images.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


TRANSFORMS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "horizontal_flip": horizontal_flip,
    "random_crop": random_crop,
}
Transform = Literal["horizontal_flip", "random_crop"]


class Transformed:
    """Some of TRANSFORMS, one after the other."""

    def __init__(self, names: tuple[Transform, ...]) -> None:
        self.names = names

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), each changed in a way of its own."""
        for name in self.names:
            images = TRANSFORMS[name](images)
        return images
