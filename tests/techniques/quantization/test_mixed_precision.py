"""Scans of large models: how many products they take, by arithmetic, and what a coarse one says of the other widths."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.artifacts.export import export_onnx
from autocompress.techniques.quantization import _uniform, mixed_precision
from autocompress.techniques.quantization.mixed_precision import LOOKED_AT, SCANNED, MixedPrecision, extent, scan
from autocompress.testing.work import context_of, exported_of


class Layers(nn.Module):
    """Convolutions, one of them grouped and one transposed, a table, an LSTM, and a linear layer at every place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, groups=4)
        self.wider = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.table, self.rnn, self.last = nn.Embedding(50, 12), nn.LSTM(12, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, image: Tensor, words: Tensor) -> Tensor:
        shown: Tensor = self.wider(self.grouped(self.first(image))).mean((1, 2, 3))
        read: Tensor = self.last(self.rnn(self.table(words))[0]).mean((1, 2))
        return torch.stack([shown, read], 1)


def test_products_are_those_of_each_layer_at_every_place_of_its_output() -> None:
    inputs = (torch.randn(2, 3, 16, 16), torch.randint(0, 50, (2, 7)))
    model = export_onnx(Layers().eval(), inputs)
    one = tuple(tensor[:1].numpy() for tensor in inputs)
    found = {tuple(tensor.dims): _uniform.products(model, [tensor.name], one) for tensor in model.graph.initializer}
    expected = {
        (8, 3, 3, 3): 8 * 3 * 9 * (8 * 8),
        (8, 2, 3, 3): 8 * 2 * 9 * (6 * 6),
        (8, 4, 2, 2): 8 * 4 * 4 * (12 * 12),  # counted at its outputs, of which each takes a quarter
        (50, 12): 0,  # a table is looked up
        (1, 24, 12): 24 * 12 * 7,
        (1, 24, 6): 24 * 6 * 7,
        (6, 5): 6 * 5 * 7,
    }
    assert {shape: found[shape] for shape in expected} == expected
    names = [tensor.name for tensor in model.graph.initializer if tuple(tensor.dims) in expected]
    assert _uniform.products(model, names, one) == sum(expected.values())


@given(st.floats(0, 1e15), st.integers(1, 4096))
def test_a_scan_stays_within_its_products_or_takes_one_example_at_one_width(products: float, examples: int) -> None:
    count, coarse = extent(products, examples)
    assert 1 <= count <= examples
    widths = 1 if coarse else len(SCANNED)
    assert count == 1 or count * widths * products <= mixed_precision.MOST_PRODUCTS
    if not coarse:
        assert count >= min(mixed_precision.FEWEST, examples)


def test_small_models_are_scanned_in_full() -> None:
    assert extent(1e6, 128) == (128, False)
    # ResNet-50 at 224x224: 4.1e9 products for each of 54 weights.
    assert extent(54 * 4.1e9, 128) == (9, True)


@pytest.mark.parametrize("model", ["plain", "recurrent", "sentences"])
def test_a_coarse_scan_measures_one_width_and_takes_the_others_from_their_errors(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, file, step = context_of(model), exported_of(model), MixedPrecision(examples=16)
    weights, _ = _uniform.weights_of(file, step, (), context)
    grids = {name: [_uniform.grid(weight, bits, 0) for bits in SCANNED] for name, weight in weights.items()}
    full = scan(file, weights, grids, context, 16)
    monkeypatch.setattr(mixed_precision, "extent", lambda products, examples: (examples, True))
    coarse = scan(file, weights, grids, context, 16)
    for name, costs in coarse.items():
        errors = [float(_uniform.lost(weights[name].values, each).sum()) for each in grids[name]]
        assert costs[LOOKED_AT] == pytest.approx(full[name][LOOKED_AT])
        ratios = np.array(costs) / np.array(errors)
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-6)


def test_a_decision_from_a_coarse_scan_keeps_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    context, file = context_of("plain"), exported_of("plain")
    monkeypatch.setattr(mixed_precision, "MOST_PRODUCTS", 1.0)
    decision: Any = MixedPrecision(bits=3.0).decide(file, context)
    sizes = {tensor.name: float(np.prod(tensor.dims)) for tensor in file.graph.initializer}
    grids = decision["grids"]
    bits = sum(sizes[name] * float(np.mean(found["bits"])) for name, found in grids.items())
    assert bits <= 3 * sum(sizes[name] for name in grids) + 1e-6
    assert len({str(found["bits"]) for found in grids.values()}) > 1
