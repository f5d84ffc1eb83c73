"""Shared weights: k-means against scikit-learn's, values trained as one, and few in the file."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import nn

from autocompress.errors import TechniqueError
from autocompress.held import Held, shared_values
from autocompress.techniques.pruning.weight_pruning import WeightPruning
from autocompress.techniques.quantization.weight_clustering import WeightClustering, inertia, k_means, nearest
from autocompress.techniques.training.finetune import Finetune
from autocompress.testing.work import context_of, teacher_of


@pytest.mark.parametrize("clusters", [2, 4, 16, 64])
@pytest.mark.parametrize("kind", ["normal", "laplace", "two hills"])
def test_centres_are_as_good_as_those_of_scikit_learn(clusters: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    values = {
        "normal": rng.normal(size=5000),
        "laplace": rng.laplace(size=5000),
        "two hills": np.concatenate([rng.normal(-3, 0.3, 2500), rng.normal(2, 1, 2500)]),
    }[kind].astype(np.float32)
    theirs = KMeans(clusters, n_init=3, random_state=0).fit(values[:, None])
    assert inertia(values, k_means(values, clusters)) <= 1.03 * theirs.inertia_


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=60), clusters=st.integers(1, 20))
def test_every_number_gets_the_nearest_centre(values: list[float], clusters: int) -> None:
    numbers = np.array(values, np.float32)
    centres = k_means(numbers, clusters)
    assert 1 <= len(centres) <= clusters
    found = np.abs(numbers - nearest(numbers, centres))
    np.testing.assert_allclose(found, np.abs(numbers[:, None] - centres).min(1), atol=1e-6)


def clustered(bits: int = 3, model: str = "plain") -> nn.Module:
    step, made = WeightClustering(bits=bits), copy.deepcopy(teacher_of(model))
    return step.apply(made, step.decide(made, context_of(model)))


@pytest.mark.parametrize("bits", [1, 3, 5])
def test_a_layer_has_as_many_values_as_its_bits_give(bits: int) -> None:
    model = clustered(bits)
    for layer in (model.conv2, model.fc1):
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        assert 1 < len(layer.weight.unique()) <= 2**bits


def test_pruned_weights_stay_zero_besides_the_values() -> None:
    model, context = copy.deepcopy(teacher_of("plain")), context_of("plain")
    pruning = WeightPruning(ratio=0.7)
    model = pruning.apply(model, pruning.decide(model, context))
    zero = {name: parameter == 0 for name, parameter in model.named_parameters()}
    step = WeightClustering(bits=2)
    decision = step.decide(model, context)
    model = step.apply(model, decision)
    weights = dict(model.named_parameters())
    for name in decision["books"]:
        assert torch.equal(weights[name] == 0, zero[name])
        assert len(weights[name].unique()) == 5


def test_training_moves_each_value_as_one_number() -> None:
    model, context = clustered(), context_of("plain")
    before = copy.deepcopy(model.state_dict())
    Finetune(epochs=2, learning_rate=5e-3, batch_size=16).train(model, context)
    after = model.state_dict()
    for name in ("conv2.weight", "fc1.weight"):
        pairs = torch.stack([before[name].flatten(), after[name].flatten()], 1).unique(dim=0)
        assert len(pairs) == len(before[name].unique())  # who shared a value shares one still
        assert not torch.equal(before[name], after[name])


def test_a_shared_value_moves_by_the_mean_step() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 1.0, 2.0, 2.0] * 4).view(4, 4))
    held = Held([weight])
    with torch.no_grad():
        weight += torch.arange(16.0).view(4, 4)
    held.restore()
    ones = [k for k in range(16) if k % 4 < 2]
    found = weight.detach().flatten()
    assert float(found[0]) == pytest.approx(1 + np.mean(ones))
    assert float(found[2]) == pytest.approx(2 + np.mean([k for k in range(16) if k % 4 > 1]))


def test_plain_weights_share_nothing() -> None:
    assert shared_values(torch.randn(64, 64)) is None
    assert shared_values(torch.arange(64.0).view(8, 8)) is None
    assert shared_values(torch.zeros(64, 64)) is None
    assert shared_values(torch.tensor([0.0, 1.0] * 50)) is None


def test_layers_with_too_few_weights_are_said_and_nothing_else_is_an_error() -> None:
    decision = WeightClustering(bits=6).decide(teacher_of("plain"), context_of("plain"))
    assert decision["skipped"]["fc2.weight"] == "only 128 weights for 64 values"
    with pytest.raises(TechniqueError, match="lower bits or leave the step out"):
        WeightClustering(bits=8, keep=("conv*", "fc1")).decide(teacher_of("plain"), context_of("plain"))
