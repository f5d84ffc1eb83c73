"""A folder of class folders of images, as one set or as train/, val/ and test/."""

import os
from pathlib import Path

import numpy as np

from ..errors import TaskError, suggest
from .bounds import MOST_FILES, check_classes, check_room
from .image_data import ImageData, Parts, SplitShares, Targets, split_by_ratio
from .image_files import SUFFIXES, Form, Images, read_image
from .remarks import Remarks

VALIDATION_NAMES = ("val", "validation", "valid")
# What systems and archives put beside images; everything that starts with a dot is left out too.
NOT_DATA = {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
HIDDEN = "left out, as it is hidden or of the system"
SPLIT_WORDS = {"train", "training", *VALIDATION_NAMES, "test", "testing"}
Files = dict[str, list[Path]]


def read_folder(path: Path, form: Form, shares: SplitShares) -> ImageData:
    """The images of a folder. Raises TaskError, naming file or folder, for what cannot be taken as it is."""
    remarks = Remarks()
    folders = _folders(path, remarks)
    named = _split_folders(path, folders)
    if named is None:
        files = _scan(folders, remarks)
        classes = _classes(path, files, remarks)
        check_room(sum(map(len, files.values())), form.values, path)
        parts = split_by_ratio(*_read(files, classes, form, remarks), shares)
        return ImageData(parts, classes, remarks.lines(), shares)
    for name in sorted(folders.keys() - {folder.name for folder in named.values()}):
        remarks.add("left out, as it is none of train, validation and test", folders[name])
    scans = {name: _scan(_folders(folder, remarks), remarks) for name, folder in named.items()}
    classes = _classes(named["train"], scans["train"], remarks)
    for name in ("validation", "test"):
        _check_known(named[name], scans[name], scans["train"], classes)
    check_room(sum(len(rows) for files in scans.values() for rows in files.values()), form.values, path)
    split: Parts = {name: _read(files, classes, form, remarks) for name, files in scans.items()}
    return ImageData(split, classes, remarks.lines())


def _folders(path: Path, remarks: Remarks) -> dict[str, Path]:
    """The folders in a folder by name, without those that hold no data."""
    found = {}
    for child in sorted(path.iterdir()):
        if _hidden(child.name):
            remarks.add(HIDDEN, child)
        elif child.is_dir():
            found[child.name] = child
        else:
            remarks.add("left out, as it lies in no class folder", child)
    return found


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in NOT_DATA


def _split_folders(path: Path, folders: dict[str, Path]) -> dict[str, Path] | None:
    """The folders of the three splits, or None where the folder is one set."""
    by_word = {name.lower(): folder for name, folder in folders.items()}
    validation = next((name for name in VALIDATION_NAMES if name in by_word), None)
    if "train" in by_word and validation and "test" in by_word:
        return {"train": by_word["train"], "validation": by_word[validation], "test": by_word["test"]}
    if "train" in by_word:
        raise TaskError(f"task.data: {path} has train/ but not both val/ and test/: add them, or put all class folders "
                        "in one folder to have it split")  # fmt: skip
    if by_word and by_word.keys() <= SPLIT_WORDS:
        found = ", ".join(f"{folder.name}/" for folder in by_word.values())
        raise TaskError(
            f"task.data: {path} has {found}, which are names of splits, not of classes: name them train/, val/ and "
            "test/, or put all class folders in one folder to have it split"
        )
    return None


def _scan(folders: dict[str, Path], remarks: Remarks) -> Files:
    """The image files of each class folder; a class without any has an empty list."""
    return {name: _image_files(folder, remarks) for name, folder in folders.items()}


def _image_files(folder: Path, remarks: Remarks) -> list[Path]:
    found: list[Path] = []
    for here, folders, files in os.walk(folder, onerror=_refuse):
        place, before = Path(here), len(found)
        for name in sorted(files):
            if _hidden(name):
                remarks.add(HIDDEN, place / name)
            elif Path(name).suffix.lower() not in SUFFIXES:
                remarks.add("left out, as its name is not that of an image", place / name)
            else:
                found.append(place / name)
        for name in sorted(folders):
            if _hidden(name):
                remarks.add(HIDDEN, place / name)
            elif (place / name).is_symlink():
                remarks.add("left out, as it is a link to a folder inside a class folder", place / name)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        if place != folder and len(found) > before:
            remarks.add("images in a folder inside a class folder count for that class", place)
        if len(found) > MOST_FILES:
            raise TaskError(f"task.data: {folder}: holds more than {MOST_FILES:,} images: take fewer")
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise TaskError(f"task.data: {error.filename}: cannot be read ({error.strerror}): check its permissions") from None


def _classes(path: Path, files: Files, remarks: Remarks) -> tuple[str, ...]:
    """The names of the folders that hold images, in order."""
    classes = tuple(sorted(name for name, rows in files.items() if rows))
    if not classes and len(files) > 1:
        raise TaskError(f"task.data: {path} holds no images ({', '.join(sorted(SUFFIXES))}) in its class folders")
    if len(classes) < 2:
        raise TaskError(f"task.data: {path} has {len(classes)} class folders: it needs one folder a class, two or more")
    check_classes(len(classes), path)
    for name in sorted(files.keys() - set(classes)):
        remarks.add("left out, as it holds no images", path / name)
    return classes


def _check_known(folder: Path, files: Files, train: Files, classes: tuple[str, ...]) -> None:
    """Raise TaskError for a class that the training set does not have, which may be one spelled otherwise."""
    for name, rows in sorted(files.items()):
        if name not in train or (rows and name not in classes):
            near = suggest(name, classes)
            hint = f": {near}" if near.startswith("did") else ": add it there, or take it out"
            raise TaskError(f"task.data: {folder / name}: is no class of the training set ({_short(classes)}){hint}")


def _short(names: tuple[str, ...], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _read(files: Files, classes: tuple[str, ...], form: Form, remarks: Remarks) -> tuple[Images, Targets]:
    rows = [(path, label) for label, name in enumerate(classes) for path in files.get(name, [])]
    images: Images = np.empty((len(rows), form.channels, form.size, form.size), np.uint8)
    for index, (path, _) in enumerate(rows):
        pixels = read_image(path, form, remarks)
        if pixels.dtype != np.uint8 and images.dtype == np.uint8:  # the first of more than 8 bits
            check_room(len(rows), 4 * form.values, path)
            images = images.astype(np.float32) / 255
        images[index] = pixels / np.float32(255) if images.dtype != pixels.dtype else pixels
    return images, np.array([label for _, label in rows], np.int64)
