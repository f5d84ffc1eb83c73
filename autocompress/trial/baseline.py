"""The uncompressed model: trained, exported and measured before anything is compressed."""

import hashlib
import os
import time
from dataclasses import replace

from ..artifacts.export import export_onnx, strip
from ..artifacts.parity import check_parity
from ..artifacts.runtime import Model
from ..config import ONE_THREAD, Target, Train
from ..measure.latency import measure_together
from ..measure.quality import measure_quality
from ..measure.size import compare_size, measure_size
from ..outcome import Baseline
from ..tasks import TaskReference, load_task
from ..tasks.checks import check_trainable
from ..tasks.examples import example_inputs, input_signature, model_inputs
from ..tasks.models import build_model
from ..tasks.protocol import training_loss
from ..training import ON_CPU, fit, training_on
from .stages import pack_weights
from .worker import Clock, use_threads

MOST_THREADS = 8  # that a training is split over: steps of small models are too short for more
EARLY = 0.1  # the share of the baseline's training after which the weights to rewind to are kept


def make_baseline(reference: TaskReference, seed: int, target: Target = ONE_THREAD, how: Train = ON_CPU) -> Baseline:
    """Train the uncompressed model where the task asks for it, export it and measure it against itself."""
    return time_baseline(train_baseline(reference, seed, target, how), reference, target)


def train_baseline(
    reference: TaskReference, seed: int, target: Target = ONE_THREAD, how: Train = ON_CPU, threads: int | None = None
) -> Baseline:
    """Train the uncompressed model where the task asks for it, and export it; all of its metrics but its latency.

    threads: to train on at most, where more than the target's are at hand since nothing else runs.
    """
    used = min(threads or target.threads, os.cpu_count() or 1, MOST_THREADS)
    use_threads(used)
    clock = Clock()
    with clock("load_task"):
        task = load_task(reference)
        check_trainable(task, seed)
        model = build_model(task, seed)
    early = b""

    def keep_early(progress: float) -> None:
        """Keep the weights once, when the early share of training is done."""
        nonlocal early
        if progress >= EARLY and not early:
            early = pack_weights(model)

    if task.baseline is not None:
        before = time.process_time()
        with clock("train"), training_on(how):
            data, held_out = task.split("train"), task.split("validation")
            fit(model, data, lambda o, b: training_loss(task, o, b.targets), task.baseline, seed, keep_early, held_out)
        if used > target.threads and how.device == "cpu":
            # Trials train on the target's threads, and take about as much of the processor in all.
            apart = (time.process_time() - before) / target.threads
            clock.seconds["train_as_trials"] = max(apart, clock.seconds["train"])
    use_threads(target.threads)
    with clock("export"):
        example, signature = example_inputs(task), input_signature(task)
        exported = export_onnx(model.eval(), example, signature)
        check_parity(model, exported, example, signature=signature)
        file = strip(exported).SerializeToString()
    with clock("quality"):
        metrics = {**measure_size(file), **measure_quality(Model(file, target), task, "validation")}
    weights = pack_weights(model)
    return Baseline(weights, early, file, metrics, clock.seconds, hashlib.sha256(weights).hexdigest())


def time_baseline(baseline: Baseline, reference: TaskReference, target: Target = ONE_THREAD) -> Baseline:
    """A baseline with its latency, and how far it is off, from its file against itself."""
    use_threads(target.threads)
    clock, file = Clock(dict(baseline.seconds)), baseline.onnx
    with clock("latency"):
        inputs = model_inputs(load_task(reference), target.batch_size)
        latency_ms, timed = measure_together(file, {"itself": file}, inputs, 2.0, target)
    # A file against itself: how far this comes out from 1 is how far any speed-up here may be off.
    own = timed["itself"]
    own |= {"latency_ms": latency_ms, "aa_ratio": own["speedup"], "speedup": 1.0}
    metrics = {**baseline.metrics, **own, "speedup_low": 1.0, "speedup_high": 1.0}
    metrics |= compare_size(metrics, metrics)
    return replace(baseline, metrics=metrics, seconds=clock.seconds)
