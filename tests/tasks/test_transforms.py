"""What training adds to images, and how they are normalized: changed in training alone, and anew each time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset
from torchvision.transforms import v2

from autocompress import Classification, Training
from autocompress.data import batches, train_transform
from autocompress.errors import TaskError
from autocompress.tasks import load_task, refer
from autocompress.tasks.bytecode import object_digest
from autocompress.tasks.checks import check_task, check_trainable
from autocompress.tasks.image_tensors import MARGIN, horizontal_flip, random_crop
from autocompress.tasks.kinds import task_kind
from autocompress.tasks.objects import data_of
from autocompress.techniques.base import Context
from autocompress.techniques.teacher import Teacher
from autocompress.training import fit


class Seen(nn.Module):
    """A linear model that keeps what it was given in training."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.given = nn.Linear(4, 2), []

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.given.append(inputs.clone())
        return self.layer(inputs)


def negated(inputs: Tensor) -> Tensor:
    return -inputs


def made(**more: Any) -> Classification:
    chance = torch.Generator().manual_seed(0)
    parts = [(torch.rand(6, 4, generator=chance), torch.arange(6) % 2) for _ in range(3)]
    return Classification(Seen, *parts, baseline=Training(epochs=1, batch_size=6), **more)


def test_only_training_sees_what_is_changed() -> None:
    task = made(train_transform=negated)
    model, inputs = task.model(), task.train[0]
    check_task(task)
    check_trainable(task, 0)
    fit(model, task.split("train"), lambda o, b: task.loss(o, b.targets), task.baseline, 0)
    (given,) = model.given
    assert torch.equal(given.sort(0).values, (-inputs).sort(0).values)
    assert torch.equal(next(batches(task.split("train"), 6)).given[0], inputs)
    assert train_transform(made().split("train")) is None
    assert train_transform(task.split("validation")) is None


def test_a_dataset_of_ones_own_says_it_by_an_attribute_and_subsets_of_it_follow() -> None:
    whole = TensorDataset(torch.ones(8, 4), torch.arange(8) % 2)
    whole.train_transform = negated  # type: ignore[attr-defined]
    part = Subset(whole, [1, 5])
    assert train_transform(part) is negated
    assert torch.equal(next(batches(part, 2, transform=True)).given[0], -torch.ones(2, 4))


def test_a_transform_is_of_one_task_whoever_else_has_the_dataset() -> None:
    shared = TensorDataset(torch.ones(8, 4), torch.arange(8) % 2)
    others = [TensorDataset(torch.ones(4, 4), torch.arange(4) % 2) for _ in range(2)]
    changing = Classification(Seen, Subset(shared, [7, 2, 3]), *others, train_transform=negated)
    plain = Classification(Seen, shared, *others)
    assert torch.equal(next(batches(changing.split("train"), 3, transform=True)).given[0], -torch.ones(3, 4))
    assert next(batches(Subset(changing.split("train"), [2, 0]), 2)).targets.tolist() == [1, 1]
    assert torch.equal(next(batches(plain.split("train"), 3, transform=True)).given[0], torch.ones(3, 4))


def test_a_task_with_another_transform_is_another_task() -> None:
    first, second = made(train_transform=negated), made(train_transform=lambda inputs: 2 * inputs)
    digests = {object_digest(each, data_of(each)) for each in (first, second, made())}
    assert len(digests) == 3
    again = made(train_transform=negated)
    assert object_digest(again, data_of(again)) == object_digest(first, data_of(first))


def test_a_teacher_is_asked_for_what_the_student_sees() -> None:
    for task, stored in ((made(), True), (made(train_transform=negated), False)):
        model = task.model().eval()
        teacher = Teacher(Context(task, model, 0))
        assert (teacher.stored is not None) == stored
        batch = next(batches(task.split("train"), 3, transform=True))
        with torch.no_grad():
            torch.testing.assert_close(teacher(batch), model(*batch.given))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda inputs: (inputs, inputs), "train_transform made 2 of 1 inputs"),
        (lambda inputs: None, "train_transform made 1 of 1 inputs, or no tensors"),
        (lambda inputs: inputs[:2], "a batch of 6 examples holds a tensor of shape"),
        (lambda inputs: inputs.nothing, "train_transform raised AttributeError: .*test_transforms.py, line"),
    ],
)
def test_what_does_not_fit_is_found_before_training(change: Any, reason: str) -> None:
    with pytest.raises(TaskError, match=reason):
        check_trainable(made(train_transform=change), 0)


# Images


def test_half_of_images_are_mirrored_each_by_itself() -> None:
    torch.manual_seed(0)
    images = torch.arange(400 * 12.0).view(400, 1, 3, 4)
    changed = horizontal_flip(images)
    mirrored = [
        bool(torch.equal(new, v2.functional.horizontal_flip(old))) for old, new in zip(images, changed, strict=True)
    ]
    assert all(flipped or torch.equal(new, old) for flipped, old, new in zip(mirrored, images, changed, strict=True))
    assert 150 < sum(mirrored) < 250


def test_a_crop_moves_each_image_within_its_margin_and_repeats_its_edge() -> None:
    torch.manual_seed(0)
    images = torch.rand(64, 3, 16, 24)
    padded = v2.functional.pad(images, [24 // MARGIN, 16 // MARGIN], padding_mode="edge")
    shifts = [(down, right) for down in range(2 * 2 + 1) for right in range(2 * 3 + 1)]
    found = set()
    for index, image in enumerate(random_crop(images)):
        equal = [
            each
            for each in shifts
            if torch.equal(padded[index, :, each[0] : each[0] + 16, each[1] : each[1] + 24], image)
        ]
        assert len(equal) == 1
        found.update(equal)
    assert len(found) > 20


def folder(place: Path) -> Path:
    chance = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (place / "pictures" / name).mkdir(parents=True)
        for index in range(10):
            Image.fromarray(chance.integers(0, 256, (16, 16, 3), np.uint8)).save(place / f"pictures/{name}/{index}.png")
    (place / "net.py").write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(768, 2))\n"
    )
    return place


CONFIG = {"kind": "image_classification", "model": "net.py:net", "data": "folder:pictures", "input_size": 16}


def test_statistics_and_transforms_are_settings(tmp_path: Path) -> None:
    settings = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.5], "train_transform": ["horizontal_flip", "random_crop"]}
    task = load_task(refer(task_kind(CONFIG["kind"]).model_validate({**CONFIG, **settings}), folder(tmp_path)))
    usual = load_task(refer(task_kind(CONFIG["kind"]).model_validate(CONFIG), tmp_path))
    assert train_transform(task.split("train")) is not None
    assert train_transform(usual.split("train")) is None
    plain = next(batches(usual.split("train"), 4)).given[0]
    pixels = (
        plain * torch.tensor([0.229, 0.224, 0.225])[:, None, None] + torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    )
    expected = v2.functional.normalize(pixels, settings["mean"], settings["std"])
    torch.testing.assert_close(next(batches(task.split("train"), 4)).given[0], expected, atol=1e-5, rtol=1e-5)
    assert task.inputs == (
        "images (N, 3, 16, 16): intensities from 0 to 1, upright and resized, minus the mean 0.5, 0.4, 0.3 over the "
        "deviation 0.2, 0.25, 0.5 of their channels",
    )
    torch.manual_seed(0)
    first = next(batches(task.split("train"), 4, transform=True)).given[0]
    assert not torch.equal(first, next(batches(task.split("train"), 4, transform=True)).given[0])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"mean": [0.5, 0.5, 0.5]}, "mean and std go together"),
        ({"mean": [0.5], "std": [0.5]}, "mean has 1 numbers for 3 channels"),
        ({"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0]}, "std"),
        ({"train_transform": ["flop"]}, "horizontal_flip"),
    ],
)
def test_settings_of_images_that_cannot_be_are_refused(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        task_kind(CONFIG["kind"]).model_validate({**CONFIG, **settings})
