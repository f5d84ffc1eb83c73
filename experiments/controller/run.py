"""What does a search itself cost? Writes results.csv and table.md beside this file.

A controller searches the space `hybrid` with the sampler `auto`, SQLite and MLflow, for two workers that answer at once
by arithmetic. Milliseconds a trial over the last 50 before each mark; the parts are processor time.

Usage: python experiments/controller/run.py [TRIALS]   (about ten minutes)
"""

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

import autocompress.search.store as store_module
from autocompress.config import load_config
from autocompress.executors import Finished, InlineExecutor
from autocompress.outcome import Baseline, Candidate, Completed, Facts, Infeasible, Limit, Metrics, Result, violations
from autocompress.search.controller import Controller, sampler_of
from autocompress.search.facts_first import FactsFirst
from autocompress.search.interrupts import Interrupts
from autocompress.search.plan import Plan, obtain_baseline
from autocompress.search.recorder import Recorder
from autocompress.search.run import _open
from autocompress.search.setup import set_up
from autocompress.search.state import State
from autocompress.search.store import StudyStore
from autocompress.tracking.mlflow import MlflowTracker
from autocompress.trial.run import TrialSpec

HERE = Path(__file__).parent
MARKS, WINDOW = (100, 300, 1_000, 10_000), 50
SEARCHED = 1_000  # trials that are searched for; those before later marks are drawn at random
PARTS = ("ask", "tell", "store", "log")
OBJECTIVES = ("size_bytes", "accuracy", "latency_ms")
BASELINE = {"size_bytes": 100_000.0, "accuracy": 0.97, "latency_ms": 1.0, "speedup": 1.0, "compression_ratio": 1.0}
LIMITS = (
    Limit("size_bytes", "at_most", 6_000.0, "size"),
    Limit("speedup", "at_least", 2.0, "speedup"),
    Limit("accuracy", "at_least", 0.94, "accuracy_drop"),
)


def outcome(recipe: dict[str, Any]) -> tuple[Completed | Infeasible, Metrics]:
    """A model that shrinks and errs by what is done to it and recovers by training, and its facts."""
    left, error, bits = 1.0, 0.0, 32.0
    for step in recipe["steps"]:
        match step["technique"]:
            case "channel_pruning" | "weight_pruning":
                left *= (1 - step["ratio"]) ** 1.5
                error += 0.3 * step["ratio"] ** 3
            case "svd":
                left *= step["energy"]
                error += 0.1 * (1 - step["energy"]) ** 2
            case "distill" | "finetune":
                error *= 0.5 + 2 / (4 + step["epochs"])
            case "weight_clustering" | "low_bit":
                bits = min(bits, float(step["bits"]))
                error += 0.05 * 2.0 ** -step["bits"]
            case "mixed_precision" | "int8_static":
                bits = min(bits, 8.0)
            case "float16":
                bits = min(bits, 16.0)
    facts = {"size_bytes": 500 + 99_500 * left * bits / 32, "latency_ms": 0.1 + 0.9 * left}
    facts |= {"speedup": 1 / facts["latency_ms"], "compression_ratio": BASELINE["size_bytes"] / facts["size_bytes"]}
    metrics = {**facts, "accuracy": 0.97 - error}
    past = {limit.label: limit.violation(metrics) for limit in LIMITS[:2]}
    if max(past.values()) > 0.02:
        known = {name: value for name, value in facts.items() if name != "latency_ms"}
        return Infeasible(known, past, "would be past the limit", facts=facts), facts
    past = violations(LIMITS, metrics)
    if max(past.values()) > 0:
        return Infeasible(metrics, past, "past a limit", {"train": 1.0}, facts), facts
    return Completed(metrics, past, {"train": 1.0}, facts=facts), facts


class Workers:
    """An executor that answers by arithmetic, the first that was submitted first."""

    def __init__(self) -> None:
        self._waiting: list[TrialSpec] = []

    def share(self, baseline: Baseline) -> None:
        """Nothing needs it."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function here."""
        return function(*arguments)

    def submit(self, spec: TrialSpec) -> None:
        """Let a trial wait."""
        self._waiting.append(spec)

    def finished(self, wait: float) -> list[Finished]:
        """The first that waits."""
        if not self._waiting:
            return []
        spec = self._waiting.pop(0)
        found, facts = outcome(spec.recipe)
        result: Result = found if spec.train else Facts(facts)
        return [Finished(spec.number, result, _nothing)]

    def cancel(self) -> None:
        """Forget what waits."""
        self._waiting.clear()

    def close(self) -> None:
        """Nothing to let go of."""


def _nothing() -> Candidate | None:
    return None


class Watch:
    """Processor seconds of threads by part, each without what is counted as another part inside it."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._here = threading.local()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is done meanwhile."""
        outside = getattr(self._here, "inside", 0.0)
        self._here.inside, start = 0.0, time.thread_time()
        try:
            yield
        finally:
            spent = time.thread_time() - start
            self.spent[name] += spent - self._here.inside
            self._here.inside = outside + spent

    def over(self, owner: Any, function: str, name: str) -> None:
        """Count every call of a function as a part."""
        original = getattr(owner, function)

        def counted(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                return original(*arguments, **named)

        setattr(owner, function, counted)


class Marks:
    """A listener that notes where time and memory are at each mark, and so many trials before."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self._before = watch, dict[str, float]()
        self.rows: list[dict[str, float | str]] = []

    def update(self, state: State) -> None:
        """Note them, where a mark is reached."""
        ended = len(state.records)
        if ended + WINDOW in MARKS and self._before.get("trials") != ended:
            self._before = self._now(ended)
        if ended in MARKS and self._before.get("trials") == ended - WINDOW:
            now = self._now(ended)
            spent = {name: 1e3 * (now[name] - self._before[name]) / WINDOW for name in (*PARTS, "cpu", "wall")}
            self._before = {}
            self.rows.append({"case": str(ended), **spent, "memory_mib": _memory_mib()})
            print({key: value if isinstance(value, str) else round(value, 1) for key, value in self.rows[-1].items()})

    def _now(self, ended: int) -> dict[str, float]:
        parts = {name: self._watch.spent[name] for name in PARTS}
        return {"trials": ended, **parts, "cpu": time.process_time(), "wall": time.perf_counter()}


def _memory_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Silent:
    """A view that shows nothing."""

    def update(self, state: State) -> None:
        """Nothing."""

    def phase(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """A line."""
        print(text)


def make_plan(folder: Path, trials: int, mlflow: bool, workers: int = 2) -> Plan:
    """The plan of a study in a folder of its own."""
    config = {
        "study": "controller",
        "task": f"{HERE / 'task.py'}:one_layer",
        "search_space": "hybrid",
        "storage": f"sqlite:///{folder}/studies.db",
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"} if mlflow else None,
        "search": {"trials": trials, "workers": workers, "sampler": "auto", "cold": True},
    }
    (folder / "search.yaml").write_text(yaml.safe_dump(config))
    setup = set_up(load_config(folder / "search.yaml"))
    baseline = obtain_baseline(setup, InlineExecutor())
    return Plan(setup, replace(baseline, metrics={**baseline.metrics, **BASELINE}), LIMITS, OBJECTIVES, {})


def fill(plan: Plan, store: StudyStore, count: int) -> None:
    """Trials at random, which take milliseconds, in the place of those that a search would have asked for."""
    store.use_sampler(sampler_of(plan, 0, []))
    for _ in range(count):
        number, recipe = store.ask(plan.setup.space, at_random=True)
        store.tell(number, outcome(recipe.to_data())[0])


def measure(trials: int, filled: int) -> list[dict[str, float | str]]:
    """A search of so many trials: a row for each mark. filled: so many at random come before it, and no MLflow."""
    watch = Watch()
    marks = Marks(watch)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        plan = make_plan(Path(folder), trials, mlflow=not filled)
        store, view = _open(plan), Silent()
        if filled:
            fill(plan, store, filled)
            store = _open(plan)
        watch.over(FactsFirst, "draw", "ask")
        watch.over(FactsFirst, "take", "tell")
        watch.over(StudyStore, "tell", "tell")
        watch.over(store_module, "add_trial", "store")
        watch.over(store_module, "end_trial", "store")
        for owner, function in ((Recorder, "update"), (MlflowTracker, "log"), (MlflowTracker, "refresh")):
            watch.over(owner, function, "log")
        recorder = Recorder(plan, store, view)
        Controller(plan, store, Workers(), Interrupts(), (recorder, view, marks), print).run()
        recorder.close("FINISHED")
    return marks.rows


def main(arguments: list[str]) -> None:
    """Measure in processes of their own, and write what was found."""
    most = int(arguments[0]) if arguments else MARKS[-1]
    searches = [(min(most, SEARCHED), 0), *([(most, most - WINDOW - 10)] if most > SEARCHED else [])]
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        rows = [row for rows in processes.map(measure, *zip(*searches, strict=True)) for row in rows]
    found = pd.DataFrame(rows)
    found["rest"] = found["cpu"] - found[list(PARTS)].sum(axis=1)
    columns = ["case", *PARTS, "rest", "cpu", "wall", "memory_mib"]
    found = found[columns].round(1)
    found.to_csv(HERE / "results.csv", index=False)
    lines = ["| trials | " + " | ".join(columns[1:]) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in found.itertuples(index=False)]
    (HERE / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
