"""Executors by themselves: calls, lost workers, cancelling, joining a cluster, and shipping the task's code."""

import json
import math
import operator
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from commandline import DIGITS, PATIENCE

from autocompress.errors import ExecutorError, TaskError
from autocompress.executors import (
    SHIPPED_BYTES,
    SHIPPED_FILES,
    Executor,
    Finished,
    InlineExecutor,
    RayExecutor,
    stage_code,
)
from autocompress.executors.cluster import environment
from autocompress.executors.work import Shared, baseline_of
from autocompress.outcome import Completed, Failed
from autocompress.tasks import TaskReference, load_task, refer
from autocompress.trial.baseline import make_baseline
from autocompress.trial.trial import TrialSpec

# The digits, with a task that notes which Ray task looks at the validation split, and a network that may misbehave.
NOTING = r'''
"""The digits, noting who looks at them."""

import os
import signal
import threading
from pathlib import Path

import ray
from network import DigitsNet

import task

PLACE = Path({place!r})
PAUSE = threading.Event()


class Noting(task.Classification):
    def split(self, name):
        if name == "validation" and ray.is_initialized():
            context = ray.get_runtime_context()
            with (PLACE / "looks.txt").open("a") as file:
                file.write(f"{{context.get_task_name()}} {{context.get_task_id()}}\n")
        return super().split(name)


class Network(DigitsNet):
    def forward(self, x):
        if self.training and self.first.weight.shape[0] == 16:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.training and self.first.weight.shape[0] == 8:
            (PLACE / "begun").touch()
            while True:
                PAUSE.wait(1)
        return super().forward(x)


def noting():
    made = task.digits(Network)
    return Noting(made.make_model, made.train, made.validation, made.test, made.baseline)
'''


def recipe(ratio: float) -> dict[str, object]:
    """A recipe that leaves 32 (1 - ratio) of the network's 32 neurons."""
    pruning = {"technique": "channel_pruning", "ratio": ratio, "importance": "l1", "scope": "layer"}
    return {"version": 1, "steps": [pruning, {"technique": "finetune", "epochs": 1}]}


def results(executor: Executor, count: int) -> list[Finished]:
    """Wait until this many trials ended."""
    deadline, found = time.monotonic() + PATIENCE, list[Finished]()
    while len(found) < count:
        assert time.monotonic() < deadline
        found += executor.finished(0.5)
    return found


class Workbench:
    """A Ray executor whose task's code is there no longer: what works, works from the copy that was sent along."""

    def __init__(self, executor: RayExecutor, reference: TaskReference, place: Path) -> None:
        self.executor, self.reference, self.place = executor, reference, place

    def spec(self, number: int, ratio: float) -> TrialSpec:
        """A trial with a short measurement."""
        return TrialSpec(number, recipe(ratio), self.reference, seed=0, latency_seconds=0.1)

    def looks(self) -> dict[str, str]:
        """Which Ray tasks looked at the validation split: names by id."""
        rows = (self.place / "looks.txt").read_text().splitlines()
        return {identity: name for name, identity in (row.split() for row in rows)}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    place = tmp_path_factory.mktemp("place")
    code = tmp_path_factory.mktemp("code") / "project"
    shutil.copytree(DIGITS, code, ignore=shutil.ignore_patterns("__pycache__"))
    (code / "noting.py").write_text(NOTING.format(place=str(place)))
    reference = refer("noting.py:noting", code)
    executor = RayExecutor("local", 2, code)
    shutil.rmtree(code)
    try:
        executor.share(executor.call(make_baseline, reference, 0))
        yield Workbench(executor, reference, place)
    finally:
        executor.close()


@pytest.fixture(params=["inline", "ray"])
def executor(request: pytest.FixtureRequest) -> Executor:
    if request.param == "inline":
        return InlineExecutor()
    found: Workbench = request.getfixturevalue("bench")
    return found.executor


def test_call_returns_what_the_function_returned(executor: Executor) -> None:
    assert executor.call(operator.add, 40, 2) == 42
    assert executor.call(math.gcd, 12, 18) == 6


def test_call_raises_our_errors_as_they_were(executor: Executor, tmp_path: Path) -> None:
    missing = TaskReference("missing.py:task", str(tmp_path))
    with pytest.raises(TaskError, match=r"missing\.py: no such file"):
        executor.call(load_task, missing)


def test_call_on_ray_raises_an_executor_error_for_other_errors(bench: Workbench) -> None:
    with pytest.raises(ExecutorError, match="truediv failed: ZeroDivisionError: division by zero"):
        bench.executor.call(operator.truediv, 1, 0)


# What needs workers that have exported comes before what kills them.


def test_a_trial_runs_from_the_copy_of_the_code_and_is_measured_in_a_task_of_its_own(bench: Workbench) -> None:
    before = bench.looks()
    bench.executor.submit(bench.spec(7, 0.25))
    (finished,) = results(bench.executor, 1)
    assert finished.number == 7
    assert isinstance(finished.outcome, Completed), finished.outcome
    candidate = finished.candidate()
    assert candidate is not None
    assert len(candidate.onnx) == finished.outcome.metrics["size_bytes"]
    looked = {identity: name for identity, name in bench.looks().items() if identity not in before}
    assert sorted(looked.values()) == ["measure", "prepare"]


def test_an_inline_trial_gives_the_same_file_as_one_on_ray(bench: Workbench, tmp_path: Path) -> None:
    shutil.copytree(DIGITS, tmp_path / "code", ignore=shutil.ignore_patterns("__pycache__"))
    reference = refer("task.py:digits", tmp_path / "code")
    inline = InlineExecutor()
    inline.share(inline.call(make_baseline, reference, 0))
    spec = replace(bench.spec(0, 0.25), task=reference)
    inline.submit(spec)
    (here,) = inline.finished(0)
    bench.executor.submit(bench.spec(0, 0.25))
    (there,) = results(bench.executor, 1)
    mine, theirs = here.candidate(), there.candidate()
    assert mine is not None
    assert theirs is not None
    assert mine.onnx == theirs.onnx
    assert mine.decisions == theirs.decisions
    assert inline.finished(0) == []


def test_call_on_ray_raises_an_executor_error_when_two_workers_are_lost(bench: Workbench) -> None:
    with pytest.raises(ExecutorError, match="raise_signal failed on two workers: its worker was killed"):
        bench.executor.call(signal.raise_signal, signal.SIGKILL)


def test_call_on_ray_outlives_the_loss_of_a_worker(bench: Workbench, tmp_path: Path) -> None:
    begun, done = tmp_path / "begun", tmp_path / "done"
    code = f"""
import os, pathlib, signal
begun = pathlib.Path({str(begun)!r})
if not begun.exists():
    begun.touch()
    os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path({str(done)!r}).touch()
"""
    bench.executor.call(exec, code)
    assert done.exists()


def test_call_on_ray_says_in_one_line_what_the_workers_lack(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    here = types.ModuleType("only_here")
    exec("def work(): return 1", vars(here))
    monkeypatch.setitem(sys.modules, "only_here", here)
    with pytest.raises(ExecutorError) as caught:
        bench.executor.call(here.work)
    assert str(caught.value).endswith(": ModuleNotFoundError: No module named 'only_here'")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_trial_whose_worker_is_killed_is_lost_and_the_next_one_runs(bench: Workbench) -> None:
    bench.executor.submit(bench.spec(1, 0.5))
    (lost,) = results(bench.executor, 1)
    assert lost.outcome == Failed("its worker was killed", lost=True)
    assert lost.candidate() is None
    bench.executor.submit(bench.spec(2, 0.25))
    (kept,) = results(bench.executor, 1)
    assert isinstance(kept.outcome, Completed)


def test_cancel_gives_up_running_trials_and_frees_their_workers(bench: Workbench) -> None:
    for number in (3, 4):  # as many as there are workers
        bench.executor.submit(bench.spec(number, 0.75))
    deadline = time.monotonic() + PATIENCE
    while not (bench.place / "begun").exists():
        assert time.monotonic() < deadline
        assert bench.executor.finished(0.1) == []
    bench.executor.cancel()
    assert bench.executor.finished(0) == []
    assert bench.executor.call(operator.add, 1, 1) == 2


def test_a_trial_past_its_time_limit_comes_back_as_failed(bench: Workbench) -> None:
    bench.executor.submit(replace(bench.spec(5, 0.75), time_limit=5.0))
    (late,) = results(bench.executor, 1)
    assert late.outcome == Failed("ran past its time limit")
    bench.executor.submit(bench.spec(2, 0.25))
    (kept,) = results(bench.executor, 1)
    assert isinstance(kept.outcome, Completed)


CLUSTER = """
import sys
import ray

ray.init(address="local", num_cpus=1, num_gpus=1, resources={"bench": 1}, include_dashboard=False, log_to_driver=False,
         _temp_dir=sys.argv[1])
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
"""


@contextmanager
def cluster() -> Iterator[str]:
    """A Ray cluster of its own with the resource `bench`; yields its address, and ends with the block."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short: sockets have paths of at most 107 characters
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CLUSTER, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, "the cluster did not start"
        yield address
    finally:
        process.stdin.close()
        process.wait(PATIENCE)
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


JOIN = """
import json, operator, os, sys
from autocompress.config import Target
from autocompress.executors import RayExecutor
import ray

for given, runtime in ((sys.argv[1], "onnxruntime-cpu"), ("auto", "onnxruntime-cuda")):
    if given == "auto":
        os.environ["RAY_ADDRESS"] = sys.argv[1]
    executor = RayExecutor(given, 2, None, Target(resource="bench", runtime=runtime), gpus=0.5)
    found = {
        "address": ray.get_runtime_context().gcs_address,
        "resources": ray.cluster_resources(),
        "sum": executor.call(operator.add, 40, 2),
        "threads": executor.call(os.getenv, "OMP_NUM_THREADS"),
        "measures on": executor.call(os.getenv, "CUDA_VISIBLE_DEVICES"),
        "trains on": executor.call(os.getenv, "CUDA_VISIBLE_DEVICES", trains=True),
    }
    executor.close()
    print(json.dumps(found))
"""


def test_a_running_cluster_is_joined_by_address_and_by_auto_and_outlives_the_search() -> None:
    with cluster() as address:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", JOIN, address],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        by_address, by_auto = map(json.loads, done.stdout.splitlines())
        for found in (by_address, by_auto):
            assert found["address"] == address
            assert found["resources"]["bench"] == 1
            assert (found["sum"], found["threads"]) == (42, "1")
            assert found["trains on"] == "0", "its only GPU"
        assert by_address["measures on"] != "0"
        assert by_auto["measures on"] == "0", "the target is one"


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # taken, but not listening
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(ExecutorError, match=f"nothing listens at {address}: start a cluster there"):
            RayExecutor(address, 1, None)


def test_a_program_that_uses_ray_itself_is_not_cut_off_from_it(bench: Workbench) -> None:
    with pytest.raises(ExecutorError, match=r"is connected to Ray already: call ray.shutdown\(\) first"):
        RayExecutor("local", 1, None)
    assert bench.executor.call(operator.add, 1, 2) == 3


@pytest.mark.parametrize("address", ["cluster", "10.0.0.1", "10.0.0.1:ray", ":6379"])
def test_an_address_without_host_or_port_is_refused(address: str) -> None:
    with pytest.raises(ExecutorError, match="write auto, local or HOST:PORT"):
        RayExecutor(address, 1, None)


def test_an_image_takes_the_place_of_the_code_as_ray_wants_it(tmp_path: Path) -> None:
    from ray.runtime_env import RuntimeEnv

    assert RuntimeEnv(**environment(tmp_path, "team/task:1.0"))["image_uri"] == "team/task:1.0"
    assert RuntimeEnv(**environment(tmp_path))["py_modules"] == [str(tmp_path)]
    with pytest.raises(ValueError, match="image_uri"):  # else code could be sent along after all
        RuntimeEnv(**{**environment(tmp_path), **environment(None, "team/task:1.0")})


def staged(folder: Path) -> set[str]:
    """What stage_code copies of a folder."""
    stage = stage_code(folder)
    return {path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file()}


def test_code_and_small_files_are_shipped_but_not_hidden_or_generated_ones(tmp_path: Path) -> None:
    shipped = {"task.py", "network.py", "classes.txt", "package/__init__.py", "package/deep/layers.py"}
    left = {".env", ".git/config", "__pycache__/task.pyc", "mlruns/0/meta.yaml", "venv/lib/x.py", "package/.secret"}
    for name in shipped | left:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    assert staged(tmp_path) == shipped
    assert (stage_code(tmp_path) / "package/deep/layers.py").read_text() == "package/deep/layers.py"


def sparse(path: Path, size: int) -> None:
    """A file of this size that takes no space."""
    with path.open("wb") as file:
        file.truncate(size)


def test_files_past_the_cap_on_bytes_stay_behind(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text("x = 1\n")  # 6 bytes
    sparse(tmp_path / "huge.npy", SHIPPED_BYTES + 1)
    sparse(tmp_path / "just_too_big.npy", SHIPPED_BYTES - 5)
    (tmp_path / "small.txt").write_text("small")
    assert staged(tmp_path) == {"task.py", "small.txt"}


def test_no_more_files_are_shipped_than_the_cap_says(tmp_path: Path) -> None:
    for index in range(SHIPPED_FILES + 5):
        (tmp_path / f"{index}.png").touch()
    assert len(staged(tmp_path)) == SHIPPED_FILES


def test_data_does_not_crowd_out_the_code_of_subfolders(tmp_path: Path) -> None:
    for index in range(SHIPPED_FILES):
        (tmp_path / f"{index}.png").touch()
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "layers.py").touch()
    assert "zoo/layers.py" in staged(tmp_path)


def test_links_that_lead_nowhere_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "task.py").touch()
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing")
    assert staged(tmp_path) == {"task.py"}


def test_a_worker_reads_the_baseline_once_until_another_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    read: list[str] = []
    monkeypatch.setattr(ray, "get", lambda ref: read.append(ref) or f"baseline of {ref}")
    monkeypatch.setattr("autocompress.executors.work._BASELINES", {})
    found = [baseline_of(Shared(key, key)) for key in ("a", "a", "b", "b", "a")]
    assert found == ["baseline of a", "baseline of a", "baseline of b", "baseline of b", "baseline of a"]
    assert read == ["a", "b", "a"]  # one at a time is kept
