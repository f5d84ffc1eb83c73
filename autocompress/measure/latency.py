"""Latency and speed-up, measured pairwise so that a busy machine disturbs both models alike."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifacts.runtime import Model
from ..config import ONE_THREAD, Target
from ..turns import measuring

Array = NDArray[Any]
Call = Callable[[], object]
Clock = Callable[[], float]

SESSIONS = 4  # two sessions of one file differ by up to 2.5% throughout: several even that out
WARMUP_CALLS, BURST_CALLS = 5, 25
BURST_SECONDS = 0.04  # slow models get shorter bursts, of at least 3 calls
MOST_ROUNDS = 150  # a session: the median of more pairs is no better, as sessions differ by more than it does
RESAMPLES = 1000


@dataclass(frozen=True)
class Pairs:
    """Seconds a call in each pair of bursts: (pairs,) of the reference and of the candidate, and whose sessions ran."""

    reference: Array
    candidate: Array
    session: Array


def measure_latency(
    reference: bytes,
    candidate: bytes,
    inputs: tuple[Array, ...],
    seconds: float = 1.0,
    target: Target = ONE_THREAD,
    reference_ms: float | None = None,
    alone: bool = True,
    sessions: int = SESSIONS,
) -> dict[str, float]:
    """Latency of a candidate and its speed-up over a reference, both ONNX files, on the same inputs.

    Bursts of both run in random order; the speed-up is the median of the ratios of pairs, its interval a 95%
    bootstrap over sessions and pairs. The latency is that of the reference by the speed-up: reference_ms, where it
    was measured before, else what its bursts took here. Takes about `seconds`. Returns latency_ms, latency_ms_low,
    latency_ms_high, latency_ms_p90, speedup, speedup_low, speedup_high, and measured_alone: 1 where the trials on
    this node paused meanwhile, which `alone` asks for, else 0.
    """
    with measuring(alone) as quiet, pinned(target):
        (pairs,) = collect(reference, [candidate], inputs, seconds, target, sessions)
    return {**summarize(pairs, reference_ms), "measured_alone": float(quiet)}


def measure_together(
    reference: bytes,
    candidates: Mapping[str, bytes],
    inputs: tuple[Array, ...],
    seconds: float,
    target: Target = ONE_THREAD,
    reference_ms: float | None = None,
) -> tuple[float, dict[str, dict[str, float]]]:
    """The reference's latency in ms, and latency and speed-up of each candidate, all in the same sessions.

    Takes about `seconds` a candidate. reference_ms: where it was measured before.
    """
    with measuring() as quiet, pinned(target):
        found = collect(reference, list(candidates.values()), inputs, seconds * len(candidates), target)
    base = reference_ms or float(np.median(np.concatenate([pairs.reference for pairs in found]))) * 1e3
    return base, {
        name: {**summarize(pairs, base), "measured_alone": float(quiet)}
        for name, pairs in zip(candidates, found, strict=True)
    }


def collect(
    reference: bytes,
    candidates: Sequence[bytes],
    inputs: tuple[Array, ...],
    seconds: float,
    target: Target,
    sessions: int = SESSIONS,
) -> list[Pairs]:
    """Run pairs of bursts of the reference and each candidate, in random order, until the time is used.

    In several sets of fresh sessions, with three rounds in each at least, and as many at most as are of use.
    """
    order, clock = np.random.default_rng(0), clock_for(target)
    rows: list[list[tuple[float, float, int]]] = [[] for _ in candidates]
    for session in range(sessions):
        calls = [Model(source, target).runner(inputs) for source in (reference, *candidates)]
        sizes = [burst_size(call, clock) for call in calls]
        until = time.perf_counter() + seconds / sessions
        rounds = 0
        while rounds < 3 or (rounds < MOST_ROUNDS and time.perf_counter() < until):
            for which in order.permutation(len(candidates)):
                pair = [0.0, 0.0]
                for side in order.permutation(2):
                    call = 0 if side == 0 else which + 1
                    pair[side] = burst(calls[call], sizes[call], clock)
                rows[which].append((pair[0], pair[1], session))
            rounds += 1
    return [Pairs(*np.array(row).T) for row in rows]


def clock_for(target: Target) -> Clock:
    """The processor time of the thread that runs the model, where that is one and the system's clock is fine enough.

    It stands while other programs have the core. What they take is not the model's, and falls on long bursts rather
    than on short ones: with six busy programs on two cores a file 7 times as fast looked 12 to 36 times as fast.
    """
    fine = time.get_clock_info("thread_time").resolution <= 1e-6
    if target.threads > 1 or target.runtime == "onnxruntime-cuda" or not fine:
        return time.perf_counter
    return time.process_time if target.runtime == "openvino" else time.thread_time  # which may use a thread of its own


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


def summarize(pairs: Pairs, reference_ms: float | None = None, seed: int = 0) -> dict[str, float]:
    """Medians, and 95% bootstrap intervals over sessions and the pairs of bursts in each.

    Pairs of one session are alike, so that intervals over pairs alone would be too narrow.
    """
    ratios = pairs.reference / pairs.candidate
    base = float(np.median(pairs.reference)) * 1e3 if reference_ms is None else reference_ms
    middle, (low, high) = float(np.median(ratios)), np.quantile(_resampled(ratios, pairs.session, seed), (0.025, 0.975))
    spread = float(np.quantile(pairs.candidate, 0.9) / np.median(pairs.candidate))
    return {
        "latency_ms": base / middle,
        "latency_ms_low": base / float(high),
        "latency_ms_high": base / float(low),
        "latency_ms_p90": base / middle * spread,
        "speedup": middle,
        "speedup_low": float(low),
        "speedup_high": float(high),
    }


def _resampled(ratios: Array, session: Array, seed: int) -> Array:
    """Medians of samples with replacement, of sessions and of the pairs in each."""
    random = np.random.default_rng(seed)
    groups = [ratios[session == value] for value in np.unique(session)]
    drawn = random.integers(len(groups), size=(RESAMPLES, len(groups)))
    medians = []
    for row in drawn:
        sample = [groups[index][random.integers(len(groups[index]), size=len(groups[index]))] for index in row]
        medians.append(np.median(np.concatenate(sample)))
    return np.array(medians)


@contextlib.contextmanager
def pinned(target: Target) -> Iterator[None]:
    """Keep a single-threaded measurement on one core, where the system can."""
    if target.threads > 1 or not hasattr(os, "sched_setaffinity"):
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
