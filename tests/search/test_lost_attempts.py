"""What becomes of trials that are lost: with their worker or node, while a search stops, and long after its time."""

from collections import Counter
from pathlib import Path

import pytest
import tiny

from autocompress.config import load_config
from autocompress.executors import Finished, InlineExecutor
from autocompress.outcome import Completed, Failed, Stopped
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


class Endless(InlineExecutor):
    """Runs the first trial that it is given, and is at the second one for good, by a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.cancelled = 0.0, False

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    def submit(self, spec: TrialSpec) -> None:
        """Run facts and the first trial only."""
        if spec.number <= 0:
            super().submit(spec)

    def finished(self, wait: float) -> list[Finished]:
        """What was run; where nothing was, a minute goes by."""
        done = super().finished(wait)
        self.now += 0.0 if done else 60.0
        return done

    def cancel(self) -> None:
        """Note it."""
        self.cancelled = True


def search(
    folder: Path, executor: InlineExecutor, notes: list[str], interrupts: Interrupts | None = None, **settings: object
) -> StudyStore:
    """Search for one trial with one retry; the same folder goes on with the same study."""
    if not (folder / "task.py").exists():
        tiny.make_project(folder, search={"trials": 1, "workers": 1, "retries": 1, **settings})
    setup = set_up(load_config(folder / "search.yaml"))
    planned = make_plan(setup, executor, tiny.Silent())
    store = _open(planned)
    Controller(planned, store, executor, interrupts or Interrupts(), (), notes.append).run()
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
    interrupts = Interrupts()
    store = search(tmp_path, Losing(0, 1, interrupts), notes, interrupts)
    assert store.running() == [0]
    assert "trial 0: its worker was killed: --resume tries it again" in notes
    resumed = search(tmp_path, Losing(0, 0), notes).records()[0]
    assert isinstance(resumed.outcome, Completed)
    assert resumed.attempts == 2


def test_a_trial_that_runs_long_after_the_time_was_up_is_stopped(
    tmp_path: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = Endless()
    monkeypatch.setattr("autocompress.search.controller.time", executor)
    store = search(tmp_path, executor, notes, trials=9, timeout="1h")
    assert isinstance(store.records()[0].outcome, Completed)
    assert store.records()[1].outcome == Stopped("the search's time was up while it ran")
    assert (executor.cancelled, store.running()) == (True, [])
    assert executor.now == 67 * 60  # the hour, a tenth more, and the minute in which that is seen
    assert "the time is up: trials that still run are stopped: 1" in notes
