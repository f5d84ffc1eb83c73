"""Images and their masks: which belong together, and the class index of every pixel."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from ..errors import TaskError
from .folders import Wanted, files_in, folders, split_folders
from .image_files import opened, raw_mode
from .image_folder import IMAGES
from .remarks import Remarks

MASKS = Wanted("a mask (.png)", "masks", {".png"})
HOMES = ("images", "masks")
LAYOUT, BESIDE = "images/ and masks/", "as it lies in neither images/ nor masks/"
SHADES = {"L;2": 85, "L;4": 17}  # what PIL multiplies gray values of few bits by
MOST_CLASSES = 256  # that a byte tells apart
ON_THEIR_SIDE = (5, 6, 7, 8)  # EXIF orientations that swap width and height
Masks = NDArray[np.uint8]
Pairs = Sequence[tuple[Path, Path]]


def read_pairs(path: Path, remarks: Remarks) -> dict[str, Pairs] | Pairs:
    """Image and mask files by split, or those of one set. Raises TaskError for one without the other."""
    found = folders(path, BESIDE, remarks)
    named = split_folders(path, found, LAYOUT, remarks)
    if named is None:
        return _pairs(path, found, remarks)
    return {name: _pairs(folder, folders(folder, BESIDE, remarks), remarks) for name, folder in named.items()}


def _pairs(path: Path, found: Mapping[str, Path], remarks: Remarks) -> Pairs:
    for name in HOMES:
        if name not in found:
            raise TaskError(
                f"task.data: {path} has no folder {name}/: put images in images/ and their masks of the same names "
                "in masks/; or have train/, val/ and test/ with both in each"
            )
    for name in sorted(found.keys() - set(HOMES)):
        remarks.add("left out, as it is neither images/ nor masks/", found[name])
    images, masks = (
        _by_stem(found[name], files_in(found[name], wanted, remarks))
        for name, wanted in zip(HOMES, (IMAGES, MASKS), strict=True)
    )
    for one, other, has, lacks in ((images, masks, "image", "mask"), (masks, images, "mask", "image")):
        alone = sorted(one.keys() - other.keys())
        if alone:
            more = f", nor have {len(alone) - 1:,} more" if len(alone) > 1 else ""
            raise TaskError(
                f"task.data: {one[alone[0]]}: this {has} has no {lacks} of its name in {found[lacks + 's']}{more}: add "
                f"it, or take the {has} out"
            )
    if not images:
        raise TaskError(f"task.data: {found['images']} holds no images ({', '.join(sorted(IMAGES.suffixes))})")
    return [(images[name], masks[name]) for name in sorted(images)]


def _by_stem(folder: Path, files: Sequence[Path]) -> dict[str, Path]:
    """Files by their place in the folder, without the suffix."""
    found: dict[str, Path] = {}
    for file in files:
        stem = file.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise TaskError(f"task.data: {file}: has the name of {found[stem].name} but for its suffix: rename one")
        found[stem] = file
    return found


def read_masks(pairs: Pairs, size: int, first: dict[int, Path], remarks: Remarks) -> Masks:
    """Class indices (N, size, size) of the masks of images, resized by nearest neighbours.

    first: gets the first mask of each index that occurs at full size. Raises TaskError, naming the mask, for one that
    holds no indices or is of another size than its image.
    """
    masks: Masks = np.empty((len(pairs), size, size), np.uint8)
    for index, (image, mask) in enumerate(pairs):
        values = read_mask(mask)
        _check_size(image, mask, values.shape, remarks)
        for value in np.unique(values).tolist():
            first.setdefault(value, mask)
        if values.shape != (size, size):
            remarks.add(f"masks are resized to {size} x {size}, and quality is that on the resized ones", mask)
            values = np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.NEAREST))
        masks[index] = values
    return masks


def read_mask(path: Path) -> Masks:
    """Class indices (H, W) of a PNG file: those of its palette, or gray values as they are stored. Raises TaskError."""
    with opened(path, ("PNG",)) as image:
        raw = raw_mode(image)
        if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
            raise TaskError(
                f"task.data: {path}: has pixels of mode {image.mode}, which are colours and no class indices: save one "
                "index a pixel, with a palette or as gray values"
            )
        values = np.asarray(ImageOps.exif_transpose(image)).astype(np.int64) // SHADES.get(raw, 1)
    high = int(values.max())
    if high >= MOST_CLASSES:
        raise TaskError(f"task.data: {path}: holds index {high:,}: at most {MOST_CLASSES} classes are told apart")
    return values.astype(np.uint8)


def _check_size(image: Path, mask: Path, shape: tuple[int, ...], remarks: Remarks) -> None:
    with opened(image) as found:
        turned = found.getexif().get(ExifTags.Base.Orientation, 1)
        width, height = found.size if turned not in ON_THEIR_SIDE else found.size[::-1]
    if turned != 1:
        remarks.add("turned upright as its EXIF data say, and its mask as its own say, if it has any", image)
    if (height, width) != shape:
        raise TaskError(
            f"task.data: {mask}: has {shape[1]} x {shape[0]} pixels, but its image {image.name} {width} x {height}: "
            "save them alike"
        )
