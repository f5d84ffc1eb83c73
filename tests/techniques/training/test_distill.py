"""Distillation: its loss against other libraries, and its limits alpha = 0 and alpha = 1."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset

from autocompress.techniques import Context
from autocompress.techniques.teacher import distillation_loss
from autocompress.techniques.training.distill import Distill
from autocompress.techniques.training.finetune import Finetune
from autocompress.testing.work import context_of, damaged, task_of
from autocompress.trial.stages import pack_weights

QUICK = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 16}


class OneByOne(Dataset[Any]):
    """A split that is not held in memory as one tensor."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def __len__(self) -> int:
        return len(self.targets)


def logits(seed: int, shape: tuple[int, ...] = (5, 7)) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 2.5, 8.0])
def test_the_loss_is_scipys_divergence_of_softened_distributions(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    p = scipy.special.softmax(teacher.numpy() / temperature, axis=1)
    q = scipy.special.softmax(student.numpy() / temperature, axis=1)
    expected = temperature**2 * scipy.special.rel_entr(p, q).sum(axis=1).mean()
    assert float(distillation_loss(student, teacher, temperature, True)) == pytest.approx(expected, rel=1e-9)


def test_the_loss_is_torchs_divergence_with_targets_in_logarithms() -> None:
    student, teacher = logits(2), logits(3)
    criterion = nn.KLDivLoss(reduction="batchmean", log_target=True)
    expected = 9 * criterion((student / 3).log_softmax(1), (teacher / 3).log_softmax(1))
    torch.testing.assert_close(distillation_loss(student, teacher, 3.0, True), expected)


def test_classes_are_the_second_axis_and_all_others_are_averaged() -> None:
    """As torch's own losses have it, so that an image's pixels are examples and not classes."""
    student, teacher = logits(4, (2, 7, 3, 5)), logits(5, (2, 7, 3, 5))
    pixels = itertools.product(range(2), range(3), range(5))
    rows = [distillation_loss(student[i, :, h, w][None], teacher[i, :, h, w][None], 2.0, True) for i, h, w in pixels]
    torch.testing.assert_close(distillation_loss(student, teacher, 2.0, True), torch.stack(rows).mean())


def test_temperature_squared_keeps_gradients_from_vanishing() -> None:
    """Hinton et al. (2015), equation 4: at high temperature the gradient of centred logits is (z - v) / classes."""
    student, teacher = logits(6), logits(7)
    student, teacher = student - student.mean(1, keepdim=True), teacher - teacher.mean(1, keepdim=True)
    student.requires_grad_(True)
    distillation_loss(student, teacher, 1000.0, True).backward()
    expected = (student.detach() - teacher) / 7 / 5  # seven classes, averaged over five rows
    torch.testing.assert_close(student.grad, expected, rtol=0.02, atol=1e-3)


@given(seed=st.integers(0, 1000), shift=st.floats(-5, 5), temperature=st.floats(0.5, 20))
def test_the_loss_is_zero_for_equal_distributions_and_else_positive(
    seed: int, shift: float, temperature: float
) -> None:
    student, teacher = logits(seed), logits(seed + 5000)
    assert float(distillation_loss(teacher + shift, teacher, temperature, True)) == pytest.approx(0, abs=1e-9)
    assert float(distillation_loss(student, teacher, temperature, True)) > 0


def with_other_labels(context: Context) -> Context:
    """The same images with labels that say nothing."""
    inputs, targets = task_of("plain").train
    return Context(replace(task_of("plain"), train=(inputs, targets.flip(0))), context.teacher, context.seed)


def test_alpha_one_learns_from_the_teacher_alone() -> None:
    one, other, context = damaged("plain"), damaged("plain"), context_of("plain")
    Distill(alpha=1.0, **QUICK).train(one, context)
    Distill(alpha=1.0, **QUICK).train(other, with_other_labels(context))
    assert pack_weights(one) == pack_weights(other)


def test_a_smaller_alpha_learns_from_the_labels_too() -> None:
    one, other, context = damaged("plain"), damaged("plain"), context_of("plain")
    Distill(alpha=0.5, **QUICK).train(one, context)
    Distill(alpha=0.5, **QUICK).train(other, with_other_labels(context))
    assert pack_weights(one) != pack_weights(other)


def test_alpha_zero_is_fine_tuning() -> None:
    one, other = damaged("plain"), damaged("plain")
    Distill(alpha=0.0, **QUICK).train(one, context_of("plain"))
    Finetune(**QUICK).train(other, context_of("plain"))
    assert pack_weights(one) == pack_weights(other)


def test_the_student_comes_closer_to_the_teacher() -> None:
    context, student = context_of("plain"), damaged("plain")
    inputs, _ = task_of("plain").train

    def distance() -> float:
        with torch.no_grad():
            return float(distillation_loss(student.eval()(inputs), context.teacher(inputs), 4.0, True))

    before = distance()
    Distill(alpha=1.0, **{**QUICK, "epochs": 4}).train(student, context)
    assert distance() < 0.5 * before


def test_a_split_that_is_read_one_by_one_teaches_the_same() -> None:
    one, other, context = damaged("plain"), damaged("plain"), context_of("plain")
    Distill(**QUICK).train(one, context)
    lazy = replace(task_of("plain"), train=OneByOne(*task_of("plain").train))
    Distill(**QUICK).train(other, Context(lazy, context.teacher, context.seed))
    for name, value in other.state_dict().items():
        torch.testing.assert_close(value, one.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_the_teachers_logits_are_computed_once_and_belong_to_their_examples() -> None:
    context = context_of("plain")
    Distill(**QUICK).train(damaged("plain"), context)
    stored = context.cache["logits"]
    with torch.no_grad():
        expected = context.teacher(task_of("plain").train[0])
    np.testing.assert_allclose(stored.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
    again = context.cached("logits", lambda: pytest.fail("they are computed once"))
    assert again is stored


def test_the_teacher_stays_as_it_is() -> None:
    context = context_of("residual")  # has running statistics that a training pass would move
    before = pack_weights(context.teacher)
    Distill(**QUICK).train(damaged("residual"), context)
    assert pack_weights(context.teacher) == before
    assert not context.teacher.training


@pytest.mark.parametrize(("shape", "classes"), [((5,), True), ((5, 1), True), ((5,), False), ((5, 3), False)])
def test_outputs_without_classes_are_matched_by_squared_error(shape: tuple[int, ...], classes: bool) -> None:
    student, teacher = logits(8, shape), logits(9, shape)
    expected = float(np.mean((student.numpy() - teacher.numpy()) ** 2))
    assert float(distillation_loss(student, teacher, 4.0, classes)) == pytest.approx(expected, rel=1e-9)
