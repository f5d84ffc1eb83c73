"""Stripes of filters: whole positions of windows, ranked as numpy ranks them."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from plain import plain_baseline, trial_spec
from torch import Tensor, nn

from autocompress.errors import ConfigError, TechniqueError
from autocompress.outcome import Candidate
from autocompress.techniques import Context, Decision, expanded, recipe_from_data, recipe_from_yaml
from autocompress.techniques.pruning.channel_pruning import ChannelPruning
from autocompress.techniques.pruning.stripe_pruning import StripePruning
from autocompress.testing.models import Grouped, Mlp, Plain, make_task, seeded
from autocompress.testing.work import context_of, example_of, teacher_of
from autocompress.trial.stages import rebuild
from autocompress.trial.trial import prepare


def done(step: StripePruning, model: nn.Module) -> tuple[nn.Module, Decision]:
    """A copy of a model after the step, and the decision."""
    decision = step.decide(model, Context(make_task(Plain), model, 0))
    return step.apply(copy.deepcopy(model), decision), decision


def gone(layer: Any) -> Tensor:
    """Which stripes of a convolution are zero: (filters, height, width)."""
    weight = layer.weight.detach()
    whole, some = (weight == 0).all(1), (weight == 0).any(1)
    assert torch.equal(whole, some), "a stripe goes as a whole"
    return whole


def test_the_stripes_with_the_least_norm_go_layer_by_layer() -> None:
    model = teacher_of("plain")
    after, _ = done(StripePruning(ratio=0.4, scope="layer"), copy.deepcopy(model))
    for name in ("conv1", "conv2"):
        norms = np.abs(model.get_parameter(f"{name}.weight").detach().numpy()).sum(axis=1)
        count = round(0.4 * norms.size)
        threshold = np.partition(norms.ravel(), count)[count]
        assert gone(after.get_submodule(name)).numpy().tolist() == (norms < threshold).tolist()
        assert int(gone(after.get_submodule(name)).sum()) == count


def test_layers_are_compared_by_norm_per_weight() -> None:
    model = teacher_of("plain")
    after, _ = done(StripePruning(ratio=0.6, max_ratio=0.99), copy.deepcopy(model))
    norms = {name: model.get_parameter(f"{name}.weight").detach().abs().mean(1).numpy() for name in ("conv1", "conv2")}
    everything = np.concatenate([norm.ravel() for norm in norms.values()])
    count = round(0.6 * everything.size)
    threshold = np.partition(everything, count)[count]
    for name, norm in norms.items():
        assert gone(after.get_submodule(name)).numpy().tolist() == (norm < threshold).tolist()


def test_only_convolutions_with_a_window_change_and_all_their_groups_do() -> None:
    model = seeded(Grouped)
    after, decision = done(StripePruning(scope="layer"), model)
    assert list(decision["masks"]) == ["stem", "depthwise", "grouped"]
    assert int(gone(after.depthwise).sum()) == 16 * 9 // 2
    assert int(gone(after.grouped).sum()) == 32 * 9 // 2
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[0] in ("pointwise", "head") or name.endswith("bias"):
            assert torch.equal(after.get_parameter(name), parameter)


def test_convolutions_over_one_and_three_dimensions_have_stripes_too() -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 5), nn.Conv3d(2, 4, (1, 3, 3)), nn.Conv2d(3, 3, (1, 5)))
    after, decision = done(StripePruning(ratio=0.5, scope="layer"), model)
    assert decision["layers"] == {
        "0": "15 of 30 stripes are zero (50%)",
        "1": "18 of 36 stripes are zero (50%)",
        "2": "8 of 15 stripes are zero (53%)",  # round(7.5) is 8
    }
    assert [int(gone(layer).sum()) for layer in after] == [15, 18, 8]


def test_a_pruned_filter_skips_positions_of_its_window() -> None:
    """The filter skeleton of the paper: the output without some shifted copies of the input."""
    model = nn.Sequential(nn.Conv2d(2, 1, 3, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(1.0, 10).reshape(1, 1, 3, 3).expand(1, 2, 3, 3))
    after, _ = done(StripePruning(ratio=6 / 9), model)
    x = torch.randn((2, 2, 5, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        shifted = [x[:, :, 2:, column : column + 3].sum(1, keepdim=True) for column in range(3)]
        expected = 7 * shifted[0] + 8 * shifted[1] + 9 * shifted[2]
        torch.testing.assert_close(after(x), expected)


def test_no_layer_is_emptied() -> None:
    model = seeded(Plain)
    with torch.no_grad():
        model.conv1.weight.mul_(1e-4)
    for cap in (0.95, 0.5):
        after, _ = done(StripePruning(ratio=0.5, max_ratio=cap), model)
        assert int(gone(after.conv1).sum()) == int(cap * 16 * 9)
        assert int(gone(after.conv1).sum() + gone(after.conv2).sum()) == (16 + 24) * 9 // 2


def test_stripes_that_are_zero_already_count() -> None:
    first, _ = done(StripePruning(ratio=0.3), seeded(Plain))
    second, _ = done(StripePruning(ratio=0.5), first)
    assert bool((gone(second.conv1) | ~gone(first.conv1)).all())
    assert int(gone(second.conv1).sum() + gone(second.conv2).sum()) == (16 + 24) * 9 // 2


def test_channel_pruning_follows_and_keeps_the_stripes_of_the_filters_that_stay() -> None:
    model = copy.deepcopy(teacher_of("plain"))
    striped, _ = done(StripePruning(ratio=0.5, scope="layer"), model)
    cut = ChannelPruning(ratio=0.5, importance="l1", scope="layer")
    history = cut.decide(striped, context_of("plain"))
    after = cut.apply(copy.deepcopy(striped), history)
    lost = {i for name, outputs, where in history["history"] if name == "conv1" and outputs for i in where}
    stay = [i for i in range(16) if i not in lost]
    assert torch.equal(gone(after.conv1), gone(striped.conv1)[stay])
    assert bool(gone(after.conv1).any())
    assert bool(gone(after.conv2).any())
    with torch.no_grad():
        assert after(*example_of("plain")).shape == (3, 4)


def test_both_in_a_recipe_with_training_hold_the_stripes_and_shrink_the_file() -> None:
    stripes = {"technique": "stripe_pruning", "ratio": 0.6}
    channels = {"technique": "channel_pruning", "ratio": 0.25, "importance": "l1", "scope": "layer"}
    training = {"technique": "finetune", "epochs": 2, "batch_size": 16}

    def made(*steps: Any) -> Candidate:
        candidate = prepare(trial_spec(*steps), plain_baseline())
        assert isinstance(candidate, Candidate), candidate
        return candidate

    candidate = made(stripes, channels, training)
    recipe = expanded(recipe_from_data({"version": 1, "steps": [stripes, channels, training]}))
    model = rebuild(seeded(Plain, 9), recipe, candidate.decisions, candidate.weights)
    untrained = made(stripes, channels)
    before = rebuild(seeded(Plain, 9), recipe.prefix(2), untrained.decisions, untrained.weights)
    assert bool(gone(model.conv2).any())
    assert torch.equal(gone(model.conv2), gone(before.conv2))
    assert not torch.equal(model.conv2.weight, before.conv2.weight)
    assert len(candidate.onnx) < len(made(channels, training).onnx)
    assert candidate.metrics["accuracy"] > 0.5


def test_the_same_weights_give_the_same_decision_whatever_the_seed() -> None:
    model = teacher_of("residual")
    first, second = (StripePruning().decide(model, context_of("residual", seed)) for seed in (1, 2))
    assert first == second


@pytest.mark.parametrize(
    "model", [seeded(Mlp), nn.Sequential(nn.Conv2d(3, 3, 1))], ids=["no convolution", "windows of one position"]
)
def test_a_model_without_windows_is_refused(model: nn.Module) -> None:
    with pytest.raises(TechniqueError, match="stripe_pruning finds no convolution with a window of more than one posi"):
        done(StripePruning(), model)


@pytest.mark.parametrize("ratio", [0, 1, -0.5])
def test_a_ratio_is_a_share(ratio: float) -> None:
    with pytest.raises(ConfigError, match=r"steps\.0\.ratio: .*(greater than 0|less than 1)"):
        recipe_from_yaml(f"version: 1\nsteps:\n  - {{technique: stripe_pruning, ratio: {ratio}}}\n")
