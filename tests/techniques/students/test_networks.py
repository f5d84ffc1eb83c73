"""Lightweight networks against the papers' tables and the libraries' counts, and how they fit small images."""

import copy
from math import ceil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autocompress import Classification
from autocompress.artifacts.export import export_onnx
from autocompress.artifacts.parity import check_parity
from autocompress.errors import NothingToDo
from autocompress.techniques import Context
from autocompress.techniques.pruning.channel_pruning import ChannelPruning
from autocompress.techniques.students._blocks import scaled
from autocompress.techniques.students._images import LEFT, kept_halvings, student
from autocompress.techniques.students._networks import DEEP, NETWORKS, Form, reductions_of

CLASSES, IMAGE = 1000, (224, 224)
WIDTHS = (0.25, 0.5, 1.0)
INPUTS = ((1, 8), (1, 28), (3, 32))  # channels, and pixels of a side


def made(name: str, width: float = 1.0, depth: float = 1.0, classes: int = CLASSES) -> nn.Module:
    return NETWORKS[name](Form(3, classes, width, depth)).eval()


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def products(network: nn.Module, pixels: int) -> float:
    """Millions of multiplications for one image of three channels, those of convolutions and linear layers."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, pixels, pixels))
    return counter.get_total_flops() / 2e6


@pytest.mark.parametrize(("name", "theirs"), [
    ("squeezenet", "squeezenet1_1"), ("mobilenet_v2", "mobilenet_v2"), ("mobilenet_v3", "mobilenet_v3_small"),
    ("shufflenet_v2", "shufflenet_v2_x1_0"), ("efficientnet", "efficientnet_b0"),
    ("efficientnet_v2", "efficientnet_v2_s"),
])  # fmt: skip
def test_at_width_one_they_have_torchvisions_parameters(name: str, theirs: str) -> None:
    from torchvision import models

    known = models.get_model_weights(theirs).DEFAULT.meta["num_params"]
    assert parameters(made(name)) == known
    network = student(name, Form(3, CLASSES, 1.0), IMAGE, 224)
    assert parameters(network) == known
    assert all(layer.stride in (2, (2, 2)) for layers in reductions_of(network) for layer in layers)  # none is left out


@pytest.mark.parametrize(("name", "theirs"), [("mobilenet_v2", "mobilenet_v2"), ("shufflenet_v2", "shufflenet_v2_x1_0"),
                                              ("efficientnet_v2", "efficientnet_v2_s")])  # fmt: skip
def test_at_width_one_they_compute_what_torchvisions_do(name: str, theirs: str) -> None:
    from torchvision import models

    other = models.get_model(theirs, weights=None).eval()
    network = student(name, Form(3, CLASSES, 1.0), IMAGE, 224).eval()
    network.load_state_dict(other.state_dict())
    image = torch.rand(1, 3, *IMAGE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network(image), other(image))


# Howard et al. (2017), Tables 6 and 7: millions of parameters and of multiply-adds by width and pixels.
MOBILENET_V1 = [(1.0, 224, 4.2, 569), (0.75, 224, 2.6, 325), (0.5, 224, 1.3, 149), (0.25, 224, 0.5, 41),
                (1.0, 192, 4.2, 418), (1.0, 160, 4.2, 290), (1.0, 128, 4.2, 186)]  # fmt: skip


@pytest.mark.parametrize(("width", "pixels", "millions", "multiply_adds"), MOBILENET_V1)
def test_mobilenet_v1_has_the_papers_size_and_work(
    width: float, pixels: int, millions: float, multiply_adds: float
) -> None:
    network = made("mobilenet_v1", width)
    assert round(parameters(network) / 1e6, 1) == millions
    assert products(network, pixels) == pytest.approx(multiply_adds, rel=0.01)


def test_mobilenet_v1_has_timms_parameters() -> None:
    timm = pytest.importorskip("timm")
    assert parameters(made("mobilenet_v1")) == parameters(timm.create_model("mobilenetv1_100", pretrained=False))


# Zhang et al. (2018), Tables 1 and 2, three groups: millions of multiply-adds. Exact parameters: the table of osmr's
# imgclsmob, models trained to the paper's accuracy. The paper counts neither the classifier nor normalizations.
@pytest.mark.parametrize(("width", "multiply_adds", "known"), [
    (1.0, 137, 1_865_728), (0.75, None, 1_238_266), (0.5, 38, 718_324), (0.25, None, 305_902),
])  # fmt: skip
def test_shufflenet_v1_has_the_papers_work(width: float, multiply_adds: float | None, known: int) -> None:
    network = made("shufflenet_v1", width)
    assert parameters(network) == known
    if multiply_adds is not None:
        assert products(network, 224) == pytest.approx(multiply_adds, rel=0.04)


# 1.0, 1.5 and 2.0-SqNxt-23 (Gholami et al., 2018): exact parameters and millions of multiplications, which count
# normalizations and rectifiers too, of the table of osmr's imgclsmob.
@pytest.mark.parametrize(("width", "known", "multiply_adds"), [
    (1.0, 724_056, 287.28), (1.5, 1_511_824, 552.39), (2.0, 2_583_752, 898.48),
])  # fmt: skip
def test_squeezenext_has_the_published_size_and_work(width: float, known: int, multiply_adds: float) -> None:
    network = made("squeezenext", width)
    assert parameters(network) == known
    assert products(network, 224) == pytest.approx(multiply_adds, rel=0.04)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_they_grow_with_width_and_take_small_images(name: str) -> None:
    sizes = []
    for width in WIDTHS:
        for channels, pixels in INPUTS:
            network = student(name, Form(channels, 10, width), (pixels, pixels), pixels).eval()
            with torch.no_grad():
                outputs = network(torch.rand(2, channels, pixels, pixels))
            assert outputs.shape == (2, 10)
            assert outputs.isfinite().all()
        sizes.append(parameters(network))
    assert sizes == sorted(set(sizes))
    assert sizes[0] < sizes[-1] / 5


@pytest.mark.parametrize("name", DEEP)
def test_those_with_a_depth_grow_with_it(name: str) -> None:
    sizes = [parameters(made(name, 0.25, depth)) for depth in (0.5, 1.0, 2.0)]
    assert sizes == sorted(set(sizes))


# Each at one of the inputs, and not deep: what an export can fail for is the kinds of layers.
@pytest.mark.parametrize(("name", "form"), list(zip(NETWORKS, INPUTS * 3, strict=True)))
def test_their_files_compute_what_they_compute(name: str, form: tuple[int, int]) -> None:
    channels, pixels = form
    shallow = Form(channels, 10, 0.25, 0.3 if name in DEEP else 1.0)
    network = student(name, shallow, (pixels, pixels), pixels).eval()
    images = torch.rand(4, channels, pixels, pixels, generator=torch.Generator().manual_seed(0))
    exported = export_onnx(network, (images,))
    assert check_parity(network, exported, (images,), 1e-3) <= 1e-3


@pytest.mark.parametrize("name", list(NETWORKS))
def test_their_channels_can_be_pruned(name: str) -> None:
    network = student(name, Form(1, 10, 0.25, 0.3 if name in DEEP else 1.0), (16, 16), 16).eval()
    data = (torch.rand(8, 1, 16, 16), torch.arange(8) % 10)
    context = Context(Classification(lambda: network, data, data, data, None), copy.deepcopy(network), 0)
    step = ChannelPruning(ratio=0.5, importance="l1", scope="layer")
    before = parameters(network)
    if name == "shufflenet_v1":  # each of whose groups takes channels of all others
        with pytest.raises(NothingToDo, match="its channels are shuffled with others"):
            step.decide(network, context)
        return
    pruned = step.apply(network, step.decide(network, context))
    assert parameters(pruned) < 0.7 * before
    assert pruned(data[0]).shape == (8, 10)


@pytest.mark.parametrize(("side", "kept"), [
    (8, 1),  # 8 -> 4
    (14, 2),  # 14 -> 7 -> 4
    (28, 3),  # 28 -> 14 -> 7 -> 4
    (32, 3),
    (40, 3),  # 40 -> 20 -> 10 -> 5, and once more would leave 3
    (64, 4),
    (224, 5),  # all: 112, 56, 28, 14, 7
])  # fmt: skip
def test_halvings_that_an_image_is_large_enough_for(side: int, kept: int) -> None:
    assert kept_halvings(side, 5) == kept


@given(side=st.integers(8, 512), most=st.integers(0, 7))
def test_halvings_leave_enough_and_one_more_would_not(side: int, most: int) -> None:
    kept = kept_halvings(side, most)
    sizes = [side]
    for _ in range(kept + 1):
        sizes.append(ceil(sizes[-1] / 2))
    assert sizes[kept] >= LEFT
    assert kept == most or sizes[kept + 1] < LEFT


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("pixels", [8, 28, 40, 61])
def test_the_last_feature_map_has_the_size_that_the_halvings_leave(name: str, pixels: int) -> None:
    network = student(name, Form(1, 10, 0.25), (pixels, pixels), pixels).eval()
    maps: list[int] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, output: maps.append(output.shape[-1]))
    with torch.no_grad():
        network(torch.rand(1, 1, pixels, pixels))
    expected = pixels
    for _ in range(kept_halvings(pixels, len(reductions_of(network)))):
        expected = ceil(expected / 2)
    assert min(size for size in maps if size > 1) == expected  # attention over channels is on a single pixel
    assert max(maps) == (
        pixels if kept_halvings(pixels, 99) < len(reductions_of(made(name, 0.25))) else ceil(pixels / 2)
    )


@given(channels=st.integers(1, 2048), width=st.floats(0.05, 4))
def test_scaled_channels_are_multiples_near_the_product(channels: int, width: float) -> None:
    found = scaled(channels, width)
    assert found % 8 == 0
    assert found >= 0.9 * channels * width
    assert found == 8 or found <= channels * width + 8


def test_squeezenets_outputs_may_be_negative() -> None:
    torch.manual_seed(0)
    outputs: Tensor = made("squeezenet", 0.25)(torch.rand(8, 3, 64, 64))
    assert (outputs < 0).any()
