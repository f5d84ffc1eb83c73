"""An artifact directory as people use it: a function of arrays, and of raw inputs where its kind of task takes some."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..documents import Document, read_json, validate
from ..errors import ArtifactError, AutocompressError
from ..reading import JSON_BYTES
from .directory import PREPARATION, check_sums, read_measurement
from .runtime import Model
from .sessions import Array


class Artifact(Model):
    """The model of an artifact directory, in an ONNX Runtime session of one thread.

    Called with arrays, batch first, in the order of `inputs`, it returns the output. classes are the names of the
    classes in the order of outputs, where they have names. Raises ArtifactError when the directory is damaged.
    """

    def __init__(self, folder: Path) -> None:
        check_sums(folder)
        super().__init__(folder / "model.onnx")
        self.classes: Sequence[str] = tuple(map(str, read_measurement(folder).classes))
        self._folder = folder
        self._preparation: Any = None

    def __call__(self, *inputs: Array) -> Array:
        """The model's output for inputs in the order of the file. Raises ArtifactError for what are no arrays."""
        if not all(isinstance(part, np.ndarray) for part in inputs):
            kinds = ", ".join(type(part).__name__ for part in inputs)
            raise ArtifactError(f"called with {kinds}, where arrays are taken: predict() takes raw inputs")
        if len(inputs) != len(self.inputs):
            names = ", ".join(self.inputs)
            raise ArtifactError(f"called with {len(inputs)} arrays, where {len(self.inputs)} are taken: {names}")
        return super().__call__(*inputs)

    def prepare(self, raw: Any) -> tuple[Array, ...]:
        """What the model is called with for raw inputs, one or several: the same as in training, to the last bit.

        What they are follows from the kind of task: paths of images, PIL images or arrays of pixels; texts; WAV files
        or samples; rows as a DataFrame, a CSV or parquet file or mappings; series; observations. Raises ArtifactError
        for others, and for a model that takes arrays alone.
        """
        self._preparation = self._preparation or self._read()
        try:
            found: tuple[Array, ...] = self._preparation.arrays(raw)
        except AutocompressError as error:
            raise ArtifactError(str(error).removeprefix("task.data: ")) from None
        return found

    def predict(self, raw: Any) -> Array:
        """The name of the class of each raw input, or of each of its pixels (N, H, W); outputs where there are none.

        Outputs that no class stands for go by their numbers. Raises ArtifactError as prepare does.
        """
        output = self(*self.prepare(raw))
        if not self.classes:
            return output
        if output.ndim < 2 or output.shape[1] < len(self.classes):
            raise ArtifactError(
                f"{self._folder}: measurement.json names {len(self.classes)} classes, and outputs are {output.shape}: "
                "export it again"
            )
        others = map(str, range(len(self.classes), output.shape[1]))
        named: Array = np.asarray([*self.classes, *others])[output.argmax(axis=1)]
        return named

    def _read(self) -> Any:
        from ..tasks.kinds import task_kind  # which needs torch

        path = self._folder / PREPARATION
        if not path.exists():
            raise ArtifactError(
                f"{self._folder}: holds no {PREPARATION}, as its inputs are arrays already or made by a task's own "
                "code: call it with arrays, as MODEL_CARD.md says"
            )
        try:
            data = read_json(path, JSON_BYTES)
            kind = task_kind(data.get("kind") if isinstance(data, dict) else None)
            if kind.preparation is None:
                raise ArtifactError(f"tasks of kind {data['kind']!r} take arrays alone")
            return validate(kind.preparation, Document(PREPARATION, data))
        except AutocompressError as error:
            raise ArtifactError(f"{path}: {error}") from None


def load(folder: str | Path) -> Artifact:
    """The model of an artifact directory, as a function of arrays and of raw inputs. Raises ArtifactError."""
    return Artifact(Path(folder))
