"""Weights: regular files of bounded size."""

import os
import zipfile
from pathlib import Path

import pytest
from torch import nn

import autocompress.tasks.weights as weights
from autocompress.errors import TaskError
from autocompress.tasks import Classification
from autocompress.tasks.checks import check_task
from autocompress.training import Training

PAIRS = ([[0.0, 1.0], [1.0, 0.0]], [0, 1])


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_devices_pipes_and_large_files_are_refused_unread(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(TaskError, match=rf"weights: .*{name}{suffix}: is a folder, device or pipe: name a regular"):
            weights.read_weights(tmp_path / f"{name}{suffix}")
    with (tmp_path / f"large{suffix}").open("wb") as file:
        file.truncate(4 * 10**9 + 1)  # takes no room on the disk
    with pytest.raises(TaskError, match=rf"large{suffix}: has 4,000,000,001 bytes, at most 4,000,000,000 are read"):
        weights.read_weights(tmp_path / f"large{suffix}")


def test_a_file_that_unpacks_to_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MOST_BYTES", 10**6)
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10**6 + 1))
    with pytest.raises(TaskError, match=r"w.pt: unpacks to 1,000,001 bytes, at most 1,000,000 are read"):
        weights.read_weights(tmp_path / "w.pt")


# Names of outputs


def named(outputs: int, classes: str, baseline: Training | None) -> Classification:
    return Classification(lambda: nn.Linear(2, outputs), PAIRS, PAIRS, PAIRS, baseline, classes=tuple(classes))


@pytest.mark.parametrize(
    ("outputs", "classes", "trained"), [(2, "ab", True), (2, "ab", False), (3, "ab", False), (3, "", True)]
)
def test_names_fit_the_outputs(outputs: int, classes: str, trained: bool) -> None:
    check_task(named(outputs, classes, None if trained else Training()))


@pytest.mark.parametrize(("outputs", "classes", "trained"), [(2, "abc", False), (2, "abc", True), (3, "ab", True)])
def test_names_that_do_not_fit_the_outputs_are_refused(outputs: int, classes: str, trained: bool) -> None:
    message = rf"the model has {outputs} outputs but the data {len(classes)} classes, from 'a' to '{classes[-1]}'"
    with pytest.raises(TaskError, match=message):
        check_task(named(outputs, classes, None if trained else Training()))
