"""Segmentation: pairs of images and masks, the indices that masks hold, metrics against scikit-learn, and a search."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from sklearn.metrics import accuracy_score, jaccard_score
from tiny import run
from torch import nn

import autocompress.tasks.bounds as bounds
import autocompress.techniques.teacher as teacher
from autocompress.data import SPLITS, batches
from autocompress.errors import TaskError
from autocompress.measure.quality import judge
from autocompress.search.plan import doubts
from autocompress.tasks import load_task, refer
from autocompress.tasks.image_segmentation import ImageSegmentationConfig
from autocompress.tasks.image_tensors import MEAN, STD
from autocompress.tasks.mask_files import read_mask
from autocompress.tasks.networks import UNet
from autocompress.tasks.protocol import Segmentation
from autocompress.techniques.base import Context

SIZE = 16


def pixels(seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """An image whose red channel says the class of each pixel, 0 to 2 in stripes, and its mask."""
    chance = np.random.default_rng(seed)
    mask = np.repeat(chance.permutation(np.arange(4) % 3), 4)[:, None] * np.ones(SIZE, int)
    image = chance.integers(0, 256, (SIZE, SIZE, 3))
    image[..., 0] = mask * 100 + chance.integers(0, 20, mask.shape)
    return image.astype(np.uint8), mask.astype(np.uint8)


def write(folder: Path, count: int = 10, first: int = 0) -> Path:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        image, mask = pixels(number)
        Image.fromarray(image).save(folder / "images" / f"{number:03}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:03}.png")
    return folder


def config(folder: Path, **settings: Any) -> ImageSegmentationConfig:
    given = {"kind": "image_segmentation", "data": f"folder:{folder.name}", "input_size": SIZE, **settings}
    return ImageSegmentationConfig.model_validate(given)


def task(folder: Path, **settings: Any) -> Segmentation:
    found = load_task(refer(config(folder, **settings), folder.parent))
    assert isinstance(found, Segmentation)
    return found


def whole(found: Segmentation, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    batch = next(batches(found.split(name), 10_000))
    return batch.inputs[0].numpy(), batch.targets.numpy()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data")


# What reaches the model


def test_images_and_masks_of_one_name_stay_together_and_no_image_is_in_two_splits(data: Path) -> None:
    found = task(data)
    assert found.classes == ("0", "1", "2")
    assert found.notes == ()
    known = {image.tobytes(): mask for image, mask in map(pixels, range(10))}
    seen = []
    for name in SPLITS:
        x, y = whole(found, name)
        assert y.dtype == np.uint8
        shown = np.round((x * np.array(STD)[:, None, None] + np.array(MEAN)[:, None, None]) * 255).astype(np.uint8)
        for image, mask in zip(shown.transpose(0, 2, 3, 1), y, strict=True):
            assert np.array_equal(known[image.tobytes()], mask)
            seen.append(image.tobytes())
    assert (len(seen), len(set(seen))) == (10, 10)


def test_splits_in_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for index, (name, count) in enumerate((("train", 4), ("val", 3), ("test", 2))):
        write(folder / name, count, 10 * index)
    found = task(folder)
    assert [len(whole(found, name)[0]) for name in SPLITS] == [4, 3, 2]
    assert np.array_equal(whole(found, "test")[1], [pixels(20)[1], pixels(21)[1]])


def test_masks_are_resized_to_indices_that_were_there_and_it_is_said(data: Path) -> None:
    found = task(data, input_size=8)
    _, y = whole(found, "validation")
    x, _ = whole(found, "validation")
    assert (x.shape, y.shape) == ((2, 3, 8, 8), (2, 8, 8))
    assert {tuple(mask[:, 0]) for mask in y} <= {tuple(pixels(seed)[1][1::2, 0]) for seed in range(10)}
    assert any("masks are resized to 8 x 8, and quality is that on the resized ones" in note for note in found.notes)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("palette", [False, True])
def test_indices_are_those_that_a_png_stores_whatever_its_bits(bits: int, palette: bool, tmp_path: Path) -> None:
    values = (np.arange(64).reshape(8, 8) % min(2**bits, 7)).astype(np.uint8)
    if palette:
        image = Image.fromarray(values, "L").convert("P")
        image.putdata(values.ravel().tolist())
        image.putpalette([255, 0, 0, 0, 255, 0, 9, 9, 9, 200, 200, 200, 1, 2, 3, 4, 5, 6, 7, 8, 9])
        image.save(tmp_path / "mask.png", bits=bits)
    else:
        (tmp_path / "mask.png").write_bytes(gray_png(values, bits))
    assert np.array_equal(read_mask(tmp_path / "mask.png"), values)


def gray_png(values: np.ndarray[Any, Any], bits: int) -> bytes:
    """A PNG file of gray values of so many bits, which PIL itself writes with 8 alone."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    each = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(len(values), -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in each)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_turned_image_is_paired_with_its_upright_mask(data: Path) -> None:
    image = Image.fromarray(np.zeros((10, 20, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(data / "images" / "turned.jpg", exif=exif)
    Image.fromarray(np.zeros((20, 10), np.uint8)).save(data / "masks" / "turned.png")
    found = task(data)
    assert any("turned upright as its EXIF data say" in note and "turned.jpg" in note for note in found.notes)


# What is refused or said


def lone_image(data: Path) -> None:
    (data / "masks" / "003.png").unlink()
    (data / "masks" / "004.png").unlink()


def lone_mask(data: Path) -> None:
    (data / "images" / "003.png").unlink()


def other_size(data: Path) -> None:
    Image.new("L", (4, 5)).save(data / "masks" / "003.png")


def colours(data: Path) -> None:
    Image.new("RGB", (SIZE, SIZE)).save(data / "masks" / "003.png")


def gap(data: Path) -> None:
    Image.new("L", (SIZE, SIZE), 255).save(data / "masks" / "003.png")


def twins(data: Path) -> None:
    Image.new("L", (SIZE, SIZE)).save(data / "images" / "003.jpg")


def deep(data: Path) -> None:
    Image.fromarray(np.full((SIZE, SIZE), 300, np.uint16)).save(data / "masks" / "003.png")


def broken(data: Path) -> None:
    (data / "masks" / "003.png").write_bytes((data / "masks" / "003.png").read_bytes()[:60])


def no_masks(data: Path) -> None:
    (data / "masks").rename(data / "labels")


def one_class(data: Path) -> None:
    for file in (data / "masks").iterdir():
        Image.new("L", (SIZE, SIZE)).save(file)


@pytest.mark.parametrize(
    ("spoil", "settings", "words"),
    [
        (lone_image, {}, r"images/003.png: this image has no mask of its name in .*, nor have 1 more: add it, or"),
        (lone_mask, {}, r"masks/003.png: this mask has no image of its name in .*/images: add it"),
        (other_size, {}, r"masks/003.png: has 4 x 5 pixels, but its image 003.png 16 x 16: save them alike"),
        (colours, {}, r"masks/003.png: has pixels of mode RGB, which are colours and no class indices: save"),
        (gap, {}, r"its masks hold the indices 0, 1, 2, 255 \(255 first in 003.png\): they go from 0 without a gap"),
        (gap, {"classes": ["a", "b", "c"]}, r"masks/003.png: holds index 255, but task.classes names 3, 0 to 2"),
        (twins, {}, r"images/003.png: has the name of 003.jpg but for its suffix: rename one"),
        (deep, {}, r"masks/003.png: holds index 300: at most 256 classes"),
        (broken, {}, r"masks/003.png: is not a readable image"),
        (no_masks, {}, r"data has no folder masks/: put images in images/ and their masks"),
        (one_class, {}, r"its masks hold the indices 0 \(0 first in 00..png\): they go from 0 without a gap, two"),
        (one_class, {"ignore": 0}, "every pixel of its masks has the index 0, which is ignored"),
        (lambda _: None, {"split": {"validation": 0.01, "test": 0.2}}, "no example is in the split 'validation'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_images_and_masks_is_said_before_training(
    spoil: Callable[[Path], None], settings: dict[str, Any], words: str, data: Path
) -> None:
    spoil(data)
    with pytest.raises(TaskError, match=words):
        task(data, **settings)


def test_a_folder_of_which_only_some_splits_are_there_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train")
    with pytest.raises(TaskError, match=r"has train/ but not both val/ and test/: .* put all images/ and masks/"):
        task(tmp_path / "data")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"input_size": 20}, "input_size 20 is no multiple of 8, which the model unet needs: take 16 or 24"),
        ({"classes": ["a"]}, "classes are 2 to 256 different names"),
        ({"classes": ["a", "a"]}, "classes are 2 to 256 different names"),
        ({"ignore": 256}, "less than 256"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=words):
        config(tmp_path, **settings)


def test_classes_that_a_split_has_no_pixel_of_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for index, name in enumerate(("train", "val", "test")):
        write(folder / name, 3, 10 * index)
    for file in (folder / "train" / "masks").iterdir():
        Image.new("L", (SIZE, SIZE), 1).save(file)
    found = task(folder, classes=["sky", "road", "car", "tree"])
    assert found.notes == (
        "task.data: train has no pixel of class 'sky', 'car', 'tree', which the model cannot learn",
        "task.data: validation has no pixel of class 'tree', which counts only where the model names it",
        "task.data: test has no pixel of class 'tree', which counts only where the model names it",
    )


def test_what_would_not_be_held_in_memory_is_refused_before_it_is_read(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MOST_BYTES", 10 * 4 * SIZE**2 - 1)
    with pytest.raises(TaskError, match=r"10 images of task.input_size take 10,240 bytes, .*: choose a smaller input"):
        config(data).build(data.parent, lambda *_: UNet)
    monkeypatch.setattr(bounds, "MOST_BYTES", 10 * 4 * SIZE**2)
    with pytest.raises(TaskError, match=r"2 validation outputs of 11 classes a pixel take 22,528 bytes"):
        config(data, classes=list("abcdefghijk")).build(data.parent, lambda *_: UNet)


# Loss and metrics


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.sampled_from([None, 0, 255]), st.sampled_from([1.0, 0.05]))
def test_metrics_are_those_of_scikit_learn_over_all_pixels_that_count(
    seed: int, count: int, ignore: int | None, shown: float
) -> None:
    chance = np.random.default_rng(seed)
    target = chance.integers(0, max(1, round(count * shown)), (3, 4, 5)).astype(np.uint8)
    output = chance.normal(size=(3, count, 4, 5)).astype(np.float32)
    if ignore is not None:
        target[chance.random(target.shape) < 0.3] = ignore
        target[0, 0, 0] = 1
    found = Segmentation(nn.Identity, None, None, None, ignore=ignore).metrics(output, target)
    wanted, named = target.ravel(), output.argmax(axis=1).ravel()
    counted = wanted != ignore
    wanted, named = wanted[counted], named[counted]
    there = np.union1d(wanted, named)
    assert found["mean_iou"] == pytest.approx(jaccard_score(wanted, named, labels=there, average="macro"))
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(wanted, named))


def test_the_loss_is_the_mean_over_pixels_that_count_and_0_where_none_does() -> None:
    made = Segmentation(nn.Identity, None, None, None, ignore=255)
    output = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.randint(0, 3, (2, 4, 4), dtype=torch.uint8)
    target[:, 1] = 255
    rows = output.movedim(1, -1)[target != 255]
    expected = nn.functional.cross_entropy(rows, target[target != 255].long())
    torch.testing.assert_close(made.loss(output, target), expected)
    nothing = made.loss(output, torch.full_like(target, 255))
    nothing.backward()  # type: ignore[no-untyped-call]
    assert (nothing.item(), output.grad.abs().sum().item()) == (0, 0)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nn.Conv2d(3, classes, 3)", r"output has shape \(2, 3, 14, 14\) for targets \(2, 16, 16\): segme"),
        ("nn.Conv2d(3, classes + 1, 1)", r"output has shape \(2, 4, 16, 16\) .* of as many pixels and 3 classes"),
    ],
)  # fmt: skip
def test_a_model_of_other_outputs_is_refused(source: str, words: str, data: Path) -> None:
    code = f"from torch import nn\n\n\ndef network(classes):\n    return {source}\n"
    (data.parent / "model.py").write_text(code)
    with pytest.raises(TaskError, match=words):
        task(data, model="model.py:network")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 24, 40])
def test_the_network_gives_logits_of_every_pixel_at_any_multiple_of_8(channels: int, size: int) -> None:
    made = UNet(4, channels).eval()
    assert made(torch.zeros(1, channels, size, size)).shape == (1, 4, size, size)
    with pytest.raises(RuntimeError):
        made(torch.zeros(1, channels, size + 4, size + 4))


# Outputs of four dimensions elsewhere


def test_a_file_that_names_one_class_for_all_pixels_is_said(data: Path) -> None:
    found = task(data)
    flat = np.zeros((1, 3, SIZE, SIZE), np.float32)
    flat[:, 1] = 1
    metrics, said = judge(lambda x: np.repeat(flat, len(x), 0), found, "validation")
    assert said == [f"names one class, '1', for all {2 * SIZE**2} pixels of the validation split"]
    assert doubts(found, metrics)
    _, y = whole(found, "validation")
    right = np.eye(3, dtype=np.float32)[y].transpose(0, 3, 1, 2)
    perfect, said = judge(lambda x: right, found, "validation")
    assert (perfect, said) == ({"mean_iou": 1.0, "pixel_accuracy": 1.0}, [])
    assert doubts(found, perfect) == []


def test_logits_of_a_teacher_are_kept_where_there_is_room_and_the_same_without(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = task(data)
    context = Context(found, found.model().eval(), 0)
    batch = next(batches(found.split("train"), 3))
    kept = teacher.Teacher(context)
    assert kept.stored is not None
    monkeypatch.setattr(teacher, "MOST_BYTES", kept.stored[""].nbytes - 1)
    without = teacher.Teacher(context)
    assert without.stored is None
    torch.testing.assert_close(kept(batch), without(batch))


SPACE = {
    "version": 1,
    "steps": [
        {"one_of": [{"technique": "channel_pruning", "ratio": [0.2, 0.3]}, "none"]},
        {"technique": "distill", "epochs": 1, "batch_size": 4},
        {"one_of": ["int8_static", "float16"]},
    ],
}


def test_a_segmentation_is_searched_and_exported(data: Path) -> None:
    (data.parent / "space.yaml").write_text(yaml.safe_dump(SPACE))
    described = {
        "kind": "image_segmentation", "data": "folder:data", "input_size": SIZE, "classes": ["sky", "road", "car"],
        "baseline": {"epochs": 8, "learning_rate": 0.01, "batch_size": 2},
    }  # fmt: skip
    settings = {
        "study": "stripes", "task": described, "tracking": None, "search_space": "space.yaml",
        "budget": {"metrics": {"mean_iou": 0.3}}, "search": {"trials": 1, "workers": 1},
    }  # fmt: skip
    (data.parent / "search.yaml").write_text(yaml.safe_dump(settings))
    ran = run(data.parent, "search", "search.yaml", "--executor", "inline", "--json")
    assert ran.code == 0, ran.err
    assert ran.json()["baseline"]["mean_iou"] > 0.6
    ran = run(data.parent, "export", "stripes", "--out", "chosen")
    assert ran.code == 0, ran.err
    card = (data.parent / "chosen" / "MODEL_CARD.md").read_text()
    assert "Outputs stand for: 0 'sky', 1 'road', 2 'car'." in card
    assert "images (N, 3, 16, 16): intensities from 0 to 1" in card
