"""Images that a table names: from its folder, with its classes, and whole groups in one split."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from autocompress.data import SPLITS
from autocompress.errors import TaskError
from autocompress.tasks import load_task, refer
from autocompress.tasks.kinds import task_kind

COUNT = 40


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Images of one gray each, which says its row, in folders that say nothing of their classes."""
    rows = []
    for index in range(COUNT):
        file = Path("scans") / f"{index % 3}" / f"nr {index}.png"
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, 10), 5 * index).save(tmp_path / file)
        rows.append({"path": str(file), "label": ("well", "ill")[index % 2], "patient": f"p{index // 4}"})
    pd.DataFrame(rows).to_csv(tmp_path / "list.csv", index=False)
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))\n"
    )
    return tmp_path


def task(place: Path, **more: Any) -> Any:
    usual = {
        "kind": "image_classification",
        "model": "net.py:net",
        "data": "csv:list.csv",
        "input_size": 8,
        "channels": 1,
    }
    return load_task(refer(task_kind("image_classification").model_validate({**usual, **more}), place))


def rows_of(made: Any, name: str) -> list[tuple[int, int]]:
    """The row that each image's gray says, and its class."""
    images, labels = made.split(name).tensors
    return [(int(image[0, 0, 0]) // 5, int(label)) for image, label in zip(images, labels, strict=True)]


def test_each_image_has_the_class_of_its_row_and_all_are_there(place: Path) -> None:
    made = task(place)
    assert made.classes == ("ill", "well")
    found = [pair for name in SPLITS for pair in rows_of(made, name)]
    assert sorted(found) == [(row, 1 - row % 2) for row in range(COUNT)]


def test_a_group_is_in_one_split(place: Path) -> None:
    made = task(place, group="patient")
    patients = [{row // 4 for row, _ in rows_of(made, name)} for name in SPLITS]
    assert all(patients)
    assert sum(map(len, patients)) == COUNT // 4


def test_parquet_and_other_columns(place: Path) -> None:
    table = pd.read_csv(place / "list.csv").rename(columns={"path": "file", "label": "finding"})
    (place / "tables").mkdir()
    shutil.move(place / "scans", place / "tables" / "scans")
    table.to_parquet(place / "tables" / "all.parquet")
    made = task(place, data="parquet:tables/all.parquet", image="file", target="finding")
    assert sum(len(made.split(name)) for name in SPLITS) == COUNT


def test_a_changed_image_is_another_task(place: Path) -> None:
    before = task(place)
    Image.new("L", (12, 10), 255).save(place / "scans" / "0" / "nr 0.png")
    after = task(place)
    assert any(not torch.equal(before.split(name).tensors[0], after.split(name).tensors[0]) for name in SPLITS)


@pytest.mark.parametrize(
    ("change", "settings", "reason"),
    [
        ({}, {"image": "file"}, "task.image: .*list.csv has no column 'file'"),
        ({}, {"target": "lable"}, "task.target: .*list.csv has no column 'lable': did you mean 'label'"),
        ({}, {"group": "person"}, "task.group: .*list.csv has no column 'person'"),
        ({"path": "scans/none.png"}, {}, "column 'path' names 'none.png' in row 1, and .* is no file: paths start at"),
        ({"path": "net.py"}, {}, "row 1 names 'net.py', which is no image by its name"),
        ({"path": "scans/1/nr 1.png"}, {}, "'nr 1.png' stands in rows 1 and 2: name each image once"),
        ({"path": np.nan}, {}, "column 'path' has 1 empty or NA cells"),
        ({"label": np.nan}, {}, "column 'label' has 1 empty or NA cells"),
    ],
)
def test_what_a_table_lacks_is_said(place: Path, change: dict[str, Any], settings: dict[str, Any], reason: str) -> None:
    table = pd.read_csv(place / "list.csv")
    for column, value in change.items():
        table.loc[0, column] = value
    table.to_csv(place / "list.csv", index=False)
    with pytest.raises(TaskError, match=reason):
        task(place, **settings)


def test_columns_of_a_folder_are_refused() -> None:
    with pytest.raises(ValueError, match="group names a column of a table, and data is none"):
        task_kind("image_classification").model_validate(
            {"kind": "image_classification", "model": "net.py:net", "data": "folder:x", "group": "patient"}
        )
