"""Latency and speed-up: arithmetic on made-up bursts, bursts on a clock made up and a real one, two real files."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from autocompress.config import ONE_THREAD, Target
from autocompress.measure.latency import (
    Pairs,
    burst,
    burst_size,
    clock_for,
    collect,
    measure_latency,
    measure_together,
    pinned,
    summarize,
)

RNG = np.random.default_rng(0)


def product(columns: int) -> bytes:
    """A file that multiplies 1,024 inputs by a matrix: 1,024 * columns multiply-adds."""
    weights = numpy_helper.from_array(RNG.standard_normal((1024, columns)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["output"])],
        "g",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", 1024])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["batch", columns])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


INPUTS = (RNG.standard_normal((1, 1024)).astype(np.float32),)


def bursts(ratio: float, noise: float, count: int = 60, seed: int = 0) -> Pairs:
    """Bursts of a candidate of 2 ms a call on a machine that is at times up to twice as slow, for both alike."""
    rng = np.random.default_rng(seed)
    machine = rng.uniform(1.0, 2.0, count)
    wobble = rng.normal(1.0, noise, (2, count))
    return pairs_of(0.002 * ratio * machine * wobble[0], 0.002 * machine * wobble[1])


def pairs_of(reference: Any, candidate: Any) -> Pairs:
    """Pairs of bursts of one session."""
    return Pairs(np.array(reference), np.array(candidate), np.zeros(len(reference)))


def test_summary_of_bursts_without_noise_is_exact() -> None:
    pairs = pairs_of([0.006, 0.009, 0.012], [0.002, 0.003, 0.004])
    found = summarize(pairs)
    assert [found[name] for name in ("speedup", "speedup_low", "speedup_high")] == pytest.approx([3.0, 3.0, 3.0])
    assert found["latency_ms"] == pytest.approx(3.0)  # the median of 2, 3 and 4 ms
    assert found["latency_ms_p90"] == pytest.approx(3.8)  # 0.8 of the way from 3 to 4 ms
    assert 2.0 <= found["latency_ms_low"] <= 3.0 <= found["latency_ms_high"] <= 4.0


def test_summary_names_what_the_metrics_are_called() -> None:
    assert set(summarize(bursts(1.0, 0.01))) == {
        "latency_ms",
        "latency_ms_low",
        "latency_ms_high",
        "latency_ms_p90",
        "speedup",
        "speedup_low",
        "speedup_high",
    }


def test_speedup_is_the_median_of_ratios_of_pairs_and_not_the_ratio_of_medians() -> None:
    # The machine slows down tenfold within the second pair: ratios of 2, 20 and 2, but medians of 20 and 1.
    pairs = pairs_of([2.0, 20.0, 20.0], [1.0, 1.0, 10.0])
    assert summarize(pairs)["speedup"] == 2.0


def test_one_disturbed_burst_does_not_move_the_speedup() -> None:
    pairs = bursts(1.5, 0.01)
    pairs.candidate[7] *= 50
    assert summarize(pairs)["speedup"] == pytest.approx(1.5, rel=0.01)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.05, 3.0])
def test_interval_covers_the_true_ratio_in_19_of_20_measurements(ratio: float) -> None:
    covered = 0
    for seed in range(100):
        found = summarize(bursts(ratio, 0.03, seed=seed), seed=seed)
        assert found["speedup_low"] <= found["speedup"] <= found["speedup_high"]
        covered += found["speedup_low"] <= ratio <= found["speedup_high"]
    # 95 are expected of a 95% interval: 4 standard deviations of the binomial distribution are 8.7.
    assert covered >= 86


def test_interval_narrows_with_more_bursts() -> None:
    def width(count: int) -> float:
        found = summarize(bursts(1.0, 0.05, count))
        return found["speedup_high"] - found["speedup_low"]

    # Sixteen times as many should quarter it; half is asked for, since the widths themselves are noisy.
    assert width(960) < width(60) / 2


def test_a_file_against_itself_comes_out_near_one() -> None:
    found = summarize(bursts(1.0, 0.02))
    # The standard error of a median of 60 ratios with 2.8% noise each is 1.25 * 2.8% / sqrt(60) = 0.46%.
    assert found["speedup"] == pytest.approx(1.0, abs=0.02)


def test_the_same_bursts_give_the_same_summary() -> None:
    assert summarize(bursts(2.0, 0.1)) == summarize(bursts(2.0, 0.1))


class Work:
    """A call that takes a fixed time on a clock of its own."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.calls = seconds, 0.0, 0

    def __call__(self) -> None:
        self.now += self.seconds
        self.calls += 1

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "size"),
    [
        (0.0001, 25),  # 40 ms hold 400 calls: 25 are enough
        (0.0038, 10),  # 10.5
        (0.1, 3),  # 0.4: never fewer than 3
        (0.0, 25),
    ],
)
def test_bursts_fill_40_ms_with_3_to_25_calls(seconds: float, size: int) -> None:
    work = Work(seconds)
    assert burst_size(work, work.clock) == size


def test_a_burst_is_timed_by_call_after_a_warm_up() -> None:
    work = Work(0.002)
    assert burst(work, 25, work.clock) == pytest.approx(0.002)
    assert work.calls == 5 + 25
    work.calls = 0
    assert burst(work, 3, work.clock) == pytest.approx(0.002)
    assert work.calls == 3 + 3  # no more warm-up calls than timed ones


def test_the_clock_of_one_thread_stands_while_another_program_has_the_core() -> None:
    with (
        pinned(ONE_THREAD),
        subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=-1) as busy,
    ):
        assert busy.stdout is not None
        busy.stdout.readline()
        clock = clock_for(ONE_THREAD)
        start, began = time.perf_counter(), clock()
        while time.perf_counter() < start + 0.5:
            pass
        took = clock() - began
        busy.kill()
    assert 0 < took < 0.4  # of two busy programs on one core each has half of it
    assert clock_for(Target(threads=2)) is time.perf_counter
    # The thread that calls waits for a device, and may wait for a thread of OpenVINO's: its own clock would stand.
    assert clock_for(Target(runtime="onnxruntime-cuda")) is time.perf_counter
    assert clock_for(Target(runtime="openvino")) is time.process_time


@pytest.fixture
def own_slot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A measuring slot that this machine's other measurements do not wait for."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_every_pair_of_sessions_gives_three_pairs_of_bursts_however_short_the_time() -> None:
    (pairs,) = collect(product(16), [product(16)], INPUTS, 0.0, ONE_THREAD)
    assert pairs.reference.shape == pairs.candidate.shape == (4 * 3,)
    assert pairs.session.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert (pairs.reference > 0).all()
    assert (pairs.candidate > 0).all()


@pytest.mark.usefixtures("own_slot")
def test_a_file_with_64_times_fewer_multiplications_is_faster() -> None:
    found = measure_latency(product(1024), product(16), INPUTS, 0.4)
    assert found["speedup"] > 1
    assert found["speedup_low"] > 1
    assert found["speedup_low"] <= found["speedup"] <= found["speedup_high"]
    assert 0 < found["latency_ms_low"] <= found["latency_ms"] <= found["latency_ms_high"]
    assert found["latency_ms"] <= found["latency_ms_p90"]


@pytest.mark.usefixtures("own_slot")
def test_the_reference_is_what_speedups_are_counted_from() -> None:
    assert measure_latency(product(16), product(1024), INPUTS, 0.4)["speedup_high"] < 1


def test_a_measurement_on_one_thread_stays_on_one_core_and_gives_the_others_back() -> None:
    before = os.sched_getaffinity(0)
    with contextlib.suppress(RuntimeError), pinned(ONE_THREAD):
        assert len(os.sched_getaffinity(0)) == 1
        assert os.sched_getaffinity(0) <= before
        raise RuntimeError
    assert os.sched_getaffinity(0) == before
    with pinned(Target(threads=2)):
        assert os.sched_getaffinity(0) == before


def test_sessions_that_differ_widen_the_interval() -> None:
    """Two sessions of one file differ throughout: pairs of one session say nothing of the others."""
    session = np.repeat(np.arange(4), 30)
    ratios = np.array([1.0, 1.05, 1.1, 1.15])[session]
    together = summarize(Pairs(ratios, np.ones(120), session))
    apart = summarize(pairs_of(ratios, np.ones(120)))
    assert together["speedup_high"] - together["speedup_low"] > apart["speedup_high"] - apart["speedup_low"]
    assert together["speedup_low"] == pytest.approx(1.0, abs=0.026)
    assert together["speedup_high"] == pytest.approx(1.15, abs=0.026)


def test_latency_is_the_references_by_the_speed_up_so_that_no_table_disagrees_with_itself() -> None:
    pairs = pairs_of([0.006, 0.009, 0.012], [0.002, 0.003, 0.004])
    found = summarize(pairs, 6.0)  # measured before, when the machine was faster
    assert found["latency_ms"] == pytest.approx(2.0)
    assert found["latency_ms"] * found["speedup"] == pytest.approx(6.0)
    assert found["latency_ms_low"] * found["speedup_high"] == pytest.approx(6.0)


@pytest.mark.usefixtures("own_slot")
def test_files_that_are_timed_together_are_counted_from_one_reference() -> None:
    reference_ms, found = measure_together(product(1024), {"same": product(1024), "small": product(16)}, INPUTS, 0.3)
    assert found["small"]["speedup"] > found["same"]["speedup"]
    for row in found.values():
        assert row["latency_ms"] * row["speedup"] == pytest.approx(reference_ms)
        assert row["measured_alone"] == 1.0
