"""First configs: what data and weights look like, and that the config that comes of it is one that can be searched."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
import yaml
from PIL import Image
from safetensors.torch import save_file
from scipy.io import wavfile
from tiny import run
from worded import save, sentences

from autocompress.config import load_config
from autocompress.search.setup import task_reference
from autocompress.tasks import load_task


def images(folder: Path) -> str:
    for label in ("daisy", "rose"):
        (folder / "flowers" / label).mkdir(parents=True)
        for number in range(5):
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "flowers" / label / f"{number}.png")
    return "flowers"


def table(folder: Path, **more: Any) -> str:
    frame = pd.DataFrame({"age": np.arange(40.0), "town": ["Graz", "Linz"] * 20, **more})
    frame["name"] = [f"person {index}" for index in range(40)]
    frame["gap"] = [None, *range(39)]
    frame["label"] = ["good", "bad"] * 20
    frame["rest"] = 1.0
    frame.to_csv(folder / "people.csv", index=False)
    return "people.csv"


def windows(folder: Path) -> str:
    np.savez(folder / "windows.npz", x=np.zeros((30, 2, 16), np.float32), y=np.linspace(0, 1, 30))
    return "windows.npz"


def pictures(folder: Path) -> str:
    np.savez(folder / "digits.npz", x=np.zeros((30, 28, 28), np.uint8), y=np.arange(30) % 3)
    return "digits.npz"


def reviews(folder: Path) -> str:
    save(folder / "model")
    sentences(40).rename(columns={"text": "said"}).assign(stars=1).to_csv(folder / "reviews.csv", index=False)
    return "reviews.csv"


def transformer(folder: Path) -> str:
    sentences(40).to_csv(folder / "texts.csv", index=False)
    return save(folder / "model").name


def masks(folder: Path) -> str:
    chance = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for name, values in (("images", (16, 16, 3)), ("masks", (16, 16))):
            (folder / "streets" / part / name).mkdir(parents=True)
            for number in range(3):
                pixels = chance.integers(0, 3, values).astype(np.uint8)
                if name == "masks":
                    pixels[0] = 255
                Image.fromarray(pixels).save(folder / "streets" / part / name / f"{number}.png")
    return "streets"


def sounds(folder: Path) -> str:
    for label in ("no", "yes"):
        (folder / "words" / label).mkdir(parents=True)
        for number in range(10):
            rate = 8000 if number else 11_025
            wavfile.write(folder / "words" / label / f"{number:x}_nohash_0.wav", rate, np.ones(rate // 2, np.int16))
    return "words"


@pytest.mark.parametrize(
    ("make", "task", "quality"),
    [
        (images, {"kind": "image_classification", "data": "folder:flowers"}, "accuracy"),
        (table, {"kind": "tabular", "data": "csv:people.csv", "target": "label", "drop": ["name", "gap"]}, "accuracy"),
        (windows, {"kind": "time_series", "data": "npz:windows.npz"}, "r2"),
        (pictures, {"kind": "image_classification", "data": "npz:digits.npz", "input_size": 28}, "accuracy"),
        (masks, {"kind": "image_segmentation", "data": "folder:streets", "input_size": 64, "ignore": 255}, "mean_iou"),
        (
            sounds,
            {
                "kind": "audio_classification",
                "data": "folder:words",
                "sample_rate": 8000,
                "seconds": 0.5,
                "resample": True,
                "group": "^(.+)_nohash_",
            },
            "accuracy",
        ),
        (
            reviews,
            {"kind": "text_classification", "data": "csv:reviews.csv", "text": "said", "label": "label"},
            "accuracy",
        ),
        (transformer, {"kind": "text_classification", "model": "transformers:model"}, "accuracy"),
    ],
    ids=["images", "table", "windows", "pictures", "masks", "sounds", "reviews", "transformer"],
)
def test_what_data_look_like_is_a_config_whose_task_can_be_made(
    make: Any, task: dict[str, Any], quality: str, tmp_path: Path
) -> None:
    ran = run(tmp_path, "init", make(tmp_path))
    assert ran.code == 0, ran.err
    assert "search.yaml: next, autocompress plan search.yaml" in ran.err
    config = load_config(tmp_path / "search.yaml")
    assert isinstance(config.task, dict)
    assert task.items() <= config.task.items()
    found = load_task(task_reference(config))
    assert found.quality == quality
    assert ("objectives" in config.model_fields_set) == (quality != "accuracy")
    assert quality in config.objectives
    again = run(tmp_path, "init", make.__name__)
    assert again.code == 2
    assert "search.yaml: is there already: name another file by --out" in again.err


def test_a_config_elsewhere_names_the_data_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    table(tmp_path)
    assert run(tmp_path, "init", "people.csv", "--out", "configs/people.yaml").code == 0
    config = load_config(tmp_path / "configs" / "people.yaml")
    assert config.study == "people"
    assert config.task["data"] == "csv:../people.csv"  # type: ignore[index]
    text = (tmp_path / "configs" / "people.yaml").read_text()
    assert "by its name: 2 classes" in text
    assert "has 40 different values in 40 rows" in text
    assert "has 1 empty or NA cells, first in row 1" in text


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", None])
def test_weights_are_recognized_whatever_their_number_of_classes(name: str | None, tmp_path: Path) -> None:
    model = torchvision.models.get_model(name, num_classes=7) if name else torch.nn.Linear(3, 4)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    assert run(tmp_path, "init", "weights.safetensors").code == 0
    task = yaml.safe_load((tmp_path / "search.yaml").read_text())["task"]
    assert task["model"] == (f"torchvision:{name}" if name else "model.py:network")
    assert task["weights"] == "weights.safetensors"


@pytest.mark.parametrize(
    ("name", "words"),
    [("nothing", "no such file or folder"), ("notes.txt", "is none of .bin, .csv"), ("empty", "has no folders in it")],
)
def test_what_is_no_data_is_said(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("some words")
    (tmp_path / "empty").mkdir()
    ran = run(tmp_path, "init", name)
    assert ran.code == 2
    assert words in ran.err
    assert not (tmp_path / "search.yaml").exists()
