"""NPZ files: labels of every kind become named classes, and sizes are known before anything is read."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib import format as npy
from torch import nn

import autocompress.tasks.bounds as bounds
import autocompress.tasks.npz as reader
from autocompress.errors import TaskError
from autocompress.tasks import Classification
from autocompress.tasks.image_tensors import MEAN, STD
from autocompress.tasks.images import ImageClassificationConfig, image_classification

SPLITS = ("train", "validation", "test")
COUNT = 30
PLAIN = np.arange(COUNT) % 3


class Net(nn.Module):
    """One layer that is told the number of classes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, num_classes)


def images(labels: np.ndarray[Any, Any] = PLAIN) -> np.ndarray[Any, Any]:
    """Uniform images, ten times their class and their number in it."""
    return np.broadcast_to((10 * labels)[:, None, None], (len(labels), 8, 8)).astype(np.uint8)


def task(path: Path, **settings: Any) -> Classification:
    config = {"kind": "image_classification", "model": "m:Net", "data": f"npz:{path.name}", "input_size": 8}
    found = ImageClassificationConfig.model_validate({**config, **settings})
    return image_classification(found, path.parent, lambda *_: Net)


def made(folder: Path, y: Any, x: Any = None, **arrays: Any) -> Classification:
    np.savez(folder / "set.npz", x=images() if x is None else x, y=y, **arrays)
    return task(folder / "set.npz")


def classes_by_shade(made: Classification) -> dict[int, int]:
    """Which target an image of each shade has, over all splits; one each."""
    pairs = set()
    for name in SPLITS:
        inputs, targets = made.split(name)[:]
        shades = ((inputs[:, 0, 0, 0] * STD[0] + MEAN[0]) * 255).round().int()
        pairs |= set(zip(shades.tolist(), targets.tolist(), strict=True))
    found = dict(pairs)
    assert len(found) == len(pairs)
    return found


# Labels

NAMES = np.array(["dog", "ant", "cat"])


@pytest.mark.parametrize(
    ("labels", "classes", "targets"),
    [
        (PLAIN, ("0", "1", "2"), {0: 0, 10: 1, 20: 2}),
        (PLAIN.astype(np.uint8), ("0", "1", "2"), {0: 0, 10: 1, 20: 2}),
        (PLAIN.astype(float), ("0", "1", "2"), {0: 0, 10: 1, 20: 2}),
        (PLAIN.reshape(-1, 1), ("0", "1", "2"), {0: 0, 10: 1, 20: 2}),
        (PLAIN + 1, ("1", "2", "3"), {0: 0, 10: 1, 20: 2}),
        (PLAIN - 1, ("-1", "0", "1"), {0: 0, 10: 1, 20: 2}),
        (PLAIN * 45 + 9, ("9", "54", "99"), {0: 0, 10: 1, 20: 2}),
        (PLAIN.astype(np.int64) * 2**40, ("0", str(2**40), str(2**41)), {0: 0, 10: 1, 20: 2}),
        (NAMES[PLAIN], ("ant", "cat", "dog"), {0: 2, 10: 0, 20: 1}),
        (NAMES[PLAIN].astype(bytes), ("ant", "cat", "dog"), {0: 2, 10: 0, 20: 1}),
        (np.eye(3)[PLAIN], ("0", "1", "2"), {0: 0, 10: 1, 20: 2}),
        (np.eye(4, dtype=bool)[PLAIN + 1], ("0", "1", "2", "3"), {0: 1, 10: 2, 20: 3}),
        (PLAIN > 0, ("0", "1"), {0: 0, 10: 1, 20: 1}),
    ],
    ids=["plain", "uint8", "floats", "column", "from 1", "negative", "gaps", "huge", "text", "bytes", "one-hot",
         "one-hot of four", "bool"],
)  # fmt: skip
def test_labels_of_every_kind_become_classes(
    tmp_path: Path, labels: Any, classes: tuple[str, ...], targets: dict[int, int]
) -> None:
    found = made(tmp_path, labels)
    assert found.classes == classes
    assert classes_by_shade(found) == targets
    assert found.model().head.out_features == len(classes)  # type: ignore[union-attr]


def test_plain_labels_are_not_worth_a_word_and_split_as_ever(tmp_path: Path) -> None:
    found = made(tmp_path, PLAIN)
    assert found.notes == ()
    assert [len(found.split(name)) for name in SPLITS] == [18, 6, 6]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (PLAIN + 1, "labels 1, 2, 3 are outputs 0 to 2 in this order; an array `classes` of names in the file would"),
        (PLAIN * 50, "labels 0, 50, 100 are outputs 0 to 2 in this order"),
        (NAMES[PLAIN], "labels ant, cat, dog are outputs 0 to 2 in this order"),
        (np.eye(3)[PLAIN], "labels are one-hot: column 0 is output 0, to column 2"),
        (np.eye(4)[PLAIN], "nothing has class '3'"),
        (np.array(["cat", "cat ", "dog"])[PLAIN], "classes 'cat' and 'cat ' are spelled almost alike: they are taken"),
        (np.array(["\u00e9", "e\u0301", "e"])[PLAIN], "classes 'e\u0301' and '\u00e9' are spelled almost alike"),
    ],
)
def test_what_is_mapped_is_said(tmp_path: Path, labels: Any, note: str) -> None:
    assert any(text.startswith(f"task.data: {note}") for text in made(tmp_path, labels).notes)


def test_names_in_the_file_decide_the_order_of_outputs(tmp_path: Path) -> None:
    found = made(tmp_path, NAMES[PLAIN], classes=NAMES)
    assert found.classes == ("dog", "ant", "cat")
    assert classes_by_shade(found) == {0: 0, 10: 1, 20: 2}
    assert found.notes == ()


def test_with_names_whole_numbers_count_from_0_and_gaps_stay(tmp_path: Path) -> None:
    found = made(tmp_path, PLAIN * 2, classes=np.array(list("abcde")))
    assert found.classes == tuple("abcde")
    assert classes_by_shade(found) == {0: 0, 10: 2, 20: 4}
    assert found.notes == ("task.data: nothing has class 'b' and 1 more",)


SOFT = np.full((COUNT, 3), 1 / 3)
MANY = np.eye(3, dtype=int)[PLAIN] + np.eye(3, dtype=int)[(PLAIN + 1) % 3]
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "shares": ({"y": PLAIN + 0.5}, r"y holds 0.5: classes are whole numbers or text; for regression write your own"),
    "nan": ({"y": np.where(PLAIN == 2, np.nan, PLAIN)}, r"y holds nan: classes are whole numbers"),
    "infinite": ({"y": np.full(COUNT, np.inf)}, r"y holds inf: classes"),
    "soft": ({"y": SOFT}, r"y has shape \(30, 3\) but is not one-hot, a single 1 in each row: store one class"),
    "several": ({"y": MANY}, r"y has shape \(30, 3\) but is not one-hot"),
    "cube": ({"y": np.zeros((COUNT, 2, 2))}, r"y holds float64 of shape \(30, 2, 2\): store one class an example"),
    "dates": ({"y": np.full(COUNT, np.datetime64("2020-01-01"))}, r"y holds datetime64\[D\] of shape \(30,\)"),
    "objects": (
        {"y": NAMES[PLAIN].astype(object)},
        r"y holds Python objects: store numbers, or text by y.astype\(str\)",
    ),
    "no text": ({"y": np.full(COUNT, b"\xff")}, r"y holds bytes that are no text in UTF-8: store text"),
    "past names": ({"y": PLAIN, "classes": NAMES[:2]}, r"y holds label 2, which is none of its 2 classes"),
    "other names": ({"y": NAMES[PLAIN], "classes": NAMES[:2]}, r"y holds label 'cat', which is none of its 2 classes"),
    "names twice": ({"y": PLAIN, "classes": NAMES[[0, 0, 1]]}, r"store the different names of all classes as text"),
    "names no text": ({"y": PLAIN, "classes": np.arange(3)}, r"classes holds int64 of shape \(3,\): store the differ"),
    "names unlike": ({"y": np.eye(3)[PLAIN], "classes": NAMES[:2]}, r"classes holds <U3 of shape \(2,\): store the d"),
    "too many": ({"y": np.eye(20_000, dtype=bool)[PLAIN]}, r"has 20,000 different labels, at most 10,000 are taken"),
    "lengths": ({"y": PLAIN[:7]}, r"x and y hold 30 examples but 7 labels: store one each"),
    "one value": ({"y": np.array(3)}, r"x and y hold 30 examples but no labels: store one each"),
    "int64 images": ({"y": PLAIN, "x": images().astype(int)}, r"x holds int64: store uint8 from 0 to 255, uint16"),
    "bool images": ({"y": PLAIN, "x": images() > 0}, r"x holds bool: store uint8"),
    "channels first": (
        {"y": PLAIN, "x": np.zeros((COUNT, 3, 8, 8), np.uint8)},
        r"byte images have shape \(30, 3, 8, 8\): store \(N, H, W\) or \(N, H, W, C\), channels last: 1, 3",
    ),
    "nothing": ({"y": PLAIN, "x": np.zeros((COUNT, 0, 8), np.uint8)}, r"byte images have shape \(30, 0, 8\)"),
    "fields": ({"y": np.zeros(COUNT, [("ä", int)])}, r"y holds \[\('ä', '<i8'\)\] of shape \(30,\): store one class"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_no_class_is_named_with_its_fix(tmp_path: Path, case: str) -> None:
    arrays, message = REFUSED[case]
    np.savez(tmp_path / "set.npz", **{"x": images(), **arrays})
    with pytest.raises(TaskError, match=rf"task.data: .*set.npz.*{message}"):
        task(tmp_path / "set.npz")


def parts(folder: Path, labels: Any, **arrays: Any) -> Path:
    """Three splits of ten images with labels."""
    rows = {f"x_{name}": images(PLAIN[:10]) for name in ("train", "val", "test")}
    rows |= {f"y_{name}": labels for name in ("train", "val", "test")}
    np.savez(folder / "set.npz", **{**rows, **arrays})
    return folder / "set.npz"


def test_labels_are_mapped_over_all_splits_together(tmp_path: Path) -> None:
    labels = np.array([5, 6, 7, 8, 5, 6, 7, 8, 5, 6])
    found = task(parts(tmp_path, labels, y_val=np.full(10, 8)))
    assert found.classes == ("5", "6", "7", "8")
    assert found.split("validation")[:][1].tolist() == [3] * 10
    assert found.split("train")[:][1].tolist() == (labels - 5).tolist()
    assert any("validation has no example of class '5' and 2 more (6 in all)" in text for text in found.notes)


def test_a_class_that_is_not_trained_on_is_refused_unless_the_model_came_trained(tmp_path: Path) -> None:
    path = parts(tmp_path, PLAIN[:10], y_test=np.full(10, 9))
    with pytest.raises(TaskError, match=r"train has no example of class '9' \(10 in all\): add some to train on, or"):
        task(path)
    torch.save(Net(4).state_dict(), tmp_path / "w.pt")
    assert any("train has no example of class '9'" in text for text in task(path, weights="w.pt").notes)


def test_splits_of_unlike_labels_or_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"y_train, y_val, y_test hold labels of different kinds: store them alike"):
        task(parts(tmp_path, PLAIN[:10], y_val=NAMES[PLAIN[:10]]))
    with pytest.raises(TaskError, match=r"y_train, y_val, y_test hold labels of different kinds"):
        task(parts(tmp_path, np.eye(3)[PLAIN[:10]], y_val=np.eye(4)[PLAIN[:10]]))
    with pytest.raises(TaskError, match=r"x_train, x_val, x_test hold bytes and floats: store them alike"):
        task(parts(tmp_path, PLAIN[:10], x_val=np.zeros((10, 3, 8, 8))))
    with pytest.raises(TaskError, match=r"no example is in the split 'test': every split needs at least one example"):
        task(parts(tmp_path, PLAIN[:10], x_test=images()[:0], y_test=PLAIN[:0]))


def test_other_arrays_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    found = made(tmp_path, PLAIN, ids=np.arange(COUNT), origin=np.array([{"a": 1}], dtype=object))
    path = tmp_path / "set.npz"
    assert found.notes == (f"task.data: left out, as it holds neither inputs nor labels: {path}: ids and 1 more",)


# Images


def test_images_of_sixteen_bits_are_shares_of_65535(tmp_path: Path) -> None:
    for shape in ((COUNT, 8, 8), (COUNT, 8, 8, 1), (COUNT, 8, 8, 3)):
        found = made(tmp_path, PLAIN, np.full(shape, 13107, np.uint16))
        expected = [(0.2 - mean) / std for mean, std in zip(MEAN, STD, strict=True)]
        assert found.split("train")[0][0][:, 3, 3].tolist() == pytest.approx(expected, abs=1e-5)


def test_four_channels_are_colour_and_alpha_and_it_is_said(tmp_path: Path) -> None:
    pixels = np.full((COUNT, 8, 8, 4), 0, np.uint8)
    found = made(tmp_path, PLAIN, pixels)
    assert found.split("train")[0][0][:, 3, 3].tolist() == pytest.approx(
        [(1 - mean) / std for mean, std in zip(MEAN, STD, strict=True)], abs=1e-5
    )
    where = f"{tmp_path / 'set.npz'}: x"
    assert found.notes == (
        f"task.data: four channels are taken as red, green, blue and alpha: {where}",
        f"task.data: transparent pixels are laid on white: {where} and 29 more",
    )


# Bounds


def test_a_small_file_that_unpacks_to_much_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x.npy", "w") as file:
            npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (2000, 256, 256)})
            for _ in range(2000):
                file.write(bytes(256 * 256))
        labels = io.BytesIO()
        np.save(labels, np.arange(2000) % 2)
        archive.writestr("y.npy", labels.getvalue())
    assert path.stat().st_size < 10**6
    with pytest.raises(TaskError, match=r"set.npz: has [\d,]+ bytes but unpacks to 131,088,256: at most .*by np.savez"):
        task(path)


def test_a_header_that_claims_much_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    head = io.BytesIO()
    npy.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**20)})
    labels = io.BytesIO()
    npy.write_array_header_1_0(labels, {"descr": "|u1", "fortran_order": False, "shape": (2**20,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", head.getvalue())
        archive.writestr("y.npy", labels.getvalue())
    with pytest.raises(TaskError, match=r"unpacks to 1,099,512,676,3\d\d: at most 4,000,000,000 are taken"):
        task(path)


def test_what_packs_well_is_read_where_it_is_small(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "set.npz", x=np.zeros((COUNT, 256, 256), np.uint8), y=PLAIN)
    assert len(task(tmp_path / "set.npz").split("train")) == 18  # type: ignore[arg-type]


def test_more_than_is_held_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MOST_BYTES", COUNT * 3 * 64 - 1)
    np.savez(tmp_path / "set.npz", x=images(), y=PLAIN)
    with pytest.raises(TaskError, match=r"30 images of task.input_size take 5,760"):
        task(tmp_path / "set.npz")


def test_a_device_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "set.npz").symlink_to("/dev/zero")
    with pytest.raises(TaskError, match=r"set.npz: is a folder, device or pipe: name a regular file"):
        task(tmp_path / "set.npz")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=images(), y=PLAIN)
    whole = (tmp_path / "set.npz").read_bytes()
    for data in (b"", b"no zip", whole[:300], whole[:500] + bytes(200) + whole[700:]):
        (tmp_path / "set.npz").write_bytes(data)
        with pytest.raises(TaskError, match=r"set.npz: cannot be read as NPZ without pickles: "):
            task(tmp_path / "set.npz")


def test_the_bound_on_packing_lies_below_what_deflate_can_do() -> None:
    assert reader.MOST_UNPACKED < 1032  # deflate's limit
