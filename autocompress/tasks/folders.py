"""Folders of files by class, as one set or as train/, val/ and test/; what lies beside them is no data."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import TaskError, suggest
from .bounds import MOST_FILES, check_classes
from .remarks import Remarks

VALIDATION_NAMES = ("val", "validation", "valid")
# What systems and archives put beside data; everything that starts with a dot is left out too.
NOT_DATA = {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
HIDDEN = "left out, as it is hidden or of the system"
SPLIT_WORDS = {"train", "training", *VALIDATION_NAMES, "test", "testing"}
CLASS_FOLDERS = "class folders"  # what a split's folder holds, where files lie by class
ALL = "all"  # the one set, where there are no splits
Files = dict[str, list[Path]]


@dataclass(frozen=True)
class Wanted:
    """Which files are data: by their suffixes; one and many are what they are called, such as "an image", "images"."""

    one: str
    many: str
    suffixes: Collection[str]


@dataclass(frozen=True)
class Labelled:
    """Files by split, or under ALL, with their classes; and the names of the classes in the order of outputs."""

    files: Mapping[str, list[tuple[Path, int]]]
    classes: tuple[str, ...]

    def count(self) -> int:
        """How many files there are in all."""
        return sum(map(len, self.files.values()))


def check_folder(path: Path) -> None:
    """Raise TaskError unless a path is a folder."""
    if not path.exists():
        raise TaskError(f"task.data: {path}: no such folder: check the path")
    if not path.is_dir():
        raise TaskError(f"task.data: {path}: is a file: name a folder")


def class_folders(path: Path, wanted: Wanted, remarks: Remarks) -> Labelled:
    """The files of a folder of class folders, or of three splits of them. Raises TaskError, naming file or folder."""
    found = folders(path, "as it lies in no class folder", remarks)
    named = split_folders(path, found, CLASS_FOLDERS, remarks)
    if named is None:
        scans = {ALL: _scan(found, wanted, remarks)}
        classes = _classes(path, scans[ALL], wanted, remarks)
    else:
        scans = {
            name: _scan(folders(folder, "as it lies in no class folder", remarks), wanted, remarks)
            for name, folder in named.items()
        }
        classes = _classes(named["train"], scans["train"], wanted, remarks)
        for name in ("validation", "test"):
            _check_known(named[name], scans[name], scans["train"], classes)
    return Labelled({name: _rows(files, classes) for name, files in scans.items()}, classes)


def folders(path: Path, why: str, remarks: Remarks) -> dict[str, Path]:
    """The folders in a folder by name, without those that hold no data; why says why files beside them are left out."""
    found = {}
    for child in sorted(path.iterdir()):
        if hidden(child.name):
            remarks.add(HIDDEN, child)
        elif child.is_dir():
            found[child.name] = child
        else:
            remarks.add(f"left out, {why}", child)
    return found


def hidden(name: str) -> bool:
    """Whether a file or folder of that name is the system's."""
    return name.startswith(".") or name in NOT_DATA


def split_folders(path: Path, found: Mapping[str, Path], parts: str, remarks: Remarks) -> dict[str, Path] | None:
    """The folders of the three splits, or None where the folder is one set of `parts`, such as "class folders"."""
    by_word = {name.lower(): folder for name, folder in found.items()}
    validation = next((name for name in VALIDATION_NAMES if name in by_word), None)
    if "train" in by_word and validation and "test" in by_word:
        named = {"train": by_word["train"], "validation": by_word[validation], "test": by_word["test"]}
        for name in sorted(found.keys() - {folder.name for folder in named.values()}):
            remarks.add("left out, as it is none of train, validation and test", found[name])
        return named
    if "train" in by_word:
        raise TaskError(f"task.data: {path} has train/ but not both val/ and test/: add them, or put all {parts} "
                        "in one folder to have it split")  # fmt: skip
    if by_word and by_word.keys() <= SPLIT_WORDS:
        shown = ", ".join(f"{folder.name}/" for folder in by_word.values())
        raise TaskError(
            f"task.data: {path} has {shown}, which are names of splits: name them train/, val/ and test/, or put all "
            f"{parts} in one folder to have it split"
        )
    return None


def files_in(folder: Path, wanted: Wanted, remarks: Remarks) -> list[Path]:
    """The files in a folder and in those inside it, in order. Raises TaskError for too many."""
    found: list[Path] = []
    for here, inside, files in os.walk(folder, onerror=_refuse):
        place = Path(here)
        for name in sorted(files):
            if hidden(name):
                remarks.add(HIDDEN, place / name)
            elif Path(name).suffix.lower() not in wanted.suffixes:
                remarks.add(f"left out, as its name is not that of {wanted.one}", place / name)
            else:
                found.append(place / name)
        for name in sorted(inside):
            if hidden(name):
                remarks.add(HIDDEN, place / name)
            elif (place / name).is_symlink():
                remarks.add("left out, as it is a link to a folder", place / name)
        inside[:] = sorted(name for name in inside if not hidden(name))
        if len(found) > MOST_FILES:
            raise TaskError(f"task.data: {folder}: holds more than {MOST_FILES:,} {wanted.many}: take fewer")
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise TaskError(f"task.data: {error.filename}: cannot be read ({error.strerror}): check its permissions") from None


def _scan(found: Mapping[str, Path], wanted: Wanted, remarks: Remarks) -> Files:
    """The files of each class folder; a class without any has an empty list."""
    scanned = {name: files_in(folder, wanted, remarks) for name, folder in found.items()}
    for name, files in scanned.items():
        for place in sorted({file.parent for file in files} - {found[name]}):
            remarks.add(f"{wanted.many} in a folder inside a class folder count for that class", place)
    return scanned


def _classes(path: Path, files: Files, wanted: Wanted, remarks: Remarks) -> tuple[str, ...]:
    """The names of the folders that hold files, in order."""
    classes = tuple(sorted(name for name, rows in files.items() if rows))
    if not classes and len(files) > 1:
        raise TaskError(
            f"task.data: {path} holds no {wanted.many} ({', '.join(sorted(wanted.suffixes))}) in its class folders"
        )
    if len(classes) < 2:
        raise TaskError(f"task.data: {path} has {len(classes)} class folders: it needs one folder a class, two or more")
    check_classes(len(classes), path)
    for name in sorted(files.keys() - set(classes)):
        remarks.add(f"left out, as it holds no {wanted.many}", path / name)
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


def _rows(files: Files, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    return [(path, label) for label, name in enumerate(classes) for path in files.get(name, [])]
