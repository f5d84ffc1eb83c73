"""The blocks of networks by hand and of torchvision's, which parts are trained, and how fast."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from autocompress.blocks import SHARE, blocks, freeze, with_rates
from autocompress.errors import TaskError
from autocompress.testing.models import MODELS
from autocompress.testing.work import context_of, damaged
from autocompress.training import Training, fit


def names(model: nn.Module) -> list[list[str]]:
    known = {parameter: name for name, parameter in model.named_parameters()}
    return [[known[parameter] for parameter in block] for block in blocks(model)]


def firsts(model: nn.Module) -> list[str]:
    return [block[0].rpartition(".")[0] for block in names(model)]


def test_layers_of_a_small_network_are_its_blocks_and_normalizations_belong_to_the_one_before() -> None:
    assert firsts(MODELS["plain"]()) == ["conv1", "conv2", "fc1", "fc2"]
    assert firsts(MODELS["signals"]()) == ["layers.0", "layers.3", "layers.8"]
    assert names(MODELS["signals"]())[0] == ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]


def test_a_residual_network_has_one_block_for_each_of_its_own() -> None:
    model = torchvision.models.resnet18()
    assert firsts(model) == [
        "conv1",
        *(f"layer{at}.{part}.conv1" for at in (1, 2, 3, 4) for part in (0, 1)),
        "fc",
    ]


def test_the_layers_of_transformers_are_blocks_wherever_they_are_kept() -> None:
    assert len(blocks(MODELS["sentences"]())) == 4, "embedding, two layers, head"
    found = firsts(torchvision.models.vit_b_16(image_size=32))
    assert found[-13:] == [*(f"encoder.layers.encoder_layer_{at}.ln_1" for at in range(12)), "heads.head"]


@pytest.mark.parametrize("model", list(MODELS))
def test_every_parameter_is_in_one_block(model: str) -> None:
    found = MODELS[model]()
    every = [parameter for block in blocks(found) for parameter in block]
    assert len(every) == len(set(every)) == len(list(found.parameters()))


def test_rates_fall_by_a_factor_a_block_towards_the_input() -> None:
    """Howard and Ruder (2018), 3.2: the rate of a layer is that of the one after it divided by a constant."""
    model: Any = MODELS["plain"]()
    groups = with_rates(model, list(model.parameters()), 0.5)
    shares = {parameter: group[SHARE] for group in groups for parameter in group["params"]}
    assert [shares[layer.weight] for layer in (model.conv1, model.conv2, model.fc1, model.fc2)] == [0.125, 0.25, 0.5, 1]


def test_the_first_step_moves_each_block_by_its_rate() -> None:
    """Adam's first step is the learning rate times the sign of the gradient, whatever its size."""
    model: Any = damaged("plain")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = Training(epochs=1, batch_size=64, learning_rate=1e-3, weight_decay=0, block_decay=0.1)
    fit(model, context_of("plain").train, lambda o, b: nn.functional.cross_entropy(o, b.targets), settings, 0)
    moved = {name: float((value - before[name]).abs().max()) for name, value in model.state_dict().items()}
    for layer, share in {"conv1": 1e-3, "conv2": 1e-2, "fc1": 0.1, "fc2": 1.0}.items():
        assert moved[f"{layer}.weight"] == pytest.approx(share * moved["fc2.weight"], rel=0.02)


def test_only_what_is_named_is_trained_and_the_rest_is_given_back() -> None:
    model = MODELS["residual"]()
    frozen, still = freeze(model, ["inner2.2", "head"])
    left = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert left == {"inner2.2.0.weight", "inner2.2.1.weight", "inner2.2.1.bias", "head.weight", "head.bias"}
    assert len(frozen) == len(list(model.parameters())) - len(left)
    known = {module: name for name, module in model.named_modules()}
    assert [known[layer] for layer in still] == ["stem.1", "inner1.0.1", "inner1.2.1", "inner2.0.1", "project.1"]


def test_what_is_frozen_keeps_its_numbers_statistics_too() -> None:
    model, before = damaged("residual"), damaged("residual").state_dict()
    settings = Training(epochs=2, batch_size=16, only=("inner2.2", "head"))
    fit(model, context_of("residual").train, lambda o, b: nn.functional.cross_entropy(o, b.targets), settings, 0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed - {"inner2.2.1.num_batches_tracked"} == {
        *(f"inner2.2.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
        "inner2.2.0.weight",
        "head.weight",
        "head.bias",
    }
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(TaskError, match="only: fc9: the model has no such layer to train"):
        freeze(MODELS["plain"](), ["fc9"])
