"""Rounding by error and rate: against every assignment, and in bytes of packed files."""

import copy
import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from scipy.stats import entropy

from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.packing import pack, smallest, ways
from autocompress.techniques import Technique
from autocompress.techniques.pruning.weight_pruning import WeightPruning
from autocompress.techniques.quantization import _uniform
from autocompress.techniques.quantization._rate import Line, Priced, bits_of, settled
from autocompress.techniques.quantization.low_bit import LowBit
from autocompress.techniques.quantization.mixed_precision import MixedPrecision
from autocompress.techniques.quantization.weight_clustering import WeightClustering
from autocompress.testing.work import carry_out, context_of, json_copy, teacher_of

Array = np.ndarray[Any, Any]
numbers = st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=40).map(lambda row: np.array(row, np.float64))


def drawn(kind: str, *shape: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return np.asarray(getattr(rng, kind)(size=shape), np.float32)


@settings(max_examples=100, deadline=None)
@given(values=numbers, seed=st.integers(0, 999), size=st.integers(1, 12))
def test_every_number_pays_the_least_of_all_points(values: Array, seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    points, costs = np.unique(rng.normal(size=size)), rng.exponential(size=size)
    values = values[values != 0]
    paid = (values[:, None] - points) ** 2 + costs
    found = Priced(points, costs).nearest(values)
    mine = (values - found) ** 2 + costs[np.searchsorted(points, found)]
    np.testing.assert_allclose(mine, paid.min(1), atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999))
def test_a_few_weights_are_assigned_as_trying_all_assignments_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights, points, costs = rng.normal(size=6), np.array([-1.0, 0.0, 1.5]), rng.exponential(size=3)

    def paid(chosen: tuple[int, ...]) -> float:
        return float(sum((w - points[k]) ** 2 + costs[k] for w, k in zip(weights, chosen, strict=True)))

    best = min(itertools.product(range(3), repeat=6), key=paid)
    assert Priced(points, costs).nearest(weights).tolist() == points[list(best)].tolist()


def test_bits_are_those_of_an_ideal_code() -> None:
    assert bits_of(np.array([1, 1, 2, 4])).tolist() == [3, 3, 2, 1]
    counts = np.array([3, 90, 41, 7])
    assert (counts * bits_of(counts)).sum() / counts.sum() == pytest.approx(entropy(counts, base=2))


def whole_cost(values: Array, chosen: Array, price: float, value_bits: int) -> float:
    """Squared error and bits at their price, of the weights and of a book of the values."""
    counts = np.unique(chosen, return_counts=True)[1]
    error = float(np.square(values - chosen).sum())
    return error + price * float((counts * bits_of(counts)).sum() + value_bits * len(counts))


@settings(max_examples=60, deadline=None)
@given(values=numbers, price=st.floats(0.001, 2), value_bits=st.sampled_from([0, 8]), free=st.booleans())
def test_what_is_settled_costs_no_more_than_rounding_and_stays(
    values: Array, price: float, value_bits: int, free: bool
) -> None:
    points = np.arange(-4.0, 5.0)
    found = settled(Line.of(values), points, price, value_bits, free)
    chosen, plain = found.nearest(values), points[np.abs(values[:, None] - points).argmin(1)]
    assert whole_cost(values, chosen, price, value_bits) <= whole_cost(values, plain, price, value_bits) + 1e-9
    assert set(chosen.tolist()) <= {*found.points.tolist(), 0.0}


def test_what_is_settled_is_near_the_best_of_all_assignments() -> None:
    points, ratios = np.array([-1.0, 0.0, 1.0]), []
    for seed, price in itertools.product(range(30), (0.01, 0.1, 0.25)):
        values = np.random.default_rng(seed).laplace(size=7)
        mine = whole_cost(values, settled(Line.of(values), points, price, 0, free=False).nearest(values), price, 0)
        every = (points[list(chosen)] for chosen in itertools.product(range(3), repeat=7))
        ratios.append(mine / min(whole_cost(values, chosen, price, 0) for chosen in every))
    assert min(ratios) >= 1 - 1e-9
    assert np.mean(ratios) < 1.02, "taking turns ends where no turn helps, which is not always the best"
    assert max(ratios) < 1.3


def test_zero_stays_zero_whatever_it_costs() -> None:
    found = Priced(np.array([0.0, 0.5]), np.array([9.0, 0.0])).nearest(np.array([0.0, 0.01], np.float32))
    assert found.tolist() == [0, 0.5]


def test_of_many_numbers_as_many_quantiles_tell_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values, points = drawn("laplace", 40_000), np.arange(-8.0, 9.0)
    whole = settled(Line.of(values), points, 0.2, 8, free=False)
    monkeypatch.setattr("autocompress.techniques.quantization._rate.MOST", 4000)
    line = Line.of(values)
    assert (len(line.values), line.each) == (4000, 10)
    found = settled(line, points, 0.2, 8, free=False)
    usual = [priced.costs[np.abs(priced.points) <= 4] for priced in (found, whole)]  # the others are rare
    np.testing.assert_allclose(*usual, atol=0.01)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("kind", ["normal", "laplace"])
def test_a_price_of_a_tenth_saves_bits_at_the_same_error(bits: int, kind: str) -> None:
    values = drawn(kind, 8, 4000)
    plain = _uniform.grid(_uniform.Weight("layer", values, 0), bits, 0)
    found = _uniform.rated(values, plain, 0.1)
    before, after = (entropy(_counts(values, each), base=2) for each in (plain, found))
    assert after <= before * {2: 0.95, 3: 0.96, 4: 0.98, 6: 1.0}[bits]
    assert _uniform.lost(values, found).sum() <= 1.06 * _uniform.lost(values, plain).sum()


@pytest.mark.parametrize("bits", [3, 4])
def test_outputs_of_unlike_spread_take_fewer_bits_on_one_grid(bits: int) -> None:
    """A bit is worth 6.02 decibels on any grid (Gersho and Gray, 1992), and most where weights are large."""
    values = drawn("normal", 8, 4000) * np.arange(1, 9, dtype=np.float32)[:, None]
    taken = []
    for group in (0, -1):
        found = _uniform.rated(values, _uniform.grid(_uniform.Weight("layer", values, 0), bits, group), 0.1)
        decibels = -10 * np.log10(_uniform.lost(values, found).sum() / np.square(values).sum())
        taken.append(entropy(_counts(values, found), base=2) - decibels / 6.02)
    assert taken[1] < taken[0] - 0.1


def _counts(values: Array, found: dict[str, Any]) -> Array:
    scales = np.array(found["scales"], np.float32).reshape(found["sizes"])
    whole = np.rint(_uniform.dequantized(values, found).reshape(found["shape"]) / scales)
    return np.asarray(np.unique(whole, return_counts=True)[1])


@pytest.mark.parametrize(("bits", "rate"), [(3, 0.1), (4, 0.1), (4, 0.2), (6, 0.2)])
def test_a_packed_file_takes_the_bits_that_were_counted_with(bits: int, rate: float) -> None:
    """Codes of whole bits take a little more than the ideal one, and its values and their table a little beside."""
    values = drawn("laplace", 64, 800)
    found = _uniform.rated(values, _uniform.grid(_uniform.Weight("layer", values, 0), bits, 0), rate)
    codes = (_uniform.dequantized(values, found) / np.array(found["scales"], np.float32)[:, None]).round()
    taken = np.searchsorted(found["numbers"], codes)
    counted = np.array(found["costs"])[taken].sum() / rate / 8
    call = smallest(ways(numpy_helper.from_array(codes.astype(np.int8), "codes")), frozenset("bmgcdehijknopqr"))
    assert call is not None
    assert counted < call.size_bytes < 1.04 * counted + 100


RATES = (0.0, 0.1, 0.2)
STEPS: list[Technique] = [
    LowBit(bits=3),
    LowBit(bits=4, group=32),
    MixedPrecision(bits=3, examples=16),
    WeightClustering(bits=3),
]


def of_one_layer(shape: tuple[int, int], kind: str) -> onnx.ModelProto:
    inputs, outputs = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", size])
        for name, size in zip("xy", shape, strict=True)
    )
    node = helper.make_node("MatMul", ["x", "fc.weight"], ["y"], name="fc")
    weight = numpy_helper.from_array(drawn(kind, *shape), "fc.weight")
    graph = helper.make_graph([node], "one", [inputs], [outputs], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform"])
@pytest.mark.parametrize("step", [LowBit(bits=2), LowBit(bits=3), LowBit(bits=4, group=32)], ids=str)
def test_a_higher_rate_never_makes_a_larger_file_of_one_layer(step: LowBit, kind: str) -> None:
    sizes = []
    for rate in RATES:
        model = of_one_layer((320, 200), kind)  # so large that functions which decode count little
        decision = step.model_copy(update={"rate": rate}).decide(model, context_of("plain"))
        sizes.append(strip(pack(step.apply(model, json_copy(decision)))).ByteSize())
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.97 * sizes[0] or kind == "uniform" or step.group  # whose numbers are all as frequent


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_a_higher_rate_never_makes_a_larger_file(step: Technique) -> None:
    sizes = []
    for rate in RATES:
        after = carry_out(step.model_copy(update={"rate": rate}), "plain")[1]
        exported = after if isinstance(after, onnx.ModelProto) else export_onnx(after, context_of("plain").example)
        sizes.append(strip(pack(exported)).ByteSize())
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] or step.technique != "weight_clustering"  # little-trained weights fill a grid evenly


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_without_a_rate_nothing_is_priced(step: Technique) -> None:
    decision = str(carry_out(step, "plain")[0])
    assert "costs" not in decision
    assert "numbers" not in decision


def test_a_pruned_layer_gets_more_zeros_and_keeps_its_own() -> None:
    model, context = copy.deepcopy(teacher_of("plain")), context_of("plain")
    pruning = WeightPruning(ratio=0.5)
    model = pruning.apply(model, pruning.decide(model, context))
    zero = {name: (parameter == 0).numpy() for name, parameter in model.named_parameters()}
    step = WeightClustering(bits=3, rate=0.2)
    decision = json_copy(step.decide(model, context))
    after = dict(step.apply(copy.deepcopy(model), decision).named_parameters())
    gained = 0
    for name, book in decision["books"].items():
        found = after[name].detach().numpy()
        assert (found[zero[name]] == 0).all()
        assert set(np.unique(found)) <= {*np.array(book, np.float32), np.float32(0)}
        gained += int((found == 0).sum() - zero[name].sum())
    assert gained > 0
