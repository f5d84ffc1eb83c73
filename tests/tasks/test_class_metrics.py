"""Measures and weights of classes, against scikit-learn and torch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from autocompress import Classification, Regression, Training
from autocompress.errors import TaskError
from autocompress.tasks import load_task, refer
from autocompress.tasks.checks import check_task
from autocompress.tasks.class_metrics import MOST_CLASSES, classification_metrics
from autocompress.tasks.kinds import task_kind
from autocompress.tasks.protocol import Segmentation, training_loss


@given(st.integers(2, 6), st.integers(2, 60), st.integers(0, 2**31), st.booleans())
def test_means_over_classes_are_those_of_scikit_learn(classes: int, count: int, seed: int, ties: bool) -> None:
    chance = np.random.default_rng(seed)
    target = chance.integers(0, classes, count)
    output = chance.normal(size=(count, classes)).astype(np.float32)
    output = np.round(output) if ties else output
    found = classification_metrics(output, target)
    named = output.argmax(axis=1)
    kinds = {"average": "macro", "zero_division": 0.0}
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(target, named))
    assert found["precision"] == pytest.approx(oracle.precision_score(target, named, **kinds))
    assert found["recall"] == pytest.approx(oracle.recall_score(target, named, **kinds))
    assert found["f1"] == pytest.approx(oracle.f1_score(target, named, **kinds))
    known = np.unique(target)
    assert ("auroc" in found) == (len(known) > 1)
    if len(known) > 1:
        raised = np.exp(output.astype(np.float64) - output.max(axis=1, keepdims=True))
        shares = raised / raised.sum(axis=1, keepdims=True)
        areas = [oracle.roc_auc_score(target == label, shares[:, label]) for label in known]
        assert found["auroc"] == pytest.approx(np.mean(areas), abs=1e-6)


def test_curves_of_many_classes_are_not_drawn() -> None:
    target = np.arange(MOST_CLASSES + 1)
    assert "auroc" not in classification_metrics(np.eye(MOST_CLASSES + 1), target)
    assert classification_metrics(np.eye(MOST_CLASSES), target[:-1])["auroc"] == 1.0


@pytest.mark.parametrize("label", [-1, 3])
def test_a_target_that_is_no_class_is_refused(label: int) -> None:
    with pytest.raises(TaskError, match=f"targets hold class {label}, and outputs are of 3: classes go from 0 to 2"):
        classification_metrics(np.eye(3), np.array([0, label, 1]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("classes", [2, 4])
def test_outputs_that_are_no_numbers_are_measured_without_a_warning(value: float, classes: int) -> None:
    found = classification_metrics(np.full((8, classes), value, np.float32), np.arange(8) % classes)
    assert found["accuracy"] == 1 / classes
    assert 0 <= found["auroc"] <= 1


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 3)


def task(**more: Any) -> Classification:
    chance = torch.Generator().manual_seed(0)
    parts = [(torch.randn(12, 3, generator=chance), torch.arange(12) % 3) for _ in range(3)]
    return Classification(linear, *parts, **more)


def test_weights_of_classes_weigh_in_the_loss_as_torch_weighs_them() -> None:
    output, target = torch.randn(8, 3), torch.arange(8) % 3
    weighted = task(class_weights=(1.0, 2.0, 5.0))
    expected = nn.functional.cross_entropy(output, target, torch.tensor([1.0, 2.0, 5.0]))
    torch.testing.assert_close(weighted.loss(output, target), expected)


def test_label_smoothing_is_that_of_torch() -> None:
    output, target = torch.randn(8, 3), torch.arange(8) % 3
    smoothed = task(baseline=Training(label_smoothing=0.2))
    expected = nn.functional.cross_entropy(output, target, label_smoothing=0.2)
    torch.testing.assert_close(training_loss(smoothed, output, target), expected)
    plain = task(baseline=Training())
    torch.testing.assert_close(training_loss(plain, output, target), plain.loss(output, target))


def test_label_smoothing_leaves_out_pixels_that_do_not_count() -> None:
    output, target = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    target[0, :2] = 9
    parts = [(torch.zeros(2, 1, 4, 4), target)] * 3
    pixels = Segmentation(linear, *parts, baseline=Training(label_smoothing=0.1), ignore=9)
    expected = nn.functional.cross_entropy(output, target, ignore_index=9, label_smoothing=0.1)
    torch.testing.assert_close(training_loss(pixels, output, target), expected)


def test_label_smoothing_is_refused_for_numbers() -> None:
    parts = [(torch.zeros(4, 3), torch.zeros(4, 3)) for _ in range(3)]
    with pytest.raises(TaskError, match="label_smoothing is for logits of classes"):
        check_task(Regression(linear, *parts, baseline=Training(label_smoothing=0.1)))


# Settings of kinds


def table(folder: Path, **settings: Any) -> Any:
    chance = np.random.default_rng(0)
    labels = np.array(["rare"] * 12 + ["usual"] * 108)
    chance.shuffle(labels)
    rows = [
        f"{value + (label == 'rare'):.4f},{label}" for value, label in zip(chance.normal(size=120), labels, strict=True)
    ]
    (folder / "rows.csv").write_text("value,label\n" + "\n".join(rows) + "\n")
    config = task_kind("tabular").model_validate(
        {"kind": "tabular", "model": "mlp", "data": "csv:rows.csv", "target": "label", **settings}
    )
    return load_task(refer(config, folder))


def test_balanced_weights_are_those_of_scikit_learn(tmp_path: Path) -> None:
    made = table(tmp_path, class_weights="balanced")
    targets = made.split("train").tensors[-1].numpy()
    expected = compute_class_weight("balanced", classes=np.unique(targets), y=targets)
    np.testing.assert_allclose(made.class_weights, expected)


def test_weights_by_name_and_another_quality(tmp_path: Path) -> None:
    made = table(tmp_path, class_weights={"rare": 4}, quality="f1")
    assert dict(zip(made.classes, made.class_weights, strict=True)) == {"rare": 4.0, "usual": 1.0}
    assert made.quality == "f1"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"class_weights": {"rear": 4}}, "task.class_weights: there is no class 'rear': did you mean 'rare'?"),
        ({"quality": "acuracy"}, "task.quality is 'acuracy', not among task.metrics(): did you mean 'accuracy'?"),
        ({"target": "value", "class_weights": "balanced"}, "task.class_weights: numbers are predicted, not classes"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(TaskError) as refused:
        table(tmp_path, **settings)
    assert reason in str(refused.value)
