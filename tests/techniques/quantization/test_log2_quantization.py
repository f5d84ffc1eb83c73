"""Powers of two: against the definition, and in the file."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from autocompress.artifacts.export import export_onnx
from autocompress.techniques.quantization.log2_quantization import Log2Quantization, powers_of_two
from autocompress.testing.work import context_of, teacher_of


@settings(max_examples=50, deadline=None)
@given(bits=st.integers(2, 8), top=st.integers(-3, 3), seed=st.integers(0, 99))
def test_every_weight_gets_the_nearest_power_in_reach_or_zero(bits: int, top: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=300).astype(np.float32) * 2.0**top
    powers = [2.0 ** (top - step) for step in range(2 ** (bits - 1) - 1)]
    grid = np.array([0.0, *powers, *(-power for power in powers)])
    found = powers_of_two(values, top, bits)
    assert set(np.unique(found)) <= set(grid.astype(np.float32))
    best = np.abs(values[:, None] - grid).min(1)
    # Just above half of the smallest power, that power is taken, as is zero just below: both lie equally near there.
    np.testing.assert_allclose(np.abs(values - found), best, rtol=1e-5, atol=1e-7)


def test_by_hand() -> None:
    values = np.array([0.0, 1.4, 1.6, -0.7, 0.3, 0.24, 0.1, -5.0], np.float32)
    assert powers_of_two(values, 1, 3).tolist() == [0.0, 1.0, 2.0, -0.5, 0.5, 0.0, 0.0, -2.0]


@pytest.mark.parametrize("bits", [3, 4])
def test_the_file_holds_few_values_around_the_largest_weight(bits: int) -> None:
    context = context_of("plain")
    model = export_onnx(teacher_of("plain"), context.example)
    before: dict[str, Any] = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    step = Log2Quantization(bits=bits)
    decision = step.decide(model, context)
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in step.apply(model, decision).graph.initializer}
    for name, top in decision["exponents"].items():
        assert 2.0**top * 0.75 <= np.abs(before[name]).max() <= 2.0**top * 1.5 + 1e-6
        assert 1 < len(np.unique(after[name])) <= 2**bits
