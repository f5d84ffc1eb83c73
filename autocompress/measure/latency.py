"""Latency and speed-up, measured pairwise so that a busy machine disturbs both models alike."""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifacts.runtime import Model

Array = NDArray[Any]
Call = Callable[[], object]
Clock = Callable[[], float]

SESSIONS = 4  # two sessions of one file differ by up to 2.5% throughout: several even that out
WARMUP_CALLS, BURST_CALLS = 5, 25
BURST_SECONDS = 0.04  # slow models get shorter bursts, of at least 3 calls
RESAMPLES = 1000


@dataclass(frozen=True)
class Pairs:
    """Seconds a call in each pair of bursts: (pairs,) of the reference and of the candidate."""

    reference: Array
    candidate: Array


def measure_latency(
    reference: bytes, candidate: bytes, inputs: tuple[Array, ...], seconds: float = 1.0, threads: int = 1
) -> dict[str, float]:
    """Latency of a candidate and its speed-up over a reference, both ONNX files, on the same inputs.

    Bursts of both run in random order; the speed-up is the median of the ratios of pairs, its interval a 95%
    bootstrap over pairs. Takes about `seconds`. Returns latency_ms, latency_ms_low, latency_ms_high, latency_ms_p90,
    speedup, speedup_low and speedup_high.
    """
    with measuring_slot(), pinned(threads):
        pairs = collect(reference, candidate, inputs, seconds, threads)
    return summarize(pairs)


def collect(reference: bytes, candidate: bytes, inputs: tuple[Array, ...], seconds: float, threads: int) -> Pairs:
    """Run pairs of bursts in several fresh pairs of sessions until the time is used."""
    order, clock = np.random.default_rng(0), clock_for(threads)
    times: list[tuple[float, float]] = []
    for _ in range(SESSIONS):
        calls = [Model(source, threads).runner(inputs) for source in (reference, candidate)]
        sizes = [burst_size(call, clock) for call in calls]
        until = time.perf_counter() + seconds / SESSIONS
        taken = 0
        while taken < 3 or time.perf_counter() < until:
            pair = [0.0, 0.0]
            for which in order.permutation(2):
                pair[which] = burst(calls[which], sizes[which], clock)
            times.append((pair[0], pair[1]))
            taken += 1
    both = np.array(times)
    return Pairs(both[:, 0], both[:, 1])


def clock_for(threads: int) -> Clock:
    """The clock of the calling thread, where one thread runs the model and the system's clock is fine enough.

    It stands while other programs have the core. What they take is not the model's, and falls on long bursts rather
    than on short ones: with six busy programs on two cores a file 7 times as fast looked 12 to 36 times as fast.
    """
    fine = time.get_clock_info("thread_time").resolution <= 1e-6
    return time.thread_time if threads == 1 and fine else time.perf_counter


def burst_size(call: Call, clock: Clock) -> int:
    """How many calls fill a burst; also warms the session up."""
    call()
    start = clock()
    call()
    return int(np.clip(BURST_SECONDS / max(clock() - start, 1e-9), 3, BURST_CALLS))


def burst(call: Call, calls: int, clock: Clock) -> float:
    """Seconds a call, over `calls` calls in a row after a short warm-up that refills the caches."""
    for _ in range(min(WARMUP_CALLS, calls)):
        call()
    start = clock()
    for _ in range(calls):
        call()
    return (clock() - start) / calls


def summarize(pairs: Pairs, seed: int = 0) -> dict[str, float]:
    """Medians and 95% bootstrap intervals over pairs of bursts."""
    ratios = pairs.reference / pairs.candidate
    picks = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    speedup = np.quantile(np.median(ratios[picks], axis=1), (0.025, 0.975))
    latency = np.quantile(np.median(pairs.candidate[picks], axis=1), (0.025, 0.975)) * 1e3
    return {
        "latency_ms": float(np.median(pairs.candidate)) * 1e3,
        "latency_ms_low": float(latency[0]),
        "latency_ms_high": float(latency[1]),
        "latency_ms_p90": float(np.quantile(pairs.candidate, 0.9)) * 1e3,
        "speedup": float(np.median(ratios)),
        "speedup_low": float(speedup[0]),
        "speedup_high": float(speedup[1]),
    }


@contextlib.contextmanager
def measuring_slot() -> Iterator[None]:
    """Hold the node's only measuring slot: a file lock, so that it holds between studies and clusters too."""
    descriptor = _open_lock(Path(tempfile.gettempdir()) / "autocompress-measuring.lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)  # reading is enough to lock, and the file may be another user's
    except FileNotFoundError:
        return os.open(path, os.O_CREAT | os.O_RDONLY, 0o644)


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keep a single-threaded measurement on one core, where the system can."""
    if threads > 1 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {_quietest(before)})
        yield
    finally:
        os.sched_setaffinity(0, before)


def _quietest(cores: set[int]) -> int:
    """The core that was idle longest during a short look; any of them where the system does not say."""
    first = _idle_ticks()
    time.sleep(0.05)
    second = _idle_ticks()
    return max(cores, key=lambda core: second.get(core, 0) - first.get(core, 0))


def _idle_ticks() -> dict[int, int]:
    try:
        rows = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return {}
    return {int(row.split()[0][3:]): int(row.split()[4]) for row in rows if row[:3] == "cpu" and row[3].isdigit()}
