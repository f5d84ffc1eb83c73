"""An NPZ file of images and labels: sizes and types are known from its headers before an array is read."""

import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from ..errors import TaskError
from .bounds import MOST_BYTES, MOST_UNPACKED, check_file, check_room
from .image_data import ImageData, SplitShares, split_by_ratio
from .image_files import Form, Images, to_bytes, to_floats
from .labels import read_labels
from .remarks import Remarks

PAIRS = {"train": ("x_train", "y_train"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")}
NAMES = "classes"
SMALL = 10**8  # bytes; what is no more may be packed as well as it can
Array = NDArray[Any]


@dataclass(frozen=True)
class Header:
    """What a member of the file says of its array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """How much memory the array takes."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npz(path: Path, form: Form, shares: SplitShares) -> ImageData:
    """The images of an NPZ file: x and y, or x_train, y_train, x_val, ...; perhaps the names of its `classes`.

    Raises TaskError, naming array and fix, for what cannot be taken as it is.
    """
    remarks = Remarks()
    pairs, arrays = read_arrays(path, (NAMES,), remarks)
    labels = {y: arrays[y] for _, y in pairs.values()}
    targets, classes = read_labels(labels, arrays.get(NAMES), path, remarks)
    ready = {x: arrays[x].dtype.kind == "f" for x, _ in pairs.values()}
    if len(set(ready.values())) > 1:
        raise TaskError(f"task.data: {path}: {', '.join(ready)} hold bytes and floats: store them alike")
    pixels = {x: arrays.pop(x) if ready[x] else brought(arrays.pop(x), form, f"{path}: {x}", remarks) for x in ready}
    floats = all(ready.values())
    if "all" in pairs:
        parts = split_by_ratio(pixels["x"], targets["y"], shares)
        return ImageData(parts, classes, remarks.lines(), shares, floats)
    parts = {name: (pixels[x], targets[y]) for name, (x, y) in pairs.items()}
    return ImageData(parts, classes, remarks.lines(), ready=floats)


def read_arrays(
    path: Path, extra: Sequence[str], remarks: Remarks
) -> tuple[dict[str, tuple[str, str]], dict[str, Array]]:
    """The arrays of an NPZ file by name: x and y (as split "all"), or x_train, y_train, x_val, ..., and those of the
    extra ones that are there; and which of them are a split's. Raises TaskError.
    """
    check_file(path, "task.data")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            pairs = _pairs(path, members.keys())
            wanted = [*(key for pair in pairs.values() for key in pair), *(set(extra) & members.keys())]
            _check_sizes(path, archive, {key: members[key] for key in wanted}, pairs)
            arrays = {key: _read(archive, members[key]) for key in wanted}
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(f"task.data: {path}: cannot be read as NPZ without pickles: {error}") from None
    for key in sorted(members.keys() - set(wanted)):
        remarks.add("left out, as it holds neither inputs nor labels", f"{path}: {key}")
    return pairs, arrays


def _pairs(path: Path, names: Any) -> dict[str, tuple[str, str]]:
    if {"x", "y"} <= names:
        return {"all": ("x", "y")}
    missing = [key for pair in PAIRS.values() for key in pair if key not in names]
    if missing:
        raise TaskError(
            f"task.data: {path} lacks {', '.join(missing)}: store x and y, or x_train, y_train, x_val, y_val, "
            "x_test, y_test"
        )
    return PAIRS


def _check_sizes(
    path: Path,
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    pairs: dict[str, tuple[str, str]],
) -> None:
    """Raise TaskError for arrays that would take too much memory, or do not belong together."""
    headers = {key: _header(archive, info) for key, info in members.items()}
    for key, header in headers.items():
        if header.dtype.hasobject:
            raise TaskError(
                f"task.data: {path}: cannot be read as NPZ without pickles: {key} holds Python objects: store numbers, "
                f"or text by {key}.astype(str)"
            )
    total = sum(max(headers[key].nbytes, info.file_size) for key, info in members.items())
    size = path.stat().st_size
    if total > MOST_BYTES or total > max(SMALL, MOST_UNPACKED * size):
        raise TaskError(
            f"task.data: {path}: has {size:,} bytes but unpacks to {total:,}: at most {MOST_BYTES:,} are taken, and "
            f"{MOST_UNPACKED} times its size; store fewer or smaller images, as bytes, by np.savez"
        )
    for x, y in pairs.values():
        counts = [str(headers[key].shape[0]) if headers[key].shape else "no" for key in (x, y)]
        if counts[0] != counts[1] or "no" in counts:
            raise TaskError(
                f"task.data: {path}: {x} and {y} hold {counts[0]} examples but {counts[1]} labels: store one each"
            )


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    readers: dict[tuple[int, int], Callable[[Any], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
        (1, 0): npy.read_array_header_1_0,
        (2, 0): npy.read_array_header_2_0,
    }
    with archive.open(info) as file:
        version = npy.read_magic(file)
        if version not in readers:
            raise TaskError(f"task.data: {archive.filename}: {info.filename} has fields with names: store plain arrays")
        shape, _, dtype = readers[version](file)
    if any(length < 0 for length in shape):
        raise TaskError(f"task.data: {archive.filename}: {info.filename} says it has shape {shape}: store it again")
    return Header(shape, dtype)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    with archive.open(info) as file:
        array: Array = npy.read_array(file, allow_pickle=False)
    return array


def brought(images: Images, form: Form, where: str, remarks: Remarks) -> Images:
    """Bytes or 16 bits (N, H, W) or (N, H, W, C), resized."""
    if images.dtype not in (np.uint8, np.uint16):
        raise TaskError(
            f"task.data: {where} holds {images.dtype}: store uint8 from 0 to 255, uint16 from 0 to 65535, or floats "
            "(N, C, H, W) as the model takes them"
        )
    eight = images.dtype == np.uint8
    channels = images.shape[-1] if images.ndim == 4 else 1
    if images.ndim not in (3, 4) or channels not in ((1, 3, 4) if eight else (1, 3)) or 0 in images.shape[1:]:
        raise TaskError(
            f"task.data: {where}: {'byte images' if eight else 'images of 16 bits'} have shape {images.shape}: store "
            f"(N, H, W) or (N, H, W, C), channels last: 1, 3 for RGB{' or 4 for RGBA' if eight else ''}"
        )
    if channels == 4:
        remarks.add("four channels are taken as red, green, blue and alpha", where)
    check_room(len(images), form.values * (1 if eight else 4), Path(where))
    held = np.empty((len(images), form.channels, form.size, form.size), np.uint8 if eight else np.float32)
    for index, row in enumerate(images[..., 0] if images.ndim == 4 and channels == 1 else images):
        if eight:
            held[index] = to_bytes(Image.fromarray(row), form, remarks, where)
        else:
            held[index] = to_floats(row.astype(np.float32) / np.float32(65535), form)
    return held
