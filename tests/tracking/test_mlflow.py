"""MLflow read back through its own client, and a background that loses nothing while the store is away."""

import getpass
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from onnx import helper, numpy_helper

from autocompress.outcome import Completed, Failed, Infeasible, Metrics, Outcome, Stopped
from autocompress.recipe import Recipe
from autocompress.techniques import recipe_from_data
from autocompress.tracking import background as handing
from autocompress.tracking.background import Background
from autocompress.tracking.mlflow import MlflowTracker
from autocompress.tracking.protocol import Data, Member, MemoryTracker, Note, Row, StudyInfo, Summary

PATIENCE = 30.0
RECIPE = recipe_from_data(
    {
        "version": 1,
        "steps": [{"technique": "finetune", "epochs": 4}, {"technique": "int8_static", "per_channel": False}],
    }
)
METRICS = {"size_bytes": 5000.0, "accuracy": 0.9, "latency_ms": 0.2, "speedup": 2.0, "speedup_low": 1.9}
STARTED, ENDED = 1_700_000_000_000, 1_700_000_012_500


def file() -> bytes:
    """A small file that doubles its input."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["input", "two"], ["output"])],
        "g",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.array([2.0], np.float32), "two")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


EXAMPLE = (np.ones((4, 3), np.float32), np.full((4, 3), 2.0, np.float32))


def info(study: str, **params: Any) -> StudyInfo:
    params = {"search.trials": 10, "budget.size": 60_000.0, **params}
    baseline = {"size_bytes": 9000.0, "accuracy": 0.95}
    data = Data("folder:flowers", "0123456789abcdef", {"train": 64, "validation": 32, "test": 16})
    return StudyInfo(study, "experiment", params, f"study: {study}\n", baseline, "accuracy", "search.yaml", data)


def row(number: int, outcome: Outcome | None = None, recipe: Recipe = RECIPE) -> Row:
    return Row(number, recipe, outcome or Completed(METRICS, {}, {"train": 1.5}), STARTED, ENDED)


class Store:
    """An MLflow store in a folder, which takes a second or two to make."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"sqlite:///{folder}/mlflow.db"

    def tracker(self, study: str, **params: Any) -> MlflowTracker:
        """A tracker as each new search has one, begun."""
        made = MlflowTracker(self.uri, self.folder)
        made.begin(info(study, **params))
        return made

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def runs(self, query: str) -> list[Run]:
        experiment = self.client.get_experiment_by_name("experiment")
        assert experiment is not None
        return list(self.client.search_runs([experiment.experiment_id], query))

    def parents(self, study: str) -> list[Run]:
        """The parent runs of a study, of which there should be one."""
        return self.runs(f"tags.`autocompress.study` = '{study}' AND tags.`autocompress.role` = 'parent'")

    def parent(self, study: str) -> Run:
        (found,) = self.parents(study)
        return found

    def children(self, study: str) -> dict[int, list[Run]]:
        """The child runs by trial number."""
        found: dict[int, list[Run]] = {}
        for run in self.runs(f"tags.mlflow.parentRunId = '{self.parent(study).info.run_id}'"):
            found.setdefault(int(run.data.tags["autocompress.trial"]), []).append(run)
        return found

    def child(self, study: str, number: int) -> Run:
        (found,) = self.children(study)[number]
        return found

    def artifact(self, run: Run, name: str, folder: Path) -> bytes:
        return Path(self.client.download_artifacts(run.info.run_id, name, str(folder))).read_bytes()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all tests; each has a study of its own in it."""
    return Store(tmp_path_factory.mktemp("mlflow"))


def test_each_folder_has_a_store_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, study in (("here", "a"), ("there", "b")):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        tracker = MlflowTracker("sqlite:///mlflow.db", folder)
        tracker.begin(info(study))
        tracker.log(row(0))
        assert Store(folder).children(study).keys() == {0}


def test_the_parent_says_what_is_searched(store: Store, tmp_path: Path) -> None:
    store.tracker("parent")
    run = store.parent("parent")
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "parent"
    assert run.data.params == {"search.trials": "10", "budget.size": "60000.0"}
    assert run.data.metrics == {"baseline_size_bytes": 9000.0, "baseline_accuracy": 0.95}
    assert store.artifact(run, "config.yaml", tmp_path) == b"study: parent\n"
    experiment = store.client.get_experiment(run.info.experiment_id)
    assert experiment.name == "experiment"
    assert experiment.artifact_location == (store.folder / "mlruns").resolve().as_uri()


def test_a_child_says_what_was_done_and_measured(store: Store, tmp_path: Path) -> None:
    tracker = store.tracker("child")
    tracker.log(row(4))
    run = store.child("child", 4)
    assert (run.info.run_name, run.info.status) == ("#4 · 5.0 KB · 0.900 · 2.0x", "FINISHED")
    assert (run.info.start_time, run.info.end_time) == (STARTED, ENDED)
    assert run.data.metrics == {**METRICS, "seconds_train": 1.5}
    expected = {f"step1.{key}": str(value) for key, value in RECIPE.steps[0].to_data().items()}
    expected |= {f"step2.{key}": str(value) for key, value in RECIPE.steps[1].to_data().items()}
    assert run.data.params == expected
    assert expected["step1.technique"] == "finetune"
    assert expected["step2.per_channel"] == "False"
    tags = {key: value for key, value in run.data.tags.items() if key.startswith("autocompress.")}
    assert tags == {
        "autocompress.study": "child",
        "autocompress.trial": "4",
        "autocompress.outcome": "completed",
        "autocompress.front": "false",
        "autocompress.feasible": "true",
        "autocompress.fingerprint": RECIPE.fingerprint,
        "autocompress.recipe": "finetune(epochs=4) > int8_static(per_channel=False)",
    }
    assert yaml.safe_load(store.artifact(run, "recipe.yaml", tmp_path)) == RECIPE.to_data()
    assert tracker.run_ids() == {4: run.info.run_id}


def test_runs_say_by_what_whom_and_on_which_data(store: Store) -> None:
    tracker = store.tracker("who")
    for _ in range(2):
        tracker.log(row(1, Failed("broken")))
    for run in (store.parent("who"), store.child("who", 1)):
        tags = run.data.tags
        assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("search.yaml", "LOCAL")
        assert tags["mlflow.user"] == getpass.getuser()
        (given,) = run.inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("folder:flowers", "0123456789abcdef")
        examples = {"train_examples": 64, "validation_examples": 32, "test_examples": 16}
        assert json.loads(given.dataset.profile) == examples
    run = store.child("who", 1)
    assert run.info.run_name == "#1 · failed: broken"
    assert run.data.tags["mlflow.note.content"].startswith("**#1 · failed: broken**")


def test_an_experiment_is_one_of_trained_models_unless_somebody_said_otherwise(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.tracker("kind")
    experiment = store.client.get_experiment_by_name("experiment")
    assert experiment is not None
    key = "mlflow.experimentKind"
    assert experiment.tags[key] == "custom_model_development"
    store.client.delete_experiment_tag(experiment.experiment_id, key)  # as an earlier version left it
    store.tracker("kind")
    assert store.client.get_experiment(experiment.experiment_id).tags[key] == "custom_model_development"
    store.client.set_experiment_tag(experiment.experiment_id, key, "finetuning")
    store.tracker("kind")
    assert store.client.get_experiment(experiment.experiment_id).tags[key] == "finetuning"


def test_the_description_leads_to_runs_models_and_picture(store: Store) -> None:
    tracker = store.tracker("described")
    tracker.log(row(0))
    tracker.log_model(0, file(), EXAMPLE)
    cells = ("5.0 KB", "1.8x", "0.9000", "", "0.2", "2.00x")
    note = Note(("size",), ("1 trials", "feasible"), ("a", "b", "c", "d", "e", "f"), (Member(0, ("knee",), cells),), ())
    tracker.refresh(Summary((0,), "feasible", {}, {"figures/front.png": b"png", "report.html": b"<p>"}, note=note))
    parent, child = store.parent("described"), store.child("described", 0)
    text = parent.data.tags["mlflow.note.content"]
    assert f"[#0](#/experiments/{parent.info.experiment_id}/runs/{child.info.run_id}?" in text
    model = child.outputs.model_outputs[0].model_id
    assert f"logged-models/{model}/artifacts/files?artifact_file_path=model.onnx" in text
    assert f"get-artifact?path=figures/front.png&run_uuid={parent.info.run_id}" in text
    assert f"get-artifact?path=report.html&run_uuid={parent.info.run_id}" in text
    assert parent.info.run_id in tracker.page()
    view = store.client.get_experiment(parent.info.experiment_id).tags[f"mlflow.sharedViewState.{parent.info.run_id}"]
    assert "described" in json.loads(view)["searchFilter"]
    # A later search of the study finds the model again.
    again = store.tracker("described")
    again.refresh(Summary((0,), "feasible", {}, {}, note=note))
    assert f"logged-models/{model}/" in store.parent("described").data.tags["mlflow.note.content"]


def test_a_recipe_that_repeats_its_steps_is_logged_step_by_step_however_long(store: Store) -> None:
    pruning = {"only": {"layers": ["fc*"], "step": {"technique": "weight_pruning", "ratio": 0.3}}}
    steps = [{"repeat": {"times": 12, "steps": [pruning, "distill"]}}, "float16"]
    recipe = recipe_from_data({"version": 1, "steps": steps})
    tracker = store.tracker("repeats")
    tracker.log(row(0, recipe=recipe))
    run = store.child("repeats", 0)
    plain = [step.to_data() for step in recipe.steps]
    expected = {f"step{at}.{key}": str(value) for at, step in enumerate(plain, 1) for key, value in step.items()}
    assert len(expected) > 200
    assert run.data.params == expected
    assert (run.data.params["step1.layers"], run.data.params["step23.layers"]) == ("['fc*']", "['fc*']")


@pytest.mark.parametrize(
    ("outcome", "status", "tags"),
    [
        (Infeasible(METRICS, {"size": 0.2}, "past the limit on size"), "FINISHED", ("infeasible", "false")),
        (Stopped("weak"), "FINISHED", ("stopped", "false")),
        (Failed("RuntimeError: broken", seconds={"train": 2.0}), "FAILED", ("failed", "false")),
    ],
    ids=["infeasible", "stopped", "failed"],
)
def test_a_child_says_how_it_ended_and_why(
    store: Store, outcome: Infeasible | Stopped | Failed, status: str, tags: tuple[str, str]
) -> None:
    store.tracker(outcome.type).log(row(0, outcome))
    run = store.child(outcome.type, 0)
    assert run.info.status == status
    assert (run.data.tags["autocompress.outcome"], run.data.tags["autocompress.feasible"]) == tags
    assert run.data.tags["autocompress.reason"] == outcome.reason


def test_a_recipe_without_steps_is_logged(store: Store, tmp_path: Path) -> None:
    store.tracker("empty").log(row(0, recipe=Recipe()))
    run = store.child("empty", 0)
    assert run.data.params == {}
    assert yaml.safe_load(store.artifact(run, "recipe.yaml", tmp_path)) == {"version": 1, "steps": []}


def test_a_very_long_reason_and_recipe_are_cut_and_not_refused(store: Store) -> None:
    steps = tuple(RECIPE.steps[:1]) * 400
    store.tracker("long").log(row(0, Failed("x" * 20_000), Recipe(steps[:20])))
    assert len(store.child("long", 0).data.tags["autocompress.reason"]) == 4000


def test_a_refresh_moves_the_front_and_renews_figures(store: Store, tmp_path: Path) -> None:
    tracker = store.tracker("front")
    for number in range(3):
        tracker.log(row(number))

    def marked() -> list[str]:
        return [store.child("front", number).data.tags["autocompress.front"] for number in range(3)]

    tracker.refresh(Summary((0, 1), "feasible", {0: 0.1, 1: 0.2}, {"figures/front.html": b"old"}))
    assert marked() == ["true", "true", "false"]
    tracker.refresh(
        Summary((1, 2), "feasible", {0: 0.1, 1: 0.2, 2: 0.4}, {"figures/front.html": b"new", "verdict.txt": b"yes"})
    )
    assert marked() == ["false", "true", "true"]
    run = store.parent("front")
    assert run.data.tags["autocompress.verdict"] == "feasible"
    assert store.artifact(run, "figures/front.html", tmp_path) == b"new"
    assert store.artifact(run, "verdict.txt", tmp_path) == b"yes"


def volumes(store: Store, study: str) -> list[tuple[int, float]]:
    history = store.client.get_metric_history(store.parent(study).info.run_id, "hypervolume")
    return [(point.step, point.value) for point in history]


def test_hypervolume_is_a_metric_over_trials_written_once(store: Store) -> None:
    tracker = store.tracker("volume")
    tracker.refresh(Summary((), "infeasible", {0: 0.0, 2: 0.25}, {}))
    tracker.refresh(Summary((), "infeasible", {0: 0.0, 2: 0.25, 3: 0.5}, {}))
    again = store.tracker("volume")
    again.refresh(Summary((), "feasible", {0: 0.0, 2: 0.25, 3: 0.5, 4: 0.75}, {}))
    assert volumes(store, "volume") == [(0, 0.0), (2, 0.25), (3, 0.5), (4, 0.75)]


def test_a_long_study_can_be_logged_anew_at_once(store: Store) -> None:
    # MLflow takes at most 1,000 metrics in one request.
    expected = {number: number / 2500 for number in range(2500)}
    store.tracker("thousands").refresh(Summary((), "feasible", expected, {}))
    assert dict(volumes(store, "thousands")) == expected


def test_test_metrics_are_added_to_a_trial_that_is_there(store: Store) -> None:
    tracker = store.tracker("tested")
    tracker.log(row(0))
    tracker.log_confirmed(row(0), {"test_accuracy": 0.88})
    tracker.log_confirmed(row(7), {"test_accuracy": 0.1})  # never logged: nothing to add to
    tracker.log_confirmed(row(0, Infeasible({**METRICS, "speedup": 1.0}, {"speedup": 0.5}, "past")), {"speedup": 1.0})
    run = store.child("tested", 0)
    assert run.info.run_name == "#0 · 5.0 KB · 0.900 · 1.0x · past speedup"
    assert run.data.tags["autocompress.feasible"] == "false"
    tracker.log_confirmed(row(0), {"speedup": 2.0})
    assert store.child("tested", 0).info.run_name == "#0 · 5.0 KB · 0.900 · 2.0x"
    assert store.child("tested", 0).data.metrics == {**METRICS, "seconds_train": 1.5, "test_accuracy": 0.88}
    assert set(store.children("tested")) == {0}


def test_a_model_of_the_front_is_logged_with_its_signature_and_can_be_loaded(store: Store) -> None:
    tracker = store.tracker("model")
    tracker.log(row(0))
    tracker.log_model(0, file(), EXAMPLE)
    tracker.log_model(5, file(), EXAMPLE)  # never logged: nothing to add to
    run = store.child("model", 0)
    (output,) = run.outputs.model_outputs
    logged = store.client.get_logged_model(output.model_id)
    assert logged.name == "trial-0"
    loaded = mlflow.onnx.load_model(f"models:/{output.model_id}")
    assert loaded.SerializeToString() == file()
    signature = mlflow.models.get_model_info(f"models:/{output.model_id}").signature
    assert [tuple(field.shape) for field in (*signature.inputs, *signature.outputs)] == [(-1, 3), (-1, 3)]
    predicted = mlflow.pyfunc.load_model(f"models:/{output.model_id}").predict(EXAMPLE[0])
    np.testing.assert_array_equal(predicted["output"], EXAMPLE[1])
    assert run.data.tags["autocompress.model"] == "trial-0"


def test_models_of_the_front_are_registered_once_and_named_by_what_one_would_pick_them_for(store: Store) -> None:
    for aliases in ({"smallest": 0, "knee": 1}, {"smallest": 1, "knee": 1, "fastest": 2}):
        tracker = store.tracker("shelf")
        for number in range(3):
            tracker.log(row(number))
        for number in range(2):
            tracker.log_model(number, file(), EXAMPLE)
        tracker.refresh(Summary((0, 1, 2), "feasible", {}, {}))
        tracker.register(aliases)
    versions = store.client.search_model_versions("name='shelf'")
    assert {version.tags["autocompress.trial"]: version.run_id for version in versions} == {
        str(number): store.child("shelf", number).info.run_id for number in range(2)
    }
    # Trial 2 has no model, and so no alias.
    assert set(store.client.get_registered_model("shelf").aliases) == {"smallest", "knee"}
    for alias in ("smallest", "knee"):
        assert store.client.get_model_version_by_alias("shelf", alias).tags["autocompress.trial"] == "1"
    mlflow.set_tracking_uri(store.uri)
    assert mlflow.onnx.load_model("models:/shelf@knee").SerializeToString() == file()


def test_another_s_registered_model_is_left_alone(store: Store) -> None:
    store.client.create_registered_model("theirs")
    notes: list[str] = []
    tracker = MlflowTracker(store.uri, store.folder, notes.append)
    tracker.begin(info("theirs"))
    tracker.log(row(0))
    tracker.log_model(0, file(), EXAMPLE)
    tracker.refresh(Summary((0,), "feasible", {}, {}))
    tracker.register({"knee": 0})
    assert store.client.search_model_versions("name='theirs'") == []
    assert "another registered model 'theirs': nothing is registered" in notes[0]


def test_logging_a_model_leaves_the_run_as_it_ended(store: Store) -> None:
    tracker = store.tracker("ended")
    tracker.log(row(0))
    tracker.log_model(0, file(), EXAMPLE)
    found = store.child("ended", 0).info
    assert (found.status, found.start_time, found.end_time) == ("FINISHED", STARTED, ENDED)


def test_a_model_is_logged_once_however_often_it_is_asked_for(store: Store) -> None:
    for _ in range(2):
        tracker = store.tracker("one model")
        tracker.log(row(0))
        for _ in range(2):
            tracker.log_model(0, file(), EXAMPLE)
    assert len(store.child("one model", 0).outputs.model_outputs) == 1


def test_logging_and_beginning_again_makes_no_second_run(store: Store) -> None:
    for _ in range(3):
        tracker = store.tracker("again")
        for _ in range(2):
            tracker.log(row(0))
            tracker.log(row(1, Failed("broken")))
        tracker.end("FINISHED")
    assert len(store.parents("again")) == 1
    assert {number: len(runs) for number, runs in store.children("again").items()} == {0: 1, 1: 1}
    assert tracker.run_ids() == {number: runs[0].info.run_id for number, runs in store.children("again").items()}
    history = store.client.get_metric_history(store.child("again", 0).info.run_id, "accuracy")
    assert len(history) == 1


def test_a_resumed_search_opens_its_parent_again_and_keeps_its_front(store: Store) -> None:
    tracker = store.tracker("resumed")
    tracker.log(row(0))
    tracker.refresh(Summary((0,), "feasible", {0: 0.1}, {}))
    tracker.end("KILLED")
    assert store.parent("resumed").info.status == "KILLED"
    later = store.tracker("resumed", **{"search.trials": 20})  # more trials than at first
    assert store.parent("resumed").info.status == "RUNNING"
    later.log(row(1))
    later.refresh(Summary((1,), "feasible", {0: 0.1, 1: 0.2}, {}))
    assert store.child("resumed", 0).data.tags["autocompress.front"] == "false"
    assert store.child("resumed", 1).data.tags["autocompress.front"] == "true"
    later.end("FINISHED")
    assert store.parent("resumed").info.status == "FINISHED"


def test_a_half_written_child_is_completed_and_not_doubled(store: Store, tmp_path: Path) -> None:
    """As after a kill: the run is there and RUNNING, with some of its parameters and nothing else."""
    tracker = store.tracker("killed")
    parent = store.parent("killed")
    tags = {
        "mlflow.parentRunId": parent.info.run_id,
        "autocompress.study": "killed",
        "autocompress.trial": "2",
    }
    half = store.client.create_run(parent.info.experiment_id, start_time=STARTED, run_name="trial-2", tags=tags)
    store.client.log_param(half.info.run_id, "step1.technique", "finetune")
    tracker = store.tracker("killed")
    assert tracker.run_ids() == {}  # it is not there in full
    tracker.log(row(2))
    run = store.child("killed", 2)
    assert (run.info.run_id, run.info.status) == (half.info.run_id, "FINISHED")
    assert run.data.metrics["accuracy"] == 0.9
    assert run.data.tags["autocompress.feasible"] == "true"
    assert yaml.safe_load(store.artifact(run, "recipe.yaml", tmp_path)) == RECIPE.to_data()


def test_a_half_written_parent_is_completed(store: Store, tmp_path: Path) -> None:
    """As when the store goes away between making the parent run and filling it."""
    store.tracker("some other study")  # so that the experiment is there
    experiment = store.client.get_experiment_by_name("experiment")
    assert experiment is not None
    tags = {"autocompress.study": "half", "autocompress.role": "parent"}
    store.client.create_run(experiment.experiment_id, run_name="half", tags=tags)
    store.tracker("half")
    run = store.parent("half")
    assert run.data.params == {"search.trials": "10", "budget.size": "60000.0"}
    assert run.data.metrics["baseline_accuracy"] == 0.95
    assert store.artifact(run, "config.yaml", tmp_path) == b"study: half\n"


def test_two_studies_in_one_experiment_stay_apart(store: Store) -> None:
    store.tracker("left").log(row(0))
    store.tracker("right").log(row(1))
    assert (set(store.children("left")), set(store.children("right"))) == ({0}, {1})


def test_a_store_that_answers_is_alive_and_a_tracker_that_never_began_is_not(store: Store, tmp_path: Path) -> None:
    assert store.tracker("alive").alive()
    with pytest.raises(AttributeError):
        MlflowTracker(store.uri, tmp_path).alive()


class Shaky(MemoryTracker):
    """A memory tracker whose store can be switched off, and which refuses trial 13 always."""

    def __init__(self) -> None:
        super().__init__()
        self.off = threading.Event()
        self.calls: list[int] = []
        self.tries = 0

    def log(self, row: Row) -> None:
        """Keep it, unless the store is off."""
        self.tries += 1
        if self.off.is_set():
            raise ConnectionError("connection refused\nand more about it")
        if row.number == 13:
            raise ValueError("trial 13 has a bad name")
        self.calls.append(row.number)
        super().log(row)

    def alive(self) -> bool:
        """Like the store of a server that is down: asking it raises."""
        if self.off.is_set():
            raise ConnectionError("connection refused")
        return True

    def run_ids(self) -> dict[int, str]:
        """Made up from the numbers."""
        return {number: f"run-{number}" for number in self.rows}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(handing, "RETRY_SECONDS", 0.01)


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll for what another thread does."""
    deadline, moment = time.monotonic() + PATIENCE, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not come to this"
        moment.wait(0.005)


def logging(number: int) -> Callable[[Any], None]:
    return lambda tracker: tracker.log(row(number))


@pytest.fixture
def notes() -> list[str]:
    """What the background reports."""
    return []


def test_calls_are_made_in_order_by_another_thread(notes: list[str]) -> None:
    tracker = Shaky()
    background = Background(tracker, notes.append)
    threads: list[str] = []
    background.put(lambda _: threads.append(threading.current_thread().name))
    for number in range(60, 20, -1):
        background.put(logging(number))
    assert background.close() == 0
    assert tracker.calls == list(range(60, 20, -1))
    assert threads == ["tracking"]
    assert notes == []
    assert background.waiting == 0
    assert background.run_ids() == {number: f"run-{number}" for number in tracker.calls}


@pytest.mark.usefixtures("quick")
def test_nothing_is_lost_while_the_store_is_away(notes: list[str]) -> None:
    tracker = Shaky()
    background = Background(tracker, notes.append)
    background.put(logging(0))
    wait_until(lambda: tracker.calls == [0])
    tracker.off.set()
    for number in range(1, 6):
        background.put(logging(number))
    wait_until(lambda: tracker.tries > 5)  # tried and tried again
    assert background.away
    assert tracker.calls == [0]
    assert background.waiting == 5
    tracker.off.clear()
    assert background.close() == 0
    assert tracker.calls == [0, 1, 2, 3, 4, 5]
    assert not background.away
    assert notes == [
        "MLflow is away (connection refused): the search goes on and logs when it is back",
        "MLflow is back: logging what is missing",
    ]


@pytest.mark.usefixtures("quick")
def test_every_outage_is_reported_once(notes: list[str]) -> None:
    tracker = Shaky()
    background = Background(tracker, notes.append)
    for number in range(3):
        tracker.off.set()
        before = tracker.tries
        background.put(logging(number))
        wait_until(lambda before=before: tracker.tries > before + 3)
        tracker.off.clear()
        wait_until(lambda: background.waiting == 0)
    background.close()
    assert [note.split(":")[0].split(" (")[0] for note in notes] == ["MLflow is away", "MLflow is back"] * 3


def test_an_entry_that_the_store_refuses_does_not_block_the_rest(notes: list[str]) -> None:
    tracker = Shaky()
    background = Background(tracker, notes.append)
    for number in (1, 13, 2):
        background.put(logging(number))
    assert background.close() == 0
    assert tracker.calls == [1, 2]
    assert notes == ["MLflow refused an entry (trial 13 has a bad name): it is left out"]


def test_a_call_that_fails_just_before_the_store_comes_back_is_made_again(notes: list[str]) -> None:
    """The store was away for the call, but answers when it is asked: that alone must not lose the entry."""
    tracker = Shaky()
    background = Background(tracker, notes.append)
    failures = [ConnectionError("connection reset")]

    def call(_: Any) -> None:
        if failures:
            raise failures.pop()
        tracker.log(row(1))

    background.put(call)
    assert background.close() == 0
    assert (tracker.calls, notes) == ([1], [])


@pytest.mark.usefixtures("quick")
def test_an_entry_refused_after_an_outage_ends_the_outage(notes: list[str]) -> None:
    tracker = Shaky()
    background = Background(tracker, notes.append)
    tracker.off.set()
    background.put(logging(13))
    wait_until(lambda: background.away)
    tracker.off.clear()
    wait_until(lambda: background.waiting == 0)
    assert not background.away
    background.put(logging(1))
    assert background.close() == 0
    assert [note.split(" (")[0].split(":")[0] for note in notes] == [
        "MLflow is away",
        "MLflow is back",
        "MLflow refused an entry",
    ]


@pytest.mark.usefixtures("quick")
def test_closing_while_the_store_is_away_says_what_is_left(notes: list[str]) -> None:
    tracker = Shaky()
    background = Background(tracker, notes.append)
    tracker.off.set()
    for number in range(4):
        background.put(logging(number))
    wait_until(lambda: background.away)
    assert background.close() == 4
    assert tracker.calls == []


def test_closing_does_not_wait_for_the_next_try(notes: list[str]) -> None:
    """Five seconds lie between two tries; the end of a search must not wait for them."""
    tracker = Shaky()
    background = Background(tracker, notes.append)
    tracker.off.set()
    background.put(logging(0))
    wait_until(lambda: background.away)
    closed: list[int] = []
    closing = threading.Thread(target=lambda: closed.append(background.close()))
    closing.start()
    closing.join(handing.RETRY_SECONDS - 1)
    assert closed == [1]


def test_closing_gives_up_on_a_call_that_hangs(notes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing, "HUNG_SECONDS", 0.05)
    release = threading.Event()
    background = Background(MemoryTracker(), notes.append)
    background.put(lambda _: release.wait(PATIENCE) and None)
    background.put(lambda _: None)
    try:
        assert background.close() == 2
    finally:
        release.set()


def test_the_memory_tracker_keeps_everything() -> None:
    tracker = MemoryTracker()
    tracker.begin(info("memory"))
    tracker.log(row(1))
    tracker.log_confirmed(row(1), {"test_accuracy": 0.5})
    tracker.log_model(1, b"file", (None, None))
    summary = Summary((1,), "feasible", {1: 0.5}, {})
    tracker.refresh(summary)
    tracker.end("FINISHED")
    tracker.register({"knee": 1})
    assert (tracker.aliases, tracker.page()) == ({"knee": 1}, "")
    tests: dict[int, Metrics] = {1: {"test_accuracy": 0.5}}
    assert (tracker.rows, tracker.tests, tracker.models) == ({1: row(1)}, tests, {1: b"file"})
    assert (tracker.summary, tracker.status, tracker.run_ids(), tracker.alive()) == (summary, "FINISHED", {}, True)
