"""The artifact directory: one model file, how it was made, what was measured, and checksums of it all."""

import functools
import hashlib
import json
import platform
import re
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..documents import read_json, read_yaml
from ..errors import ArtifactError, AutocompressError
from ..reading import JSON_BYTES, MODEL_BYTES, TEXT_BYTES, WEIGHT_BYTES, Unreadable, open_file, read_file
from .measurement import Measurement, parse_measurement

NAMES = ("model.onnx", "recipe.yaml", "decisions.json", "measurement.json", "environment.json", "MODEL_CARD.md")
PROGRAM = "model.pt2"  # only where it was asked for
PREPARATION = "preparation.json"  # only of tasks that have one
DEVICE = re.compile(r"(student_\d+|join)\.onnx")  # one for each device, only where they were asked for
EXTRA = (PROGRAM, PREPARATION)
MOST = {
    "model.onnx": MODEL_BYTES,
    "decisions.json": JSON_BYTES,
    PREPARATION: JSON_BYTES,
    PROGRAM: WEIGHT_BYTES,
}  # all else is text
MAKERS = ("autocompress", "torch", "onnx", "onnxruntime", "numpy")  # what a model's weights and its file depend on
PACKAGES = (*MAKERS, "optuna", "ray")


@dataclass(frozen=True)
class Contents:
    """What goes into an artifact directory."""

    onnx: bytes
    recipe: str
    decisions: list[dict[str, Any]]
    measurement: dict[str, Any]
    card: str
    program: bytes | None = None
    preparation: str | None = None
    devices: dict[str, bytes] = field(default_factory=dict)  # a file for each, by name

    def files(self) -> dict[str, bytes]:
        """The files by name, with their checksums."""
        files = {
            "model.onnx": self.onnx,
            "recipe.yaml": self.recipe.encode(),
            "decisions.json": _json(self.decisions),
            "measurement.json": _json(self.measurement),
            "environment.json": _json(environment()),
            "MODEL_CARD.md": self.card.encode(),
        }
        if self.program is not None:
            files[PROGRAM] = self.program
        if self.preparation is not None:
            files[PREPARATION] = self.preparation.encode()
        files |= self.devices
        sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
        return {**files, "SHA256SUMS": sums.encode()}


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def environment() -> dict[str, Any]:
    """Versions and processor, as far as measurements depend on them."""
    return {
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        "system": platform.system(),
        "processor": processor(),
        "packages": versions(PACKAGES),
    }


@functools.cache
def versions(packages: tuple[str, ...] = MAKERS) -> dict[str, str]:
    """The installed versions by package."""
    return {name: version(name) for name in packages}


def processor() -> dict[str, Any]:
    """The processor's name and whether it has instructions for 8-bit products."""
    try:
        rows = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        rows = []
    facts = {key.strip(): value.strip() for key, _, value in (row.partition(":") for row in rows)}
    flags = facts.get("flags", facts.get("Features", "")).split()
    name = facts.get("model name", platform.processor() or "unknown")
    return {"name": name, "vnni": any("vnni" in flag for flag in flags) or "asimddp" in flags}


def check_target(folder: Path) -> None:
    """Raise ArtifactError when a folder holds something that is no artifact, which must not be replaced."""
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder}: is a file: name a folder")
    if folder.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise ArtifactError(f"{folder}: is the current folder or above it: name a folder in it")
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if {name for name in held if not _belongs(name)} - {*NAMES, "SHA256SUMS"} or (held and "SHA256SUMS" not in held):
        raise ArtifactError(f"{folder}: holds other files than an artifact: choose a new or empty folder")


def _belongs(name: str) -> bool:
    """Whether some artifacts hold such a file, and others do not."""
    return name in EXTRA or DEVICE.fullmatch(name) is not None


def check_sums(folder: Path) -> None:
    """Compare every file with its recorded SHA-256. Raises ArtifactError that names the first that differs.

    What not all of them hold is compared too where it is listed, or is there.
    """
    try:
        rows = read_file(folder / "SHA256SUMS", TEXT_BYTES).decode().splitlines()
    except Unreadable as error:
        raise ArtifactError(str(error)) from None
    except (OSError, UnicodeDecodeError):
        raise ArtifactError(f"{folder}: has no SHA256SUMS: it is no artifact directory") from None
    recorded = {name: digest for digest, _, name in (row.partition("  ") for row in rows)}
    held = sorted(name for name in {*recorded, *(path.name for path in folder.iterdir())} if _belongs(name))
    for name in (*NAMES, *held):
        if name not in recorded:
            raise ArtifactError(f"{folder}: SHA256SUMS does not list {name}: export it again")
        if _digest(folder / name) != recorded[name]:
            raise ArtifactError(f"{folder / name}: differs from SHA256SUMS: it was changed or damaged; export it again")


def _digest(path: Path) -> str:
    try:
        most = MODEL_BYTES if DEVICE.fullmatch(path.name) else MOST.get(path.name, TEXT_BYTES)
        with open_file(path, most) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except Unreadable as error:
        raise ArtifactError(str(error)) from None
    except OSError:
        raise ArtifactError(f"{path}: is missing: export it again") from None


def read_measurement(folder: Path) -> Measurement:
    """What an artifact directory claims. Raises ArtifactError when it cannot be read."""
    path = folder / "measurement.json"
    try:
        return parse_measurement(read_json(path, TEXT_BYTES))
    except AutocompressError as error:
        raise ArtifactError(f"{path}: holds no measurement ({error}): export it again") from None


def read_decisions(folder: Path) -> list[dict[str, Any]]:
    """What each step of an artifact decided. Raises ArtifactError when it cannot be read."""
    path = folder / "decisions.json"
    try:
        data = read_json(path, JSON_BYTES)
    except AutocompressError as error:
        raise ArtifactError(f"{path}: holds no decisions ({error}): export it again") from None
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise ArtifactError(f"{path}: holds no decisions (no list of mappings): export it again")
    return data


def recipe_document(folder: Path) -> dict[str, Any]:
    """The recipe of an artifact directory as plain values. Raises ArtifactError."""
    try:
        return read_yaml(folder / "recipe.yaml").data
    except AutocompressError as error:
        raise ArtifactError(str(error)) from None
