"""Does one controller keep 64 workers busy? Writes sleeping.csv beside this file, a row for each number of workers.

Trials on Ray that sleep in the place of training, ten seconds on average, and answer by the arithmetic of run.py; all
else is real: the space `hybrid`, the sampler `auto`, SQLite and MLflow. Efficiency is the share of the workers' time,
from the first trial until the last one was handed out, in which they slept.

Usage: python experiments/controller/sleeping.py [WORKERS ...]   (2, 16 and 64; about six minutes)
"""

import contextlib
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from run import Silent, make_plan, outcome

from autocompress.executors import Finished, RayExecutor
from autocompress.executors.ray import _Job
from autocompress.outcome import Facts
from autocompress.search.controller import Controller
from autocompress.search.interrupts import Interrupts
from autocompress.search.recorder import Recorder
from autocompress.search.run import _open
from autocompress.trial.trial import TrialSpec

HERE = Path(__file__).parent
WORKERS = (2, 16, 64)
SECONDS, SPREAD = 10.0, 0.5  # of a trial: the mean, and the standard deviation of its logarithm
FACTS_SECONDS = 0.5  # of a file that is made and measured untrained
TURNS = 10  # trials for each worker


def nap(result: Any, seconds: float, after: Any = None) -> Any:
    """Sleep once what comes before is there, and answer what is known beforehand."""
    import time

    time.sleep(seconds)
    return result


def pid(seconds: float) -> int:
    """Sleep, and say in which process."""
    import os
    import time

    time.sleep(seconds)
    return os.getpid()


@dataclass
class Nap:
    """A trial that sleeps: when it was handed out, for how long, and when it was back."""

    begun: float
    seconds: float
    ended: float = float("inf")

    def slept(self, until: float) -> float:
        """For how long it slept by then."""
        return self.seconds if self.ended <= until else max(0.0, min(self.seconds, until - self.begun))


class Sleeping(RayExecutor):
    """Ray's executor, whose two tasks of a trial sleep."""

    def __init__(self, workers: int) -> None:
        self.naps: dict[int, Nap] = {}
        self._random = np.random.default_rng(0)
        super().__init__("local", workers, None)
        self._ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not find this file
        self._nap = self._ray.remote(num_cpus=1, max_retries=0)(nap)
        asleep = self._ray.remote(num_cpus=1)(pid)
        while len(set(self._ray.get([asleep.remote(2.0) for _ in range(workers)]))) < workers:
            pass

    def _begin(self) -> None:
        """Nothing to import, and no baseline that a nap needs."""

    def share(self, baseline: Any) -> None:
        """No nap needs it."""

    def submit(self, spec: TrialSpec) -> None:
        """Queue both tasks of a trial."""
        found, facts = outcome(spec.recipe)
        seconds = SECONDS * float(self._random.lognormal(-(SPREAD**2) / 2, SPREAD)) if spec.train else FACTS_SECONDS
        prepared = self._nap.remote(None, 0.9 * seconds)
        measured = self._nap.remote(found if spec.train else Facts(facts), 0.1 * seconds, prepared)
        words = self._words("prepare"), self._words("measure")
        self._jobs[measured] = _Job(spec.number, prepared, measured, time.monotonic() + 3600.0, words)
        self.naps[spec.number] = Nap(time.monotonic(), seconds)

    def finished(self, wait: float) -> list[Finished]:
        """What came back."""
        ended = super().finished(wait)
        for row in ended:
            self.naps[row.number].ended = time.monotonic()
        return ended


def measure(workers: int) -> dict[str, float | str]:
    """A search by so many workers."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        plan = make_plan(Path(folder), TURNS * workers, mlflow=True, workers=workers)
        store, view = _open(plan), Silent()
        executor, recorder = Sleeping(workers), Recorder(plan, store, view)
        spent = time.process_time()
        try:
            Controller(plan, store, executor, Interrupts(), (recorder, view), print).run()
        finally:
            executor.close()
            recorder.close("FINISHED")
        spent = time.process_time() - spent
    naps = list(executor.naps.values())
    first, last = naps[0].begun, naps[-1].begun
    slept = sum(row.slept(last) for row in naps)
    return {
        "case": str(workers),
        "trials": len(store.finished()),
        "seconds": last - first,
        "trials_a_second": len(naps) / (last - first),
        "efficiency": slept / (workers * (last - first)),
        "controller_ms": 1e3 * spent / len(naps),
    }


def main(arguments: list[str]) -> None:
    """Measure in processes of their own, and write what was found."""
    cases = [int(word) for word in arguments] or list(WORKERS)
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        rows = list(processes.map(measure, cases))
    found = pd.DataFrame(rows)
    found.to_csv(HERE / "sleeping.csv", index=False, float_format="%.3g")
    print(found.to_string(index=False, float_format="%.3g"))


if __name__ == "__main__":
    main(sys.argv[1:])
