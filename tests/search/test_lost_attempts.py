"""What becomes of trials that are lost: with their own worker, with their node, and while the search is stopping."""

from collections import Counter
from pathlib import Path

import pytest
import tiny

from autocompress.config import load_config
from autocompress.executors import Finished, InlineExecutor
from autocompress.outcome import Completed, Failed
from autocompress.search.controller import CUT_OFF, Controller
from autocompress.search.interrupts import Interrupts
from autocompress.search.plan import make_plan
from autocompress.search.run import _open
from autocompress.search.setup import set_up
from autocompress.search.store import StudyStore
from autocompress.trial.trial import TrialSpec


class Losing(InlineExecutor):
    """Loses what it is given, some times with the node and then some times with the worker, before it runs it."""

    def __init__(self, cut_off: int, own: int, interrupts: Interrupts | None = None) -> None:
        super().__init__()
        self.cut_off, self.own, self.interrupts = cut_off, own, interrupts
        self.submitted: Counter[int] = Counter()

    def submit(self, spec: TrialSpec) -> None:
        """Lose the trial, or run it."""
        self.submitted[spec.number] += 1
        count = self.submitted[spec.number]
        if self.interrupts is not None:
            self.interrupts.level = 1
        if count > self.cut_off + self.own:
            super().submit(spec)
        else:
            gone = Failed("its worker was killed", lost=True)
            self._done.append(Finished(spec.number, gone, lambda: None, cut_off=count <= self.cut_off))


def search(folder: Path, losing: Losing, notes: list[str]) -> StudyStore:
    """Search for one trial with one retry; the same folder goes on with the same study."""
    if not (folder / "task.py").exists():
        tiny.make_project(folder, search={"trials": 1, "workers": 1, "retries": 1})
    setup = set_up(load_config(folder / "search.yaml"))
    planned = make_plan(setup, losing, tiny.Silent())
    store = _open(planned)
    Controller(planned, store, losing, losing.interrupts or Interrupts(), (), notes.append).run()
    return store


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)  # where the study's storage is kept
    return []


def test_a_lost_node_is_not_counted_against_a_trial(tmp_path: Path, notes: list[str]) -> None:
    record = search(tmp_path, Losing(CUT_OFF, 1), notes).records()[0]
    assert isinstance(record.outcome, Completed), record.outcome
    assert record.attempts == 2  # the one that lost its worker, and the one that came to its end
    assert notes.count("trial 0: its worker was killed: trying again") == CUT_OFF + 1


def test_a_trial_that_loses_its_worker_more_often_than_it_may_fails(tmp_path: Path, notes: list[str]) -> None:
    record = search(tmp_path, Losing(1, 2), notes).records()[0]
    assert record.outcome == Failed("its worker was killed (2 attempts)", lost=True)
    assert record.attempts == 2


def test_a_trial_that_takes_node_after_node_with_it_fails(tmp_path: Path, notes: list[str]) -> None:
    record = search(tmp_path, Losing(CUT_OFF + 1, 0), notes).records()[0]
    assert record.outcome == Failed(f"its worker was killed ({CUT_OFF + 1} attempts)", lost=True)
    assert record.attempts == 0


def test_a_trial_that_is_lost_while_the_search_stops_is_tried_again_by_resume(tmp_path: Path, notes: list[str]) -> None:
    store = search(tmp_path, Losing(0, 1, Interrupts()), notes)
    assert store.running() == [0]
    assert "trial 0: its worker was killed: --resume tries it again" in notes
    resumed = search(tmp_path, Losing(0, 0), notes).records()[0]
    assert isinstance(resumed.outcome, Completed)
    assert resumed.attempts == 2
