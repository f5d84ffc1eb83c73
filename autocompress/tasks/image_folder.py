"""A folder of class folders of images, as one set or as train/, val/ and test/."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import TaskError
from .bounds import check_room
from .folders import ALL, Wanted, class_folders
from .image_data import ImageData, SplitShares, split_by_ratio
from .image_files import SUFFIXES, Form, Images, read_image
from .remarks import Remarks

NAMED = 5  # files that cannot be read, in one error
IMAGES = Wanted("an image", "images", SUFFIXES)


def read_folder(path: Path, form: Form, shares: SplitShares) -> ImageData:
    """The images of a folder. Raises TaskError, naming file or folder, for what cannot be taken as it is."""
    remarks = Remarks()
    found = class_folders(path, IMAGES, remarks)
    check_room(found.count(), form.values, path)
    parts = {
        name: (
            read_images([file for file, _ in rows], form, remarks),
            np.array([label for _, label in rows], np.int64),
        )
        for name, rows in found.files.items()
    }
    if ALL in parts:
        return ImageData(split_by_ratio(*parts[ALL], shares), found.classes, remarks.lines(), shares)
    return ImageData(parts, found.classes, remarks.lines())


def read_images(files: Sequence[Path], form: Form, remarks: Remarks) -> Images:
    """Intensities (N, channels, size, size) of image files: bytes, or floats from 0 to 1 once one has more than 8 bits.

    Raises TaskError, naming the file and the next few, for what cannot be read.
    """
    images: Images = np.empty((len(files), form.channels, form.size, form.size), np.uint8)
    refused: dict[Path, TaskError] = {}
    for index, path in enumerate(files):
        try:
            pixels = read_image(path, form, remarks)
        except TaskError as error:
            refused[path] = error
        if len(refused) == NAMED:
            break
        if refused:
            continue
        if pixels.dtype != np.uint8 and images.dtype == np.uint8:  # the first of more than 8 bits
            check_room(len(files), 4 * form.values, path)
            images = images.astype(np.float32) / 255
        images[index] = pixels / np.float32(255) if images.dtype != pixels.dtype else pixels
    if refused:
        raise _together(refused)
    return images


def _together(refused: dict[Path, TaskError]) -> TaskError:
    """Why the first file is refused, and which others are."""
    (_, *others), reason = refused, next(iter(refused.values()))
    if not others:
        return reason
    more = "" if len(refused) < NAMED else ", and there may be more"
    return TaskError(f"{reason}; likewise {', '.join(map(str, others))}{more}")
