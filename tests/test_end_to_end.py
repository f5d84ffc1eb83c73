"""A whole search on Ray workers, and everything that a user does with it afterwards, through the command line."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import onnxruntime
import optuna
import pytest
import yaml
from commandline import Project, Trial
from tiny import Ran

from autocompress.recipe import digest
from autocompress.techniques import load_recipe

SECONDS = {"restore", "decide", "apply", "train", "export", "load", "quality", "latency"}
METRICS = {
    "size_bytes",
    "params",
    "nonzero_params",
    "latency_ms",
    "latency_ms_low",
    "latency_ms_high",
    "speedup",
    "accuracy",
    "compression_ratio",
    "space_saving",
}


@dataclass(frozen=True)
class Searched:
    """A project after its search: what was printed, and the trials as they were then."""

    project: Project
    ended: Ran
    trials: dict[int, Trial]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """One search of six trials on two Ray workers, within a budget that everything meets."""
    project = Project.make(tmp_path_factory.mktemp("searched"))
    ended = project.run("search", project.config)
    return Searched(project, ended, project.trials())


@pytest.fixture(scope="module")
def resumed(searched: Searched) -> Ran:
    """The same study gone on with to eight trials, in one process, with its answer as JSON."""
    return searched.project.call(
        "search", searched.project.config, "--resume", "--trials", "8", "--executor", "inline", "--json"
    )


@pytest.fixture(scope="module")
def exported(searched: Searched) -> Path:
    """The knee of the front, exported."""
    searched.project.call("export", "digits", "--pick", "knee", "--out", "chosen")
    return searched.project.folder / "chosen"


def test_search_prints_the_front_the_verdict_and_the_next_commands(searched: Searched) -> None:
    lines = searched.ended.out.splitlines()
    assert lines[0].strip() == "digits: the front"
    first_cells = [line.split()[0] for line in lines if line.split()]
    assert first_cells.count("-") == 1  # the baseline's row
    assert "6 trials: 6 completed" in lines
    verdict = next(line for line in lines if line.startswith("feasible: "))
    # Accuracy at least the baseline's less 0.6; the limit is printed with four digits.
    assert "size_bytes at most 1.0 MB, accuracy at least 0." in verdict
    following = lines[lines.index("next:") + 1 :]
    assert [line.split()[:2] for line in following] == [
        ["autocompress", command] for command in ("ui", "show", "export", "search")
    ]
    assert following[-1].split() == ["autocompress", "search", "digits/search.yaml", "--resume", "--trials", "12"]


def test_logs_go_to_standard_error_only(searched: Searched) -> None:
    assert "6/6 trials" in searched.ended.err
    assert "starting Ray" in searched.ended.err
    assert "starting Ray" not in searched.ended.out


def test_every_trial_is_told_to_optuna_with_its_constraints(searched: Searched) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{searched.project.folder / 'autocompress.db'}")
    study = optuna.load_study(study_name="digits", storage=storage)
    first = study.trials[: len(searched.trials)]
    assert {trial.state for trial in first} == {optuna.trial.TrialState.COMPLETE}
    baseline = study.user_attrs["baseline"]
    for trial in first:
        metrics = trial.user_attrs["outcome"]["metrics"]
        assert trial.values == [metrics[name] for name in ("size_bytes", "accuracy", "latency_ms")]
        # 1 MB is 1,000,000 bytes, and a limit's violation is counted as a share of the limit.
        lowest = baseline["accuracy"] - 0.6
        assert trial.constraints == pytest.approx(
            {"size": metrics["size_bytes"] / 1e6 - 1, "accuracy_drop": (lowest - metrics["accuracy"]) / lowest}
        )
    storage.engine.dispose()


def test_every_outcome_says_where_its_time_went(searched: Searched) -> None:
    for number, trial in searched.trials.items():
        if "duplicate_of" not in trial.attributes:
            seconds = trial.outcome["seconds"]
            assert seconds.keys() >= SECONDS, f"trial {number} lacks {SECONDS - seconds.keys()}"
            assert all(value >= 0 for value in seconds.values())


def test_the_front_is_confirmed_on_the_test_split(searched: Searched) -> None:
    document = searched.project.call("front", "digits", "--json").json()
    assert document["verdict"] == "feasible"
    assert 0 <= document["baseline"]["test_accuracy"] <= 1
    assert all(0 <= row["metrics"]["test_accuracy"] <= 1 for row in document["front"])


def test_front_says_the_same_as_search(searched: Searched, resumed: Ran) -> None:
    assert searched.project.call("front", "digits", "--json").json() == resumed.json()


def test_a_resumed_search_goes_on_and_leaves_earlier_trials_as_they_were(searched: Searched, resumed: Ran) -> None:
    trials = searched.project.trials()
    assert {number: trials[number] for number in searched.trials} == searched.trials
    assert len(searched.project.counted()) == 8 == sum(resumed.json()["counts"].values())


def test_a_search_is_not_begun_twice_by_accident(searched: Searched) -> None:
    before = searched.project.trials()
    ended = searched.project.call("search", searched.project.config, expect=2)
    assert ended.out == ""
    assert "error: study 'digits' is in sqlite:///autocompress.db already" in ended.err
    assert "add --resume" in ended.err
    assert searched.project.trials() == before


def test_mlflow_holds_the_search(searched: Searched, resumed: Ran) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{searched.project.folder / 'mlflow.db'}")
    names = {experiment.name: experiment.experiment_id for experiment in client.search_experiments()}
    assert names.keys() == {"Default", "digits"}
    assert client.search_runs([names["Default"]]) == []
    runs = client.search_runs([names["digits"]])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = {int(run.data.tags["autocompress.trial"]): run for run in runs if run is not parent}
    counted = searched.project.counted()
    assert len(children) == len(runs) - 1
    assert children.keys() == counted.keys(), resumed.err
    document = resumed.json()
    front = {row["trial"]: row for row in document["front"]}
    for number, run in children.items():
        shown = searched.project.call("show", "digits", str(number), "--json").json()["metrics"]
        assert {name: run.data.metrics[name] for name in shown} == shown
        _check_child(client, run, parent.info.run_id, counted[number], number in front)
    for number, row in front.items():
        assert row["run_id"] == children[number].info.run_id
        assert children[number].data.metrics["test_accuracy"] == row["metrics"]["test_accuracy"]
    _check_parent(client, parent, counted)
    _check_models(client, names["digits"], {number: children[number].info.run_id for number in front})


def _check_child(client: Any, run: Any, parent: str, trial: Trial, on_front: bool) -> None:
    assert run.data.metrics.keys() >= METRICS
    assert run.data.metrics["seconds_latency"] == trial.outcome["seconds"]["latency"]
    expected = {
        "mlflow.parentRunId": parent,
        "autocompress.outcome": "completed",
        "autocompress.feasible": "true",
        "autocompress.front": str(on_front).lower(),
        "autocompress.fingerprint": digest(trial.attributes["recipe"])[:12],
    }
    assert {key: run.data.tags.get(key) for key in expected} == expected
    text = Path(client.download_artifacts(run.info.run_id, "recipe.yaml")).read_text()
    assert yaml.safe_load(text) == trial.attributes["recipe"]
    steps = trial.attributes["recipe"]["steps"]
    for index, step in enumerate(steps, 1):
        assert run.data.params[f"step{index}.technique"] == step["technique"]


def _check_parent(client: Any, parent: Any, counted: dict[int, Trial]) -> None:
    run_id = parent.info.run_id
    assert parent.data.tags["autocompress.verdict"] == "feasible"
    assert parent.data.params["budget.size"] == "1000000.0"
    history = {point.step: point.value for point in client.get_metric_history(run_id, "hypervolume")}
    assert history.keys() == counted.keys()
    assert all(earlier <= later for earlier, later in pairwise(value for _, value in sorted(history.items())))
    assert 0 < history[max(history)] <= 1
    assert {file.path for file in client.list_artifacts(run_id)} == {"config.yaml", "figures", "report.html"}
    page = Path(client.download_artifacts(run_id, "figures/front.html")).read_text()
    assert "size of the exported file" in page
    assert "<script src=" not in page  # it opens without a network
    picture = Path(client.download_artifacts(run_id, "figures/front.png")).read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")


def _check_models(client: Any, experiment: str, front: dict[int, str]) -> None:
    models = {model.source_run_id: model for model in client.search_logged_models([experiment])}
    assert models.keys() >= set(front.values())
    for run_id in front.values():
        folder = Path(urlparse(models[run_id].artifact_location).path)
        about = yaml.safe_load((folder / "MLmodel").read_text())
        shapes = [json.loads(about["signature"][side])[0]["tensor-spec"]["shape"] for side in ("inputs", "outputs")]
        assert shapes == [[-1, 1, 8, 8], [-1, 10]]
        session = onnxruntime.InferenceSession(folder / about["flavors"]["onnx"]["data"])
        (output,) = session.run(None, {"input": np.zeros((3, 1, 8, 8), np.float32)})
        assert output.shape == (3, 10)


ALONE = """
import json, sys
import numpy, onnxruntime
from sklearn.datasets import load_digits

pixels, labels = load_digits(return_X_y=True)
images = (pixels / 16).astype("float32").reshape(-1, 1, 8, 8)
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
found = {}
for name, part in (("accuracy", slice(1000, 1400)), ("test_accuracy", slice(1400, 1797))):
    (output,) = session.run(None, {"input": images[part]})
    found[name] = float((output.argmax(axis=1) == labels[part]).mean())
(one,) = session.run(None, {"input": images[:1]})
assert one.shape == (1, 10)
assert not {"torch", "autocompress", "onnx", "mlflow", "ray"} & sys.modules.keys()
print(json.dumps(found))
"""


def test_the_exported_file_alone_is_as_accurate_as_claimed(exported: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(exported / "model.onnx")],
        cwd=exported.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    measurement = json.loads((exported / "measurement.json").read_text())
    for name, value in json.loads(done.stdout).items():
        assert measurement["claimed"][name] == value
        assert measurement["measured"][name] == value


def test_the_export_is_of_a_trial_of_the_front(searched: Searched, exported: Path) -> None:
    document = searched.project.call("front", "digits", "--json").json()
    recipe = load_recipe(exported / "recipe.yaml").to_data()
    sizes = [row["metrics"]["size_bytes"] for row in document["front"] if row["recipe"] == recipe]
    assert sizes == [(exported / "model.onnx").stat().st_size]


def test_an_export_verifies_until_a_byte_of_it_is_flipped(searched: Searched, exported: Path) -> None:
    assert searched.project.call("verify", "chosen").out.splitlines()[-1] == "holds"
    damaged = searched.project.folder / "damaged"
    shutil.copytree(exported, damaged)
    data = bytearray((damaged / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (damaged / "model.onnx").write_bytes(data)
    ended = searched.project.call("verify", "damaged", expect=2)
    assert "damaged/model.onnx: differs from SHA256SUMS" in ended.err


def test_the_recipe_of_an_export_gives_the_same_file_elsewhere(exported: Path, tmp_path: Path) -> None:
    # A folder without a baseline, a stage or a study: everything is trained again, in one process instead of Ray's.
    elsewhere = Project.make(tmp_path)
    elsewhere.call("apply", str(exported / "recipe.yaml"), "--config", elsewhere.config, "--out", "again")
    again = tmp_path / "again"
    assert (again / "model.onnx").read_bytes() == (exported / "model.onnx").read_bytes()
    assert (again / "decisions.json").read_bytes() == (exported / "decisions.json").read_bytes()
