"""What a study keeps on disk beside its storage: baselines, the files of its front, and a lock."""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StudyError, unwritten
from ..outcome import Baseline, Candidate
from ..urls import sqlite_file


def work_folder(storage: str) -> Path:
    """The folder `.autocompress` beside a SQLite file, or in the current folder for other storages."""
    path = sqlite_file(storage)
    return (Path.cwd() if path is None else path.resolve().parent) / ".autocompress"


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write a folder of files whole: a crash leaves the old folder or none. Raises WriteError."""
    with _writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            temporary.chmod(0o755)
            for name, data in files.items():
                _write(temporary / name, data)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        old = temporary.with_name(temporary.name + "-old")
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What the system refuses, told as WriteError."""
    try:
        yield
    except OSError as error:
        raise unwritten(error, folder) from error


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_json(path: Path, value: Any) -> None:
    """Write a value whole or not at all. Raises WriteError."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(value, file)
        Path(file.name).replace(path)


@dataclass(frozen=True)
class StudyFiles:
    """The files of one study in a work folder."""

    folder: Path
    study: str

    @property
    def _trials(self) -> Path:
        return self.folder / self.study / "trials"

    @property
    def stages(self) -> Path:
        """Where stages are cached, for all studies of the folder."""
        return self.folder / "stages"

    def store(self, number: int, candidate: Candidate) -> None:
        """Keep what a trial made. Raises WriteError."""
        files = {
            "model.onnx": candidate.onnx,
            "weights.safetensors": candidate.weights,
            "decisions.json": json.dumps(candidate.decisions).encode(),
            "float_weights.json": json.dumps(candidate.float_weights).encode(),
        }
        write_folder(self._trials / str(number), files)

    def load(self, number: int) -> Candidate | None:
        """What a trial made, without its metrics; None when it is not kept."""
        folder = self._trials / str(number)
        try:
            decisions = json.loads((folder / "decisions.json").read_text())
            weights = (folder / "weights.safetensors").read_bytes()
            names = json.loads((folder / "float_weights.json").read_text())
            return Candidate((folder / "model.onnx").read_bytes(), decisions, weights, {}, float_weights=names)
        except (OSError, ValueError):
            return None

    def keep_only(self, numbers: Iterable[int]) -> None:
        """Remove the files of all other trials."""
        kept = {str(number) for number in numbers}
        for folder in self._trials.glob("[0-9]*"):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def store_baseline(self, key: str, baseline: Baseline, code: str, made_of: Mapping[str, str]) -> None:
        """Keep a trained baseline, for every study that starts from the same task and seed. Raises WriteError.

        code is what the config calls the task; made_of are the facts that the key stands for.
        """
        facts = {
            "metrics": baseline.metrics,
            "seconds": baseline.seconds,
            "fingerprint": baseline.fingerprint,
            "code": code,
            "made_of": dict(made_of),
        }
        files = {
            "model.onnx": baseline.onnx,
            "weights.safetensors": baseline.weights,
            "early.safetensors": baseline.early,
            "baseline.json": json.dumps(facts).encode(),
        }
        write_folder(self.folder / "baselines" / key, files)

    def latest_facts(self, code: str) -> dict[str, str]:
        """What the newest kept baseline of a task of that name was made of; empty where none is kept."""
        rows = []
        for path in (self.folder / "baselines").glob("*/baseline.json"):
            with contextlib.suppress(OSError, ValueError):
                facts = json.loads(path.read_text())
                if facts.get("code") == code:
                    rows.append((path.stat().st_mtime, facts["made_of"]))
        return dict(max(rows, key=lambda row: row[0])[1]) if rows else {}

    def load_baseline(self, key: str) -> Baseline | None:
        """The baseline of that key, or None when it is not kept."""
        folder = self.folder / "baselines" / key
        try:
            facts = json.loads((folder / "baseline.json").read_text())
            names = ("weights.safetensors", "early.safetensors", "model.onnx")
            weights, early, model = ((folder / name).read_bytes() for name in names)
        except (OSError, ValueError):
            return None
        return Baseline(weights, early, model, facts["metrics"], facts["seconds"], facts["fingerprint"])

    def load_obstacles(self, key: str) -> dict[str, str] | None:
        """Why techniques cannot be applied to a model, as kept under that key; None where that is not known."""
        try:
            found: dict[str, str] = json.loads((self.folder / "obstacles" / f"{key}.json").read_text())
        except (OSError, ValueError):
            return None
        return found

    def store_obstacles(self, key: str, found: Mapping[str, str]) -> None:
        """Keep why techniques cannot be applied to a model. Raises WriteError."""
        _write_json(self.folder / "obstacles" / f"{key}.json", dict(found))

    def load_prefix(self, key: str) -> dict[str, Any] | None:
        """What was measured after the first steps of a recipe, as kept under that key; None where that is not known."""
        try:
            found: dict[str, Any] = json.loads((self._prefixes / f"{key}.json").read_text())
        except (OSError, ValueError):
            return None
        return found

    def store_prefix(self, key: str, found: Mapping[str, Any]) -> None:
        """Keep what was measured after the first steps of a recipe. Raises WriteError."""
        _write_json(self._prefixes / f"{key}.json", dict(found))

    @property
    def _prefixes(self) -> Path:
        return self.folder / self.study / "prefixes"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the study, so that no second search asks and tells beside this one; the system frees it on any death."""
        path = self.folder / self.study / "lock"
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StudyError(f"study {self.study!r} is being searched by another process: wait for it") from None
            yield
        finally:
            os.close(descriptor)
