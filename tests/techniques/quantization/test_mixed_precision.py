"""Scans of large models: how much they look at, and what a coarse one says of the widths that it left out."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.techniques.quantization import _uniform, mixed_precision
from autocompress.techniques.quantization.mixed_precision import LOOKED_AT, SCANNED, MixedPrecision, extent, scan
from autocompress.testing.work import context_of, exported_of


@given(st.floats(1, 1e15), st.integers(1, 4096))
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
    assert coarse.keys() == full.keys()
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
