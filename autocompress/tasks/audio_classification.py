"""Classification of sounds without code: a folder of class folders of WAV files, seen as log-mel spectrograms."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field, field_validator, model_validator
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ..data import SPLITS
from ..errors import TaskError
from ..training import Training
from .bounds import check_room
from .class_weights import Weighted
from .folders import ALL, Labelled, Wanted, check_folder, class_folders
from .image_data import SplitShares, alike_classes, missing_classes
from .kinds import Load, TaskKind
from .networks import Scaled, SoundCNN, spread
from .preparation import Preparation, is_path, several
from .protocol import Array, Classification
from .remarks import Remarks
from .sound_files import Clip, Samples, fitted, read_sound, scaled
from .spectrograms import FLOOR, WINDOW, Bands, Floats, spectrogram
from .tables import divided

SOUNDS = Wanted("a WAV file", "WAV files", {".wav", ".wave"})
USUAL = Training(epochs=30, learning_rate=3e-3)
Rows = Sequence[tuple[Path, int]]


class SoundSettings(BaseModel):
    """The settings of sounds and their spectrograms."""

    sample_rate: int = Field(16_000, ge=1000, le=384_000)
    seconds: float = Field(1.0, gt=0, le=60)
    resample: bool = False
    mels: int = Field(40, ge=4, le=256)

    @model_validator(mode="after")
    def _holds_a_window(self) -> "SoundSettings":
        if self.seconds < WINDOW:
            raise ValueError(f"seconds {self.seconds:g} are shorter than a window of {WINDOW:g}: take more")
        return self

    @property
    def clip(self) -> Clip:
        """What sounds are brought to."""
        return Clip(self.sample_rate, round(self.seconds * self.sample_rate), self.resample)

    @property
    def bands(self) -> Bands:
        """How spectrograms are made."""
        return Bands(self.sample_rate, self.mels)


class SoundPreparation(SoundSettings, Preparation):
    """WAV files, or arrays (samples,) of floats whose full scale is 1, at the rate of `sample_rate`."""

    example: ClassVar[str] = '"word.wav"'

    def arrays(self, raw: Any) -> tuple[Array, ...]:
        """Spectrograms (N, 1, mels, frames). Raises TaskError, with the fix, for what is no such sound."""
        seen = [spectrogram(self._samples(each), self.bands) for each in several(raw)]
        return (np.stack(seen)[:, None],)

    def _samples(self, raw: Any) -> Samples:
        if is_path(raw):
            return read_sound(Path(raw), self.clip, Remarks())
        values = np.asarray(raw)
        if values.ndim != 1 or values.dtype.kind != "f" or not len(values):
            raise TaskError(
                f"an array of {values.dtype} and shape {values.shape} is no sound: give floats (samples,) at "
                f"{self.sample_rate} Hz, or the path of a WAV file"
            )
        return fitted(scaled(values, Path("the array"), Remarks()), self.clip)


class AudioClassificationConfig(Weighted, SoundSettings, TaskKind):
    """The `task:` mapping of a search config with `kind: audio_classification`.

    data is `folder:DIR` of class folders of WAV files, or of train/, val/ and test/ of them. Each sound is cut to
    `seconds`, or filled with zeros, and seen as a spectrogram (1, mels, frames), made before the model. `group` is a
    regular expression that is searched in file names; files that share its first group (a speaker, a recording) stay in
    one split. model is called with `classes`, how many there are.
    """

    networks: ClassVar[Mapping[str, type]] = {"cnn": SoundCNN}
    preparation: ClassVar[type[SoundPreparation]] = SoundPreparation
    kind: Literal["audio_classification"]
    model: str = Field("cnn", pattern=r"^(cnn|.+:.+)$")
    data: str = Field(pattern=r"^folder:.+$")
    group: str | None = None
    split: SplitShares = SplitShares()
    baseline: Training | None = None

    @field_validator("group")
    @classmethod
    def _has_a_group(cls, value: str | None) -> str | None:
        try:
            groups = 1 if value is None else re.compile(value).groups
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        if not groups:
            raise ValueError("has no group: put what must stay in one split in parentheses, such as ^([^_]+)_")
        return value

    @model_validator(mode="after")
    def _holds_a_window(self) -> "AudioClassificationConfig":
        if self.seconds < WINDOW:
            raise ValueError(f"seconds {self.seconds:g} are shorter than a window of {WINDOW:g}: take more")
        return self

    def build(self, root: Path, load: Load) -> Classification:
        """The task; relative paths start at root. Raises TaskError."""
        path, remarks = root / self.places()[0], Remarks()
        make = load(self.code, root)
        check_folder(path)
        found = class_folders(path, SOUNDS, remarks)
        rows = _by_split(self, found)
        targets = {name: np.array([label for _, label in rows[name]], np.int64) for name in SPLITS}
        shares = self.split if ALL in found.files and self.group is None else None
        absent = missing_classes(targets, found.classes, shares, trained=False)
        clip, bands = self.clip, self.bands
        check_room(found.count(), 4 * bands.count * bands.frames(clip.length), path, "spectrograms", "seconds")
        seen = {name: _seen(rows[name], clip, bands, remarks) for name in SPLITS}
        splits: dict[str, Any] = {name: TensorDataset(seen[name], torch.from_numpy(targets[name])) for name in SPLITS}
        scaling: dict[str, Any] = {**spread(seen["train"], (0, 3))}
        count = len(found.classes)

        def model() -> nn.Module:
            """The network on bands that are scaled as in training."""
            return Scaled(make(classes=count), **scaling)

        shape = tuple(seen["train"].shape[1:])
        said = (*remarks.lines(), *absent, *alike_classes(found.classes), f"sounds are seen as {_shown(bands, shape)}")
        return Classification(
            model,
            **splits,
            baseline=self.baseline or USUAL,
            classes=found.classes,
            class_weights=self.weights_of(found.classes, targets["train"]),
            notes=tuple(f"task.data: {text}" for text in said),
            preparation=SoundPreparation.of(self),
            inputs=(
                f"the mean of channels at {clip.rate} Hz, full scale 1, cut to {clip.length} samples or filled with "
                f"zeros at the end, as {_shown(bands, shape)}",
            ),
        )


def _shown(bands: Bands, shape: tuple[int, ...]) -> str:
    return f"spectrograms (N, {', '.join(map(str, shape))}): {bands.shown()}"


def _seen(rows: Rows, clip: Clip, bands: Bands, remarks: Remarks) -> Tensor:
    """Spectrograms (N, 1, bands, frames) of files."""
    seen = np.empty((len(rows), 1, bands.count, bands.frames(clip.length)), np.float32)
    for index, (file, _) in enumerate(rows):
        seen[index, 0] = _spectrogram(file, clip, bands, remarks)
    return torch.from_numpy(seen)


def _spectrogram(file: Path, clip: Clip, bands: Bands, remarks: Remarks) -> Floats:
    found = spectrogram(read_sound(file, clip, remarks), bands)
    if not (found > FLOOR).any():
        remarks.add(f"silent: never above {FLOOR:g} dB in what is kept of it", file)
    return found


def _by_split(config: AudioClassificationConfig, found: Labelled) -> Mapping[str, Rows]:
    """Files with their classes by split, no group of them in two. Raises TaskError."""
    if ALL in found.files:
        rows = found.files[ALL]
        labels = np.array([label for _, label in rows])
        groups = None if config.group is None else np.array([_group(config.group, file) for file, _ in rows])
        parts = divided(config.split, labels, groups)
        return {name: [rows[index] for index in part] for name, part in parts.items()}
    first: dict[str, tuple[str, Path]] = {}
    for name in SPLITS if config.group is not None else ():
        for file, _ in found.files[name]:
            group = _group(str(config.group), file)
            place, other = first.setdefault(group, (name, file))
            if place != name:
                raise TaskError(
                    f"task.group: {file}: its group {group!r} is in {place} too, as {other}: move all files of a group "
                    "to one split"
                )
    return found.files


def _group(pattern: str, file: Path) -> str:
    found = re.search(pattern, file.name)
    group = None if found is None else found.group(1)
    if group is None:
        raise TaskError(f"task.group: {file}: {pattern!r} finds no group in its name: correct it, or rename the file")
    return group
