"""The artifact directory: one model file, how it was made, what was measured, and checksums of it all."""

import functools
import hashlib
import json
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..documents import read_yaml
from ..errors import ArtifactError, AutocompressError
from .runtime import Model

NAMES = ("model.onnx", "recipe.yaml", "decisions.json", "measurement.json", "environment.json", "MODEL_CARD.md")
PROGRAM = "model.pt2"  # only where it was asked for
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
    if held - {*NAMES, PROGRAM, "SHA256SUMS"} or (held and "SHA256SUMS" not in held):
        raise ArtifactError(f"{folder}: holds other files than an artifact: choose a new or empty folder")


def check_sums(folder: Path) -> None:
    """Compare every file with its recorded SHA-256. Raises ArtifactError that names the first that differs.

    model.pt2 is compared too where it is listed, or is there.
    """
    try:
        rows = (folder / "SHA256SUMS").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise ArtifactError(f"{folder}: has no SHA256SUMS: it is no artifact directory") from None
    recorded = {name: digest for digest, _, name in (row.partition("  ") for row in rows)}
    held = [PROGRAM] if PROGRAM in recorded or (folder / PROGRAM).exists() else []
    for name in (*NAMES, *held):
        if name not in recorded:
            raise ArtifactError(f"{folder}: SHA256SUMS does not list {name}: export it again")
        try:
            data = (folder / name).read_bytes()
        except OSError:
            raise ArtifactError(f"{folder / name}: is missing: export it again") from None
        if hashlib.sha256(data).hexdigest() != recorded[name]:
            raise ArtifactError(f"{folder / name}: differs from SHA256SUMS: it was changed or damaged; export it again")


def read_measurement(folder: Path) -> dict[str, Any]:
    """What an artifact directory claims. Raises ArtifactError when it cannot be read."""
    try:
        data: dict[str, Any] = json.loads((folder / "measurement.json").read_text())
        quality, measured = data["quality"], data["measured"]
        if not all(isinstance(measured[name], int | float) for name in ("size_bytes", quality, f"test_{quality}")):
            raise TypeError("a measured value is no number")
        return {**data, "study": str(data["study"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{folder / 'measurement.json'}: holds no measurement ({type(error).__name__}: {error}): export it again"
        ) from None


def read_decisions(folder: Path) -> list[dict[str, Any]]:
    """What each step of an artifact decided. Raises ArtifactError when it cannot be read."""
    try:
        data: Any = json.loads((folder / "decisions.json").read_text())
        if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
            raise TypeError("no list of mappings")
        return data
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{folder / 'decisions.json'}: holds no decisions ({type(error).__name__}: {error}): export it again"
        ) from None


def load(folder: str | Path) -> Model:
    """The model of an artifact directory, as a callable over numpy arrays. Raises ArtifactError when it is damaged."""
    path = Path(folder)
    check_sums(path)
    return Model(path / "model.onnx")


def recipe_document(folder: Path) -> dict[str, Any]:
    """The recipe of an artifact directory as plain values. Raises ArtifactError."""
    try:
        return read_yaml(folder / "recipe.yaml").data
    except AutocompressError as error:
        raise ArtifactError(str(error)) from None
