"""Tasks: where they come from, what is checked before anything is spent, and images without code."""

import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import autocompress
from autocompress.data import batches, in_memory
from autocompress.errors import TaskError
from autocompress.tasks import Classification, Task, TaskReference, load_task, locate, refer
from autocompress.tasks.checks import check_task
from autocompress.tasks.image_tensors import MEAN, STD
from autocompress.tasks.images import ImageClassificationConfig, read_weights
from autocompress.tasks.loading import SHIPPED_FOLDER
from autocompress.testing.models import CLASSES, Mlp, Plain, make_task, seeded
from autocompress.training import Training

TASK_FILE = """
import torch
from torch import nn
from autocompress import Classification

NUMBER = 3

def make_it():
    x, y = torch.randn(8, 5), torch.arange(8) % 2
    return Classification(lambda: nn.Linear(5, 2), (x, y), (x, y), (x, y), None)

def not_a_task():
    return {"model": None}

def fails():
    raise RuntimeError("the disk is full")

class SmallNet(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1))

class GrayNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8 * 8, 3)

    def forward(self, x):
        return self.head(x.flatten(1))
"""


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Forget the task files that a test loaded."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("autocompress_task_"):
            del sys.modules[name]
    load_task.cache_clear()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a task file."""
    (tmp_path / "task.py").write_text(TASK_FILE)
    return tmp_path


# References


def test_a_factory_in_a_file_is_found_from_the_configs_folder(root: Path) -> None:
    task = load_task(refer("task.py:make_it", root))
    assert isinstance(task, Task)
    assert task.metrics(np.eye(2), np.array([0, 0]))["accuracy"] == 0.5


def test_a_factory_in_a_module_is_found(tmp_path: Path) -> None:
    task = load_task(refer("plain:plain_task", tmp_path))
    assert isinstance(task.model(), Plain)


def test_a_task_is_made_once_for_a_reference(root: Path) -> None:
    assert load_task(refer("task.py:make_it", root)) is load_task(refer("task.py:make_it", root))


def test_an_edited_file_is_another_task(root: Path) -> None:
    first = refer("task.py:make_it", root)
    assert len(load_task(first).split("train")) == 8
    (root / "task.py").write_text(TASK_FILE.replace("randn(8, 5), torch.arange(8)", "randn(6, 5), torch.arange(6)"))
    second = refer("task.py:make_it", root)
    assert second != first
    assert len(load_task(second).split("train")) == 6


def test_a_worker_elsewhere_finds_the_copy_that_was_sent_along(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = refer("task.py:make_it", root)
    sent = tmp_path / "sent"
    (sent / SHIPPED_FOLDER).mkdir(parents=True)
    shutil.move(root / "task.py", sent / SHIPPED_FOLDER / "task.py")
    monkeypatch.syspath_prepend(sent)
    assert locate(reference) == sent / SHIPPED_FOLDER
    assert len(load_task(reference).split("test")) == 8


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("task.py", r"'task.py': write file.py:factory or package.module:factory"),
        ("task.py:", r"'task.py:': write file.py:factory"),
        ("other.py:make_it", r"other.py: no such file: check the path, which starts at the config's folder"),
        ("task.py:make_this", r"has no 'make_this': did you mean 'make_it'\?"),
        ("task.py:NUMBER", r"is a int: name a function or class"),
        (
            "task.py:not_a_task",
            r"returned a dict without quality, baseline, model, split, loss, metrics: return a Task",
        ),
        ("task.py:fails", r"task task.py:fails: raised RuntimeError: the disk is full"),
        ("a_package_that_nobody_has:task", r"no module 'a_package_that_nobody_has': install it, or write file.py:name"),
    ],
)
def test_what_is_no_factory_is_named_with_its_fix(root: Path, code: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_task(refer(code, root))


def test_a_file_that_cannot_be_imported_is_named_and_can_be_repaired(root: Path) -> None:
    (root / "task.py").write_text("import torch\n1 / 0\n")
    with pytest.raises(TaskError, match=r"task.py: cannot be imported: ZeroDivisionError"):
        load_task(refer("task.py:make_it", root))
    (root / "task.py").write_text(TASK_FILE)
    assert len(load_task(refer("task.py:make_it", root)).split("train")) == 8


# Classification over arrays


def test_splits_may_be_numpy_arrays_tensors_or_datasets() -> None:
    x, y = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32), np.arange(6) % 2
    data = TensorDataset(torch.tensor(x), torch.tensor(y))
    task = Classification(lambda: nn.Linear(5, 2), (x, y), [torch.tensor(x), torch.tensor(y)], data, None)
    for name in ("train", "validation", "test"):
        inputs, target = task.split(name)[4]
        assert torch.equal(inputs, torch.tensor(x[4]))
        assert int(target) == 0
    check_task(task)


def test_loss_and_accuracy_by_hand() -> None:
    task = make_task(Plain)
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0]])
    # Guessing among four classes costs log 4, being sure and right nothing.
    assert float(task.loss(logits, torch.tensor([2, 0]))) == pytest.approx(np.log(4) / 2, rel=1e-6)
    # The first is named, wrongly, class 0: of its two names half are right, and class 2 is never named.
    expected = {"accuracy": 0.5, "precision": 0.25, "recall": 0.5, "f1": 1 / 3, "auroc": 1.0}
    assert task.metrics(logits.numpy(), np.array([2, 0])) == pytest.approx(expected)


def test_the_public_names_lead_here() -> None:
    assert autocompress.Classification is Classification
    assert autocompress.Task is Task
    assert autocompress.Training is Training


# Checks

X, Y = torch.randn((12, 3, 12, 12), generator=torch.Generator().manual_seed(0)), torch.arange(12) % CLASSES
GOOD = Classification(Plain, (X, Y), (X, Y), (X, Y), None)


class Streaming(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


class Words(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return "three", torch.tensor(0)

    def __len__(self) -> int:
        return 3


class Pair(Plain):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class PerPixel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True)
class Changed(Classification):
    """A classification with another loss, or other metrics."""

    own_loss: Any = None
    own_metrics: Any = None

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return super().loss(output, target) if self.own_loss is None else self.own_loss(output, target)

    def metrics(self, output: Any, target: Any) -> Any:
        return super().metrics(output, target) if self.own_metrics is None else self.own_metrics


def changed(**settings: Any) -> Task:
    return Changed(Plain, (X, Y), (X, Y), (X, Y), None, **settings)


def with_nan(position: int) -> Tensor:
    values = X.clone()
    values[position, 1, 2, 3] = torch.nan
    return values


def test_several_inputs_are_a_tuple_beside_their_targets() -> None:
    others = np.arange(12)
    task = Classification(Plain, ((X, others), Y), (X, Y), (X, Y))
    assert in_memory(task.split("train"))
    batch = next(batches(task.split("train"), 5))
    assert torch.equal(batch.inputs[0], X[:5])
    assert batch.inputs[1].tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(batch.targets, Y[:5])


BAD: dict[str, tuple[Task, str]] = {
    "baseline": (replace(GOOD, baseline={"epochs": 3}), r"task.baseline is a dict: give a Training, or None"),
    "no module": (replace(GOOD, make_model=lambda: len), r"returned a builtin_function_or_method: return a torch.nn"),
    "no split": (replace(GOOD, train=X), r"split 'train' is a Tensor: give \(inputs, targets\) or a Dataset"),
    "unlike lengths": (replace(GOOD, test=(X, Y[:5])), r"split 'test' has 12 inputs but 5 targets: give one each"),
    "unlike lengths of inputs": (replace(GOOD, test=((X, X[:5]), Y)), r"split 'test' has 5 inputs but 12 targets"),
    "no array": (
        replace(GOOD, train=([X, X[:5]], Y)),
        r"input 0 of split 'train' are .*: give an array, or a tuple of",
    ),
    "no array of targets": (replace(GOOD, train=(X, ["a"] * 12)), r"the targets of split 'train' are no array of num"),
    "one number": (replace(GOOD, train=(X, 3)), r"the targets of split 'train' are a single number: give an array"),
    "no length": (replace(GOOD, train=Streaming()), r"split 'train' has no length: give a map-style Dataset"),
    "empty": (replace(GOOD, validation=(X[:0], Y[:0])), r"split 'validation' is empty"),
    "no tensors": (replace(GOOD, train=Words()), r"a batch of 3 examples holds a str: yield tensors, arrays"),
    "nan": (replace(GOOD, test=(with_nan(7), Y)), r"split 'test' holds NaN or infinity, first in example 7: clean"),
    "infinity": (replace(GOOD, train=(X / 0, Y)), r"split 'train' holds NaN or infinity, first in example 0"),
    "wrong shape": (replace(GOOD, validation=(X[:, :2], Y)), r"does not take the data's inputs of shape \(2, 12, 12\)"),
    "two outputs": (replace(GOOD, make_model=Pair), r"the model returned a tuple: return one tensor"),
    "four dimensions": (
        replace(GOOD, make_model=PerPixel),
        r"shape \(2, 3, 12, 12\): classification needs \(batch, cl",
    ),
    "label too large": (replace(GOOD, test=(X, Y + 1)), r"'test' holds label 4 but the model has 4 outputs: .* 0 to 3"),
    "label negative": (replace(GOOD, train=(X, Y - 1)), r"split 'train' holds label -1 but the model has 4 outputs"),
    "float labels": (replace(GOOD, train=(X, Y.float())), r"targets torch.float32 of shape \(12,\).*one integer class"),
    "one-hot labels": (replace(GOOD, train=(X, torch.eye(4)[Y].long())), r"of shape \(12, 4\).*one integer class"),
    "loss per example": (changed(own_loss=lambda o, t: o.sum(1)), r"task.loss\(\) returned \(12,\): return a scalar"),
    "loss a number": (changed(own_loss=lambda o, t: 1.0), r"task.loss\(\) returned float: return a scalar tensor"),
    "loss infinite": (changed(own_loss=lambda o, t: o.sum() / 0), r"task.loss\(\) is -?inf on the first validation"),
    "loss does not fit": (
        changed(own_loss=lambda o, t: (o - t).mean()),
        r"task.loss\(\) raised RuntimeError: .* \(test_tasks.py, line \d+\); it got .*\(12, 4\) and targets \(12,\)",
    ),
    "no metrics": (changed(own_metrics=[0.5]), r"task.metrics\(\) returned \[0.5\]: return a dictionary"),
    "other quality": (
        changed(own_metrics={"f1": 1.0}),
        r"task.quality is 'accuracy', not among task.metrics\(\): known: f1",
    ),
}


def test_a_good_task_passes() -> None:
    check_task(GOOD)


@pytest.mark.parametrize("case", list(BAD))
def test_what_does_not_fit_is_named_with_its_fix(case: str) -> None:
    task, message = BAD[case]
    with pytest.raises(TaskError, match=message):
        check_task(task)


# Weights


def test_weights_are_read_from_safetensors_and_from_plain_tensors(tmp_path: Path) -> None:
    state = seeded(Mlp).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        found = read_weights(tmp_path / name)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (os.environ["BOMB_FOLDER"],)


@pytest.mark.parametrize("how", ["torch", "pickle", "module"])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv("BOMB_FOLDER", str(tmp_path / "went_off"))
    path = tmp_path / "w.pt"
    if how == "torch":
        torch.save({"head": Bomb()}, path)
    elif how == "pickle":
        path.write_bytes(pickle.dumps({"head": Bomb()}, protocol=2))
    else:
        torch.save(seeded(Mlp), path)
    with pytest.raises(TaskError, match=r"w.pt: holds pickled objects, which could run code: save model.state_dict"):
        read_weights(path)
    assert not (tmp_path / "went_off").exists()


def test_other_files_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"no such file: check the path"):
        read_weights(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(TaskError, match=r"broken.safetensors: cannot be read"):
        read_weights(tmp_path / "broken.safetensors")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(TaskError, match=r"is no state dict: save model.state_dict\(\) with safetensors"):
        read_weights(tmp_path / "tensor.pt")


# Images without code


def write_images(folder: Path, classes: int = 3, each: int = 5, mode: str = "RGB", size: int = 8) -> None:
    """Class folders a, b, c of uniform images whose brightness is 40 times the class, plus the image's number."""
    for label in range(classes):
        target = folder / "abc"[label]
        target.mkdir(parents=True)
        for number in range(each):
            shade = 40 * label + number
            color = shade if mode == "L" else (shade, shade + 1, shade + 2)
            Image.new(mode, (size, size), color).save(target / f"{number}.png")


def image_task(root: Path, **settings: Any) -> Any:
    """The task of a config mapping, by the way that searches take."""
    given = {"kind": "image_classification", "model": "task.py:SmallNet", "input_size": 8, **settings}
    return load_task(refer(ImageClassificationConfig.model_validate(given), root))


def shades(task: Any, split: str) -> list[int]:
    """The brightness of each image, undoing the normalization by hand."""
    images = torch.stack([task.split(split)[index][0] for index in range(len(task.split(split)))])
    mean, std = (MEAN[0], STD[0]) if images.shape[1] == 3 else (sum(MEAN) / 3, sum(STD) / 3)
    return [round(float(value)) for value in (images[:, 0, 0, 0] * std + mean) * 255]


def test_one_folder_a_class_is_split_by_ratio(root: Path) -> None:
    write_images(root / "images", each=10)
    task = image_task(root, data="folder:images", split={"validation": 0.3, "test": 0.1, "seed": 2})
    assert task.classes == ("a", "b", "c")
    assert [len(task.split(name)) for name in ("train", "validation", "test")] == [18, 9, 3]  # 6, 3 and 1 of each
    found = [shade for name in ("train", "validation", "test") for shade in shades(task, name)]
    assert sorted(found) == [40 * label + number for label in range(3) for number in range(10)]
    for name in ("train", "validation", "test"):
        for shade, (_, target) in zip(shades(task, name), task.split(name), strict=True):
            assert shade // 40 == int(target)
    assert task.baseline == Training(epochs=15, learning_rate=2e-3)  # no weights, so it is trained first


@pytest.mark.parametrize("validation", ["val", "validation", "valid"])
def test_folders_for_each_split_are_used_as_they_are(root: Path, validation: str) -> None:
    for name, each in (("train", 4), (validation, 2), ("test", 1)):
        write_images(root / "images" / name, each=each)
    task = image_task(root, data="folder:images")
    assert [len(task.split(name)) for name in ("train", "validation", "test")] == [12, 6, 3]
    assert shades(task, "test") == [0, 40, 80]


@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (1, "L"), (3, "L"), (1, "RGB")])
def test_images_become_the_channels_and_size_that_were_asked_for(root: Path, channels: int, mode: str) -> None:
    write_images(root / "images", mode=mode, size=16)
    model = "task.py:SmallNet" if channels == 3 else "task.py:GrayNet"
    task = image_task(root, data="folder:images", channels=channels, model=model)
    inputs, _ = task.split("train")[0]
    assert inputs.shape == (channels, 8, 8)
    assert inputs.dtype == torch.float32
    if mode == "L" and channels == 3:
        undone = inputs * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
        assert torch.allclose(undone, undone[:1].expand_as(undone), atol=1e-5)  # gray: three channels alike


def test_channels_are_normalized_by_imagenets_statistics(root: Path) -> None:
    write_images(root / "images")
    task = image_task(root, data="folder:images")
    image, target = task.split("test")[0]
    shade = shades(task, "test")[0]
    assert shade // 40 == int(target)
    for channel in range(3):
        expected = ((shade + channel) / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(image[channel], torch.full((8, 8), expected))


def npz(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


LABELS = np.arange(30) % 3


@pytest.mark.parametrize("shape", [(30, 8, 8), (30, 8, 8, 1), (30, 8, 8, 3), (30, 20, 14)])
@pytest.mark.parametrize("channels", [1, 3])
def test_byte_images_of_an_npz_file_are_resized(root: Path, shape: tuple[int, ...], channels: int) -> None:
    npz(root / "set.npz", x=np.full(shape, 51, np.uint8), y=LABELS)
    model = "task.py:SmallNet" if channels == 3 else "task.py:GrayNet"
    task = image_task(root, data="npz:set.npz", channels=channels, model=model)
    assert task.split("train")[0][0].shape == (channels, 8, 8)
    assert [len(task.split(name)) for name in ("train", "validation", "test")] == [18, 6, 6]
    assert set(shades(task, "train")) == {51}


def test_floating_point_arrays_of_an_npz_file_are_taken_as_they_are(root: Path) -> None:
    values = np.random.default_rng(0).standard_normal((30, 3, 8, 8))
    parts = {"x_train": values[:12], "x_val": values[12:24], "x_test": values[24:]}
    npz(root / "set.npz", **parts, y_train=LABELS[:12], y_val=LABELS[12:24], y_test=LABELS[24:])
    task = image_task(root, data="npz:set.npz")
    for name, key in (("train", "x_train"), ("validation", "x_val"), ("test", "x_test")):
        torch.testing.assert_close(task.split(name)[:][0], torch.tensor(parts[key], dtype=torch.float32))
    assert task.classes == ("0", "1", "2")


def test_weights_are_loaded_and_not_trained_again(root: Path) -> None:
    npz(root / "set.npz", x=np.zeros((30, 8, 8, 3), np.uint8), y=LABELS)
    made = image_task(root, data="npz:set.npz").model()
    assert made.head.out_features == 3  # as many as there are classes
    save_file({key: value + 1 for key, value in made.state_dict().items()}, root / "w.safetensors")
    task = image_task(root, data="npz:set.npz", weights="w.safetensors")
    assert torch.equal(task.model().head.bias, made.head.bias + 1)
    assert task.baseline is None


def test_a_baseline_in_the_config_is_trained_whatever_the_weights(root: Path) -> None:
    npz(root / "set.npz", x=np.zeros((30, 8, 8, 3), np.uint8), y=LABELS)
    task = image_task(root, data="npz:set.npz", baseline={"epochs": 2})
    assert task.baseline == Training(epochs=2)


def test_a_model_of_torchvision_gets_the_classes_of_the_data(root: Path) -> None:
    npz(root / "set.npz", x=np.zeros((30, 32, 32, 3), np.uint8), y=LABELS)
    task = image_task(root, data="npz:set.npz", model="torchvision:squeezenet1_1", input_size=32)
    with torch.no_grad():
        assert task.model().eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


CASES: list[tuple[dict[str, Any], str]] = [
    ({"data": "folder:nowhere"}, r"task.data: .*nowhere: no such folder: check the path"),
    ({"data": "npz:nowhere.npz"}, r"task.data: .*nowhere.npz: no such file"),
    ({"data": "folder:single"}, r"single has 1 class folders: it needs one folder a class, two or more"),
    ({"data": "folder:half"}, r"half has train/ but not both val/ and test/"),
    ({"data": "folder:hollow"}, r"hollow holds no images"),
    ({"data": "folder:broken"}, r"broken.*0.png: is not a readable image .*: remove or replace it"),
    ({"data": "folder:extra"}, r"extra.val.z: is no class of the training set \(a, b, c\)"),
    ({"data": "npz:empty.npz"}, r"empty.npz lacks x_train, y_train, x_val, y_val, x_test, y_test: store x and y"),
    ({"data": "npz:pickled.npz"}, r"pickled.npz: cannot be read as NPZ without pickles"),
    ({"data": "npz:flat.npz"}, r"byte images have shape \(30, 64\): store \(N, H, W\) or \(N, H, W, C\)"),
    (
        {"data": "npz:set.npz", "model": "torchvision:squeezenet1_2"},
        r"no model 'squeezenet1_2': did you mean 'squeezen",
    ),
    ({"data": "npz:set.npz", "model": "torchvision:zzzzzz"}, r"no model 'zzzzzz': see the library's list of models"),
    ({"data": "npz:set.npz", "model": "task.py:NoNet"}, r"task.py has no 'NoNet'"),
    ({"data": "npz:set.npz", "weights": "other.safetensors"}, r"other.safetensors: do not fit the model: .*head.bias"),
    ({"data": "npz:set.npz", "split": {"validation": 0.6, "test": 0.4}}, r"leave nothing to train on: make their sum"),
]


@pytest.mark.parametrize(("settings", "message"), CASES, ids=[str(list(case.values())[::-1]) for case, _ in CASES])
def test_data_and_models_that_do_not_fit_are_named(root: Path, settings: dict[str, Any], message: str) -> None:
    write_images(root / "single", classes=1)
    write_images(root / "half" / "train")
    for name in ("a", "b"):
        (root / "hollow" / name).mkdir(parents=True)
    write_images(root / "broken")
    (root / "broken" / "b" / "0.png").write_bytes(b"not an image")
    for name in ("train", "val", "test"):
        write_images(root / "extra" / name)
    (root / "extra" / "val" / "z").mkdir()
    npz(root / "empty.npz", z=LABELS)
    npz(root / "pickled.npz", x=np.array([{"a": 1}], dtype=object), y=LABELS)
    npz(root / "flat.npz", x=np.zeros((30, 64), np.uint8), y=LABELS)
    npz(root / "set.npz", x=np.zeros((30, 8, 8, 3), np.uint8), y=LABELS)
    save_file({"head.weight": torch.zeros(3, 192)}, root / "other.safetensors")
    with pytest.raises(TaskError, match=message):
        image_task(root, **settings)


def test_a_reference_holds_all_of_a_config_as_plain_text(root: Path) -> None:
    config = ImageClassificationConfig(
        kind="image_classification", model="torchvision:resnet18", data="folder:images", input_size=32
    )
    reference = refer(config, root)
    assert isinstance(reference, TaskReference)
    assert ImageClassificationConfig.model_validate_json(reference.settings) == config
