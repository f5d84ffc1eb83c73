"""Class folders: what is left out, what is refused, and what is said of it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import autocompress.tasks.bounds as bounds
from autocompress.errors import TaskError
from autocompress.tasks import Classification
from autocompress.tasks.image_tensors import MEAN, STD
from autocompress.tasks.images import ImageClassificationConfig, image_classification

SPLITS = ("train", "validation", "test")


class Net(nn.Module):
    """One layer that is told the number of classes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, num_classes)


def write(folder: Path, count: int = 5, shade: int = 0, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("L", (8, 8), shade + number).save(folder / f"{number}{suffix}")


def task(path: Path, **settings: Any) -> Classification:
    config = {"kind": "image_classification", "model": "m:Net", "data": f"folder:{path.name}", "input_size": 8}
    found = ImageClassificationConfig.model_validate({**config, **settings})
    return image_classification(found, path.parent, lambda *_: Net)


def sizes(made: Classification) -> list[int]:
    return [len(made.split(name)) for name in SPLITS]  # type: ignore[arg-type]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of five images."""
    path = tmp_path / "images"
    write(path / "cat")
    write(path / "dog", shade=100)
    return path


def test_of_a_plain_folder_there_is_nothing_to_say(images: Path) -> None:
    made = task(images)
    assert made.classes == ("cat", "dog")
    assert made.notes == ()
    assert sizes(made) == [6, 2, 2]


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", "__pycache__", "@eaDir"])
def test_hidden_folders_are_no_classes_and_their_images_do_not_count(images: Path, name: str) -> None:
    write(images / name)
    write(images / "cat" / name)
    made = task(images)
    assert made.classes == ("cat", "dog")
    assert sizes(made) == [6, 2, 2]
    assert made.notes == (f"task.data: left out, as it is hidden or of the system: {images / name} and 1 more",)


def test_what_systems_put_beside_images_is_left_out(images: Path) -> None:
    (images / "cat" / "Thumbs.db").write_bytes(b"x")
    (images / "cat" / "._0.png").write_bytes(b"\0\5\26\7 a resource fork")
    (images / "dog" / ".DS_Store").write_bytes(b"x")
    (images / "README.txt").write_text("x")
    made = task(images)
    assert sizes(made) == [6, 2, 2]
    assert set(made.notes) == {
        f"task.data: left out, as it lies in no class folder: {images / 'README.txt'}",
        f"task.data: left out, as it is hidden or of the system: {images / 'cat' / '._0.png'} and 1 more",
        f"task.data: left out, as its name is not that of an image: {images / 'cat' / 'Thumbs.db'}",
    }


def test_suffixes_count_in_upper_case_too(images: Path) -> None:
    for path in (images / "cat").iterdir():
        path.rename(path.with_suffix(".PNG"))
    assert sizes(task(images)) == [6, 2, 2]


def test_empty_folders_are_no_classes(images: Path) -> None:
    (images / "bird").mkdir()
    made = task(images)
    assert made.classes == ("cat", "dog")
    assert made.notes == (f"task.data: left out, as it holds no images: {images / 'bird'}",)


def test_folders_inside_a_class_count_for_it_and_links_to_folders_do_not(images: Path) -> None:
    write(images / "cat" / "more", 5, 50)
    (images / "dog" / "loop").symlink_to(images)
    made = task(images)
    assert sum(sizes(made)) == 15
    assert set(made.notes) == {
        f"task.data: images in a folder inside a class folder count for that class: {images / 'cat' / 'more'}",
        f"task.data: left out, as it is a link to a folder: {images / 'dog' / 'loop'}",
    }


def test_classes_that_are_spelled_almost_alike_are_said(images: Path) -> None:
    write(images / "Cat")
    made = task(images)
    assert made.classes == ("Cat", "cat", "dog")
    assert made.notes == ("task.data: classes 'Cat' and 'cat' are spelled almost alike: they are taken as two",)


# Splits in folders of their own


@pytest.fixture
def split(tmp_path: Path) -> Path:
    path = tmp_path / "split"
    for name in ("train", "val", "test"):
        for label in ("cat", "dog"):
            write(path / name / label, 2)
    return path


def test_names_of_splits_count_in_any_case(split: Path) -> None:
    for name in ("train", "val", "test"):
        (split / name).rename(split / name.capitalize())
    made = task(split)
    assert made.classes == ("cat", "dog")
    assert sizes(made) == [4, 4, 4]


def test_other_folders_beside_the_splits_are_left_out(split: Path) -> None:
    write(split / "extra" / "cat")
    assert task(split).notes == (
        f"task.data: left out, as it is none of train, validation and test: {split / 'extra'}",
    )


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_hidden_folders_of_a_split_are_no_classes(split: Path, name: str) -> None:
    write(split / name / ".ipynb_checkpoints", 2)
    made = task(split)
    assert made.classes == ("cat", "dog")
    assert len(made.notes) == 1


def test_a_class_spelled_otherwise_in_another_split_is_refused(split: Path) -> None:
    (split / "val" / "cat").rename(split / "val" / "Cat")
    with pytest.raises(TaskError, match=r"val.Cat: is no class of the training set \(cat, dog\): did you mean 'cat'\?"):
        task(split)


def test_a_class_that_is_empty_in_training_alone_is_refused(split: Path) -> None:
    write(split / "train" / "elk", 1)
    write(split / "val" / "elk", 1)
    write(split / "test" / "elk", 1)
    assert task(split).classes == ("cat", "dog", "elk")
    (split / "train" / "elk" / "0.png").unlink()
    with pytest.raises(
        TaskError, match=r"val.elk: is no class of the training set \(cat, dog\): add it there, or take"
    ):
        task(split)


def test_a_class_that_a_split_lacks_is_said(split: Path) -> None:
    write(split / "train" / "elk", 3)
    assert task(split).notes == (
        "task.data: validation has no example of class 'elk' (3 in all)",
        "task.data: test has no example of class 'elk' (3 in all)",
    )


def test_folders_named_as_other_splits_are_no_classes(tmp_path: Path) -> None:
    for name in ("Training", "Testing"):
        write(tmp_path / "data" / name / "cat")
    with pytest.raises(TaskError, match=r"has Testing/, Training/, which are names of splits: name them"):
        task(tmp_path / "data")


# Few examples


@pytest.mark.parametrize(
    ("count", "missing"), [(1, ["validation", "test"]), (2, ["test"]), (3, ["validation"]), (4, [])]
)
def test_of_a_class_of_few_examples_it_is_said_where_none_is(images: Path, count: int, missing: list[str]) -> None:
    write(images / "elk", count)
    made = task(images)
    assert made.classes == ("cat", "dog", "elk")
    assert made.notes == tuple(
        f"task.data: {name} has no example of class 'elk' ({count} in all; a class needs 4 to be in each split)"
        for name in missing
    )


def test_a_class_without_an_example_to_train_on_is_refused(images: Path) -> None:
    write(images / "elk", 1)
    # Of one example 0.3 is trained on: it falls to validation.
    shares = {"validation": 0.5, "test": 0.2}
    with pytest.raises(TaskError, match=r"train has no example of class 'elk' \(1 in all; .* add some to train on"):
        task(images, split=shares)


def test_a_set_too_small_to_be_split_is_refused(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        write(tmp_path / "data" / label, 1)
    with pytest.raises(TaskError, match=r"no example is in the split 'validation': every split needs at least one"):
        task(tmp_path / "data")


# Depth and transparency by the way that tasks take


@pytest.mark.parametrize("kind", ["8", "16", "mixed", "float"])
def test_pictures_of_any_depth_reach_the_model_normalized_alike(tmp_path: Path, kind: str) -> None:
    for label, shade in (("cat", 51), ("dog", 204)):
        folder = tmp_path / "data" / label
        folder.mkdir(parents=True)
        for number in range(5):
            depth = {"mixed": ("8", "16")[number % 2]}.get(kind, kind)
            if depth == "float":
                Image.fromarray(np.full((8, 8), shade / 255, np.float32)).save(folder / f"{number}.tif")
            else:
                pixels = np.full(
                    (8, 8), shade * (257 if depth == "16" else 1), np.uint16 if depth == "16" else np.uint8
                )
                Image.fromarray(pixels).save(folder / f"{number}.png")
    made = task(tmp_path / "data")
    for name in SPLITS:
        inputs, targets = made.split(name)[:]
        for row, target in zip(inputs, targets, strict=True):
            expected = [((51, 204)[int(target)] / 255 - m) / s for m, s in zip(MEAN, STD, strict=True)]
            torch.testing.assert_close(row[:, 0, 0], torch.tensor(expected), atol=1e-5, rtol=0)


def test_the_ground_is_the_configs(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(5):
            Image.new("RGBA", (8, 8)).save(tmp_path / "data" / label / f"{number}.png")
    for background, value in (("white", 1), ("black", 0)):
        made = task(tmp_path / "data", background=background)
        assert float(made.split("train")[0][0][0, 0, 0]) == pytest.approx((value - MEAN[0]) / STD[0], abs=1e-5)
        assert f"transparent pixels are laid on {background}" in made.notes[0]
    assert task(tmp_path / "data").notes[0].endswith("0.png and 9 more")


# Bounds


def test_a_pipe_among_images_is_refused_and_not_waited_for(images: Path) -> None:
    os.mkfifo(images / "cat" / "x.png")
    with pytest.raises(TaskError, match=r"x.png: is a folder, device or pipe: name a regular file"):
        task(images)


def test_more_than_is_held_in_memory_is_refused_before_it_is_read(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "cat" / "0.png").write_bytes(b"no image: reading it would say so")
    monkeypatch.setattr(bounds, "MOST_BYTES", 10 * 3 * 64 - 1)
    with pytest.raises(
        TaskError, match=r"images: 10 images of task.input_size take 1,920 bytes, at most 1,919 are held"
    ):
        task(images)


def test_more_classes_than_a_classifier_has_are_refused(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MOST_CLASSES", 1)
    with pytest.raises(TaskError, match=r"images: has 2 different labels, at most 1 are taken as classes"):
        task(images)
