"""Cyclic sparse factors against paths through a graph, dense products, formulas and the layers that they replace."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.packing import pack
from autocompress.artifacts.runtime import Model
from autocompress.errors import NothingToDo
from autocompress.measure.size import measure_size
from autocompress.techniques import registry
from autocompress.techniques.factorization.cyclic_sparse import (
    CyclicConv2d,
    CyclicLinear,
    CyclicSparse,
    connections,
    dense,
    factorize,
    fan_outs,
    fitted,
    gathered,
)
from autocompress.testing.models import Plain, seeded
from autocompress.testing.work import context_of, example_of


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def written_out(factor: Tensor, outputs: int, distance: int) -> Tensor:
    """The matrix (outputs, inputs) of a factor (fan, inputs), number by number as the paper's pattern has it."""
    fan, inputs = factor.shape
    matrix = torch.zeros(outputs, inputs)
    for i in range(inputs):
        for j in range(fan):
            matrix[(i + j * distance) % outputs, i] += factor[j, i]
    return matrix


def product(factors: list[Tensor], outputs: int, fans: list[int]) -> Tensor:
    found = torch.eye(factors[0].shape[1])
    for index, factor in enumerate(factors):
        found = written_out(factor, outputs, math.prod(fans[:index])) @ found
    return found


def random_factors(inputs: int, outputs: int, fans: list[int]) -> list[Tensor]:
    widths = [inputs, *[outputs] * (len(fans) - 1)]
    return [random(fan, width, seed=index) for index, (fan, width) in enumerate(zip(fans, widths, strict=True))]


def random_conv(layer: nn.Conv2d, fans: list[int]) -> CyclicConv2d:
    made = CyclicConv2d(layer, fans)
    with torch.no_grad():
        for index, parameter in enumerate(made.parameters()):
            parameter.copy_(random(*parameter.shape, seed=index))
    return made


shapes = st.tuples(st.integers(1, 40), st.integers(2, 40), st.integers(2, 9))


@given(shapes)
@settings(deadline=None, max_examples=40)
def test_every_output_hears_of_every_input_by_one_or_two_paths(shape: tuple[int, int, int]) -> None:
    inputs, outputs, fan_out = shape
    fans = fan_outs(outputs, fan_out)
    ones = [torch.ones(fan, width) for fan, width in zip(fans, [inputs, *[outputs] * len(fans)], strict=False)]
    paths = product(ones, outputs, fans)
    assert 1 <= paths.min() <= paths.max() <= 2
    assert (paths.max() == 1) == (math.prod(fans) == outputs)


@given(shapes)
@settings(deadline=None, max_examples=40)
def test_a_factor_gathers_what_its_matrix_multiplies_to(shape: tuple[int, int, int]) -> None:
    inputs, outputs, fan_out = shape
    fan = min(fan_out, outputs)
    for distance in (1, 3):
        if (fan - 1) * distance >= outputs:
            continue
        factor, x = random(fan, inputs), random(5, inputs, seed=1)
        expected = x @ written_out(factor, outputs, distance).T
        torch.testing.assert_close(gathered(x.unsqueeze(1) * factor, outputs, distance), expected)
        matrix = dense(factor.T.unsqueeze(0), outputs, distance)[0]
        assert torch.equal(matrix.T, written_out(factor, outputs, distance))


@pytest.mark.parametrize(
    ("outputs", "fan_out", "fans"),
    [(64, 4, [4, 4, 4]), (500, 8, [8, 8, 8]), (300, 16, [16, 16, 2]), (10, 4, [4, 3]), (4, 8, [4]), (1, 2, [])],
)
def test_fan_outs_multiply_to_as_many_as_there_are_outputs(outputs: int, fan_out: int, fans: list[int]) -> None:
    assert fan_outs(outputs, fan_out) == fans


@pytest.mark.parametrize("exponent", [2, 3, 4])
def test_the_connections_of_a_square_layer_are_n_times_f_times_the_logarithm(exponent: int) -> None:
    """Hosseini et al. (2021): N F log_F N."""
    size = 4**exponent
    layer = factorize(nn.Linear(size, size, bias=False), fan_outs(size, 4))
    assert sum(parameter.numel() for parameter in layer.parameters()) == size * 4 * exponent


@pytest.mark.parametrize("layer", [nn.Linear(30, 20), nn.Linear(9, 50, bias=False), nn.Conv2d(6, 16, (3, 5))], ids=str)
def test_the_factors_hold_as_many_weights_as_are_counted(layer: Any) -> None:
    fans = fan_outs(layer.weight.shape[0], 4)
    held = sum(parameter.numel() for name, parameter in factorize(layer, fans).named_parameters() if name != "bias")
    assert held == connections(layer.weight.shape, fans)


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (128, 16), (100, 64), (10, 27)])
@pytest.mark.parametrize("kernel", [1, 9])
def test_a_product_of_factors_of_single_paths_is_found_and_kept_exactly(inputs: int, outputs: int, kernel: int) -> None:
    fans = fan_outs(outputs, 3 if outputs == 27 else 4)
    assert math.prod(fans) == outputs
    made = random_factors(inputs, outputs, fans)
    parts = [product([random(*made[0].shape, seed=50 + k), *made[1:]], outputs, fans) for k in range(kernel)]
    weight = torch.stack(parts, 2)
    first, *others = fitted(weight, fans)
    again = torch.stack([product([first[:, :, k], *others], outputs, fans) for k in range(kernel)], 2)
    torch.testing.assert_close(again, weight, rtol=1e-3, atol=1e-4 * float(weight.abs().max()))


@pytest.mark.parametrize(("inputs", "outputs", "fan_out"), [(16, 16, 4), (32, 16, 4), (21, 25, 5)])
def test_the_error_of_two_factors_is_what_blocks_of_rank_one_leave(inputs: int, outputs: int, fan_out: int) -> None:
    """The connections through each node are a matrix whose nearest one of rank 1 nobody can beat (Eckart and Young)."""
    weight, fans = random(outputs, inputs), fan_outs(outputs, fan_out)
    first, second = fitted(weight.unsqueeze(2), fans)
    left = 0.0
    for node in range(outputs):
        columns = [i for i in range(inputs) if (node - i) % outputs < fans[0]]
        rows = [(node + j * fans[0]) % outputs for j in range(fans[1])]
        values = torch.linalg.svdvals(weight[rows][:, columns].double())
        left += float((values[1:] ** 2).sum())
    error = float((product([first.squeeze(2), second], outputs, fans) - weight).square().sum())
    assert error == pytest.approx(left, rel=1e-4)


@pytest.mark.parametrize(("inputs", "outputs"), [(20, 10), (7, 13), (50, 30)])
def test_a_weight_of_two_paths_is_shared_so_that_the_fit_is_better_than_nothing(inputs: int, outputs: int) -> None:
    weight, fans = random(outputs, inputs), fan_outs(outputs, 4)
    assert math.prod(fans) > outputs
    first, *others = fitted(weight.unsqueeze(2), fans)
    assert (product([first.squeeze(2), *others], outputs, fans) - weight).norm() < 0.97 * weight.norm()


@pytest.mark.parametrize("shape", [(4, 30), (3, 5, 30), (30,)], ids=str)
def test_a_linear_layer_computes_what_its_dense_matrix_does(shape: tuple[int, ...]) -> None:
    fans = fan_outs(20, 3)
    layer, factors = CyclicLinear(30, 20, fans, True), random_factors(30, 20, fans)
    with torch.no_grad():
        for parameter, factor in zip(layer.factors, factors, strict=True):
            parameter.copy_(factor)
        assert layer.bias is not None
        layer.bias.copy_(random(20))
        x = random(*shape, seed=5)
        expected = x @ product(factors, 20, fans).T + layer.bias
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


WINDOWS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "bias": False},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 1},
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("inputs", [6, 20])
def test_a_convolution_has_the_kernel_that_its_factors_multiply_to(inputs: int, window: dict[str, Any]) -> None:
    layer, fans = nn.Conv2d(inputs, 16, **window), fan_outs(16, 3)
    made = random_conv(layer, fans)
    with torch.no_grad():
        others = [factor.T for factor in made.factors]
        parts = [product([first.T, *others], 16, fans) for first in made.first]
        layer.weight.copy_(torch.stack(parts, 2).reshape(layer.weight.shape))
        if layer.bias is not None and made.bias is not None:
            layer.bias.copy_(made.bias)
        x = random(2, inputs, 11, 13)
        torch.testing.assert_close(made(x), layer(x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("make", [
    lambda: (nn.Sequential(CyclicLinear(60, 40, fan_outs(40, 4), True)), (3, 60)),
    lambda: (nn.Sequential(CyclicConv2d(nn.Conv2d(20, 30, 3), fan_outs(30, 4))), (3, 20, 7, 7)),
], ids=["linear", "convolution"])  # fmt: skip
def test_a_file_stores_the_weights_of_the_factors_alone_and_computes_the_same(make: Any) -> None:
    module, shape = make()
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.copy_(random(*parameter.shape, seed=index))
    weights = sum(parameter.numel() for parameter in module.parameters())
    x = random(*shape)
    file = strip(pack(export_onnx(module, (x,)))).SerializeToString()
    assert measure_size(file)["params"] == weights
    assert len(file) < 4 * weights + 75 * 10 * 3 + 300
    with torch.no_grad():
        expected = module(x)
    actual = torch.from_numpy(Model(file)(x.numpy()))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_layers_that_would_grow_stay_and_are_named() -> None:
    decision = CyclicSparse(fan_out=8).decide(seeded(Plain), context_of("plain"))
    assert decision["fans"] == {"conv2": [8, 3], "fc1": [8, 4]}
    assert decision["skipped"] == {
        "conv1": "2 factors with 248 of 432 weights would take no less of the file",
        "fc2": "each input of 4 outputs would reach them all at once",
    }


def test_where_each_layer_would_grow_there_is_nothing_to_do() -> None:
    with pytest.raises(NothingToDo, match=r"fan_out 100 finds no layer that would shrink: lower fan_out.*all at once"):
        CyclicSparse(fan_out=100).decide(seeded(Plain), context_of("plain"))


def test_other_paddings_than_zeros_are_left_alone() -> None:
    model = seeded(Plain)
    model.conv2.padding, model.conv2.padding_mode = (1, 1), "circular"
    assert CyclicSparse().decide(model, context_of("plain"))["skipped"]["conv2"] == "it is padded by circular"


def test_biases_are_kept() -> None:
    model = seeded(Plain)
    with torch.no_grad():
        model.fc1.weight.zero_()
        small = CyclicSparse().apply(model, {"fans": {"fc1": [8, 4]}})
        assert torch.equal(small.fc1(torch.ones(1, 96))[0], model.fc1.bias)


def test_channels_that_the_factors_read_or_give_stay_and_others_are_pruned() -> None:
    context, step = context_of("plain"), CyclicSparse(layers=("fc1",))
    model = seeded(Plain)
    model = step.apply(model, step.decide(model, context)).eval()
    pruning: Any = registry()["channel_pruning"](ratio=0.5, importance="l1", scope="layer")
    decision = pruning.decide(model, context)
    assert decision["skipped"]["conv2"] == "its channels are those of fc1, which stays whole"
    assert [*decision["layers"]] == ["conv1.weight"]
    assert pruning.apply(model, decision)(*example_of("plain")).shape == (3, 4)
