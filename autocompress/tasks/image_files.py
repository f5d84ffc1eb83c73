"""One image, from its file to intensities: by the file's own depth, upright, and laid on a ground."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import TaskError
from .bounds import MOST_IMAGE_BYTES, check_file
from .remarks import Remarks

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
# What those suffixes stand for, whichever of them a file has: nothing that runs another program, as EPS does.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "GIF", "TIFF", "PPM")
EIGHT_BITS = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LA", "La", "PA", "RGBA", "RGBa")
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # in TIFF files
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601-2, as PIL converts
Images = NDArray[Any]


@dataclass(frozen=True)
class Form:
    """What images are brought to: square, of so many channels, transparent pixels on a background."""

    size: int
    channels: int
    background: str = "white"

    @property
    def values(self) -> int:
        """How many values one image has."""
        return self.channels * self.size**2


def read_image(path: Path, form: Form, remarks: Remarks) -> Images:
    """Intensities (channels, size, size) of an image file: bytes where it has 8 bits, else floats from 0 to 1.

    Of several frames or pages the first is taken. Raises TaskError, with the fix, for what cannot be read or has no
    known depth.
    """
    with opened(path) as image:
        if getattr(image, "is_animated", False):
            remarks.add("of several frames or pages the first is taken", path)
        return intensities(image, form, remarks, path)


@contextlib.contextmanager
def opened(path: Path, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """An image file while it is read. Raises TaskError, with the fix, for what cannot be read or is too large."""
    check_file(path, "task.data", MOST_IMAGE_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats) as image:
                yield image
    except TaskError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TaskError(
            f"task.data: {path}: has more than {Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller"
        ) from None
    except Exception as error:  # parsers of damaged files raise whatever they meet
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TaskError(f"task.data: {path}: is not a readable image ({reason}): remove or replace it") from None


def intensities(image: Image.Image, form: Form, remarks: Remarks, path: Path) -> Images:
    """Intensities (channels, size, size) of an opened image, as read_image gives those of its file."""
    raw = raw_mode(image)
    if image.mode in EIGHT_BITS:
        _own_transparency(image, raw, path)
        if ";16" in raw:
            remarks.add("colours of 16 bits are read in 8", path)
        return to_bytes(ImageOps.exif_transpose(image), form, remarks, path)
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        top = 2.0 ** int(tags.get(BITS_PER_SAMPLE, (16,))[0]) - 1
    elif image.mode == "F":
        top = 1.0
    else:
        raise TaskError(
            f"task.data: {path}: has pixels of mode {image.mode} ({raw}), whose depth is not known: save 8 or 16 bits "
            "without a sign, or floats from 0 to 1"
        )
    values = np.asarray(ImageOps.exif_transpose(image))
    shown = values.astype(np.float32) / np.float32(top)
    if image.mode == "F":
        _check_floats(shown, path)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # which PIL inverts in 8 bits only
        shown = 1 - shown
    clear = image.info.get("transparency")
    if clear is not None:
        remarks.add(f"transparent pixels are laid on {form.background}", path)
        shown = np.where(values == clear, np.float32(form.background == "white"), shown)
    return to_floats(shown, form)


def raw_mode(image: Image.Image) -> str:
    """How the file stores its pixels, such as RGB;16B; PPM files of more than 8 bits say it by their largest value."""
    arguments = next((tile[3] for tile in getattr(image, "tile", [])), "")
    parts = arguments if isinstance(arguments, tuple) else (arguments,)
    raw = next((part for part in parts if isinstance(part, str)), image.mode)
    deep = image.format == "PPM" and any(isinstance(part, int) and part > 255 for part in parts)
    return f"{raw};16" if deep else raw


def _own_transparency(image: Image.Image, raw: str, path: Path) -> None:
    """Bring a transparent colour, which PNG files name in their own depth, to the 8 bits of the pixels."""
    clear = image.info.get("transparency")
    if clear is None:
        return
    if ";16" in raw:
        raise TaskError(f"task.data: {path}: has a transparent colour of 16 bits: save it with an alpha channel")
    if isinstance(clear, int) and raw in ("L;2", "L;4"):
        image.info["transparency"] = clear * (85 if raw == "L;2" else 17)


def _check_floats(values: Images, path: Path) -> None:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise TaskError(
            f"task.data: {path}: holds floats from {low:.4g} to {high:.4g}, but floats are intensities from 0 to 1: "
            "divide them by the largest value they can have, or save 8 or 16 bits"
        )


def to_bytes(image: Image.Image, form: Form, remarks: Remarks, where: object) -> Images:
    """An image of 8 bits or less, with or without transparency, as bytes (channels, size, size)."""
    opaque = _on_ground(image, form, remarks, where)
    size = (form.size, form.size)
    pixels = np.asarray(opaque.convert("RGB" if form.channels == 3 else "L").resize(size, Image.Resampling.BILINEAR))
    return pixels.reshape(*size, -1).transpose(2, 0, 1)


def _on_ground(image: Image.Image, form: Form, remarks: Remarks, where: object) -> Image.Image:
    by_palette = image.palette is not None and image.palette.mode.endswith("A")
    if image.mode[-1] not in "Aa" and "transparency" not in image.info and not by_palette:
        return image
    full = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    if full.getchannel("A").getextrema() == (255, 255):
        return full.convert("RGB")
    remarks.add(f"transparent pixels are laid on {form.background}", where)
    ground = Image.new("RGBA", full.size, form.background)
    return Image.alpha_composite(ground, full).convert("RGB")


def to_floats(values: Images, form: Form) -> Images:
    """Intensities (H, W) or (H, W, 3) from 0 to 1 as floats (channels, size, size)."""
    gray = values @ LUMA if values.ndim == 3 and form.channels == 1 else values
    planes = [gray] if gray.ndim == 2 else list(np.moveaxis(gray, 2, 0))
    size = (form.size, form.size)
    resized = [Image.fromarray(np.ascontiguousarray(p, np.float32)).resize(size, Image.Resampling.BILINEAR)
               for p in planes]  # fmt: skip
    return np.broadcast_to(np.stack([np.asarray(plane) for plane in resized]), (form.channels, *size))
