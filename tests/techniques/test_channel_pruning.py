"""Channel pruning against arithmetic, a numpy oracle of its rankings, and masking."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from contracts import context_of, example_of, teacher_of
from models import MODELS, Plain, make_task, seeded
from torch import Tensor, nn

from autocompress.data import batches
from autocompress.errors import TechniqueError
from autocompress.techniques import Context, Decision
from autocompress.techniques._outputs import output_layers
from autocompress.techniques.channel_pruning import ChannelPruning


class TwoConvs(nn.Module):
    """Eight filters, then the convolution that makes the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x))).mean((2, 3))


class SumOfHeads(nn.Module):
    """Outputs that are the sum of two layers, one of which another layer reads as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(432, 4)
        self.hidden = nn.Linear(4, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))
        return x + self.head(torch.relu(self.hidden(x)))


class ConcatOfHeads(nn.Module):
    """Outputs that are two layers side by side, behind a normalization and a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.left = nn.Conv2d(16, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.right = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return torch.cat([self.norm(self.left(x)).mean((2, 3)), self.right(x.mean((2, 3)))], 1).log_softmax(1)


class Ungraded(Plain):
    """A model whose forward pass keeps no gradients."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x)


class Recurrent(nn.Module):
    """A network whose dependencies the graph does not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(36, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1])


def fresh(model: Callable[[], nn.Module]) -> tuple[nn.Module, Context]:
    """A model with its task."""
    made = seeded(model)
    return made, Context(make_task(model), made, seed=0)


def removed(decision: Decision, layer: str) -> list[int]:
    """The output channels of one layer that a decision removes."""
    return sorted(i for name, outputs, where in decision["history"] if name == layer and outputs for i in where)


@pytest.mark.parametrize(
    ("ratio", "widths"),
    [
        (0.5, (8, 12, 16)),  # halves of 16, 24 and 32
        (0.75, (4, 6, 8)),  # quarters
        (0.3, (11, 16, 22)),  # 11.2, 16.8 and 22.4, rounded down
    ],
)
@pytest.mark.parametrize("importance", ["l1", "taylor"])
def test_scope_layer_removes_the_same_share_everywhere(
    ratio: float, widths: tuple[int, int, int], importance: str
) -> None:
    model, context = fresh(Plain)
    step = ChannelPruning(ratio=ratio, importance=importance, scope="layer")
    pruned = step.apply(model, step.decide(model, context))
    first, second, third = widths
    assert pruned.conv1.weight.shape == (first, 3, 3, 3)
    assert pruned.conv2.weight.shape == (second, first, 3, 3)
    assert pruned.fc1.weight.shape == (third, second * 4)  # four positions are left of the image
    assert pruned.fc2.weight.shape == (4, third)


def test_scope_global_removes_the_share_of_all_channels_together() -> None:
    model, context = fresh(Plain)
    step = ChannelPruning(ratio=0.5, importance="l1")
    pruned = step.apply(model, step.decide(model, context))
    left = sum(layer.weight.shape[0] for layer in (pruned.conv1, pruned.conv2, pruned.fc1))
    assert left == (16 + 24 + 32) // 2


def test_the_decision_says_what_happened_to_each_layer() -> None:
    model, context = fresh(Plain)
    decision = ChannelPruning(ratio=0.5, scope="layer").decide(model, context)
    assert decision["layers"] == {"conv1.weight": "16 -> 8", "conv2.weight": "24 -> 12", "fc1.weight": "32 -> 16"}


def test_l1_removes_the_filters_with_the_smallest_norm_where_their_readers_weigh_them_alike() -> None:
    model, context = fresh(TwoConvs)
    with torch.no_grad():
        model.second.weight.fill_(0.1)
    norms = np.abs(model.first.weight.detach().numpy()).sum((1, 2, 3))
    decision = ChannelPruning(ratio=0.5, importance="l1", scope="layer").decide(model, context)
    assert removed(decision, "first") == sorted(np.argsort(norms)[:4].tolist())


def test_l1_counts_the_weights_that_make_a_channel_and_those_that_read_it() -> None:
    """Fang et al. (2023), section 3.2: a group is scored as a whole."""
    model, context = fresh(TwoConvs)
    made = np.abs(model.first.weight.detach().numpy()).sum((1, 2, 3))
    read = np.abs(model.second.weight.detach().numpy()).sum((0, 2, 3))
    expected = sorted(np.argsort(made + read)[:4].tolist())
    assert expected != sorted(np.argsort(made)[:4].tolist()), "the example would not tell the two apart"
    decision = ChannelPruning(ratio=0.5, importance="l1", scope="layer").decide(model, context)
    assert removed(decision, "first") == expected


@pytest.mark.parametrize("channel", [0, 3, 7])
def test_taylor_removes_first_what_no_layer_reads(channel: int) -> None:
    model, context = fresh(TwoConvs)
    with torch.no_grad():
        model.second.weight[:, channel] = 0
        model.first.weight[channel] *= 100  # L1 would keep it
    decision = ChannelPruning(ratio=0.125, importance="taylor", scope="layer").decide(model, context)
    assert removed(decision, "first") == [channel]  # one eighth of eight channels
    by_norm = ChannelPruning(ratio=0.125, importance="l1", scope="layer").decide(model, context)
    assert removed(by_norm, "first") != [channel]


def test_taylor_ranks_by_the_products_of_weights_and_gradients() -> None:
    """Molchanov et al. (2019), equation 8, for each weight of the group."""
    model, context = fresh(TwoConvs)
    batch = next(batches(context.train, 64))  # the whole split, which is smaller than the sample
    loss = context.task.loss(model(*batch.inputs), batch.targets)
    made, read = torch.autograd.grad(loss, [model.first.weight, model.second.weight])
    scores = (made * model.first.weight).abs().sum((1, 2, 3)) + (read * model.second.weight).abs().sum((0, 2, 3))
    decision = ChannelPruning(ratio=0.5, importance="taylor", scope="layer").decide(model, context)
    assert removed(decision, "first") == sorted(scores.argsort()[:4].tolist())


@pytest.mark.parametrize("importance", ["l1", "taylor"])
def test_the_pruned_network_computes_what_the_original_does_with_those_channels_masked(importance: str) -> None:
    original = copy.deepcopy(teacher_of("plain"))
    step = ChannelPruning(ratio=0.5, importance=importance)
    decision = step.decide(original, context_of("plain"))
    pruned = step.apply(copy.deepcopy(original), decision)
    with torch.no_grad():
        for layer in ("conv1", "conv2", "fc1"):
            where = removed(decision, layer)
            assert where, "the example should touch every layer"
            original.get_submodule(layer).weight[where] = 0
            original.get_submodule(layer).bias[where] = 0
        example = example_of("plain", 8)
        torch.testing.assert_close(pruned(*example), original(*example), rtol=1e-4, atol=1e-5)


def test_residual_branches_lose_the_same_channels() -> None:
    original = copy.deepcopy(teacher_of("residual"))
    step = ChannelPruning(ratio=0.5)
    decision = step.decide(original, context_of("residual"))
    pruned = step.apply(copy.deepcopy(original), decision)
    # Layers whose outputs are added lose their channels together; their normalizations hold scale and shift.
    coupled = [("stem.0", "inner1.2.0"), ("inner1.0.0",), ("inner2.0.0",), ("inner2.2.0", "project.0")]
    with torch.no_grad():
        for group in coupled:
            where = sorted({i for layer in group for i in removed(decision, layer)})
            assert where, "the example should touch every group"
            for layer in group:
                block, _, position = layer.rpartition(".")
                norm = original.get_submodule(f"{block}.{int(position) + 1}")
                norm.weight[where] = 0
                norm.bias[where] = 0
        example = example_of("residual", 8)
        torch.testing.assert_close(pruned(*example), original(*example), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(MODELS))
def test_the_classifier_keeps_its_outputs_at_any_ratio(name: str) -> None:
    model = copy.deepcopy(teacher_of(name))
    step = ChannelPruning(ratio=0.9, scope="layer")
    pruned = step.apply(model, step.decide(model, context_of(name)))
    assert pruned(*example_of(name)).shape == (3, 4)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (MODELS["plain"], {"fc2"}),
        (MODELS["residual"], {"head"}),
        (MODELS["concat"], {"head"}),
        (SumOfHeads, {"stem", "head"}),
        (ConcatOfHeads, {"left", "right"}),
    ],
)
def test_output_layers_are_those_behind_the_outputs(model: Callable[[], nn.Module], expected: set[str]) -> None:
    made, context = fresh(model)
    found = output_layers(made, context.example)
    assert {name for name, module in made.named_modules() if any(module is layer for layer in found)} == expected


@pytest.mark.parametrize("importance", ["l1", "taylor"])
def test_a_frozen_model_keeps_its_outputs(importance: str) -> None:
    model, context = fresh(Plain)
    model.requires_grad_(False)
    step = ChannelPruning(ratio=0.5, importance=importance, scope="layer")
    decision = step.decide(model, context)
    assert "fc2.weight" not in decision["layers"]
    pruned = step.apply(model, decision)
    assert pruned(*context.example).shape == (2, 4)
    assert not any(parameter.requires_grad for parameter in pruned.parameters())


def test_a_model_whose_output_layer_cannot_be_found_is_refused() -> None:
    model, context = fresh(Ungraded)
    with pytest.raises(TechniqueError, match=r"cuts the model.s outputs.*leave it out"):
        ChannelPruning(ratio=0.5, importance="l1", scope="layer").decide(model, context)


@pytest.mark.parametrize(("max_ratio", "least"), [(0.6, 7), (0.75, 4), (0.95, 1)])
def test_max_ratio_keeps_a_global_ranking_from_emptying_a_layer(max_ratio: float, least: int) -> None:
    """One filter of sixteen outweighs the others so far that a global ranking would take all the others first."""
    model, context = fresh(Plain)
    with torch.no_grad():
        model.conv1.weight[0] = 100.0
    decision = ChannelPruning(ratio=0.5, importance="l1", max_ratio=max_ratio).decide(model, context)
    left = int(decision["layers"]["conv1.weight"].split(" -> ")[1])
    assert left == least  # at most 9.6, 12 and 15.2 of the 16 may go
    widths = [int(change.split(" -> ")[1]) for change in decision["layers"].values()]
    assert sum(widths) == (16 + 24 + 32) // 2  # the ratio holds all the same


def test_a_layer_that_nothing_reads_is_cut_to_the_cap() -> None:
    model, context = fresh(TwoConvs)
    with torch.no_grad():
        model.second.weight.zero_()
        model.first.weight.zero_()
    decision = ChannelPruning(ratio=0.5, importance="taylor").decide(model, context)
    assert len(removed(decision, "first")) == 7  # all scores tie at zero; 0.95 of eight is 7.6


def test_max_ratio_never_lowers_the_ratio_that_was_asked_for() -> None:
    assert ChannelPruning(ratio=0.97).max_ratio == 0.97
    assert ChannelPruning(ratio=0.8, max_ratio=0.5).max_ratio == 0.8
    assert ChannelPruning(ratio=0.5).max_ratio == 0.95


def test_round_to_leaves_multiples() -> None:
    model, context = fresh(Plain)
    step = ChannelPruning(ratio=0.3, importance="l1", scope="layer", round_to=4)
    pruned = step.apply(model, step.decide(model, context))
    widths = [layer.weight.shape[0] for layer in (pruned.conv1, pruned.conv2, pruned.fc1)]
    assert widths == [8, 16, 20]  # 11, 16 and 22, down to multiples of 4


def test_a_model_with_nothing_but_its_output_layer_is_refused() -> None:
    model, context = fresh(lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 4)))
    with pytest.raises(TechniqueError, match=r"finds no channel to remove.*leave the step out"):
        ChannelPruning(ratio=0.5).decide(model, context)


def test_a_network_that_cannot_be_followed_is_refused() -> None:
    model, context = fresh(Recurrent)
    with pytest.raises(TechniqueError, match=r"cannot follow this network's dependencies"):
        ChannelPruning(ratio=0.5).decide(model, context)
