"""Series: windows, targets and splits against plain loops, what is refused, and a forecast from a file."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import run

from autocompress.data import SPLITS, batches
from autocompress.errors import TaskError
from autocompress.tasks import load_task, refer
from autocompress.tasks.kinds import task_kind
from autocompress.tasks.protocol import Task
from autocompress.tasks.time_series import TimeSeriesConfig, _cut

ROWS = 200


def series(rows: int = ROWS) -> pd.DataFrame:
    """A wave with noise, another channel, and whether the wave is up."""
    chance = np.random.default_rng(0)
    wave = np.sin(np.arange(rows) / 5) + chance.normal(0, 0.05, rows)
    found = pd.DataFrame({"day": pd.date_range("2020-01-01", periods=rows).astype(str), "wave": wave})
    found["other"] = chance.normal(size=rows)
    found["up"] = np.where(wave > 0, "up", "down")
    found["machine"] = np.arange(rows) // 20
    return found


def task(folder: Path, frame: pd.DataFrame, **settings: Any) -> Task:
    frame.to_csv(folder / "series.csv", index=False)
    given = {"kind": "time_series", "data": "csv:series.csv", "target": "wave", "window": 8, **settings}
    return load_task(refer(task_kind("time_series").model_validate(given), folder))


def whole(found: Task, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    batch = next(batches(found.split(name), 10_000))
    return batch.inputs[0].numpy(), batch.targets.numpy()


@given(st.integers(1, 40), st.integers(2, 9), st.integers(1, 5), st.one_of(st.none(), st.integers(1, 4)), st.booleans())
def test_windows_and_their_targets_are_those_of_a_plain_loop(
    rows: int, window: int, stride: int, horizon: int | None, columns: bool
) -> None:
    values = np.arange(2 * rows, dtype=np.float32).reshape(2, rows)
    target = 1000 + np.arange(rows)
    given = {"kind": "time_series", "data": "csv:a", "target": "t", "window": window, "stride": stride}
    config = TimeSeriesConfig.model_validate({**given, "horizon": horizon})
    x, y = _cut(config, values, target, columns)
    starts = range(0, rows - window - (horizon or 0) + 1, stride)
    assert len(x) == len(y) == len(starts)
    for index, start in enumerate(starts):
        assert np.array_equal(x[index], values[:, start : start + window])
        if horizon:
            assert np.array_equal(y[index], target[start + window : start + window + horizon])
        else:
            assert y[index].item() == target[start + window - 1]


def test_a_forecast_sees_no_row_of_another_split_and_says_what_repeating_comes_to(tmp_path: Path) -> None:
    frame = series()
    found = task(tmp_path, frame, time="day", horizon=3, drop=["up", "machine"])
    assert type(found).__name__ == "Regression"
    held = []
    for name, (first, last) in zip(SPLITS, ((0, 120), (120, 160), (160, 200)), strict=True):
        x, y = whole(found, name)
        assert (x.shape[1:], y.shape[1]) == ((2, 8), 3)
        assert len(x) == last - first - 8 - 3 + 1
        held.append({round(float(value), 5) for value in np.concatenate([x[:, 0].ravel(), y.ravel()])})
        assert held[-1] == {round(float(np.float32(value)), 5) for value in frame["wave"][first:last]}
    x, y = whole(found, "validation")
    expected = f"{np.abs(y - x[:, 0, -1:]).mean():.4g}"
    assert any("to repeat the last value" in note and expected in note for note in found.notes)  # type: ignore[attr-defined]


def test_a_class_is_that_of_the_last_row_and_groups_stay_whole(tmp_path: Path) -> None:
    frame = series()
    found = task(tmp_path, frame, time="day", group="machine", target="up")
    assert found.classes == ("down", "up")  # type: ignore[attr-defined]
    machines = []
    for name in SPLITS:
        x, y = whole(found, name)
        rows = [int(np.abs(frame["wave"].to_numpy() - value).argmin()) for value in x[:, 0, -1]]
        assert [("down", "up")[label] for label in y] == list(frame["up"][rows])
        first = [int(np.abs(frame["wave"].to_numpy() - value).argmin()) for value in x[:, 0, 0]]
        assert list(frame["machine"][rows]) == list(frame["machine"][first])  # no window goes over two machines
        machines.append(set(frame["machine"][rows]))
    assert sum(map(len, machines)) == len(set.union(*machines)) == 10


def test_windows_of_an_npz_file_are_taken_with_their_groups(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    x, y, groups = chance.normal(size=(60, 2, 16)).astype(np.float32), np.arange(60) % 3, np.arange(60) // 6
    np.savez(tmp_path / "windows.npz", x=x, y=y, groups=groups)
    given = {"kind": "time_series", "data": "npz:windows.npz", "model": "gru"}
    found = load_task(refer(task_kind("time_series").model_validate(given), tmp_path))
    members = []
    for name in SPLITS:
        inputs, targets = whole(found, name)
        rows = [int(np.flatnonzero((x == row).all(axis=(1, 2)))[0]) for row in inputs]
        assert list(targets) == list(y[rows])
        members.append(set(groups[rows]))
    assert sum(map(len, members)) == len(set.union(*members)) == 10
    model = found.model().eval()
    assert model(torch.from_numpy(x[:2])).shape == (2, 3)


def test_splits_of_an_npz_file_are_taken_as_they_are(tmp_path: Path) -> None:
    arrays = {}
    for offset, name in enumerate(("train", "val", "test")):
        arrays[f"x_{name}"] = np.full((4 + offset, 9), offset, np.float32)
        arrays[f"y_{name}"] = np.full((4 + offset, 2), offset + 0.5, np.float32)
    np.savez(tmp_path / "windows.npz", **arrays)
    given = {"kind": "time_series", "data": "npz:windows.npz"}
    found = load_task(refer(task_kind("time_series").model_validate(given), tmp_path))
    for offset, name in enumerate(SPLITS):
        x, y = whole(found, name)
        assert (x.shape, y.shape) == ((4 + offset, 1, 9), (4 + offset, 2))
        assert (x.max(), y.min()) == (offset, offset + 0.5)


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({}, {"target": "wav", "horizon": 2, "drop": ["up"]}, "task.target: .* 'wav': did you mean 'wave'"),
        ({}, {"horizon": 2, "drop": ["up", "day"], "window": 60}, "the validation split has no stretch of 62 rows"),
        ({}, {"horizon": 2}, "column 'day' holds text, such as '2020-01-01'"),
        ({"day": ["2020-01-02", "2020-01-01", *["2021-01-01"] * 198]}, {"time": "day", "drop": ["up"], "horizon": 1},
         "row 2 is earlier than the one before it: sort the rows by time"),
        ({"day": ["03/04/2020"] * 200}, {"time": "day", "drop": ["up"], "horizon": 1}, "or dates as 2020-01-31"),
        ({"day": ["soon"] * 200}, {"time": "day", "drop": ["up"], "horizon": 1}, "'day' holds no times"),
        ({"wave": [*[0.0] * 199, np.nan]}, {"time": "day", "drop": ["up"], "horizon": 1}, "'wave' has 1 empty or NA"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_series_is_said_before_training(
    change: dict[str, Any], settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match=words):
        task(tmp_path, series().assign(**change), **settings)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"data": "csv:a.csv"}, "needs `target`"),
        ({"data": "npz:a.npz", "window": 8}, "window is of tables"),
        ({"data": "npz:a.npz", "time": "day"}, "time is of tables"),
    ],
)
def test_settings_that_do_not_belong_together_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TimeSeriesConfig.model_validate({"kind": "time_series", **given})


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((4, 1, 2, 3)), "y": np.zeros(4)}, r"x has shape \(4, 1, 2, 3\)"),
        ({"x": np.zeros((4, 3)), "y": np.zeros((4, 2), int)}, r"y has shape \(4, 2\): store one class"),
        ({"x": np.full((9, 3), np.nan), "y": np.arange(9) % 2}, "column 'x' has nan in row 1"),
        ({"x": np.zeros((9, 3)), "y": np.arange(9) % 2, "groups": np.zeros(4)}, "groups has shape"),
    ],
)
def test_what_is_no_series_is_said(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "windows.npz", **arrays)
    with pytest.raises(TaskError, match=words):
        load_task(refer(TimeSeriesConfig.model_validate({"kind": "time_series", "data": "npz:windows.npz"}), tmp_path))


SPACE = {"version": 1, "steps": [{"one_of": [{"technique": "low_bit", "bits": [6, 8]}, "float16"]}]}


@pytest.mark.parametrize("model", ["cnn", "gru"])
def test_a_forecast_is_searched_and_its_file_is_better_than_to_repeat(model: str, tmp_path: Path) -> None:
    frame = series(600)[["day", "wave"]]
    frame.to_csv(tmp_path / "series.csv", index=False)
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    described = {
        "kind": "time_series", "data": "csv:series.csv", "target": "wave", "time": "day", "window": 24, "horizon": 4,
        "model": model,
    }  # fmt: skip
    config = {
        "study": "wave", "task": described, "tracking": None, "search_space": "space.yaml",
        "budget": {"size": "200 KB", "metrics": {"mae": {"at_most": 0.5}}}, "search": {"trials": 2, "workers": 1},
        "objectives": ["size_bytes", "mae", "latency_ms"],
    }  # fmt: skip
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(config))
    assert run(tmp_path, "search", "search.yaml", "--executor", "inline").code == 0
    assert run(tmp_path, "export", "wave", "--out", "chosen").code == 0
    card = (tmp_path / "chosen" / "MODEL_CARD.md").read_text()
    assert "`input`: series (N, 1, 24) as they come, newest last; channels: 'wave'." in card
    session = onnxruntime.InferenceSession(tmp_path / "chosen" / "model.onnx")
    wave = frame["wave"].to_numpy(np.float32)[480:]  # the test split
    starts = np.arange(len(wave) - 28 + 1)
    x, y = wave[starts[:, None] + np.arange(24)], wave[starts[:, None] + 24 + np.arange(4)]
    output = session.run(None, {session.get_inputs()[0].name: x[:, None]})[0]
    assert np.abs(output - y).mean() < np.abs(x[:, -1:] - y).mean()
