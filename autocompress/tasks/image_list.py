"""Images that a table names, with their classes, as one set."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import TaskError, suggest
from .bounds import check_room
from .image_data import ImageData, SplitShares
from .image_files import SUFFIXES, Form
from .image_folder import read_images
from .labels import read_labels
from .remarks import Remarks
from .tables import check_filled, divided, plain

if TYPE_CHECKING:
    import pandas as pd


def listed_files(table: "pd.DataFrame", path: Path, column: str) -> list[Path]:
    """The files that a column of a table names, from the table's folder. Raises TaskError."""
    if column not in table:
        raise TaskError(f"task.image: {path} has no column {column!r}: {suggest(column, table.columns)}")
    check_filled(table[column], path)
    return [path.parent / name for name in plain(table[column]).astype(np.str_).tolist()]


def read_list(
    table: "pd.DataFrame", path: Path, form: Form, shares: SplitShares, columns: tuple[str, str, str | None]
) -> ImageData:
    """The images of a table. columns: of the file's name, of the class, and of the group that stays in one split.

    Raises TaskError, naming table or file, for what cannot be taken as it is.
    """
    remarks, (image, target, group) = Remarks(), columns
    files = listed_files(table, path, image)
    for key, name in (("target", target), ("group", group)):
        if name is None:
            continue
        if name not in table:
            raise TaskError(f"task.{key}: {path} has no column {name!r}: {suggest(name, table.columns)}")
        check_filled(table[name], path)
    _check_files(files, path, image)
    check_room(len(files), form.values, path)
    found, classes = read_labels({target: plain(table[target])}, None, path, remarks)
    labels = found[target]
    images = read_images(files, form, remarks)
    parts = divided(shares, labels, None if group is None else plain(table[group]))
    splits = {name: (images[part], labels[part]) for name, part in parts.items()}
    return ImageData(splits, classes, remarks.lines(), shares if group is None else None)


def _check_files(files: list[Path], table: Path, column: str) -> None:
    """Raise TaskError for files that are not there, are no images by their names, or stand in two rows."""
    seen: dict[Path, int] = {}
    for row, file in enumerate(files, 1):
        if not file.is_file():
            raise TaskError(
                f"task.data: {table}: column {column!r} names {file.name!r} in row {row}, and {file} is no file: paths "
                "start at the table's folder"
            )
        if file.suffix.lower() not in SUFFIXES:
            raise TaskError(f"task.data: {table}: row {row} names {file.name!r}, which is no image by its name")
        first = seen.setdefault(file.resolve(), row)
        if first != row:
            raise TaskError(f"task.data: {table}: {file.name!r} stands in rows {first} and {row}: name each image once")
