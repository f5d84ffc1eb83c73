"""Scores of channels against numpy, against what removing a channel does to the loss, and against captum."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress import Classification
from autocompress.data import Batch, batches
from autocompress.errors import TechniqueError
from autocompress.techniques import Context
from autocompress.techniques.outputs import output_layers
from autocompress.techniques.pruning._channel_scores import (
    by_weights,
    conductance,
    fisher,
    geometric_median,
    gradients,
    lamp,
    relative,
)
from autocompress.techniques.pruning._dependencies import Group, find_groups
from autocompress.techniques.pruning.channel_pruning import ChannelPruning
from autocompress.testing.models import Plain, make_task, seeded
from autocompress.testing.work import context_of, teacher_of


class Grouped(nn.Module):
    """A grouped, a transposed and a depthwise convolution, each between layers that read and make its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.grouped = nn.Conv2d(8, 12, 3, groups=2)
        self.transposed = nn.ConvTranspose2d(12, 6, 3)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.transposed(torch.relu(self.grouped(torch.relu(self.stem(x)))))
        return self.head(torch.relu(self.depthwise(torch.relu(x)))).mean((2, 3))


class Normalized(nn.Module):
    """Two convolutions, the first with batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 3)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(x)).mean((2, 3)))


def fresh(model: Callable[[], nn.Module]) -> tuple[nn.Module, Context]:
    """A model with its task."""
    made = seeded(model)
    return made, Context(make_task(model), made, seed=0)


def groups_of(model: nn.Module, context: Context) -> dict[str, Group]:
    """Every group that can be pruned, by the layer it is named after."""
    groups, _ = find_groups(model, context.example, output_layers(model, context.example))
    return {part.name: group for group in groups for part in group.producers}


def removed(model: nn.Module, context: Context, layer: str, **settings: object) -> list[int]:
    """The outputs of a layer that pruning removes."""
    step = ChannelPruning.model_validate({"ratio": 0.5, "scope": "layer", **settings})
    history = step.decide(model, context)["history"]
    return next((where for name, outputs, where in history if name == layer and outputs), [])


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


@pytest.mark.parametrize("name", ["plain", "mlp"])
def test_taylor_ranks_channels_as_removing_each_of_them_does(name: str) -> None:
    """Molchanov et al. (2019), section 4.2: correlation with the change of the loss when one channel goes."""
    model, context = copy.deepcopy(teacher_of(name)), context_of(name)
    batch = next(batches(context.train, 10_000))
    slopes = gradients(model, context, 10_000)
    score = by_weights(lambda weight: (weight * slopes[id(weight)]).abs())
    for layer, group in groups_of(model, context).items():
        changes = [_loss_without(model, context, batch, layer, channel) for channel in range(group.channels)]
        scores = score(group)
        assert scores is not None
        spearman = np.corrcoef(ranks(scores.numpy()), ranks(np.array(changes)))[0, 1]
        assert spearman > 0.8, layer


def _loss_without(model: nn.Module, context: Context, batch: Batch, layer: str, channel: int) -> float:
    work = copy.deepcopy(model)
    with torch.no_grad():
        whole = context.task.loss(work(*batch.inputs), batch.targets)
        work.get_submodule(layer).weight[channel] = 0
        work.get_submodule(layer).bias[channel] = 0
        return float((context.task.loss(work(*batch.inputs), batch.targets) - whole).abs())


def test_fpgm_removes_the_filters_nearest_to_the_geometric_median() -> None:
    """He et al. (2019), equation 6: the point with the smallest sum of distances to the filters."""
    model, context = fresh(Normalized)
    filters = model.first.weight.detach().numpy().reshape(8, -1).astype(np.float64)
    distances = [sum(np.linalg.norm(a - b) for b in filters) for a in filters]
    assert removed(model, context, "first", importance="fpgm") == sorted(np.argsort(distances)[:4].tolist())


def test_fpgm_removes_filters_that_others_can_stand_for_however_large_they_are() -> None:
    model, context = fresh(Normalized)
    with torch.no_grad():
        model.first.weight[:5] = 1 + 1e-3 * torch.arange(5.0)[:, None, None, None]  # five of a kind
    assert set(removed(model, context, "first", importance="fpgm")) < {0, 1, 2, 3, 4}
    assert {5, 6, 7} < set(removed(model, context, "first", importance="l1"))


def test_distances_to_the_other_filters_are_those_of_numpy() -> None:
    model, context = fresh(Normalized)
    scores = geometric_median(groups_of(model, context)["second"])
    filters = model.second.weight.detach().numpy().reshape(12, -1)
    expected = np.linalg.norm(filters[:, None] - filters[None], axis=2).sum(1)
    assert scores is not None
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5)


def test_l2_sums_the_squares_of_all_weights_that_make_scale_or_read_a_channel() -> None:
    model, context = fresh(Normalized)
    weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    made = (weights["first.weight"] ** 2).sum((1, 2, 3))
    read = (weights["second.weight"] ** 2).sum((0, 2, 3))
    expected = made + weights["norm.weight"] ** 2 + read
    scores = by_weights(torch.square)(groups_of(model, context)["first"])
    assert scores is not None
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5)
    assert removed(model, context, "first", importance="l2") == sorted(np.argsort(expected)[:4].tolist())


def test_weights_of_grouped_and_transposed_convolutions_are_found() -> None:
    model, context = fresh(Grouped)
    w = {name: parameter.detach().abs().numpy() for name, parameter in model.named_parameters()}
    groups = groups_of(model, context)
    stem = by_weights(torch.abs)(groups["stem"])
    grouped = by_weights(torch.abs)(groups["grouped"])
    transposed = by_weights(torch.abs)(groups["transposed"])
    assert stem is not None
    assert grouped is not None
    assert transposed is not None
    # Channel c of the stem is read by the half of the filters that its half of the channels belongs to, as c % 4.
    read = np.array([w["grouped.weight"][(c // 4) * 6 : (c // 4 + 1) * 6, c % 4].sum() for c in range(8)])
    both = w["stem.weight"].sum((1, 2, 3)) + read
    np.testing.assert_allclose(stem.numpy(), both[:4] + both[4:], rtol=1e-5)  # two halves lose the same
    both = w["grouped.weight"].sum((1, 2, 3)) + w["transposed.weight"].sum((1, 2, 3))
    np.testing.assert_allclose(grouped.numpy(), both[:6] + both[6:], rtol=1e-5)
    made = w["transposed.weight"].sum((0, 2, 3)) + w["depthwise.weight"].sum((1, 2, 3))
    np.testing.assert_allclose(transposed.numpy(), made + w["head.weight"].sum((0, 2, 3)), rtol=1e-5)


def test_bn_scale_removes_the_channels_with_the_smallest_factors() -> None:
    """Liu et al. (2017), section 3: by the size of gamma, whatever the weights."""
    model, context = fresh(Normalized)
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([0.9, -0.1, 0.5, 0.2, -0.8, 0.3, 0.7, 0.6]))
    assert removed(model, context, "first", importance="bn_scale") == [1, 2, 3, 5]
    decision = ChannelPruning(ratio=0.5, importance="bn_scale").decide(model, context)
    assert "bn_scale" in decision["skipped"]["second"]


def test_bn_scale_is_refused_where_there_is_no_batch_normalization() -> None:
    model, context = fresh(Plain)
    with pytest.raises(TechniqueError, match=r"bn_scale ranks channels by batch normalization.*use another importance"):
        ChannelPruning(importance="bn_scale").decide(model, context)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12, unique=True))
def test_lamp_is_each_score_over_the_sum_of_those_not_below_it(scores: list[float]) -> None:
    """Lee et al. (2021), equation 1."""
    expected = [score / sum(other for other in scores if other >= score) for score in scores]
    found = lamp(torch.tensor(scores, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    assert np.array_equal(np.argsort(found.numpy()), np.argsort(scores))


def test_lamp_never_takes_the_best_channel_of_a_layer() -> None:
    model, context = fresh(Plain)
    with torch.no_grad():
        model.conv1.weight *= 1e-3
        model.conv2.weight *= 1e-3
    decision = ChannelPruning(ratio=0.9, importance="lamp", max_ratio=0.99).decide(model, context)
    assert all(int(change.split(" -> ")[1]) >= 1 for change in decision["layers"].values())


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12))
def test_relative_scores_have_a_mean_of_one_or_are_all_zero(scores: list[float]) -> None:
    found = relative(torch.tensor(scores, dtype=torch.float64))
    assert torch.isfinite(found).all()
    assert not found.any() or float(found.mean()) == pytest.approx(1)


def test_fisher_is_the_mean_of_the_squared_gradients_of_single_examples() -> None:
    model, context = fresh(Plain)
    found = fisher(model, context, 16)
    batch = next(context.sample(64))  # the same order as examples one by one
    total = torch.zeros_like(model.fc1.weight)
    for index in range(16):
        loss = context.task.loss(model(batch.inputs[0][index : index + 1]), batch.targets[index : index + 1])
        total += torch.autograd.grad(loss, model.fc1.weight)[0] ** 2
    torch.testing.assert_close(found[id(model.fc1.weight)], total / 16)


def test_hessian_ranks_by_squared_weights_times_curvature() -> None:
    """LeCun et al. (1990), equation 5, summed over the weights of a group."""
    model, context = fresh(Normalized)
    curves = fisher(model, context, 512)
    weights = {name: parameter.detach() ** 2 * curves[id(parameter)] for name, parameter in model.named_parameters()}
    scores = weights["first.weight"].sum((1, 2, 3)) + weights["norm.weight"] + weights["second.weight"].sum((0, 2, 3))
    assert removed(model, context, "first", importance="hessian") == sorted(scores.argsort()[:4].tolist())


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_conductance_is_that_of_captum(name: str) -> None:
    captum = pytest.importorskip("captum.attr")
    model, context = copy.deepcopy(teacher_of(name)), context_of(name)
    layers = set(groups_of(model, context))
    found = conductance(model, context, 8, layers)
    (inputs,) = next(context.sample(8, 8)).inputs
    target = model(inputs).argmax(1)
    for layer in layers:
        flow = captum.LayerConductance(model, model.get_submodule(layer)).attribute(inputs, target=target, n_steps=8)
        expected = flow.flatten(2).sum(2) if flow.dim() > 2 else flow
        torch.testing.assert_close(found[layer], expected.abs().sum(0).detach(), rtol=1e-3, atol=1e-5)


def test_conductance_sees_outputs_that_are_changed_in_place() -> None:
    class Inplace(nn.Module):
        def __init__(self, inplace: bool) -> None:
            super().__init__()
            self.first, self.act, self.head = nn.Linear(432, 8), nn.ReLU(inplace), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.first(x.flatten(1))))

    found = []
    for inplace in (False, True):
        model, context = fresh(lambda inplace=inplace: Inplace(inplace))
        found.append(conductance(model, context, 8, {"first"})["first"])
    torch.testing.assert_close(found[0], found[1])


def test_conductance_flows_past_channels_that_nothing_reads() -> None:
    model, context = fresh(Normalized)
    with torch.no_grad():
        model.second.weight[:, [1, 4, 5, 6]] = 0
        model.first.weight[[1, 4, 5, 6]] *= 100  # any norm would keep them
    assert removed(model, context, "first", importance="conductance") == [1, 4, 5, 6]


def test_conductance_is_refused_for_inputs_that_cannot_be_scaled() -> None:
    def tokens() -> nn.Module:
        return nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))

    split = (torch.arange(48).reshape(16, 3) % 10, torch.arange(16) % 4)
    model = seeded(tokens)
    context = Context(Classification(tokens, split, split, split), model, seed=0)
    with pytest.raises(TechniqueError, match=r"inputs that can be scaled.*use importance taylor"):
        ChannelPruning(importance="conductance").decide(model, context)
    assert ChannelPruning(importance="taylor").decide(model, context)["layers"]


def test_ranking_leaves_no_gradients_and_no_thawed_parameters_behind() -> None:
    model, context = fresh(Plain)
    model.requires_grad_(False)
    for importance in ("taylor", "hessian", "conductance"):
        ChannelPruning(importance=importance).decide(model, context)
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
