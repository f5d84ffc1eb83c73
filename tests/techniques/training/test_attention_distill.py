"""Attention transfer: maps by the definition, gradients, which maps are matched, and what has none."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import NothingToDo
from autocompress.techniques.features import before_head, watched
from autocompress.techniques.training.attention_distill import Attention, AttentionDistill, depths, energy
from autocompress.testing.models import MODELS, seeded
from autocompress.testing.work import context_of, damaged, example_of, teacher_of
from autocompress.trial.stages import pack_weights

QUICK: dict[str, Any] = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 16}


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(feature: Any) -> Any:
    """Zagoruyko and Komodakis (2017), section 3.1: the sum of squares over channels, as a vector of unit length."""
    rows = []
    for example in feature:
        flat = sum(channel.ravel() ** 2 for channel in example)
        rows.append(flat / np.sqrt(np.sum(flat**2)))
    return np.stack(rows)


def test_the_loss_is_the_squared_distance_of_the_maps_of_the_paper() -> None:
    own, other = random(0, 5, 3, 4, 6), random(1, 5, 7, 4, 6)
    expected = np.mean(np.sum((attention(own.numpy()) - attention(other.numpy())) ** 2, axis=1))
    assert Attention()(energy(own), energy(other)).item() == pytest.approx(expected, rel=1e-9)


def test_maps_of_unlike_size_are_compared_at_the_smaller() -> None:
    own, other = energy(random(0, 5, 3, 2, 3)), energy(random(1, 5, 7, 4, 6))
    small = other.numpy().reshape(5, 1, 2, 2, 3, 2).mean((3, 5))
    expected = [
        flat / np.linalg.norm(flat) for flat in (x.reshape(5, -1)[i] for x in (own.numpy(), small) for i in range(5))
    ]
    wanted = np.mean([np.sum((expected[i] - expected[5 + i]) ** 2) for i in range(5)])
    assert Attention()(own, other).item() == pytest.approx(wanted, rel=1e-9)


def test_its_gradients_are_right() -> None:
    other = energy(random(1, 2, 5, 3, 3))
    assert torch.autograd.gradcheck(lambda own: Attention()(energy(own), other), random(0, 2, 3, 3, 3).requires_grad_())


def test_scaled_features_look_at_the_same_places() -> None:
    own = random(0, 5, 3, 4, 6)
    assert Attention()(energy(own), energy(7 * own)).item() == pytest.approx(0, abs=1e-12)


def test_the_last_map_of_each_size_is_looked_at() -> None:
    """By hand: 10x10 and 3x3 points in the plain model; 12x12 and 6x6 in the residual one, whose blocks end them."""
    assert depths(before_head(teacher_of("plain"), context_of("plain"))) == ["conv1", "conv2"]
    assert depths(before_head(teacher_of("residual"), context_of("residual"))) == ["inner1", "inner2"]
    assert depths(before_head(teacher_of("unet"), context_of("unet"))) == ["down", "join"]


def test_maps_are_matched_by_their_size() -> None:
    found = AttentionDistill().decide(damaged("plain"), context_of("plain"))
    assert found == {"pairs": {"conv1": "conv1", "conv2": "conv2"}}
    other = AttentionDistill().decide(seeded(MODELS["plain"]), context_of("residual"))
    assert other == {"pairs": {"conv1": "inner1", "conv2": "inner2"}}, "10x10 is nearest to 12x12, 3x3 to 6x6"


@pytest.mark.parametrize("model", ["mlp", "sentences", "recurrent"])
def test_a_network_without_feature_maps_is_refused(model: str) -> None:
    with pytest.raises(NothingToDo, match=r"attention_distill finds no convolution .*: use distill"):
        AttentionDistill().decide(damaged(model), context_of(model))


def distance(student: nn.Module, model: str) -> float:
    layers = before_head(teacher_of(model), context_of(model))
    total = 0.0
    for name in depths(layers):
        maps = []
        for network in (student, teacher_of(model)):
            with watched(network, {name: layers[name]}, energy) as seen, torch.no_grad():
                network(*example_of(model, 32))
            maps.append(seen[name])
        total += float(Attention()(*maps))
    return total


def test_the_student_comes_to_look_where_the_teacher_looks() -> None:
    student = seeded(MODELS["plain"], seed=11)
    before = distance(student, "plain")
    AttentionDistill(beta=30.0, epochs=6, learning_rate=3e-3, batch_size=16).train(student, context_of("plain"))
    assert distance(student, "plain") < 0.5 * before


def test_training_is_the_same_to_the_bit_and_the_teacher_is_left() -> None:
    context, students = context_of("residual"), [damaged("residual"), damaged("residual")]
    before = pack_weights(context.teacher)
    for student in students:
        AttentionDistill(**QUICK).train(student, context)
    assert pack_weights(students[0]) == pack_weights(students[1])
    assert pack_weights(context.teacher) == before
