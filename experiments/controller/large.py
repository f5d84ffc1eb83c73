"""How often does a model of 100 MB travel, with eight workers on a node? Writes large.csv beside this file.

Trials on Ray that encode a linear network of 25 million weights in 16 bits, two for each worker; nothing is trained.
`pickled` is how often this process wrote the baseline down, `read` how often workers read it from the node's object
store, `restore_s` the mean seconds that a trial took to have the model before it, the first of a worker and later ones.

Usage: python experiments/controller/large.py [WORKERS]   (three minutes)
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from torch import nn
from torch.utils.data import TensorDataset

import autocompress
from autocompress.executors import RayExecutor
from autocompress.outcome import Baseline
from autocompress.tasks import TaskReference
from autocompress.tasks.objects import hold
from autocompress.trial.baseline import make_baseline
from autocompress.trial.trial import TrialSpec

HERE = Path(__file__).parent
WIDTH, LAYERS, EACH = 2_500, 4, 2
RECIPE = {"version": 1, "steps": [{"technique": "float16"}]}


class Wide(autocompress.Classification):
    """A linear network of 25 million weights, on noise."""

    baseline = None

    def __init__(self) -> None:
        torch.manual_seed(0)
        self._data = TensorDataset(torch.randn(64, WIDTH), torch.arange(64) % 10)

    def model(self) -> nn.Module:
        """Layers of 2,500 by 2,500."""
        layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(WIDTH, 10))

    def split(self, name: str) -> TensorDataset:
        """The same noise for all."""
        return self._data


def reads(folder: str) -> Any:
    """A worker's preparation of a trial, which notes by which process the baseline was read."""
    from autocompress.executors import work

    original = work.baseline_of

    def noted(shared: work.Shared) -> Baseline:
        fresh = shared.key not in work._BASELINES
        found = original(shared)
        with (Path(folder) / "reads").open("a") as file:
            file.write(f"{os.getpid()} {int(fresh)}\n")
        return found

    def prepare(*arguments: Any) -> Any:
        work.baseline_of = noted
        return work.prepare_in_time(*arguments)

    return prepare


def main() -> None:
    """Run the trials and write what was counted."""
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    held = hold(Wide())
    reference = TaskReference(held.code, ".", stamp=held.key)
    baseline = make_baseline(reference, 0)
    pickled = [0]

    def reduced(self: Baseline, protocol: int) -> Any:
        pickled[0] += 1
        return object.__reduce_ex__(self, protocol)

    Baseline.__reduce_ex__ = reduced  # type: ignore[method-assign, assignment]
    with tempfile.TemporaryDirectory() as folder:
        executor = RayExecutor("local", workers, None, held=held)
        try:
            executor._prepare = executor._ray.remote(num_cpus=1, max_retries=0)(reads(folder))
            executor.share(baseline)
            before, start = psutil.Process().memory_info().rss, time.perf_counter()
            for number in range(workers * EACH):
                executor.submit(TrialSpec(number, RECIPE, reference, 0))
            seconds: list[float] = []
            while len(seconds) < workers * EACH:
                seconds += [finished.outcome.seconds["restore"] for finished in executor.finished(1.0)]
            took, after = time.perf_counter() - start, psutil.Process().memory_info().rss
            lines = [line.split() for line in (Path(folder) / "reads").read_text().splitlines()]
        finally:
            executor.close()
    row = {
        "workers": workers,
        "trials": workers * EACH,
        "weights_mb": len(baseline.weights) / 1e6,
        "pickled": pickled[0],
        "read": sum(int(fresh) for _, fresh in lines),
        "processes": len({process for process, _ in lines}),
        "restore_first_s": sum(seconds[:workers]) / workers,
        "restore_later_s": sum(seconds[workers:]) / (len(seconds) - workers),
        "seconds": took,
        "controller_grew_mb": (after - before) / 1e6,
    }
    pd.DataFrame([row]).round(2).to_csv(HERE / "large.csv", index=False)
    print(row)


if __name__ == "__main__":
    main()
