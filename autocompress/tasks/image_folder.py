"""A folder of class folders of images, as one set or as train/, val/ and test/."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .bounds import check_room
from .folders import ALL, Wanted, class_folders
from .image_data import ImageData, SplitShares, split_by_ratio
from .image_files import SUFFIXES, Form, Images, read_image
from .remarks import Remarks

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

    Raises TaskError, naming the file, for one that cannot be read.
    """
    images: Images = np.empty((len(files), form.channels, form.size, form.size), np.uint8)
    for index, path in enumerate(files):
        pixels = read_image(path, form, remarks)
        if pixels.dtype != np.uint8 and images.dtype == np.uint8:  # the first of more than 8 bits
            check_room(len(files), 4 * form.values, path)
            images = images.astype(np.float32) / 255
        images[index] = pixels / np.float32(255) if images.dtype != pixels.dtype else pixels
    return images
