"""Channel pruning against arithmetic, a numpy oracle of its rankings, and masking."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from plain import plain_baseline, trial_spec
from pydantic import ValidationError
from torch import Tensor, nn

from autocompress.data import batches
from autocompress.errors import TechniqueError
from autocompress.outcome import Candidate
from autocompress.techniques import Context, Decision, expanded, recipe_from_data
from autocompress.techniques.outputs import output_layers
from autocompress.techniques.pruning.channel_pruning import ChannelPruning
from autocompress.testing.models import MODELS, Plain, make_task, seeded
from autocompress.testing.work import context_of, example_of, teacher_of
from autocompress.trial.trial import prepare


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


class Wired(nn.Module):
    """A network that counts on eight channels in the one place, on nothing in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.hidden = nn.Linear(8, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).view(len(x), 8, -1).mean(2)
        return self.head(torch.relu(self.hidden(x)))


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


@pytest.mark.parametrize("importance", ["l1", "l2", "taylor", "fpgm", "lamp", "hessian", "conductance"])
def test_the_pruned_network_computes_what_the_original_does_with_those_channels_masked(importance: str) -> None:
    original = copy.deepcopy(teacher_of("plain"))
    step = ChannelPruning(ratio=0.5, importance=importance)
    decision = step.decide(original, context_of("plain"))
    pruned = step.apply(copy.deepcopy(original), decision)
    with torch.no_grad():
        for layer in ("conv1", "conv2", "fc1"):
            where = removed(decision, layer)
            assert where or importance == "lamp", "the example should touch every layer"
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
    with pytest.raises(TechniqueError, match=r"model.s outputs would change their shape.*leave the step out"):
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


def test_scores_that_tie_take_no_more_than_the_ratio_and_the_same_of_each_layer() -> None:
    model, context = fresh(Plain)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    decision = ChannelPruning(ratio=0.5, importance="taylor").decide(model, context)
    assert decision["layers"] == {"conv1.weight": "16 -> 8", "conv2.weight": "24 -> 12", "fc1.weight": "32 -> 16"}


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


def test_what_the_model_cannot_do_without_is_left_alone_and_said() -> None:
    model, context = fresh(Wired)
    step = ChannelPruning(ratio=0.5, scope="layer")
    decision = step.decide(model, context)
    assert decision["layers"] == {"hidden.weight": "16 -> 8"}
    assert list(decision["skipped"]) == ["first"]
    assert "does not run without them" in decision["skipped"]["first"]
    assert step.apply(model, decision)(*context.example).shape == (2, 4)


def test_a_model_that_can_do_without_nothing_is_refused_with_the_reason() -> None:
    model, context = fresh(Wired)
    with pytest.raises(TechniqueError, match=r"finds no channel.*first is left alone, as the model does not run"):
        ChannelPruning(ratio=0.5, keep=["hidden"]).decide(model, context)


def test_layers_in_keep_lose_no_outputs() -> None:
    model, context = fresh(Plain)
    decision = ChannelPruning(ratio=0.5, scope="layer", keep=["conv2"]).decide(model, context)
    assert decision["layers"] == {"conv1.weight": "16 -> 8", "fc1.weight": "32 -> 16"}


def test_keep_takes_the_name_of_a_module_for_all_layers_in_it_and_what_is_coupled_to_them() -> None:
    model, context = copy.deepcopy(teacher_of("residual")), context_of("residual")
    decision = ChannelPruning(ratio=0.5, scope="layer", keep=["inner1"]).decide(model, context)
    # The stem's outputs are added to those of inner1, which cannot change.
    assert sorted(decision["layers"]) == ["inner2.0.0.weight", "inner2.2.0.weight", "project.0.weight"]


def test_an_unknown_layer_to_keep_is_answered_with_the_nearest() -> None:
    model, context = fresh(Plain)
    with pytest.raises(TechniqueError, match=r"cannot keep 'conv3', which is no layer: did you mean 'conv[12]'\?"):
        ChannelPruning(keep=["conv3"]).decide(model, context)


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5, "most"])
def test_a_ratio_is_a_share_or_auto(ratio: object) -> None:
    with pytest.raises(ValidationError, match="ratio"):
        ChannelPruning.model_validate({"ratio": ratio})


def test_a_scan_of_ratios_cannot_be_spread_over_cycles() -> None:
    with pytest.raises(ValidationError, match="cycles count towards a number"):
        ChannelPruning(ratio="auto", cycles=2)


# Ratios from the scan


def test_auto_takes_more_from_a_layer_that_the_loss_feels_less() -> None:
    model, context = copy.deepcopy(teacher_of("plain")), context_of("plain")
    curves = {
        "conv1": [[0.25, 0.4], [0.5, 0.9], [0.75, 1.0]],
        "conv2": [[0.25, 0.0], [0.5, 0.01], [0.75, 0.02], [0.9, 0.5]],
        "fc1": [[0.25, 0.0], [0.5, 0.05], [0.75, 0.4]],
    }
    context.cache["sensitivity filters l1"] = curves
    decision = ChannelPruning(ratio="auto", tolerance=0.05).decide(model, context)
    # By lines between the rows: 0.25 * 0.05 / 0.4 = 0.031 of 16; 0.75 + 0.15 * 0.03 / 0.48 = 0.759 of 24; half of 32.
    assert decision["layers"] == {"conv1.weight": "16 -> 15", "conv2.weight": "24 -> 5", "fc1.weight": "32 -> 16"}


def test_auto_scans_the_uncompressed_model() -> None:
    """Three quarters of the second layer's filters are never read: the scan finds that they can go."""
    context = context_of("plain")
    with torch.no_grad():
        context.teacher.conv2.weight[:18] *= 1e-3
        context.teacher.conv2.bias[:18] = 0
    model = copy.deepcopy(context.teacher)
    decision = ChannelPruning(ratio="auto", importance="l1").decide(model, context)
    shares = {name: 1 - int(change.split()[2]) / int(change.split()[0]) for name, change in decision["layers"].items()}
    assert shares["conv2.weight"] >= 0.75
    assert all(share < shares["conv2.weight"] for name, share in shares.items() if name != "conv2.weight")
    scan = context.cache["sensitivity filters l1"]
    assert set(scan) == {"conv1", "conv2", "fc1"}  # not the layer that makes the outputs


def test_a_larger_tolerance_takes_more() -> None:
    def left(tolerance: float) -> int:
        model, context = copy.deepcopy(teacher_of("plain")), context_of("plain")
        step = ChannelPruning(ratio="auto", tolerance=tolerance)
        return sum(p.numel() for p in step.apply(model, step.decide(model, context)).parameters())

    assert left(0.3) < left(0.02)


def test_auto_leaves_layers_alone_that_the_uncompressed_model_does_not_have() -> None:
    context = context_of("plain")
    model = copy.deepcopy(context.teacher)
    model.conv2 = nn.Sequential(nn.Conv2d(16, 6, 1), nn.Conv2d(6, 24, 3))
    decision = ChannelPruning(ratio="auto", tolerance=0.5).decide(model, context)
    assert not any(name.startswith("conv2") for name in decision["layers"])
    assert "no layer of the uncompressed model" in decision["skipped"]["conv2.0"]


# Cycles


def test_cycles_become_pruning_steps_with_training_in_between() -> None:
    rows = ChannelPruning(ratio=0.5, cycles=2, schedule="linear", epochs=4, learning_rate=0.01).expand()
    assert [row["technique"] for row in rows] == ["channel_pruning", "finetune", "channel_pruning"]
    assert rows[0]["ratio"] == pytest.approx(0.25)
    assert rows[2]["ratio"] == pytest.approx(1 / 3)  # a third of the three quarters that are left
    assert (rows[1]["epochs"], rows[1]["learning_rate"], rows[1]["rewind"]) == (4, 0.01, False)
    assert all(row["cycles"] == 1 for row in rows[::2])


def test_without_cycles_a_step_stands_for_itself() -> None:
    step = ChannelPruning(ratio=0.5)
    assert step.expand() == [step.to_data()]


@pytest.mark.parametrize("ratio", [0.5, "auto"])
def test_rewinding_ends_with_training_from_early_weights(ratio: float | str) -> None:
    rows = ChannelPruning(ratio=ratio, rewind=True).expand()
    assert [row["technique"] for row in rows] == ["channel_pruning", "finetune"]
    assert rows[0]["ratio"] == ratio
    assert rows[1]["rewind"] is True
    assert len(expanded(recipe_from_data({"version": 1, "steps": rows})).steps) == 2  # once is enough


@pytest.mark.parametrize("schedule", ["linear", "cubic"])
@pytest.mark.parametrize("cycles", [2, 4])
def test_cycles_reach_the_ratio(schedule: str, cycles: int) -> None:
    model, context = fresh(Plain)
    step = ChannelPruning(ratio=0.5, cycles=cycles, schedule=schedule, importance="l1", scope="layer")
    for row in step.expand():
        if row["technique"] == "channel_pruning":
            once = ChannelPruning.model_validate({key: value for key, value in row.items() if key != "technique"})
            model = once.apply(model, once.decide(model, context))
    # Each cycle rounds down, so that less than a channel a cycle goes beyond the ratio.
    for layer, width in (("conv1", 16), ("conv2", 24), ("fc1", 32)):
        assert width / 2 - cycles < len(model.get_submodule(layer).weight) <= width / 2


@pytest.mark.parametrize(("ratio", "left"), [(0.8, 2), (0.7, 3), (0.9, 1), (0.6, 4)])
def test_shares_of_ten_are_exact(ratio: float, left: int) -> None:
    """1 - 0.8 is a little less than 0.2 in floating point, and ten times it no 2 when rounded down."""
    model, context = fresh(lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 10), nn.ReLU(), nn.Linear(10, 4)))
    decision = ChannelPruning(ratio=ratio, importance="l1", scope="layer").decide(model, context)
    assert decision["layers"] == {"1.weight": f"10 -> {left}"}


def test_a_trial_prunes_in_cycles_and_rewinds() -> None:
    step = {"technique": "channel_pruning", "ratio": 0.5, "cycles": 2, "epochs": 1, "rewind": True, "scope": "layer"}
    found = prepare(trial_spec(step), plain_baseline())
    assert isinstance(found, Candidate), found
    first, _, second, _ = found.decisions
    # Cubic: 1 - (1 - 1/2)^3 of the half goes in the first cycle, 0.4375; then what is left to the half.
    assert first["layers"] == {"conv1.weight": "16 -> 9", "conv2.weight": "24 -> 13", "fc1.weight": "32 -> 18"}
    assert second["layers"] == {"conv1.weight": "9 -> 8", "conv2.weight": "13 -> 11", "fc1.weight": "18 -> 16"}
