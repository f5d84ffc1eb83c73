"""Trials that begin with what another trains wait for it, so that no two train the same at once."""

import itertools
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import yaml

from autocompress.config import load_config
from autocompress.executors import Finished, InlineExecutor
from autocompress.outcome import Completed, Facts, Stopped
from autocompress.recipe import Recipe
from autocompress.search import ahead
from autocompress.search.controller import Controller
from autocompress.search.interrupts import Interrupts
from autocompress.search.plan import make_plan, obtain_baseline
from autocompress.search.run import _open
from autocompress.search.setup import set_up
from autocompress.search.state import State
from autocompress.search.store import StudyStore
from autocompress.search.waiting import Turns, stages
from autocompress.techniques import recipe_from_data
from autocompress.trial.trial import TrialSpec

CUT = {"technique": "channel_pruning", "ratio": 0.5}
TRAIN = {"technique": "finetune", "epochs": 1}
LEAF = {"technique": "low_bit", "bits": 4}
SPACE = {
    "version": 1,
    "steps": [
        {"technique": "svd", "energy": [0.3, 0.5], "variant": "channel"},
        {"technique": "finetune", "epochs": 1, "learning_rate": 0.01},
        {"technique": "low_bit", "bits": [3, 4, 5], "group": 32},
    ],
}


def recipe(*steps: dict[str, Any]) -> Recipe:
    return recipe_from_data({"version": 1, "steps": list(steps)})


def test_stages_are_what_training_ends() -> None:
    whole = recipe(CUT, TRAIN, CUT, TRAIN, LEAF)
    assert stages(whole) == {recipe(CUT, TRAIN).fingerprint, recipe(CUT, TRAIN, CUT, TRAIN).fingerprint}
    assert stages(recipe({"repeat": {"times": 2, "steps": [CUT, TRAIN]}}, LEAF)) == stages(whole)
    assert stages(recipe(CUT, LEAF)) == set()


def test_a_stage_that_is_trained_blocks_until_it_is_there() -> None:
    turns = Turns()
    turns.begin(0, recipe(CUT, TRAIN))
    assert turns.blocked(recipe(CUT, TRAIN, LEAF))
    assert not turns.blocked(recipe(TRAIN, LEAF))
    turns.end(0, measured=True)
    turns.begin(1, recipe(CUT, TRAIN, LEAF))  # its training is there already
    assert not turns.blocked(recipe(CUT, TRAIN, {**LEAF, "bits": 3}))
    turns.begin(2, recipe(TRAIN))
    turns.end(2, measured=False)
    assert not turns.blocked(recipe(TRAIN, LEAF))
    turns.begin(3, recipe(TRAIN))
    assert turns.blocked(recipe(TRAIN, LEAF))


class Workers(InlineExecutor):
    """Workers that end their trials last come, first served, and whose trials are told apart by their stages."""

    def __init__(self) -> None:
        super().__init__()
        self.running: dict[int, Recipe] = {}
        self.trained: set[str] = set()
        self.met: Counter[str] = Counter()
        self.most = 0
        self.facts = 0

    def submit(self, spec: TrialSpec) -> None:
        """Take a trial on, and look whether another trains the same."""
        if not spec.train:
            self.facts += 1
            self._done.append(Finished(spec.number, Facts({"size_bytes": 1.0}), lambda: None))
            return
        mine = recipe_from_data(spec.recipe)
        for other in self.running.values():
            self.met.update((stages(mine) & stages(other)) - self.trained)
        self.running[spec.number] = mine
        self.most = max(self.most, len(self.running))

    def finished(self, wait: float) -> list[Finished]:
        """Facts at once, and the trial that came last."""
        if self._done:
            return super().finished(wait)
        number, ended = self.running.popitem()
        self.trained |= stages(ended)
        metrics = {"size_bytes": 1000.0 - number, "accuracy": 1.0, "latency_ms": 1.0, "speedup": 1.0}
        return [Finished(number, Completed(metrics, {}), lambda: None)]


def search(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Workers, StudyStore, State]:
    monkeypatch.chdir(folder)
    tiny.make_project(folder, search={"trials": 6, "workers": 3, **settings}, budget={"size": "1 MB"})
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    workers = Workers()
    planned = make_plan(set_up(load_config(folder / "search.yaml")), workers, tiny.Silent())
    store = _open(planned)
    state = Controller(planned, store, workers, Interrupts(), (), lambda text: None).run()
    return workers, store, state


@pytest.mark.parametrize("sampler", ["auto", "random"])
def test_no_two_workers_train_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    workers, store, state = search(tmp_path, monkeypatch, sampler=sampler)
    assert workers.met == {}
    assert workers.most > 1
    assert len(state.records) == 6  # all that the space holds, and none left
    assert store.running() == []
    assert not state.waiting


def test_what_waits_at_the_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, store, state = search(tmp_path, monkeypatch, sampler="random", until="size <= 1 KB")
    assert store.running() == []
    assert not state.waiting
    left = [row.outcome for row in state.records.values() if isinstance(row.outcome, Stopped)]
    assert left
    assert left == [Stopped("the search ended before its turn")] * len(left)


def test_the_baseline_is_given_the_processors_that_nobody_else_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Any, ...]] = []

    class Large(InlineExecutor):
        """One with five processors, that notes what it is given."""

        processors = 5

        def call(self, function: Any, *arguments: Any, trains: bool = False) -> Any:
            """Note what trains, and call it."""
            given.extend([arguments] if trains else [])
            return super().call(function, *arguments, trains=trains)

    monkeypatch.chdir(tmp_path)
    tiny.make_project(tmp_path)
    obtain_baseline(set_up(load_config(tmp_path / "search.yaml")), Large())
    assert [arguments[-1] for arguments in given] == [5]


@pytest.mark.parametrize(("timeout", "facts"), [("20m", 2), ("1h", 6), ("10h", 8), (None, 8)])
def test_what_is_known_ahead_takes_a_tenth_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timeout: str | None, facts: int
) -> None:
    minutes = itertools.count(0, 60)  # one goes by between two looks at the clock
    monkeypatch.setattr(ahead, "time", SimpleNamespace(monotonic=lambda: float(next(minutes))))
    workers, _, state = search(tmp_path, monkeypatch, sampler="auto", **({"timeout": timeout} if timeout else {}))
    assert workers.facts == facts
    assert len(state.records) == 6
