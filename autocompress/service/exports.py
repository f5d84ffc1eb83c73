"""Artifact directories made once, as archives to download; and plans. Both run the user's code, each in a process."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ServiceError, WriteError, unwritten
from .database import Search
from .problems import Refusal
from .settings import Settings
from .submission import Places
from .sweeping import in_use

COMMAND = (sys.executable, "-P", "-c", "from autocompress.terminal.cli import main; main()")
NO_ROOM = ("cannot be written: ", "disk is full", "no space left")  # what a command says of a full disk
AT_ONCE = threading.BoundedSemaphore(2)  # commands beside the searches
# Each keeps one of the 40 threads that answer, also while it waits for its turn; all other requests need some too.
TAKEN = threading.BoundedSemaphore(12)
AGAIN_S = 10.0
PLAN_S, EXPORT_S = 600.0, 900.0
EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest that a .zip can say
FORMATS = {"zip": "application/zip", "tar.gz": "application/gzip"}


class Exports:
    """The exports of a server's searches, each beside what its search is made of."""

    def __init__(self, settings: Settings, places: Places) -> None:
        self._settings, self._places = settings, places

    def archive(self, search: Search, trial: int, kind: str) -> Path:
        """The archive of a trial's artifact directory, made where it is missing. Raises ServiceError, Refusal (503)."""
        folder = self._places.search(search.id) / "exports"
        path = folder / f"{search.study}-{trial}.{kind}"
        made = folder / str(trial)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _taken(), in_use(folder):
                if path.is_file():
                    path.touch()
                else:
                    if not made.is_dir():
                        arguments = ["export", search.study, "--trial", str(trial), "--out", str(made), "--json"]
                        self.run(arguments, self._places.project(search), EXPORT_S)
                    _write(path, lambda new: _pack(made, new, kind, f"{search.study}-{trial}"))
        except OSError as error:
            raise unwritten(error, path) from error
        return path

    def plan(self, config: Path) -> dict[str, Any]:
        """What `autocompress plan` says of a config. Raises ServiceError, or Refusal (503)."""
        arguments = ["plan", config.name, "--executor", self._settings.executor, "--json"]
        with _taken():
            found: dict[str, Any] = json.loads(self.run(arguments, config.parent, PLAN_S))
        return found

    def run(self, arguments: Sequence[str], cwd: Path, most_s: float) -> str:
        """Standard output of a command. Raises ServiceError with its last words."""
        environment: Mapping[str, str] = {**os.environ, "AUTOCOMPRESS_STORAGE": self._settings.storage}
        try:
            with AT_ONCE:
                done = subprocess.run(
                    [*COMMAND, *arguments],
                    cwd=cwd,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=most_s,
                    check=False,
                )
        except subprocess.TimeoutExpired:
            raise ServiceError(f"{arguments[0]}: took longer than {most_s:.0f} s: run it where the data is") from None
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
            last = lines[-1].removeprefix("error: ")
            raise (WriteError if any(words in last for words in NO_ROOM) else ServiceError)(last)
        return done.stdout


@contextmanager
def _taken() -> Iterator[None]:
    """One of the plans and exports that are taken at once. Raises Refusal (503)."""
    if not TAKEN.acquire(blocking=False):
        raise Refusal(
            503,
            "too many plans and exports are being made",
            "server",
            "each takes a process, and few run at once",
            f"ask again in {AGAIN_S:.0f} s",
            AGAIN_S,
        )
    try:
        yield
    finally:
        TAKEN.release()


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    try:
        write(new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _pack(folder: Path, path: Path, kind: str, name: str) -> None:
    """The files of a folder, below one of that name in an archive; equal files give an equal .zip."""
    files = sorted(found for found in folder.iterdir() if found.is_file())
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                entry = zipfile.ZipInfo(f"{name}/{file.name}", EPOCH)
                entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
                archive.writestr(entry, file.read_bytes())
        return
    with tarfile.open(path, "w:gz") as tar:
        for file in files:
            tar.add(file, f"{name}/{file.name}", filter=_plain)


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode = 0o644
    return info
