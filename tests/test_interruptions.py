"""One search that is killed, interrupted once, interrupted twice, and then let run to its end."""

import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from commandline import PATIENCE, Project, Running, Trial
from faulty import faulty_project
from tiny import Ran

TRIALS = 16


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Every process that a command started, and that these started."""
    return psutil.Process(process.pid).children(recursive=True)


def alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that only waits for its parent to notice its end does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_the_end_of(processes: list[psutil.Process]) -> None:
    """Wait until all of these are gone."""
    deadline = time.monotonic() + PATIENCE
    while left := [process for process in processes if alive(process)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        psutil.wait_procs(left, timeout=0.2)


@dataclass(frozen=True)
class Session:
    """What one of several searches of a study left behind."""

    before: dict[int, Trial]
    after: dict[int, Trial]
    ended: Ran
    started: list[psutil.Process]


@dataclass(frozen=True)
class Story:
    """One study of 20 trials that was killed, interrupted once, interrupted twice, and then let run to its end."""

    project: Project
    killed: Session
    drained: Session
    stopped: Session
    finished: Session
    second: Ran


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Trials are held by a file while signals are sent, so that some are sure to be running."""
    folder = tmp_path_factory.mktemp("story")
    project = faulty_project(
        folder,
        {24: "hold", 16: "hold"},
        [0.25, 0.5],
        search={"trials": TRIALS, "workers": 2, "seed": 0},
    )
    hold = folder / "digits" / "hold"
    search = ["search", project.config]

    with project.start(*search) as running:
        running.wait_until(lambda: len(project.counted()) >= 2)
        hold_trials(running, hold)
        started = family(running.process)
        agents = [process for process in started if "Agent" in process.name() + str(process.cmdline())]
        running.process.kill()
        ended = running.end()
    wait_for_the_end_of([process for process in started if process not in agents])
    killed = Session({}, project.trials(), ended, started)
    hold.unlink()

    with project.start(*search, "--resume") as running:
        already = len(project.counted())
        running.wait_until(lambda: len(project.counted()) > already)
        hold_trials(running, hold)
        second = project.call(*search, "--resume", expect=2)
        started = family(running.process)
        running.interrupt()
        running.wait_until(lambda: running.says("stopping: waiting for the running trials"))
        before = project.trials()
        hold.unlink()
        ended = running.end()
    wait_for_the_end_of(started)
    drained = Session(before, project.trials(), ended, started)

    with project.start(*search, "--resume") as running:
        already = len(project.counted())
        running.wait_until(lambda: len(project.counted()) > already)
        hold_trials(running, hold)
        started = family(running.process)
        running.interrupt()
        running.wait_until(lambda: running.says("stopping: waiting for the running trials"))
        before = project.trials()
        running.interrupt()
        ended = running.end()
    wait_for_the_end_of(started)
    stopped = Session(before, project.trials(), ended, started)
    hold.unlink()

    before = project.trials()
    ended = project.call(*search, "--resume", "--executor", "inline")
    return Story(project, killed, drained, stopped, Session(before, project.trials(), ended, []), second)


def hold_trials(running: Running, hold: Path) -> None:
    """Hold all trials that come to train, and wait until both workers are held: nothing ends from then on."""
    for left in hold.parent.glob("held.*"):
        left.unlink()
    hold.touch()
    running.wait_until(lambda: len(list(hold.parent.glob("held.*"))) == 2)


def running_in(trials: dict[int, Trial]) -> set[int]:
    """The numbers of the trials that run."""
    return {number for number, trial in trials.items() if trial.state == "RUNNING"}


def told_in(trials: dict[int, Trial]) -> dict[int, Trial]:
    """The trials that ended."""
    return {number: trial for number, trial in trials.items() if trial.ended}


def test_a_killed_search_is_resumed_without_losing_or_repeating_a_trial(story: Story) -> None:
    left, told = running_in(story.killed.after), told_in(story.killed.after)
    assert left
    assert len(told) >= 2
    final = story.finished.after
    assert {number: final[number] for number in told} == told
    for number in left:
        assert final[number].outcome["type"] == "completed"
        at_the_kill = story.killed.after[number].attributes
        assert final[number].attributes["attempts"] == at_the_kill.get("attempts", 0) + 1
        if "recipe" in at_the_kill:  # else it was killed between asking for the trial and noting its recipe
            assert final[number].attributes["recipe"] == at_the_kill["recipe"]


def test_no_second_search_of_a_study_runs_beside_the_first(story: Story) -> None:
    assert "study 'digits' is being searched by another process" in story.second.err


def test_one_interrupt_lets_the_running_trials_end(story: Story) -> None:
    assert story.drained.ended.code == 130
    left = running_in(story.drained.before)
    assert left
    assert not running_in(story.drained.after)
    for number in left:
        assert story.drained.after[number].outcome["type"] == "completed"
    assert "digits: the front" in story.drained.ended.out
    assert "feasible: " in story.drained.ended.out


def test_one_interrupt_starts_no_more_trials(story: Story) -> None:
    assert story.drained.after.keys() == story.drained.before.keys()


def test_two_interrupts_stop_at_once(story: Story) -> None:
    assert story.stopped.ended.code == 130
    # The file that holds them was there all along: had the search waited, it would not have ended.
    assert running_in(story.stopped.after) == running_in(story.stopped.before) != set()
    assert told_in(story.stopped.after) == told_in(story.stopped.before)
    assert "digits: the front" in story.stopped.ended.out


def test_an_interrupted_search_is_resumed_to_its_end(story: Story) -> None:
    final = story.finished.after
    assert not running_in(final)
    assert f"{TRIALS} trials: {TRIALS} completed" in story.finished.ended.out
    assert sum("duplicate_of" not in trial.attributes for trial in final.values()) == TRIALS
    earlier = told_in(story.finished.before)
    assert {number: final[number] for number in earlier} == earlier


def test_mlflow_holds_each_trial_of_an_interrupted_search_once(story: Story) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{story.project.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    numbers = [int(run.data.tags["autocompress.trial"]) for run in runs if "autocompress.trial" in run.data.tags]
    assert sorted(numbers) == sorted(story.project.counted())
    assert len(runs) == len(numbers) + 1


def test_killing_the_search_leaves_no_ray_process(story: Story) -> None:
    # Comes last: a node's agents report to its head, which is gone too, and give up after one or two minutes.
    assert story.killed.ended.code == -signal.SIGKILL
    assert len(story.killed.started) >= 4  # the head's server, the node's daemon, and two workers
    wait_for_the_end_of(story.killed.started)
