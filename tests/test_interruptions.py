"""Searches that are killed, interrupted, cut off from MLflow, or given trials that misbehave."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from commandline import PATIENCE, Finished, Project, Running, Trial, pause

FAULTY = '''
"""The digits with a network that misbehaves while it is trained, as faults.json says by its first layer's width."""

import json
import os
import signal
import threading
from pathlib import Path

from network import DigitsNet
from task import digits

HERE = Path(__file__).parent
FAULTS = json.loads((HERE / "faults.json").read_text())
PAUSE = threading.Event()


class Faulty(DigitsNet):
    def forward(self, x):
        if self.training:
            misbehave(FAULTS.get(str(self.first.weight.shape[0])))
        return super().forward(x)


def misbehave(how):
    if how == "hold":
        while (HERE / "hold").exists():
            (HERE / f"held.{os.getpid()}").touch()
            PAUSE.wait(0.05)
    elif how == "hang":
        while True:
            PAUSE.wait(1)
    elif how == "raise":
        raise RuntimeError("these digits cannot be read")
    elif how == "die" or (how == "die once" and not (HERE / "died").exists()):
        (HERE / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def faulty():
    return digits(Faulty)
'''


def faulty_project(folder: Path, faults: dict[int, str], ratios: list[float], **changes: Any) -> Project:
    """The digits project with faults by width: a ratio r of pruning leaves 32 (1 - r) of 32 neurons."""
    project = Project.make(folder, task="faulty.py:faulty", **changes)
    (folder / "digits" / "faulty.py").write_text(FAULTY)
    (folder / "digits" / "faults.json").write_text(json.dumps(faults))
    space = {
        "version": 1,
        "steps": [
            {"technique": "channel_pruning", "ratio": ratios, "importance": "l1", "scope": "layer"},
            {"technique": "finetune", "epochs": 1, "learning_rate": {"low": 0.001, "high": 0.01, "log": True}},
        ],
        "start": [{"channel_pruning.ratio": ratio} for ratio in ratios],
    }
    (folder / "digits" / "space.yaml").write_text(yaml.safe_dump(space, sort_keys=False))
    return project


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
    ended: Finished
    started: list[psutil.Process]


@dataclass(frozen=True)
class Story:
    """One study of 20 trials that was killed, interrupted once, interrupted twice, and then let run to its end."""

    project: Project
    killed: Session
    drained: Session
    stopped: Session
    finished: Session
    second: Finished


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Trials are held by a file while signals are sent, so that some are sure to be running."""
    folder = tmp_path_factory.mktemp("story")
    project = faulty_project(
        folder, {24: "hold", 16: "hold"}, [0.25, 0.5], search={"trials": 20, "workers": 2, "seed": 0}
    )
    hold = folder / "digits" / "hold"
    search = ["search", project.config]

    with project.start(*search) as running:
        running.wait_until(lambda: len(project.counted()) >= 2)
        hold_trials(running, hold)
        started = family(running.process)
        running.process.kill()
        ended = running.end()
    wait_for_the_end_of(started)
    killed = Session({}, project.trials(), ended, started)
    hold.unlink()

    with project.start(*search, "--resume") as running:
        already = len(project.counted())
        running.wait_until(lambda: len(project.counted()) > already)
        hold_trials(running, hold)
        second = project.run(*search, "--resume", expect=2)
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
    ended = project.run(*search, "--resume", "--executor", "inline")
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


def test_killing_the_search_leaves_no_ray_process(story: Story) -> None:
    # The story waits for the end of all of them; here it is enough that there were some to end.
    assert story.killed.ended.code == -signal.SIGKILL
    assert len(story.killed.started) >= 4  # the head's server, the node's daemon, and two workers
    assert not any(alive(process) for process in story.killed.started)


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
    assert "20 trials: 20 completed" in story.finished.ended.out
    assert sum("duplicate_of" not in trial.attributes for trial in final.values()) == 20
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


# A ratio of pruning, and how the network behaves that it leaves.
DIES_ONCE, DIES, RAISES, HANGS, WORKS = 0.25, 0.5, 0.75, 0.125, 0.375
TRIAL_SECONDS = 40


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Finished]:
    """A search of five trials, four of which misbehave; the one that never ends comes first."""
    project = faulty_project(
        tmp_path_factory.mktemp("troubled"),
        {28: "hang", 24: "die once", 16: "die", 8: "raise"},
        [HANGS, DIES_ONCE, DIES, RAISES, WORKS],
        search={"trials": 5, "workers": 2, "retries": 1, "trial_timeout": f"{TRIAL_SECONDS}s"},
        tracking=None,
    )
    return project, project.run("search", project.config)


def trial_of(troubled: tuple[Project, Finished], ratio: float) -> Trial:
    """The trial that pruned by this ratio."""
    trials = troubled[0].counted().values()
    (found,) = (trial for trial in trials if trial.attributes["recipe"]["steps"][0]["ratio"] == ratio)
    return found


def test_a_trial_whose_worker_was_killed_is_tried_again(troubled: tuple[Project, Finished]) -> None:
    trial = trial_of(troubled, DIES_ONCE)
    assert trial.outcome["type"] == "completed"
    assert trial.attributes["attempts"] == 2
    assert "its worker was killed: trying again" in troubled[1].err


def test_a_trial_that_always_kills_its_worker_fails_after_its_retries(troubled: tuple[Project, Finished]) -> None:
    trial = trial_of(troubled, DIES)
    assert (trial.state, trial.outcome["type"]) == ("FAIL", "failed")
    assert trial.outcome["reason"] == "its worker was killed (2 attempts)"
    assert trial.attributes["attempts"] == 2


def test_a_trial_that_raises_fails_with_its_reason_and_is_not_repeated(troubled: tuple[Project, Finished]) -> None:
    trial = trial_of(troubled, RAISES)
    assert trial.outcome["reason"] == "RuntimeError: these digits cannot be read"
    assert "in misbehave" in trial.outcome["details"]
    assert trial.attributes["attempts"] == 1


def test_a_trial_past_its_time_limit_fails(troubled: tuple[Project, Finished]) -> None:
    trial = trial_of(troubled, HANGS)
    assert trial.outcome["reason"] == "ran past its time limit"
    assert trial.attributes["attempts"] == 1


def test_a_search_goes_on_past_trials_that_fail(troubled: tuple[Project, Finished]) -> None:
    project, ended = troubled
    assert trial_of(troubled, WORKS).outcome["type"] == "completed"
    assert "5 trials: 2 completed, 3 failed" in ended.out
    assert project.states() == {"COMPLETE": 2, "FAIL": 3}


def test_a_search_of_which_nothing_finishes_ends_with_4_and_the_reasons(tmp_path: Path) -> None:
    project = faulty_project(tmp_path, {8: "raise"}, [0.75], search={"trials": 2}, tracking=None)
    ended = project.run("search", project.config, "--executor", "inline", expect=4)
    assert "2 trials: 2 failed" in ended.out
    assert ended.out.count("RuntimeError: these digits cannot be read") == 2
    document = project.run("front", "digits", "--json", expect=4).json()
    assert (document["verdict"], document["front"], document["nearest_miss"]) == ("nothing_finished", [], None)


def test_an_impossible_budget_ends_with_3_the_nearest_miss_and_the_limit_that_binds(tmp_path: Path) -> None:
    project = Project.make(
        tmp_path, budget={"speedup": 1000.0, "accuracy_drop": 0.6}, search={"trials": 2}, tracking=None
    )
    ended = project.run("search", project.config, "--executor", "inline", expect=3)
    assert "infeasible: nothing meets the budget (speedup at least 1000" in ended.out
    assert "the limit that binds: speedup" in ended.out
    document = project.run("front", "digits", "--json", expect=3).json()
    assert (document["verdict"], document["binding_limit"], document["front"]) == ("infeasible", "speedup", [])
    # Of trials that miss the same limit only, the nearest is the one that comes closest to it.
    reached = {number: trial.outcome["metrics"]["speedup"] for number, trial in project.counted().items()}
    assert document["nearest_miss"]["trial"] == max(reached, key=lambda number: reached[number])
    assert f"nearest miss: trial {document['nearest_miss']['trial']}: " in ended.out


def free_port() -> int:
    """A port of the loopback interface on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    """A real tracking server, which ends with the block."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination",
        str(folder / "kept"),
    ]
    log = folder / "server.txt"
    with log.open("w") as file:
        server = subprocess.Popen(
            [*command, *stores], cwd=folder, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not listens(port):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            pause(server)
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(PATIENCE)


def listens(port: int) -> bool:
    """Whether something takes connections on this port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_search_without_its_mlflow_server_ends_well_and_logs_what_is_missing_later(tmp_path: Path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    project = Project.make(tmp_path, search={"trials": 2}, tracking={"uri": uri, "experiment": "digits"})
    search = ("search", project.config, "--executor", "inline")
    ended = project.run(*search)
    assert "2 trials: 2 completed" in ended.out
    assert "MLflow is away" in ended.err
    assert "MLflow lacks " in ended.err
    trials = project.trials()

    with mlflow_server(tmp_path, port):
        ended = project.run(*search, "--resume")
        assert "MLflow" not in ended.err
        assert project.trials() == trials  # nothing was run again
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("digits")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        assert {run.info.status for run in runs} == {"FINISHED"}
        logged = {int(r.data.tags["autocompress.trial"]): r for r in runs if "autocompress.trial" in r.data.tags}
        assert logged.keys() == project.counted().keys()
        for row in project.run("front", "digits", "--json").json()["front"]:
            assert row["run_id"] == logged[row["trial"]].info.run_id
            assert logged[row["trial"]].data.metrics["test_accuracy"] == row["metrics"]["test_accuracy"]
