"""One search in this process, counted in CPU-seconds; run.py starts one of these for each.

Usage: python experiments/search_efficiency/search.py STUDY CONTENDER SEED SECONDS RESULTS.csv FOLDER
"""

import contextlib
import itertools
import resource
import shutil
import sys
import tempfile
import warnings
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from contenders import BASELINE, CONTENDERS, Contender, configured

from autocompress.executors import Finished, InlineExecutor
from autocompress.front import hypervolumes, signs
from autocompress.outcome import Candidate, Failed
from autocompress.search.controller import Controller
from autocompress.search.interrupts import Interrupts
from autocompress.search.plan import Plan, make_plan
from autocompress.search.setup import set_up
from autocompress.search.space import Space
from autocompress.search.state import State
from autocompress.search.store import StudyStore
from autocompress.techniques import recipe_from_data
from autocompress.trial.facts import FACTS
from autocompress.trial.run import Run
from autocompress.trial.trial import TrialSpec, measure, prepare

COLUMNS = ["case", "study", "seed", "budget_seconds", "trial", "cpu_seconds", "outcome", "hypervolume", "size_bytes",
           "accuracy", "speedup"]  # fmt: skip
MEASURES = COLUMNS[-3:]
END = "end"  # the outcome of a search's last row, which no trial has
WARM = [
    {"technique": "channel_pruning", "ratio": 0.5, "importance": "taylor", "scope": "layer"},
    {"technique": "weight_clustering", "bits": 4},
    {"technique": "int8_static"},
]


def cpu_seconds() -> float:
    """What this process and its children used of all cores so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to the table; one write, so that those of several processes do not mix."""
    cells = (row.get(name, "") for name in COLUMNS)
    line = ",".join(f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in cells)
    with path.open("a") as file:
        file.write(line + "\n")


class Quiet:
    """A view of a search that shows nothing but what is wrong."""

    def update(self, state: State) -> None:
        """Nothing."""

    def phase(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """A line on standard error."""
        print(text, file=sys.stderr)


class Workbench(InlineExecutor):
    """Runs trials in this process, with or without what a contender does not have.

    stages: the folder of this search's own cache.
    """

    def __init__(self, contender: Contender, stages: Path) -> None:
        super().__init__()
        self._contender, self._stages = contender, str(stages) if contender.cached else None

    def submit(self, spec: TrialSpec) -> None:
        """Run the trial to its end; what is asked ahead of it costs and tells nothing where nothing is to be known."""
        spec = replace(spec, cache=self._stages)
        if self._contender.known:
            super().submit(spec)
        elif not spec.train:
            self._done.append(Finished(spec.number, Failed("not looked at"), lambda: None))
        else:
            self._done.append(self._run(spec))

    def _run(self, spec: TrialSpec) -> Finished:
        """A trial in which limits on facts are held against the finished file alone."""
        assert self._baseline is not None
        later = tuple(limit for limit in spec.limits if limit.metric not in FACTS)
        candidate = prepare(replace(spec, limits=later), self._baseline)
        made = candidate if isinstance(candidate, Candidate) else None
        return Finished(spec.number, measure(candidate, spec, self._baseline), lambda: made)


class Uncached(Space):
    """A space for a search without cached stages, which is not to count on them: none is like another."""

    _fresh = itertools.count()

    def stages(self, row: Mapping[str, Any]) -> list[tuple[Hashable, float]]:
        """The trained stages of a row, each told from all others ever asked for."""
        return [((key, next(self._fresh)), epochs) for key, epochs in super().stages(row)]


class Store(StudyStore):
    """A study in memory that is asked by a contender's sampler, whatever the controller would take."""

    def __init__(self, plan: Plan, contender: Contender) -> None:
        directions = ["minimize" if sign > 0 else "maximize" for sign in signs(plan.objectives, plan.lower)]
        study = optuna.create_study(storage="sqlite://", directions=directions, study_name=plan.setup.config.study)
        study.set_user_attr("objectives", list(plan.objectives))
        super().__init__(study, plan.setup.config.storage)
        self._own = contender.plain(plan.setup.config.search.seed) if contender.plain else None
        if not contender.begun:
            self.set("first", [])

    def use_sampler(self, sampler: optuna.samplers.BaseSampler, seed: int = 0) -> None:
        """Ask by the contender's own sampler, where it has one."""
        super().use_sampler(self._own or sampler, seed)


class Ledger:
    """A listener that writes down each trial that ended, and ends the search when its CPU-seconds are used up."""

    def __init__(self, path: Path, head: Mapping[str, Any], plan: Plan, interrupts: Interrupts) -> None:
        self._path, self._head, self._plan, self._interrupts = path, head, plan, interrupts
        self._start, self._written = cpu_seconds(), set[int]()

    @property
    def used(self) -> float:
        """CPU-seconds since the search began."""
        return cpu_seconds() - self._start

    def update(self, state: State) -> None:
        """Write what is new."""
        new = [number for number in state.records if number not in self._written]
        if new:
            outcomes = {number: one.outcome for number, one in state.records.items() if one.outcome is not None}
            grown = hypervolumes(outcomes, state.objectives, self._plan.baseline.metrics, state.lower)
            for number in new:
                self._write(number, outcomes[number], grown[number])
        if self.used >= self._head["budget_seconds"]:
            self._interrupts.level = 2

    def _write(self, number: int, outcome: Any, value: float) -> None:
        self._written.add(number)
        found = {"trial": number, "cpu_seconds": self.used, "outcome": outcome.type, "hypervolume": value}
        metrics = getattr(outcome, "metrics", {})
        append(self._path, {**self._head, **found, **{name: metrics.get(name, "") for name in MEASURES}})

    def end(self) -> None:
        """The row that says that the search is over."""
        append(self._path, {**self._head, "cpu_seconds": self.used, "outcome": END})


@contextlib.contextmanager
def trained_anyway(contender: Contender) -> Iterator[None]:
    """Let collapsed models be trained to the end, where nothing is to be known before."""
    screen = Run.screen
    if not contender.known:
        Run.screen = lambda run, index, clock: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Run.screen = screen  # type: ignore[method-assign]


def planned(study: str, contender: str, seed: int, folder: Path, path: Path | None = None) -> Plan:
    """What a search starts from, with the baseline that all of the same study and seed share."""
    setup = set_up(configured(study, contender, seed, folder, path))
    plan = make_plan(setup, InlineExecutor(), Quiet())
    if CONTENDERS.get(contender, Contender()).cached:
        return plan
    return replace(plan, setup=replace(plan.setup, space=Uncached(**vars(plan.setup.space))))


def warm_up(plan: Plan) -> None:
    """Make a file once, so that no search pays for libraries that are loaded and what a worker keeps between trials."""
    for steps in (WARM, WARM[-1:]):  # the first may not suit a model
        recipe = recipe_from_data({"version": 1, "steps": steps})
        prepare(replace(plan.setup.trial(0, recipe), cache=None), plan.baseline)


def search(contender: Contender, plan: Plan, head: Mapping[str, Any], path: Path) -> None:
    """Run a search until its CPU-seconds, trials or space are used up, and append its rows."""
    config = plan.setup.config
    store, interrupts = Store(plan, contender), Interrupts()
    warm_up(plan)
    with tempfile.TemporaryDirectory() as stages, trained_anyway(contender):
        bench, ledger = Workbench(contender, Path(stages)), Ledger(path, head, plan, interrupts)
        Controller(plan, store, bench, interrupts, [ledger], Quiet().note).run()
        ledger.end()
    shutil.rmtree(plan.setup.files.folder / config.study, ignore_errors=True)


def check_baseline(path: Path, study: str, seed: int, accuracy: float) -> None:
    """Raise SystemExit where a table's baseline is another: accuracies that are lost are counted from it."""
    rows = pd.read_csv(path)
    own = rows[(rows["case"] == BASELINE) & (rows["study"] == study) & (rows["seed"] == seed)]
    if len(own) != 1 or abs(own["accuracy"].iloc[0] - accuracy) > 1e-5:
        sys.exit(
            f"{path}: the baseline of {study}, seed {seed}, is another than the one there (accuracy {accuracy:.6g}): "
            "the task, a library or the machine changed; take the rows of this study out and run all of it again"
        )


def main(study: str, case: str, seed: int, seconds: float, path: Path, folder: Path) -> None:
    """Make a study's baseline for a seed, or search from it."""
    warnings.simplefilter("ignore")
    plan = planned(study, case, seed, folder)
    metrics = plan.baseline.metrics
    head = {"case": case, "study": study, "seed": seed, "budget_seconds": seconds}
    if case == BASELINE:
        append(path, {**head, "budget_seconds": "", **{name: metrics[name] for name in MEASURES}})
    else:
        check_baseline(path, study, seed, metrics["accuracy"])
        search(CONTENDERS[case], plan, head, path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), Path(sys.argv[5]), Path(sys.argv[6]))
