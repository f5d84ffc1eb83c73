"""Time series without code: windows of an NPZ file or cut from a table; their class, a number, or what follows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn
from torch.utils.data import TensorDataset

from ..data import SPLITS
from ..errors import TaskError, suggest
from ..training import Training
from .class_weights import Weighted
from .image_data import SplitShares
from .kinds import Load, TaskKind
from .networks import Scaled, SeriesCNN, SeriesGRU, spread
from .npz import read_arrays
from .preparation import Preparation, finite, is_path
from .protocol import Array, Classification, Regression, Supervised
from .remarks import Remarks
from .tables import Predicts, check_filled, divided, moments, numbers, plain, predicted, read_table, table_of

if TYPE_CHECKING:
    import pandas as pd

USUAL = Training(epochs=20, learning_rate=2e-3)
Floats = NDArray[np.float32]


class SeriesPreparation(Preparation):
    """Series as they come, newest last: arrays, or a table with a column a channel and a row a moment."""

    example: ClassVar[str] = '"latest.csv"'

    channels: tuple[str, ...]
    count: int = Field(ge=1)
    length: int = Field(ge=1)

    @model_validator(mode="after")
    def _tables_have_names(self) -> "SeriesPreparation":
        if self.channels and len(self.channels) != self.count:
            raise ValueError(f"channels has {len(self.channels)} names for {self.count}: give one each")
        return self

    def arrays(self, raw: Any) -> tuple[Array, ...]:
        """Series (N, channels, length) of as many, of one (channels, length), or of a table of `length` rows.

        Where there is one channel, (N, length) and (length,) will do. Raises TaskError for another shape.
        """
        if is_path(raw) or hasattr(raw, "columns"):
            if not self.channels:
                raise TaskError("the channels have no names: give an array (N, channels, length)")
            table = table_of(raw, self.channels)
            given = np.stack([numbers(table[name].to_numpy(), name, Path("the rows")) for name in self.channels])
        else:
            given = finite(raw, "series")
        one = (self.count, self.length)
        short = one[1:] if self.count == 1 else one
        if given.shape not in (one, short) and given.shape[1:] not in (one, short):
            raise TaskError(f"series have shape {given.shape}: give (N, {self.count}, {self.length}), or one alone")
        return (given.reshape(-1, *one),)


class TimeSeriesConfig(Weighted, TaskKind):
    """The `task:` mapping of a search config with `kind: time_series`.

    data is `npz:FILE` with x (N, channels, length) or (N, length) and y (N,), perhaps with `groups` (N,); or `csv:FILE`
    or `parquet:FILE`, from which windows of `window` rows are cut, every `stride` rows. With a `horizon` the `target`
    of so many rows that follow is predicted; else the target of the window's last row. Whole groups (a bearing, a
    patient) are in one split; without them a table is split at two moments, training first, and no row is in two.
    model is called with `channels`, `length` and `outputs`, and takes series (N, channels, length).
    """

    networks: ClassVar[Mapping[str, type]] = {"cnn": SeriesCNN, "gru": SeriesGRU}
    preparation: ClassVar[type[SeriesPreparation]] = SeriesPreparation
    kind: Literal["time_series"]
    data: str = Field(pattern=r"^(npz|csv|parquet):.+$")
    predicts: Predicts = "auto"
    target: str | None = None
    time: str | None = None
    group: str | None = None
    drop: tuple[str, ...] = ()
    window: int | None = Field(None, ge=2, le=100_000)
    stride: int = Field(1, ge=1)
    horizon: int | None = Field(None, ge=1, le=10_000)
    model: str = Field("cnn", pattern=r"^(cnn|gru|.+:.+)$")
    split: SplitShares = SplitShares()
    baseline: Training | None = None

    @model_validator(mode="after")
    def _belongs_together(self) -> "TimeSeriesConfig":
        if self.data.startswith("npz:"):
            given = [name for name in ("target", "time", "group", "drop", "window", "horizon") if getattr(self, name)]
            if given:
                raise ValueError(f"{given[0]} is of tables: an NPZ file holds windows as x, y and perhaps groups")
        elif self.target is None or self.window is None:
            raise ValueError("a table needs `target`, the column to predict, and `window`, how many rows are looked at")
        return self

    def build(self, root: Path, load: Load) -> Supervised:
        """The task; relative paths start at root. Raises TaskError."""
        path, remarks = root / self.places()[0], Remarks()
        read = _windows_of_npz if self.data.startswith("npz:") else _windows_of_table
        windows = read(self, path, remarks)
        make, train = load(self.code, root), torch.from_numpy(windows.x["train"])
        values = windows.y["train"]
        outputs = len(windows.names) or values.shape[1]
        scaling: dict[str, Any] = {**spread(train, (0, 2))}
        splits: dict[str, Any] = {
            name: TensorDataset(torch.from_numpy(windows.x[name]), torch.from_numpy(windows.y[name])) for name in SPLITS
        }
        order = f" {', '.join(map(repr, windows.channels))}" if windows.channels else " as in x"
        usual: dict[str, Any] = {
            "baseline": self.baseline or USUAL,
            "notes": tuple(f"task.data: {text}" for text in remarks.lines()),
            "preparation": SeriesPreparation(
                kind=self.kind, channels=windows.channels, count=train.shape[1], length=train.shape[2]
            ),
            "inputs": (f"series (N, {train.shape[1]}, {train.shape[2]}) as they come, newest last; channels:{order}",),
        }
        if windows.names:
            usual |= {"classes": windows.names, "class_weights": self.weights_of(windows.names, values)}
            return Classification(_maker(make, scaling, train.shape, outputs), **splits, **usual)
        self.no_weights()
        scale = float(values.std()) or 1.0
        scaling |= {"shift": float(values.mean()), "scale": scale}
        return Regression(_maker(make, scaling, train.shape, outputs), **splits, scale=scale, **usual)


@dataclass(frozen=True)
class _Windows:
    """Series (N, channels, length) and targets by split: classes (N,) with their names, or numbers (N, outputs)."""

    x: Mapping[str, Floats]
    y: Mapping[str, NDArray[Any]]
    names: tuple[str, ...]
    channels: tuple[str, ...] = ()


def _maker(
    make: Callable[..., nn.Module], scaling: Mapping[str, Any], shape: torch.Size, outputs: int
) -> Callable[[], nn.Module]:
    def model() -> nn.Module:
        """The network between numbers as they come and numbers as it learns them."""
        return Scaled(make(channels=shape[1], length=shape[2], outputs=outputs), **scaling)

    return model


def _windows_of_npz(config: TimeSeriesConfig, path: Path, remarks: Remarks) -> _Windows:
    pairs, arrays = read_arrays(path, ("groups",), remarks)
    groups = arrays.get("groups")
    series = {x: _series(arrays[x], x, path) for x, _ in pairs.values()}
    order = list(pairs.values())
    values = np.concatenate([arrays[y].reshape(len(arrays[y]), -1) for _, y in order])
    if values.shape[1] != 1 and values.dtype.kind != "f":
        raise TaskError(f"task.data: {path}: y has shape {arrays[order[0][1]].shape}: store one class a window")
    flat = values[:, 0] if values.shape[1] == 1 else values
    found, names = predicted(flat, "y", config.predicts, path, remarks)
    targets = found if names else found.reshape(len(found), -1)
    if "all" in pairs:
        if groups is not None and groups.shape != (len(targets),):
            raise TaskError(f"task.data: {path}: groups has shape {groups.shape}: store one group a window")
        parts = divided(config.split, targets if names else np.zeros(len(targets)), groups)
        x, y = ({name: each[part] for name, part in parts.items()} for each in (series["x"], targets))
        return _Windows(x, y, names)
    ends = np.cumsum([len(series[x]) for x, _ in order])[:-1]
    pieces = dict(zip(pairs, np.split(targets, ends), strict=True))
    return _Windows({name: series[x] for name, (x, _) in pairs.items()}, pieces, names)


def _series(values: NDArray[Any], name: str, path: Path) -> Floats:
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise TaskError(
            f"task.data: {path}: {name} has shape {values.shape}: store (N, channels, length) or (N, length)"
        )
    return numbers(values[:, None] if values.ndim == 2 else values, name, path)


def _windows_of_table(config: TimeSeriesConfig, path: Path, remarks: Remarks) -> _Windows:
    table = read_table(path, config.data.partition(":")[0])
    columns = _columns(config, table, path)
    assert config.target is not None
    target, names = (
        (numbers(table[config.target].to_numpy(), config.target, path), ())
        if config.horizon
        else predicted(plain(table[config.target]), config.target, config.predicts, path, remarks)
    )
    values = np.stack([numbers(table[name].to_numpy(), name, path) for name in columns])
    stretches = _stretches(config, table, path)
    x: dict[str, Floats] = {}
    y: dict[str, NDArray[Any]] = {}
    for name in SPLITS:
        cut = [_cut(config, values[:, rows], target[rows], not names) for rows in stretches[name]]
        x[name], y[name] = (np.concatenate(part) for part in zip(*cut, strict=True))
        if not len(x[name]):
            least = (config.window or 0) + (config.horizon or 0)
            raise TaskError(
                f"task.window: {path}: the {name} split has no stretch of {least} rows: take a smaller one or more rows"
            )
    if config.horizon and config.target in columns:
        last = x["validation"][:, columns.index(config.target), -1:]
        mae = float(np.abs(y["validation"] - last).mean())
        remarks.add(f"to repeat the last value has a mean absolute error of {mae:.4g} on validation", config.target)
    return _Windows(x, y, names, tuple(columns))


def _columns(config: TimeSeriesConfig, table: "pd.DataFrame", path: Path) -> list[str]:
    """The channels: every column but those with another part; the target is one where what comes next is predicted."""
    special = {"target": (config.target,), "time": (config.time,), "group": (config.group,), "drop": config.drop}
    for key, names in special.items():
        for name in names:
            if name is not None and name not in table:
                raise TaskError(f"task.{key}: {path} has no column {name!r}: {suggest(name, table.columns)}")
    left = {config.time, config.group, *config.drop, *(() if config.horizon else (config.target,))}
    columns = [name for name in table.columns if name not in left]
    if not columns:
        raise TaskError(f"task.data: {path}: has no column to look at")
    for name in {*columns, config.target, config.time, config.group} - {None}:
        check_filled(table[name], path)
    return columns


def _stretches(config: TimeSeriesConfig, table: "pd.DataFrame", path: Path) -> dict[str, list[NDArray[np.int64]]]:
    """Runs of rows by split, in the order of time: of whole groups, or of one series that is cut at two moments."""
    if config.group is None:
        _check_time(config, table, np.arange(len(table)), path)
        ends = np.round(np.cumsum([1 - config.split.validation - config.split.test, config.split.validation])
                        * len(table)).astype(int)  # fmt: skip
        return {name: [part] for name, part in zip(SPLITS, np.split(np.arange(len(table)), ends), strict=True)}
    member = plain(table[config.group])
    parts = divided(config.split, np.zeros(len(table)), member)
    found: dict[str, list[NDArray[np.int64]]] = {}
    for name, part in parts.items():
        found[name] = [part[member[part] == group] for group in np.unique(member[part])]
        for rows in found[name]:
            _check_time(config, table, rows, path)
    return found


def _check_time(config: TimeSeriesConfig, table: "pd.DataFrame", rows: NDArray[np.int64], path: Path) -> None:
    """Raise TaskError where time goes back."""
    if config.time is None:
        return
    values = moments(table[config.time].iloc[rows], path)
    back = np.flatnonzero(values[1:] < values[:-1])
    if len(back):
        row = int(rows[back[0] + 1]) + 1
        of = "" if config.group is None else f" of group {table[config.group].iloc[rows[0]]!r}"
        raise TaskError(f"task.time: {path}: row {row}{of} is earlier than the one before it: sort the rows by time")


def _cut(config: TimeSeriesConfig, values: Floats, target: NDArray[Any], columns: bool) -> tuple[Floats, NDArray[Any]]:
    """The windows (N, channels, window) of one run of rows, and their targets."""
    window, horizon = config.window or 0, config.horizon or 0
    starts = np.arange(0, values.shape[1] - window - horizon + 1, config.stride)
    series = values[:, starts[:, None] + np.arange(window)].transpose(1, 0, 2)
    if horizon:
        return np.ascontiguousarray(series), target[starts[:, None] + window + np.arange(horizon)]
    last = target[starts + window - 1]
    return np.ascontiguousarray(series), last[:, None] if columns else last
