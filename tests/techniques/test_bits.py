"""Bits as a loss: against entropies written out, finite differences, and what training makes of weights."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as entropy_of_counts
from torch import Tensor, nn

from autocompress.data import Batch
from autocompress.techniques.bits import STEPS, bits_a_weight, entropy, with_rate
from autocompress.techniques.masks import prunable
from autocompress.techniques.pruning.weight_pruning import WeightPruning
from autocompress.techniques.quantization.weight_clustering import WeightClustering
from autocompress.techniques.training.distill import Distill
from autocompress.techniques.training.finetune import Finetune
from autocompress.testing.work import context_of, teacher_of


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_weights_on_the_grid_take_their_entropy() -> None:
    """Of what is not zero the root of the mean square is 1, so that the grid has STEPS numbers to it."""
    weight = torch.tensor([0.0] * 7 + [1.0] * 2 + [-1.0] * 1)
    assert float(entropy(weight)) == pytest.approx(entropy_of_counts([7, 2, 1], base=2), abs=1e-6)


def test_a_weight_between_two_numbers_counts_for_both_by_its_share() -> None:
    """Of three weights one lies a quarter of a step above zero; the others are as far from zero as to make the unit."""
    rest = (1.5 - (0.25 / STEPS) ** 2 / 2) ** 0.5  # the mean square of all three is 1
    weight = torch.tensor([0.25 / STEPS, rest, -rest], dtype=torch.float64)
    place = STEPS * rest
    low = int(place)
    upper = place - low
    counts = [0.75, 0.25, 1 - upper, upper, 1 - upper, upper]
    assert float(entropy(weight)) == pytest.approx(entropy_of_counts(counts, base=2), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3))
def test_no_scale_changes_it_and_no_gradient_shrinks(seed: int, scale: float) -> None:
    weight = drawn(seed, 6, 9)
    assert float(entropy(scale * weight)) == pytest.approx(float(entropy(weight)), abs=1e-6)
    weight.requires_grad_(True)
    (slope,) = torch.autograd.grad(entropy(weight), weight)
    assert float((slope * weight.detach()).sum()) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_its_gradient_is_that_of_finite_differences(seed: int) -> None:
    assert torch.autograd.gradcheck(entropy, drawn(seed, 5, 8).requires_grad_(True), eps=1e-7, atol=1e-4)


def test_large_tensors_count_for_more() -> None:
    small, large = drawn(0, 4, 4), torch.zeros(32, 32, dtype=torch.float64)
    large[0, 0] = 1.0
    found = (16 * entropy(small) + 1024 * entropy(large)) / 1040
    assert float(bits_a_weight([small, large])) == pytest.approx(float(found))


def test_without_a_rate_the_loss_is_the_same_object() -> None:
    def loss(output: Tensor, batch: Batch) -> Tensor:
        return output.sum()

    assert with_rate(loss, nn.Linear(4, 4), 0.0) is loss
    assert with_rate(loss, nn.Linear(4, 4), 0.1) is not loss


@pytest.mark.parametrize("kind", [Finetune, Distill])
def test_training_with_a_rate_leaves_weights_of_fewer_bits(kind: type[Finetune | Distill]) -> None:
    def bits(rate: float) -> float:
        model = copy.deepcopy(teacher_of("plain"))
        kind(epochs=3, learning_rate=5e-3, batch_size=16, rate=rate).train(model, context_of("plain"))
        return float(bits_a_weight([weight.detach() for weight in prunable(model).values()]))

    plain, rated, more = bits(0.0), bits(0.3), bits(1.0)
    assert more < rated < plain


def test_zeros_stay_and_what_shares_values_is_left_out() -> None:
    model, context = copy.deepcopy(teacher_of("plain")), context_of("plain")
    pruning, sharing = WeightPruning(ratio=0.6), WeightClustering(bits=2, keep=("fc1",))
    model = pruning.apply(model, pruning.decide(model, context))
    model = sharing.apply(model, sharing.decide(model, context))
    before = {name: weight.detach().clone() for name, weight in prunable(model).items()}
    Finetune(epochs=1, batch_size=16, rate=1.0).train(model, context)
    for name, weight in prunable(model).items():
        assert bool((weight[before[name] == 0] == 0).all())
    values = np.unique(model.get_parameter("conv2.weight").detach().numpy())
    assert len(values) == len(before["conv2.weight"].unique())
