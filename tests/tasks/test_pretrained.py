"""Weights that torchvision publishes: from its cache alone, whole or with a new classifier, and never another file."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load, save
from torch import nn
from torchvision import models

from autocompress.errors import TaskError
from autocompress.tasks import load_task, refer
from autocompress.tasks.identity import task_facts
from autocompress.tasks.images import TRANSFER, ImageClassificationConfig
from autocompress.tasks.models import build_model
from autocompress.tasks.pretrained import Pretrained, find_published

MODEL = "squeezenet1_1"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CATEGORIES = [f"class {index}" for index in range(1000)]


def publish(
    monkeypatch: pytest.MonkeyPatch, file: str, categories: list[str], mean: list[float] = MEAN, std: list[float] = STD
) -> None:
    """Let torchvision name one file of weights for each of its models."""
    made_for = SimpleNamespace(mean=mean, std=std)
    weights = SimpleNamespace(
        name="IMAGENET1K_V1",
        url=f"https://example.org/{file}",
        meta={"categories": categories},
        transforms=lambda: made_for,
    )
    monkeypatch.setattr(models, "get_model_weights", lambda model: [weights])


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of torchvision's with one file, made here, under a name as torchvision gives them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = Path(torch.hub.get_dir(), "checkpoints")
    folder.mkdir(parents=True)
    torch.manual_seed(3)
    torch.save(models.get_model(MODEL, weights=None).state_dict(), folder / "made.pth")
    digest = hashlib.sha256((folder / "made.pth").read_bytes()).hexdigest()
    path = (folder / "made.pth").rename(folder / f"{MODEL}-{digest[:8]}.pth")
    publish(monkeypatch, path.name, CATEGORIES)
    return path


def folder_of(root: Path, classes: list[str]) -> Path:
    chance = np.random.default_rng(0)
    for name in classes:
        for index in range(5):
            path = root / "photos" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(chance.integers(0, 255, (32, 32, 3), np.uint8)).save(path)
    return root


def config(**settings: Any) -> ImageClassificationConfig:
    usual = {"kind": "image_classification", "model": f"torchvision:{MODEL}", "data": "folder:photos", "input_size": 32}
    return ImageClassificationConfig.model_validate({**usual, "weights": "torchvision:IMAGENET1K_V1", **settings})


def test_the_body_is_what_was_published_and_the_classifier_is_new_and_trained(published: Path, tmp_path: Path) -> None:
    folder_of(tmp_path, ["ill", "well"])
    given = config()
    assert given.read(tmp_path) == [tmp_path / "photos", published]
    reference = refer(given, tmp_path)
    task = load_task(reference)
    assert task.baseline == TRANSFER
    assert (
        "task.data: the classifier of torchvision:IMAGENET1K_V1 is made anew for 2 classes, and trained" in task.notes
    )
    state, own = torch.load(published, weights_only=True), build_model(task, 0).state_dict()
    head = {"classifier.1.weight", "classifier.1.bias"}
    assert own.keys() == state.keys()
    for name, tensor in own.items():
        assert torch.equal(tensor, state[name]) if name not in head else tensor.shape[0] == 2
    assert all(torch.equal(a, b) for a, b in zip(own.values(), build_model(task, 0).state_dict().values(), strict=True))
    assert not torch.equal(own["classifier.1.weight"], build_model(task, 1).state_dict()["classifier.1.weight"])
    again = load_task(refer(config(baseline={"epochs": 1}), tmp_path))
    assert again.baseline is not None
    assert again.baseline.epochs == 1
    scratch = load_task(refer(config(weights=None), tmp_path))
    assert task_facts(reference, task, 0)["model"] != task_facts(reference, scratch, 0)["model"]


def test_data_of_the_very_classes_take_the_model_as_it_was_published(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path, ["a", "b", "c"])
    torch.manual_seed(5)
    torch.save(models.get_model(MODEL, weights=None, num_classes=3).state_dict(), published)
    path = published.rename(published.with_name(f"x-{hashlib.sha256(published.read_bytes()).hexdigest()[:8]}.pth"))
    publish(monkeypatch, path.name, ["a", "b", "c"])
    task = load_task(refer(config(), tmp_path))
    assert task.baseline is None
    state = torch.load(path, weights_only=True)
    assert all(torch.equal(tensor, state[name]) for name, tensor in build_model(task, 0).state_dict().items())


def gone(path: Path) -> None:
    path.unlink()


def damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("spoil", "settings", "message"),
    [
        (gone, {}, "is not there, and nothing is downloaded in a search: fetch it once by"),
        (damaged, {}, "is damaged, its SHA-256 is no "),
        (None, {"model": "torchvision:squeezenet1_2"}, "torchvision has no model 'squeezenet1_2': did you mean"),
        (None, {"weights": "torchvision:IMAGENET1K_V2"}, "no weights 'IMAGENET1K_V2' of squeezenet1_1: did you mean"),
    ],
)
def test_what_cannot_be_taken_is_refused(
    spoil: Callable[[Path], None] | None, settings: dict[str, Any], message: str, published: Path, tmp_path: Path
) -> None:
    folder_of(tmp_path, ["ill", "well"])
    if spoil is not None:
        spoil(published)
    with pytest.raises(TaskError) as raised:
        load_task(refer(config(**settings), tmp_path))
    assert message in str(raised.value)


def test_published_weights_are_for_models_of_who_publishes_them() -> None:
    with pytest.raises(ValueError, match=r"are for a model of torchvision's: write model: torchvision:NAME"):
        config(model="net.py:net")
    with pytest.raises(ValueError, match=r"are for a model of timm's: write model: timm:NAME"):
        config(weights="timm:a1_in1k")


def test_other_settings_than_those_of_the_weights_are_named(published: Path) -> None:
    start = Pretrained(find_published(f"torchvision:{MODEL}", "torchvision:IMAGENET1K_V1"))
    wide = models.get_model(MODEL, weights=None, num_classes=2)
    wide.features[0] = nn.Conv2d(1, 64, 3, 2)
    with pytest.raises(TaskError, match=r"'features.0.weight' has shape \(64, 3, 3, 3\), the model's \(64, 1, 3, 3\)"):
        start.give(wide, whole=False)
    more = models.get_model(MODEL, weights=None, num_classes=2)
    more.extra = nn.Linear(2, 2)
    with pytest.raises(TaskError, match=r"has no 'extra.weight', which the model has"):
        start.give(more, whole=False)
    less = models.get_model(MODEL, weights=None, num_classes=2)
    less.features = less.features[:-1]
    with pytest.raises(TaskError, match=r"has 'features.12.squeeze.weight', which the model has not"):
        start.give(less, whole=False)


def test_weights_for_images_of_other_statistics_say_which(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path, ["ill", "well"])
    publish(monkeypatch, published.name, CATEGORIES, [0.5] * 3, [0.5] * 3)
    with pytest.raises(TaskError, match=r"another mean and std: set mean: \[0.5, 0.5, 0.5\], std: \[0.5, 0.5, 0.5\]"):
        load_task(refer(config(), tmp_path))
    load_task(refer(config(mean=[0.5] * 3, std=[0.5] * 3), tmp_path))


def test_names_and_files_are_torchvisions_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(TaskError) as raised:
        find_published("torchvision:resnet18", "torchvision:IMAGENET1K_V1")
    assert str(tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth") in str(raised.value)
    assert "get_weight('ResNet18_Weights.IMAGENET1K_V1').get_state_dict()" in str(raised.value)


@pytest.mark.parametrize(
    ("model", "head"),
    [("resnet18", {"fc"}), ("mobilenet_v3_small", {"classifier.3"}), ("googlenet", {"fc"})],
)
def test_a_classifier_is_what_follows_the_number_of_classes(
    model: str, head: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = Path(torch.hub.get_dir(), "checkpoints")
    folder.mkdir(parents=True)
    torch.save({}, folder / "nothing-.pth")
    publish(monkeypatch, "nothing-.pth", [])
    found = Pretrained(find_published(f"torchvision:{model}", "torchvision:IMAGENET1K_V1")).head
    assert found == {f"{name}.{part}" for name in head for part in ("weight", "bias")}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as timm's weights lie in, with weights of resnet18 that were made here."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    torch.manual_seed(4)
    data = save(timm.create_model("resnet18", num_classes=1000).state_dict())
    folder, digest = tmp_path / "hub" / "models--timm--resnet18.a1_in1k", hashlib.sha256(data).hexdigest()
    for name in ("blobs", "refs", "snapshots/abc"):
        (folder / name).mkdir(parents=True)
    (folder / "blobs" / digest).write_bytes(data)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "model.safetensors").symlink_to(folder / "blobs" / digest)
    return folder / "blobs" / digest


def test_what_timm_publishes_is_found_in_its_cache(hub: Path, tmp_path: Path) -> None:
    folder_of(tmp_path, ["ill", "well"])
    task = load_task(refer(config(model="timm:resnet18", weights="timm:a1_in1k"), tmp_path))
    assert task.baseline == TRANSFER
    state, own = load(hub.read_bytes()), build_model(task, 0).state_dict()
    for name, tensor in own.items():
        assert tensor.shape[0] == 2 if name.startswith("fc.") else torch.equal(tensor, state[name])
    with pytest.raises(TaskError, match=r"timm:a1_in1k: is for images of another mean and std: set mean: \[0\.485"):
        load_task(refer(config(model="timm:resnet18", weights="timm:a1_in1k", mean=[0.5] * 3, std=[0.5] * 3), tmp_path))
    hub.write_bytes(hub.read_bytes()[:-4] + b"else")
    with pytest.raises(TaskError, match="is damaged, its SHA-256 is no"):
        load_task(refer(config(model="timm:resnet18", weights="timm:a1_in1k"), tmp_path))


def test_what_timm_has_not_or_is_not_in_its_cache_is_refused(hub: Path, tmp_path: Path) -> None:
    folder_of(tmp_path, ["ill", "well"])
    with pytest.raises(TaskError, match="timm has no weights 'a1_in2k' of resnet18: did you mean 'a1_in1k'"):
        load_task(refer(config(model="timm:resnet18", weights="timm:a1_in2k"), tmp_path))
    with pytest.raises(TaskError, match="timm has no model 'resnet81'"):
        load_task(refer(config(model="timm:resnet81", weights="timm:a1_in1k"), tmp_path))
    with pytest.raises(TaskError, match="nothing is downloaded in a search: fetch it once by") as raised:
        load_task(refer(config(model="timm:resnet18", weights="timm:a2_in1k"), tmp_path))
    assert "timm.create_model('resnet18.a2_in1k', pretrained=True)" in str(raised.value)
