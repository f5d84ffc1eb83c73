"""What is kept of the last measurements of a front."""

import pytest

from autocompress.search.confirm import _as_now


def test_the_interval_of_the_uncompressed_model_moves_with_its_latency() -> None:
    before = {
        "latency_ms": 2.0,
        "latency_ms_low": 1.9,
        "latency_ms_high": 2.1,
        "latency_ms_p90": 2.2,
        "size_bytes": 5.0,
    }
    now = _as_now(before, 3.0)
    assert now == pytest.approx(
        {"latency_ms": 3.0, "latency_ms_low": 2.85, "latency_ms_high": 3.15, "latency_ms_p90": 3.3}
    )
