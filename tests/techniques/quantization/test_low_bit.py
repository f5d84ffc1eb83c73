"""Weights on uniform grids: against numpy, in the file, and with widths chosen by an integer program."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn

from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.packing import pack, weights
from autocompress.artifacts.runtime import Model
from autocompress.errors import TechniqueError
from autocompress.techniques.quantization._uniform import (
    Weight,
    apply_grids,
    dequantized,
    grid,
    on_grid,
    scales_for,
    spread,
    weights_of,
)
from autocompress.techniques.quantization.low_bit import LowBit
from autocompress.techniques.quantization.mixed_precision import SCANNED, WIDTHS, MixedPrecision, best_widths, in_parts
from autocompress.testing.work import context_of, teacher_of
from autocompress.wording import decision_lines

Array = np.ndarray[Any, Any]


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def exported(model: str = "plain") -> onnx.ModelProto:
    return export_onnx(teacher_of(model), context_of(model).example)


def stored(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@settings(max_examples=40, deadline=None)
@given(bits=st.integers(2, 8), seed=st.integers(0, 99), size=st.sampled_from([1e-3, 1.0, 300.0]))
def test_no_plain_scale_has_a_smaller_error(bits: int, seed: int, size: float) -> None:
    """Against every scale that takes the largest weight to an end of the grid, as a symmetric quantizer has it."""
    row = random(1, 200, seed=seed) * np.float32(size)
    scale = scales_for(row, (1,), bits)
    mine = np.square(on_grid(row, scale, bits) * scale - row).sum()
    top = np.abs(row).max() / (2 ** (bits - 1) - 1)
    plain = np.square(np.clip(np.rint(row / top), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * top - row).sum()
    assert mine <= plain * 1.02  # scales of 16 bits reach a little less or more than the largest weight
    assert np.float32(np.float16(scale)) == scale or abs(scale) < np.finfo(np.float16).smallest_normal


def test_two_bits_are_within_a_tenth_of_the_best_scale() -> None:
    row = random(1, 4000)
    scale = scales_for(row, (1,), 2)
    mine = np.square(on_grid(row, scale, 2) * scale - row).sum()
    tries = (np.square(np.clip(np.rint(row / s), -2, 1) * s - row).sum() for s in np.linspace(0.05, 3, 600))
    assert mine <= 1.1 * min(tries)


@pytest.mark.parametrize(
    ("shape", "axis", "group", "form", "over"),
    [
        ((8, 6, 3, 3), 0, 0, (8, 6, 3, 3), (1, 2, 3)),
        ((8, 6, 3, 3), 0, 32, (8, 2, 27), (2,)),
        ((60, 8), 1, 32, (2, 30, 8), (1,)),
        ((60, 8), 1, 60, (60, 8), (0,)),
        ((1, 16, 12), 1, 4, (1, 16, 12), (0, 2)),
        ((8, 6, 3, 3), 0, -1, (8, 6, 3, 3), (0, 1, 2, 3)),
    ],
)
def test_groups_are_the_largest_divisors_of_a_row(
    shape: tuple[int, ...], axis: int, group: int, form: tuple[int, ...], over: tuple[int, ...]
) -> None:
    values, along = spread(Weight("layer", random(*shape), axis), group)
    assert (values.shape, along) == (form, over)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group", [-1, 0, 32])
def test_a_file_holds_as_many_values_a_scale_as_its_bits_give(bits: int, group: int) -> None:
    model, context = exported(), context_of("plain")
    before, step = stored(model), LowBit(bits=bits, group=group)
    decision = step.decide(model, context)
    after = dict(weights_after(step.apply(model, decision)))
    for name, found in decision["grids"].items():
        values = after[name].reshape(found["shape"])
        scales = np.array(found["scales"], np.float32).reshape(found["sizes"])
        whole = values / scales
        assert np.abs(whole - np.rint(whole)).max() < 1e-4
        assert len(np.unique(np.rint(whole))) <= 2**bits
        error = np.abs(values - before[name].reshape(found["shape"])) / np.abs(scales)
        assert np.quantile(error, 0.5) <= 0.5


def weights_after(model: onnx.ModelProto) -> list[tuple[str, Array]]:
    """The weights of a file by the names that they had, computed by ONNX's own reference."""
    values = stored(model)
    found = []
    for node in model.graph.node:
        if node.op_type == "Mul" and node.input[0].endswith(".whole"):
            name = node.input[0].removesuffix(".whole")
            found.append(
                (name, values[f"{name}.numbers"].astype(np.float32) * values[f"{name}.scales"].astype(np.float32))
            )
    return found


@pytest.mark.parametrize("model", ["plain", "residual", "grouped"])
def test_what_runs_is_the_float_model_and_the_file_takes_the_bits(model: str, tmp_path: Path) -> None:
    import onnxruntime as ort

    step, plain = LowBit(bits=4), exported(model)
    decision = step.decide(plain, context_of(model))
    low = step.apply(exported(model), decision)
    small = strip(pack(low))
    path = tmp_path / "loaded.onnx"
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 3
    ort.InferenceSession(small.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert not operators & {"Cast", "Mul", "Gather", "CumSum", "DequantizeLinear", "MatMulNBits"}
    x = context_of(model).example[0].numpy()
    np.testing.assert_allclose(Model(small.SerializeToString())(x), Model(low.SerializeToString())(x), atol=1e-5)
    packed = dict(weights(small))
    assert sum(values.size for values in packed.values()) > 0


def test_zeros_stay_zero() -> None:
    row = random(4, 100)
    row[:, ::2] = 0
    scale = scales_for(row, (1,), 3)
    assert not (on_grid(row, scale, 3) * scale)[:, ::2].any()


def test_layers_are_kept_by_name_pattern_and_place() -> None:
    model = exported()
    found, skipped = weights_of(model, LowBit(), ("first", "fc*"), context_of("plain"))
    assert {weight.layer for weight in found.values()} == {"conv2"}
    assert set(skipped) >= {"conv1.weight", "fc1.weight"}
    with pytest.raises(TechniqueError, match=r"low_bit: keep: 'conv3' is no layer of this model; did you mean"):
        weights_of(model, LowBit(), ("conv3",), context_of("plain"))
    with pytest.raises(TechniqueError, match="low_bit finds no weight to quantize: leave the step out"):
        weights_of(model, LowBit(), ("*",), context_of("plain"))


class Causal(nn.Module):
    """Attention over 24 places, none of which looks ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 64)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.triu(torch.full((24, 24), -torch.inf, device=x.device), 1)
        found: Tensor = self.head(self.attention(x, x, x, attn_mask=mask, need_weights=False)[0].mean(1))
        return found


def test_a_mask_is_no_weight() -> None:
    torch.manual_seed(0)
    model, given = Causal().eval(), torch.randn(3, 24, 16)
    before = strip(export_onnx(model, (given,)))
    decision = LowBit(bits=8).decide(before, context_of("plain"))
    masks = [
        name for name, reason in decision["skipped"].items() if reason == "it holds infinite numbers, as a mask does"
    ]
    assert len(masks) == 1
    assert len(decision["grids"]) == 3  # attention's two weights, and the last
    after = LowBit(bits=8).apply(before, decision)
    with torch.no_grad():
        np.testing.assert_allclose(Model(after.SerializeToString())(given.numpy()), model(given), atol=0.02)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_refused(broken: float) -> None:
    model = exported()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "conv2.weight")
    tensor.CopyFrom(numpy_helper.from_array(np.full(tuple(tensor.dims), broken, np.float32), tensor.name))
    with pytest.raises(TechniqueError, match=r"low_bit: weight 'conv2\.weight' is not finite"):
        LowBit().decide(model, context_of("plain"))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), sixteenths=st.integers(32, 128))
def test_widths_are_those_that_trying_all_of_them_finds(seed: int, sixteenths: int) -> None:
    mean = sixteenths / 16  # exact in binary, so that what is just within the limit is so for both
    rng = np.random.default_rng(seed)
    sizes = {name: int(rng.integers(1, 50)) for name in "abc"}
    costs = {name: np.sort(rng.random(len(WIDTHS)))[::-1].tolist() for name in "abc"}
    found = best_widths(costs, sizes, mean)
    total = sum(sizes.values())
    assert sum(found[name] * sizes[name] for name in sizes) <= mean * total + 1e-6

    def cost(widths: tuple[float, ...]) -> float:
        return sum(costs[name][WIDTHS.index(bits)] for name, bits in zip("abc", widths, strict=True))

    within = (
        widths
        for widths in itertools.product(WIDTHS, repeat=3)
        if sum(bits * sizes[name] for name, bits in zip("abc", widths, strict=True)) <= mean * total
    )
    assert cost(tuple(found[name] for name in "abc")) == pytest.approx(min(map(cost, within)), abs=1e-9)


def test_mixed_precision_moves_outputs_less_than_the_same_width_for_all() -> None:
    context = context_of("residual")
    x = context.example[0].numpy()
    whole = Model(exported("residual").SerializeToString())(x)

    def moved(step: LowBit | MixedPrecision) -> float:
        model = step.apply(exported("residual"), step.decide(exported("residual"), context))
        return float(np.square(Model(model.SerializeToString())(x) - whole).mean())

    mixed = MixedPrecision(bits=3, examples=64)
    decision = mixed.decide(exported("residual"), context)
    assert mean_bits(decision) <= 3
    assert moved(mixed) < moved(LowBit(bits=3))


def mean_bits(decision: dict[str, Any]) -> float:
    sizes = [np.prod(found["shape"]) for found in decision["grids"].values()]
    return float(np.average([np.mean(found["bits"]) for found in decision["grids"].values()], weights=sizes))


def test_a_layer_with_most_of_the_weights_takes_what_the_limit_leaves() -> None:
    context, largest = context_of("plain"), "conv2.weight"
    found, _ = weights_of(exported(), LowBit(), ("fc1",), context_of("plain"))
    share = found[largest].values.size / sum(weight.values.size for weight in found.values())
    rest = 1 - share
    in_whole_bits, next_bit = 2 * share + 8 * rest, 3 * share + 2 * rest
    limit = next_bit - 0.04
    assert in_whole_bits < limit - 0.1
    decision = MixedPrecision(bits=limit, keep=("fc1",), examples=64).decide(exported(), context)
    assert in_whole_bits < mean_bits(decision) <= limit
    assert len(set(decision["grids"][largest]["bits"])) == 2
    assert all(isinstance(found["bits"], int) for name, found in decision["grids"].items() if name != largest)
    after = dict(weights_after(apply_grids(exported(), decision["grids"])))
    np.testing.assert_array_equal(after[largest], dequantized(stored(exported())[largest], decision["grids"][largest]))


def test_scales_take_a_wider_grid_in_the_order_of_what_they_gain() -> None:
    values = random(8, 50) * np.arange(1, 9, dtype=np.float32)[:, None]
    whole = [grid(Weight("layer", values, 0), bits, 0) for bits in SCANNED]
    costs = [float(2.0**-bits) for bits in SCANNED]
    grids, prices = in_parts(values, whole, costs, split=True)
    assert [np.mean(found["bits"]) for found in grids] == pytest.approx(WIDTHS)
    assert prices == sorted(prices, reverse=True)
    assert prices[::4] == pytest.approx(costs)
    errors = [float(np.square(dequantized(values, found) - values).sum()) for found in grids]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] - errors[1] > errors[1] - errors[2] > errors[2] - errors[3] > errors[3] - errors[4]
    plain, _ = in_parts(values, whole, costs, split=False)
    assert plain == [*(found for found in whole[:-1] for _ in range(4)), whole[-1]]


def test_the_decision_is_read_layer_by_layer_without_all_scales() -> None:
    scales = [0.25, -0.5, 0.125, *[1.0] * 18]
    grids = {"fc.weight": {"bits": 5, "shape": [7, 3, 25], "sizes": [7, 3, 1], "scales": scales}}
    assert decision_lines({"grids": grids, "skipped": {"conv.weight": "only 75 weights"}}) == [
        "grids fc.weight: bits 5; shape 7, 3, 25; sizes 7, 3, 1; scales 0.25, -0.5, 0.125, ... (21 in all)",
        "skipped conv.weight: only 75 weights",
    ]
