"""Every command that answers by itself, on a task of one layer: exit codes, and JSON on standard output."""

import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny import Ran, configure, make_project, run

import autocompress
from autocompress.config import SearchConfig
from autocompress.errors import RecipeError
from autocompress.recipe import Recipe
from autocompress.techniques import recipe_from_data, recipe_from_yaml, registry
from autocompress.terminal import details

COMMANDS = [
    "search",
    "plan",
    "list",
    "front",
    "show",
    "explain",
    "report",
    "export",
    "apply",
    "verify",
    "techniques",
    "ui",
    "doctor",
    "serve",
    "token",
    "attach",
    "pause",
    "resume",
    "cancel",
]
METRICS = {
    "size_bytes", "params", "nonzero_params", "accuracy", "compression_ratio", "space_saving",
    "latency_ms", "latency_ms_low", "latency_ms_high", "speedup",
}  # fmt: skip
FILES = {
    "model.onnx", "recipe.yaml", "decisions.json", "measurement.json", "environment.json", "MODEL_CARD.md",
    "SHA256SUMS",
}  # fmt: skip


@dataclass(frozen=True)
class Searched:
    """A folder in which a plan was made and then a search run, and what both printed."""

    folder: Path
    planned: Ran
    after_plan: set[str]
    ended: Ran

    @property
    def document(self) -> Any:
        """What the search printed."""
        return self.ended.json()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """Three trials in this process within limits that everything meets."""
    folder = make_project(tmp_path_factory.mktemp("searched"), budget={"size": "1 MB", "accuracy_drop": 0.95})
    planned = run(folder, "plan", "search.yaml", "--json")
    names = {path.name for path in folder.iterdir()}
    return Searched(folder, planned, names, run(folder, "search", "search.yaml", "--executor", "inline", "--json"))


@pytest.fixture(scope="module")
def exported(searched: Searched) -> tuple[Path, Ran]:
    """The smallest trial of the front, exported."""
    ran = run(searched.folder, "export", "tiny", "--pick", "smallest", "--out", "chosen", "--json")
    return searched.folder / "chosen", ran


# Searching


def test_a_search_prints_one_document_with_the_documented_keys(searched: Searched) -> None:
    assert searched.ended.code == 0
    document = searched.document
    assert document.keys() == {
        "study", "verdict", "baseline", "front", "nearest_miss", "binding_limit", "loosen", "counts",
        "expected_gain", "ended",
    }  # fmt: skip
    assert (document["study"], document["verdict"]) == ("tiny", "feasible")
    assert document["counts"] == {"completed": 3, "infeasible": 0, "stopped": 0, "failed": 0}
    assert document["nearest_miss"] is None
    assert document["binding_limit"] is None
    assert document["expected_gain"] is None  # of three trials nothing is foretold
    assert document["front"]
    for row in document["front"]:
        assert row.keys() == {"trial", "recipe", "metrics", "feasible", "run_id"}
        assert row["feasible"] is True
        assert row["run_id"] is None
        assert row["metrics"].keys() >= METRICS | {"test_accuracy"}
        assert isinstance(recipe_from_data(row["recipe"]), Recipe)


def test_the_baseline_is_right_everywhere_as_its_own_answers_are_the_labels(searched: Searched) -> None:
    baseline = searched.document["baseline"]
    assert baseline["accuracy"] == baseline["test_accuracy"] == 1.0
    assert baseline["params"] == 64 * 4 + 4
    assert baseline["speedup"] == baseline["compression_ratio"] == 1.0


def test_metrics_of_a_row_agree_with_one_another(searched: Searched) -> None:
    baseline = searched.document["baseline"]
    for row in searched.document["front"]:
        found = row["metrics"]
        ratio = baseline["size_bytes"] / found["size_bytes"]
        assert found["compression_ratio"] == pytest.approx(ratio)
        assert found["space_saving"] == pytest.approx(1 - 1 / ratio)
        assert found["latency_ms_low"] <= found["latency_ms"] <= found["latency_ms_high"]
        assert found["size_bytes"] < baseline["size_bytes"]


def test_no_row_of_the_front_beats_another(searched: Searched) -> None:
    points = [
        (row["metrics"]["size_bytes"], -row["metrics"]["accuracy"], row["metrics"]["latency_ms"])
        for row in searched.document["front"]
    ]
    for one in points:
        for other in points:
            assert one == other or any(a < b for a, b in zip(one, other, strict=True))


def test_progress_goes_to_standard_error(searched: Searched) -> None:
    assert "checking the task" in searched.ended.err
    assert "3/3 trials" in searched.ended.err
    assert "error" not in searched.ended.err


def test_a_budget_that_nothing_meets_ends_with_3_and_the_nearest_miss(searched: Searched) -> None:
    # Even one singular vector in 16 bits takes (64 + 4) * 2 = 136 bytes.
    configure(searched.folder / "tight.yaml", study="tight", budget={"size": "100 B"})
    ended = run(searched.folder, "search", "tight.yaml", "--executor", "inline", "--trials", "2", "--json")
    document = ended.json()
    assert ended.code == 3
    assert document["verdict"] == "infeasible"
    assert document["front"] == []
    assert document["counts"] == {"completed": 0, "infeasible": 2, "stopped": 0, "failed": 0}
    assert document["binding_limit"] == "size"
    assert document["nearest_miss"].keys() == {"trial", "recipe", "metrics", "feasible", "run_id"}
    assert document["nearest_miss"]["feasible"] is False
    sizes = {
        number: run(searched.folder, "show", "tight", str(number), "--json").json()["metrics"]["size_bytes"]
        for number in (0, 1)
    }
    assert sizes[document["nearest_miss"]["trial"]] == min(sizes.values())
    (loosen,) = document["loosen"]
    smallest = min(sizes.values())
    assert (loosen["limit"], loosen["bound"], loosen["alone"], loosen["together"]) == ("size", 100, smallest, smallest)
    again = run(searched.folder, "front", "tight")
    assert again.code == 3
    assert "infeasible: nothing meets the budget (size_bytes at most 100 B)" in again.out
    assert "the limit that binds: size" in again.out
    (line,) = [line for line in again.out.splitlines() if line.startswith("  size alone at ")]
    # The limit that it names is met.
    value = line.removeprefix("  size alone at ").partition(" (trial")[0]
    configure(searched.folder / "loose.yaml", study="loose", budget={"size": value})
    loose = run(searched.folder, "search", "loose.yaml", "--executor", "inline", "--trials", "2", "--json")
    assert (loose.code, loose.json()["verdict"]) == (0, "feasible")


def test_a_search_in_which_nothing_finishes_ends_with_4_and_the_reasons(searched: Searched) -> None:
    # Four nearly orthogonal rows share the energy alike: 98% of it needs rank 4, and 4 * (64 + 4) > 64 * 4.
    space = {
        "version": 1,
        "steps": [{"technique": "svd", "energy": [0.98, 0.99, 0.3]}],
        "start": [{"svd.energy": 0.98}, {"svd.energy": 0.99}],
    }
    (searched.folder / "rigid.yaml").write_text(yaml.safe_dump(space))
    configure(searched.folder / "broken.yaml", study="broken", search_space="rigid.yaml")
    ended = run(searched.folder, "search", "broken.yaml", "--executor", "inline", "--trials", "2")
    assert ended.code == 4
    assert "nothing finished" in ended.out
    assert "finds no layer that would shrink: lower energy or leave the step out" in ended.out
    again = run(searched.folder, "front", "broken", "--json")
    document = again.json()
    assert again.code == 4
    assert document["verdict"] == "nothing_finished"
    assert document["counts"] == {"completed": 0, "infeasible": 0, "stopped": 0, "failed": 2}
    assert (document["front"], document["nearest_miss"], document["binding_limit"]) == ([], None, None)


def test_resuming_goes_on_to_the_number_of_trials_and_keeps_what_was_found(searched: Searched) -> None:
    configure(searched.folder / "long.yaml", study="long")
    first = run(searched.folder, "search", "long.yaml", "--executor", "inline", "--trials", "1", "--json")
    shown = run(searched.folder, "show", "long", "0", "--json").json()
    second = run(searched.folder, "search", "long.yaml", "--executor", "inline", "--trials", "2", "--resume", "--json")
    assert (first.code, second.code) == (0, 0)
    assert first.json()["counts"]["completed"] == 1
    assert second.json()["counts"]["completed"] == 2
    again = run(searched.folder, "show", "long", "0", "--json").json()
    assert {**again, "metrics": None} == {**shown, "metrics": None}
    # The front is timed anew at each end of a search; all else stays, and so does what was timed while it ran.
    timed = {name for name in shown["metrics"] if name.startswith(("latency", "speedup"))}
    assert timed >= {"latency_ms", "speedup", "speedup_low", "speedup_high"}
    kept = {name: value for name, value in shown["metrics"].items() if name not in timed}
    assert kept.items() <= again["metrics"].items()
    assert {"search_speedup", "search_latency_ms"} <= kept.keys()


def test_the_milliseconds_and_the_speed_ups_of_a_front_are_of_the_same_bursts(searched: Searched) -> None:
    base = searched.document["baseline"]["latency_ms"]
    for row in searched.document["front"]:
        metrics = row["metrics"]
        assert metrics["latency_ms"] * metrics["speedup"] == pytest.approx(base)
        assert metrics["measured_alone"] == 1.0


# Planning


def test_a_plan_prints_config_baseline_limits_and_the_size_of_the_space(searched: Searched) -> None:
    document = searched.planned.json()
    assert searched.planned.code == 0
    assert document["config"]["study"] == "tiny"
    assert document["recipes"] == 4  # two energies, each with float16 or without
    assert document["baseline"]["accuracy"] == 1.0
    limits = {limit["label"]: (limit["metric"], limit["sense"], limit["bound"]) for limit in document["limits"]}
    assert limits == {
        "size": ("size_bytes", "at_most", 1e6),
        "accuracy_drop": ("accuracy", "at_least", pytest.approx(0.05)),  # 1 - 0.95
    }
    assert document["estimated_seconds"] > 0


def test_a_plan_starts_no_study(searched: Searched) -> None:
    assert "search.yaml" in searched.after_plan
    assert not any(name.endswith(".db") for name in searched.after_plan)


def test_the_baseline_of_a_plan_is_the_one_that_is_searched_from(searched: Searched) -> None:
    planned, found = searched.planned.json()["baseline"], searched.document["baseline"]
    kept = {
        name: value for name, value in planned.items() if not name.startswith("latency_ms")
    }  # timed again at the end
    assert {"size_bytes", "accuracy"} <= kept.keys()
    assert kept.items() <= found.items()


def test_a_plan_of_an_endless_space_is_json_too(searched: Searched) -> None:
    configure(searched.folder / "endless.yaml", study="endless", search_space="hybrid")
    planned = run(searched.folder, "plan", "endless.yaml", "--json")
    assert planned.json()["recipes"] is None
    assert any("endless" in line for line in planned.json()["lines"])


def test_a_plan_can_be_read(searched: Searched) -> None:
    planned = run(searched.folder, "plan", "search.yaml")
    assert planned.code == 0
    assert "size_bytes at most 1.0 MB, accuracy at least 0.05" in planned.out
    assert "4 recipes" in planned.out


# Looking at studies


def test_front_prints_the_document_of_the_search(searched: Searched) -> None:
    front = run(searched.folder, "front", "tiny", "--json")
    assert front.code == 0
    assert front.json() == searched.document
    assert front.err == ""


def test_front_as_csv_holds_the_same_numbers_under_the_baseline(searched: Searched) -> None:
    ran = run(searched.folder, "front", "tiny", "--csv")
    assert ran.code == 0
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    document = searched.document
    assert [row["case"] for row in rows] == ["baseline", *(f"trial {row['trial']}" for row in document["front"])]
    for row, metrics in zip(rows, [document["baseline"], *(r["metrics"] for r in document["front"])], strict=True):
        assert {name: float(row[name]) for name in metrics} == pytest.approx(metrics)


def test_front_as_text_has_one_row_a_trial(searched: Searched) -> None:
    ran = run(searched.folder, "front", "tiny")
    numbers = [line.split()[0] for line in ran.out.splitlines() if " KB" in line or " B " in line]
    assert numbers == ["-", *(str(row["trial"]) for row in searched.document["front"])]
    assert "feasible" in ran.out


def test_list_shows_every_study_with_its_counts(searched: Searched) -> None:
    ran = run(searched.folder, "list", "--json")
    assert ran.code == 0
    row = next(row for row in ran.json() if row["study"] == "tiny")
    assert row == {
        "study": "tiny",
        "verdict": "feasible",
        "front": len(searched.document["front"]),
        **searched.document["counts"],
    }
    assert "tiny" in run(searched.folder, "list").out


def test_the_package_runs_as_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "autocompress", "list", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)) == (0, []), done.stderr


def test_list_of_nothing_is_an_empty_list(tmp_path: Path) -> None:
    ran = run(tmp_path, "list", "--json")
    assert (ran.code, ran.json()) == (0, [])
    ran = run(tmp_path, "list")
    assert (ran.code, ran.out) == (0, "")
    assert "no studies" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_storage_is_an_option_or_an_environment_variable(searched: Searched, tmp_path: Path) -> None:
    url = f"sqlite:///{searched.folder / 'autocompress.db'}"
    assert run(tmp_path, "front", "tiny", "--json", "--storage", url).json() == searched.document
    assert run(tmp_path, "front", "tiny", "--json", storage=url).json() == searched.document
    # The option goes before the variable.
    assert run(tmp_path, "list", "--json", "--storage", "sqlite:///none.db", storage=url).json() == []


def test_show_prints_one_trial_in_full(searched: Searched) -> None:
    for row in searched.document["front"]:
        ran = run(searched.folder, "show", "tiny", str(row["trial"]), "--json")
        document = ran.json()
        assert ran.code == 0
        assert {key: document[key] for key in row} == row
        assert document.keys() - row.keys() == {
            "study",
            "outcome",
            "reason",
            "doing",
            "details",
            "violations",
            "seconds",
            "rungs",
            "carried_out",
            "decisions",
            "quality",
            "from_scratch",
        }
        assert document["outcome"] == "completed"
        assert document["violations"]["size"] == pytest.approx(row["metrics"]["size_bytes"] / 1e6 - 1)
        assert len(document["decisions"]) == len(row["recipe"]["steps"])


def test_show_can_be_read(searched: Searched) -> None:
    row = searched.document["front"][0]
    lines = run(searched.folder, "show", "tiny", str(row["trial"])).out.splitlines()
    assert lines[0] == f"trial {row['trial']} of tiny: completed"
    assert [line.split()[2].split("(")[0] for line in lines if line.startswith("step ")] == [
        step["technique"] for step in row["recipe"]["steps"]
    ]
    assert any(line.split()[:2] == ["size_bytes", f"{row['metrics']['size_bytes']:,.0f}"] for line in lines)


# Artifacts


def test_an_export_holds_the_documented_files_with_their_checksums(exported: tuple[Path, Ran]) -> None:
    folder, ran = exported
    assert ran.code == 0
    assert {path.name for path in folder.iterdir()} == FILES
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_an_export_is_the_trial_that_was_picked(searched: Searched, exported: tuple[Path, Ran]) -> None:
    folder, ran = exported
    rows = searched.document["front"]
    smallest = min(rows, key=lambda row: row["metrics"]["size_bytes"])
    assert f"exporting trial {smallest['trial']}: " in ran.err
    assert recipe_from_yaml((folder / "recipe.yaml").read_text()) == recipe_from_data(smallest["recipe"])
    measurement = ran.json()
    assert measurement == json.loads((folder / "measurement.json").read_text())
    assert measurement["claimed"] == smallest["metrics"]
    assert measurement["measured"]["size_bytes"] == (folder / "model.onnx").stat().st_size


def test_an_export_times_the_uncompressed_model_again_with_its_interval(
    searched: Searched, exported: tuple[Path, Ran]
) -> None:
    _, ran = exported
    planned, now, found = searched.planned.json()["baseline"], ran.json()["baseline"], ran.json()["measured"]
    assert now["latency_ms"] == pytest.approx(found["latency_ms"] * found["speedup"])
    for name in ("latency_ms_low", "latency_ms_high", "latency_ms_p90"):
        assert now[name] / now["latency_ms"] == pytest.approx(planned[name] / planned["latency_ms"])


def test_an_exported_model_is_as_accurate_as_it_claims(exported: tuple[Path, Ran]) -> None:
    folder, ran = exported
    # The validation split as the task file makes it, written out again.
    pixels = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        labels = torch.nn.Linear(64, 4)(pixels.flatten(1)).argmax(1).numpy()
    answers = autocompress.load(folder)(pixels.numpy()).argmax(1)
    assert np.mean(answers == labels) == pytest.approx(ran.json()["measured"]["accuracy"])


def test_an_artifact_that_holds_what_it_claims_is_verified(searched: Searched, exported: tuple[Path, Ran]) -> None:
    ran = run(searched.folder, "verify", "chosen", "--json")
    document = ran.json()
    assert ran.code == 0
    assert document.keys() == {"study", "quality", "claimed", "measured", "wrong", "not_checked"}
    assert document["wrong"] == []
    assert document["not_checked"] == {}
    for name in ("size_bytes", "params", "accuracy", "test_accuracy"):
        assert document["measured"][name] == document["claimed"][name]


def test_without_a_task_an_artifact_is_verified_as_far_as_it_goes(exported: tuple[Path, Ran], tmp_path: Path) -> None:
    folder, _ = exported
    ran = run(tmp_path, "verify", str(folder))
    assert ran.code == 0
    lines = [line for line in ran.out.splitlines() if line.startswith("not checked: ")]
    assert "accuracy, " in "".join(lines)
    assert all(line.endswith("no study 'tiny' in the storage: give --config)") for line in lines)
    assert "holds" in ran.out


def test_an_artifact_that_claims_too_much_is_not_verified(
    searched: Searched, exported: tuple[Path, Ran], tmp_path: Path
) -> None:
    liar = tmp_path / "liar"
    shutil.copytree(exported[0], liar)
    measurement = json.loads((liar / "measurement.json").read_text())
    measurement["measured"]["accuracy"] += 0.01
    measurement["measured"]["size_bytes"] -= 1
    data = json.dumps(measurement).encode()
    old = hashlib.sha256((liar / "measurement.json").read_bytes()).hexdigest()
    (liar / "measurement.json").write_bytes(data)
    sums = (liar / "SHA256SUMS").read_text()
    (liar / "SHA256SUMS").write_text(sums.replace(old, hashlib.sha256(data).hexdigest()))
    ran = run(searched.folder, "verify", str(liar), "--config", "search.yaml", "--json")
    assert ran.code == 2
    assert [reason.split()[0] for reason in ran.json()["wrong"]] == ["size_bytes", "accuracy"]


def test_a_recipe_is_applied_without_a_study(searched: Searched, tmp_path: Path) -> None:
    recipe = tmp_path / "half.yaml"
    recipe.write_text("version: 1\nsteps: [float16]\n")
    studies = run(searched.folder, "list", "--json").json()
    out = tmp_path / "deep" / "half"
    ran = run(searched.folder, "apply", str(recipe), "--config", "search.yaml", "--out", str(out), "--json")
    assert ran.code == 0
    assert {path.name for path in out.iterdir()} == FILES
    found = ran.json()
    # 256 weights are stored in two bytes in place of four, and a cast that takes less than 100 bytes is added.
    saved = found["baseline"]["size_bytes"] - found["measured"]["size_bytes"]
    assert 512 - 100 < saved < 512
    assert run(searched.folder, "list", "--json").json() == studies


def test_a_recipe_past_a_limit_is_applied_but_ends_with_3(searched: Searched, tmp_path: Path) -> None:
    recipe = tmp_path / "nothing.yaml"
    recipe.write_text("version: 1\nsteps: []\n")
    configure(searched.folder / "small.yaml", budget={"size": "100 B"})
    ran = run(searched.folder, "apply", str(recipe), "--config", "small.yaml", "--out", str(tmp_path / "out"), "--json")
    assert ran.code == 3
    assert ran.json()["violations"]["size"] == pytest.approx(ran.json()["measured"]["size_bytes"] / 100 - 1)
    assert "past the limit on size" in ran.err


# What is installed


def test_techniques_prints_every_technique_with_its_defaults(tmp_path: Path) -> None:
    ran = run(tmp_path, "techniques", "--json")
    assert ran.code == 0
    rows = {row["technique"]: row for row in ran.json()}
    assert rows.keys() == registry().keys()
    for name, kind in registry().items():
        row = rows[name]
        assert (row["family"], row["kind"]) == (kind.family, kind.kind)
        assert row["about"]
        settings = {key: setting["default"] for key, setting in row["settings"].items()}
        assert {"technique": name, **settings} == kind().to_data()
        assert row["by_layer"] is kind.by_layer
        for other, before in registry().items():
            assert (other in row["may_follow"]) == _goes(before(), kind())


def _goes(first: Any, second: Any) -> bool:
    try:
        Recipe((first, second))
    except RecipeError:
        return False
    return True


def test_techniques_can_be_read(tmp_path: Path) -> None:
    out = run(tmp_path, "techniques").out
    assert all(name in out for name in registry())


def test_what_a_task_prints_stays_off_standard_output(tmp_path: Path) -> None:
    make_project(tmp_path)
    path = tmp_path / "task.py"
    path.write_text(path.read_text() + '\n\ndef chatty():\n    print("reading the pixels")\n    return tiny()\n')
    configure(tmp_path / "search.yaml", task="task.py:chatty")
    ran = run(tmp_path, "search", "search.yaml", "--executor", "inline", "--trials", "1", "--json")
    assert ran.json()["study"] == "tiny"
    assert "reading the pixels" in ran.err


def test_doctor_says_what_is_there(tmp_path: Path) -> None:
    ran = run(tmp_path, "doctor", "--json")
    rows = ran.json()
    assert all(row.keys() == {"what", "ok", "found", "fix"} for row in rows)
    assert ran.code == 0
    found = {row["what"]: row["found"] for row in rows}
    assert found["torch"] == torch.__version__.partition("+")[0]
    assert found.keys() >= {"python", "processor", "8-bit instructions", "ray", "optuna", "mlflow", "onnx", "storage"}
    assert list(tmp_path.iterdir()) == []
    assert "storage" in run(tmp_path, "doctor").out


def test_doctor_prints_the_brackets_of_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(details, "_version", lambda name: None if name == "timm" else "1.0")
    assert "pip install 'autocompress[timm]'" in run(tmp_path, "doctor").out


def test_doctor_names_extras_that_bring_what_it_misses() -> None:
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for package, extra in details.EXTRAS.items():
        assert any(requirement.startswith(f"{package}>=") for requirement in extras[extra]), package


def test_doctor_ends_with_2_and_a_fix_when_something_is_missing(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("these are notes, and no database")
    ran = run(tmp_path, "doctor", "--json", "--storage", "sqlite:///notes.db")
    assert ran.code == 2
    bad = [row for row in ran.json() if not row["ok"]]
    assert [row["what"] for row in bad] == ["storage"]
    assert "AUTOCOMPRESS_STORAGE" in bad[0]["fix"]


# Usage


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    ran = run(tmp_path, command, "--help")
    assert ran.code == 0
    assert "Usage: autocompress" in ran.out
    assert ran.err == ""


def test_help_names_every_command(tmp_path: Path) -> None:
    ran = run(tmp_path, "--help")
    assert ran.code == 0
    assert all(f" {command} " in ran.out for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--nonsense",
        "serach search.yaml",
        "search",
        "search a.yaml b.yaml",
        "search search.yaml --trials many",
        "search search.yaml --executor cloud",
        "front",
        "show tiny",
        "show tiny first",
        "export tiny",
        "export tiny --out x --pick best",
        "apply recipe.yaml --out x",
        "verify",
        "list --json=yes",
        "ui --port 0",
    ],
)
def test_usage_errors_end_with_2(arguments: str, tmp_path: Path) -> None:
    ran = run(tmp_path, *arguments.split())
    assert ran.code == 2
    assert "Usage: autocompress" in ran.out + ran.err or ran.err.startswith("Error: ")
    assert "Traceback" not in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "code",
    [
        "import autocompress",
        "import sys; sys.argv[1:] = ['--help']; from autocompress.terminal.cli import main; main()",
    ],
    ids=["import", "help"],
)
def test_help_loads_nothing_heavy(code: str, tmp_path: Path) -> None:
    report = (
        "import atexit, sys\n"
        "heavy = ('torch', 'ray', 'mlflow', 'optuna', 'onnx', 'onnxruntime', 'pandas', 'numpy')\n"
        "atexit.register(lambda: print([name for name in heavy if name in sys.modules], file=sys.stderr))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", report + code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"


def test_the_config_that_a_plan_prints_has_the_documented_entries(searched: Searched) -> None:
    assert searched.planned.json()["config"].keys() == SearchConfig.model_fields.keys()
