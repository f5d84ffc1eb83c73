"""The copy of the user's code that is sent to the workers."""

import os
import shutil
from pathlib import Path

from ..tasks.loading import SHIPPED_FOLDER
from .rooms import Room

SHIPPED_BYTES, SHIPPED_FILES = 20_000_000, 500
LISTED_FILES = 20_000  # how far a folder that also holds a data set is looked through for code
NOT_SHIPPED = {"__pycache__", "mlruns", "mlartifacts", "node_modules", "venv"}


def stage_code(folder: Path) -> Path:
    """Copy a folder's Python files and small other files, as far as the caps go, to where they can be sent from."""
    stage = Room().folder / SHIPPED_FOLDER
    stage.mkdir()
    total = count = 0
    for path in may_travel(folder):
        size = path.stat().st_size
        if total + size > SHIPPED_BYTES or count >= SHIPPED_FILES:
            continue
        copy = stage / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        total, count = total + size, count + 1
    return stage


def may_travel(folder: Path) -> list[Path]:
    """The files that may be sent along, all code before any data."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in NOT_SHIPPED)
        found += [Path(parent, name) for name in sorted(files) if not name.startswith(".")]
        if len(found) > LISTED_FILES:
            break
    return sorted((path for path in found if path.is_file()), key=lambda path: path.suffix != ".py")
