"""Block pruning: what counts as a block, which goes first, and what is left."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from autocompress import Classification
from autocompress.artifacts.export import export_onnx
from autocompress.artifacts.parity import check_parity
from autocompress.errors import TechniqueError
from autocompress.recipe import Recipe
from autocompress.techniques import Context
from autocompress.techniques.pruning.block_pruning import BlockPruning, Skip, can_go, find_blocks, least_missed, without
from autocompress.testing.models import CLASSES, SHAPE, Concat, Plain, Residual, make_task, seeded
from autocompress.testing.work import context_of, teacher_of
from autocompress.trial.stages import pack_weights, rebuild

IMAGES = torch.randn((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A residual block of one convolution, whose size of kernel decides its parameters."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.conv(x))


class Blocks(nn.Module):
    """Residual blocks between a stem and a classifier."""

    def __init__(self, *kernels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.ModuleList([Block(kernel) for kernel in kernels])
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Encoder(nn.Module):
    """Torch's own transformer over the rows of an image."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(36, 16)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), layers)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x.transpose(1, 2).flatten(2))).mean(1))


def context_for(make: Callable[[], nn.Module], model: nn.Module | None = None) -> Context:
    return Context(make_task(make), model or seeded(make), 0)


class Part(nn.Module):
    """A residual block that adds its input times a factor, through `width` neurons: 8 * width parameters."""

    def __init__(self, factor: float, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(4, width, bias=False), nn.Linear(width, 4, bias=False)
        with torch.no_grad():
            self.down.weight.copy_(torch.eye(width, 4))
            self.up.weight.copy_(factor * torch.eye(4, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x))


class Squares(Classification):
    """The mean squared error to real targets."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return ((output - target) ** 2).mean()


def decide(step: BlockPruning, model: nn.Module) -> dict[str, Any]:
    """The decision for a model whose targets are its own outputs for ones."""
    x = torch.ones(8, 4)
    with torch.no_grad():
        split = (x, model(x))
    return step.decide(model, Context(Squares(lambda: model, split, split, split), model, 0))


def test_blocks_keep_the_shape_and_hold_weights() -> None:
    assert set(find_blocks(seeded(Residual), (torch.randn(2, *SHAPE),))) == {
        *("inner1", "inner1.0", "inner1.0.0", "inner1.2", "inner1.2.0", "inner2.2", "inner2.2.0")
    }


def test_a_layer_that_is_called_twice_is_no_block() -> None:
    for name in ("called_twice", "two_names"):
        assert find_blocks(copy.deepcopy(teacher_of(name)), context_of(name).example) == {}


def test_parameters_of_blocks_are_counted() -> None:
    found = find_blocks(Blocks(3, 1), (torch.randn(2, *SHAPE),))
    three, one = 8 * 8 * 9 + 8, 8 * 8 + 8
    assert found == {"blocks.0": three, "blocks.0.conv": three, "blocks.1": one, "blocks.1.conv": one}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", {"layer1", "layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"}),
        ("mobilenet_v2", {"features.3", "features.5", "features.6", "features.8", "features.16"}),
        ("mobilenet_v3_small", {"features.3", "features.5", "features.6", "features.4.block.2"}),
        ("shufflenet_v2_x0_5", {"stage2.1", "stage2.2", "stage2.3", "stage3.7", "stage4.1"}),
        ("squeezenet1_1", {"features.4", "features.7", "features.10", "features.12"}),
    ],
)
def test_blocks_of_known_networks_are_found(name: str, expected: set[str]) -> None:
    found = find_blocks(getattr(torchvision.models, name)().eval(), (IMAGES,))
    assert expected <= found.keys()
    assert not found.keys() & {
        "layer2",
        "layer2.0",
        "features.2",
        "features.0",
        "stage2.0",
        "stage2",
        "bn1",
        "features",
    }


def test_layers_of_a_vision_transformer_and_of_torchs_own_encoder_are_found() -> None:
    vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=CLASSES).eval()
    assert {f"encoder.layers.encoder_layer_{i}" for i in (0, 1)} <= find_blocks(vit, (IMAGES,)).keys()
    model = seeded(Encoder)
    assert set(find_blocks(model, (torch.randn(2, *SHAPE),))) == {"encoder", *(f"encoder.layers.{i}" for i in range(3))}
    assert not any(module._forward_hooks for module in model.modules())


def test_a_block_that_adds_nothing_goes_first_and_changes_nothing() -> None:
    model = nn.Sequential(Part(0.5, 8), Part(0.0, 8), Part(0.5, 8))
    decision = decide(BlockPruning(), model)
    assert decision == {"removed": {"1": "64 parameters, loss 0 -> 0"}}
    x = torch.randn(3, 4)
    before = model(x)
    assert torch.equal(BlockPruning().apply(model, decision)(x), before)


def test_among_blocks_that_add_nothing_the_largest_goes_first() -> None:
    model = nn.Sequential(Part(0.0, 5), Part(0.0, 9), Part(0.5, 12), Part(0.0, 7))
    assert list(decide(BlockPruning(blocks=3), model)["removed"]) == ["1", "3", "0"]


def test_losses_are_those_of_the_model_without_the_blocks() -> None:
    """By hand: 1.5 * 1.5 * 2 = 4.5; without one half 3; without both 2."""
    model = nn.Sequential(Part(0.5, 8), Part(0.5, 8), Part(1.0, 8))
    assert decide(BlockPruning(blocks=2), model)["removed"] == {
        "0": f"64 parameters, loss 0 -> {1.5**2:.4g}",
        "1": f"64 parameters, loss {1.5**2:.4g} -> {2.5**2:.4g}",
    }


class Either(nn.Module):
    """Positive inputs times 2, by either of two blocks, and a little by a third."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4, bias=False) for _ in range(3))
        with torch.no_grad():
            for block, factor in ((self.first, 2.0), (self.second, 2.0), (self.third, 1.5)):
                block.weight.copy_(factor * torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(self.first(x), self.second(x)) + 0.1 * self.third(x)


def test_damage_is_measured_anew_after_each_removal() -> None:
    """Either of two blocks can go, but not both; by hand: 2 x + 0.15 x without the third is 0.05 x less."""
    decision = decide(BlockPruning(blocks=2), Either())
    assert decision == {
        "removed": {
            "first": "16 parameters, loss 0 -> 0",
            "third": f"16 parameters, loss 0 -> {0.05**2:.4g}",
        }
    }


def test_the_least_loss_per_parameter_goes_first() -> None:
    # By 0.2 for 100 parameters or by 0.5 for 1000: 0.002 and 0.0005 a parameter.
    assert least_missed({"small": 100, "large": 1000}, {"small": 1.2, "large": 1.5}, 1.0) == "large"
    assert least_missed({"small": 100, "large": 1000}, {"small": 1.02, "large": 1.5}, 1.0) == "small"
    # Gains and differences of less than 1% say nothing: parameters decide.
    assert least_missed({"small": 100, "large": 1000}, {"small": 0.9, "large": 1.009}, 1.0) == "large"
    assert least_missed({"a": 100, "b": 1000}, {"a": 0.0, "b": 0.0}, 0.0) == "b"


def test_a_block_without_which_the_loss_is_no_number_stays() -> None:
    assert least_missed({"a": 1, "b": 1}, {"a": float("nan"), "b": 9.0}, 1.0) == "b"
    assert least_missed({"a": 1}, {"a": float("inf")}, 1.0) is None


TREE = {"a": 100, "a.x": 40, "a.y": 60, "b": 50, "c": 30, "c.z": 30}


def test_what_is_inside_a_removed_block_is_gone_and_one_block_stays() -> None:
    assert can_go(TREE, []) == TREE
    assert can_go(TREE, ["a"]) == {"b": 50, "c": 30, "c.z": 30}
    assert can_go(TREE, ["a.x"]) == {"a": 60, "a.y": 60, "b": 50, "c": 30, "c.z": 30}
    assert can_go(TREE, ["c.z"]) == {"a": 100, "a.x": 40, "a.y": 60, "b": 50}  # nothing is left of c
    assert can_go(TREE, ["a", "b"]) == {}  # c.z is the last
    assert can_go({"all": 9, "all.a": 4, "all.b": 5}, []) == {"all.a": 4, "all.b": 5}
    assert can_go({"ab": 1, "a": 1}, ["a"]) == {}  # "ab" is not inside "a", and is the last


@given(st.lists(st.integers(0, 100), max_size=8))
def test_however_blocks_are_chosen_one_of_the_innermost_stays(picks: list[int]) -> None:
    removed: list[str] = []
    for pick in picks:
        free = can_go(TREE, removed)
        if not free:
            break
        removed.append(list(free)[pick % len(free)])
    gone = {name for name in TREE for other in removed if f"{name}.".startswith(f"{other}.")}
    assert not {"a.x", "a.y", "b", "c.z"} <= gone


def test_fewer_blocks_than_asked_for_are_said() -> None:
    decision = decide(BlockPruning(blocks=4), nn.Sequential(Part(0.0, 5), Part(0.0, 6), Part(0.0, 7)))
    assert list(decision["removed"]) == ["2", "1"]
    assert decision["fewer"] == "2 of 4 blocks: no other can go"


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(
        TechniqueError, match=r"block_pruning finds no block whose output has the shape of its input: leave it out"
    ):
        BlockPruning().decide(seeded(Plain), context_for(Plain))


def test_the_only_block_stays() -> None:
    with pytest.raises(TechniqueError, match=r"block_pruning finds no block to remove: of mix one must stay: leave it"):
        BlockPruning().decide(seeded(Concat), context_for(Concat))


@pytest.mark.parametrize("blocks", [1, 2])
def test_layers_leave_torchs_own_encoder_even_the_first(blocks: int) -> None:
    """Checked against an encoder that never had them, in evaluation mode, with its fast path."""
    model = seeded(Encoder)
    names = [f"encoder.layers.{index}" for index in range(blocks)]
    expected = copy.deepcopy(model)
    expected.encoder.layers = expected.encoder.layers[blocks:]
    small = without(copy.deepcopy(model), names)
    x = torch.randn(4, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(small(x), expected(x))
    assert small.train()(x).shape == (4, CLASSES)
    check_parity(small, export_onnx(small, (x,)), (x,))


def test_layers_of_an_encoder_are_decided_and_rebuilt() -> None:
    model, context = seeded(Encoder), context_for(Encoder)
    step = BlockPruning(blocks=4)
    decision = step.decide(model, context)
    assert len(decision["removed"]) == 2
    small = step.apply(model, decision)
    assert len(small.encoder.layers) == 1
    again = rebuild(seeded(Encoder, seed=5), Recipe((step,)), [decision], pack_weights(small))
    x = torch.randn(4, *SHAPE)
    with torch.no_grad():
        assert torch.equal(again(x), small.eval()(x))


def test_a_block_is_passed_over_under_all_of_its_names_whatever_it_is_given() -> None:
    skip, x, mask = Skip(), torch.ones(2, 3), torch.zeros(2, 2)
    assert torch.equal(skip(x, mask, causal=True), x)
    assert torch.equal(skip(states=x, mask=mask), x)
    assert len(list(skip.parameters())) == 0


def test_an_activation_in_place_behind_a_removed_block_leaves_the_shortcut_alone() -> None:
    x = torch.tensor([-1.0, 2.0])
    assert torch.equal(nn.ReLU(inplace=True)(Skip()(x)) + x, torch.tensor([-1.0, 4.0]))


def test_a_block_that_others_reach_into_stays() -> None:
    class Reaching(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = super().forward(x)
            return output + self[0].up.weight.sum()

    model = Reaching(Part(0.0, 9), Part(0.0, 8), Part(0.5, 7))
    decision = decide(BlockPruning(blocks=3), model)
    assert list(decision["removed"]) == ["1", "2"]


@pytest.mark.parametrize("settings", [{"blocks": 0}, {"blocks": 1001}, {"examples": 0}, {"ratio": 0.5}])
def test_impossible_settings_are_rejected(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        BlockPruning.model_validate(settings)
