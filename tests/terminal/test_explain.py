"""`explain`: of a real search in this process, and of studies in every state."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from studies import SPACE, metrics, studied
from tiny import Ran, make_project, run

from autocompress.outcome import Completed, Failed, Infeasible, Stopped
from autocompress.search import recorder, stepwise
from autocompress.search.explain import Found
from autocompress.search.explanation import knee_picture
from autocompress.search.prefixes import Known, Prefix
from autocompress.search.results import Results
from autocompress.terminal.explaining import Asked, explained, trial_parts
from autocompress.terminal.options import _complete_trial
from autocompress.tracking.protocol import MemoryTracker
from autocompress.trial import trial


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One trial within limits that everything meets."""
    folder = make_project(
        tmp_path_factory.mktemp("explained"),
        budget={"size": "1 MB", "accuracy_drop": 0.95},
        search={"trials": 1, "workers": 1},
    )
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    assert run(folder, "search", "search.yaml", "--executor", "inline").code == 0
    return folder


def answered(folder: Path, *arguments: str) -> Ran:
    ran = run(folder, "explain", *arguments)
    assert ran.code == 0, ran.err
    return ran


def test_a_study_is_explained(searched: Path) -> None:
    document = answered(searched, "tiny", "--json").json()
    assert document["verdict"] == "feasible"
    assert document["measured"] == 1
    assert document["settings"] == {}
    assert document["past"] == document["failures"] == []
    assert [(row["kind"], row["trials"]) for row in document["spent"]] == [("completed", 1)]
    assert sum(row["members"] for row in document["closest"]) == len(document["front"])
    assert document["binding_limit"] == document["closest"][0]["label"]
    assert sorted(name for row in document["front"] for name in row["picks"]) == [
        "fastest", "knee", "most-accurate", "smallest",
    ]  # fmt: skip
    text = answered(searched, "tiny").out
    assert "1 trials: 1 completed" in text
    assert "which settings mattered cannot be told: 1 trials were measured in full, and it takes 20" in text


def test_steps_are_measured_once_and_kept(searched: Path) -> None:
    before = answered(searched, "tiny", "0", "--no-measure", "--json")
    assert before.err == ""
    first, last = before.json()["steps"]
    assert (first["metrics"], first["note"], last["since"]) == ({}, "not measured", 0)
    assert "1 svd" in (told := answered(searched, "tiny", "0", "--no-measure").out)
    assert "not measured" in told

    measured = answered(searched, "tiny", "0", "--json")
    assert "measuring trial 0 after 1 of 2 steps: svd" in measured.err
    document = measured.json()
    first, last = document["steps"]
    assert [row["since"] for row in (first, last)] == [0, 1]
    for name in ("size_bytes", "params", "accuracy"):
        total = document["metrics"][name] - document["baseline"][name]
        assert first["change"][name] + last["change"][name] == pytest.approx(total)
    # Half precision halves what the first step left, but for the file's own overhead.
    assert first["metrics"]["params"] == last["metrics"]["params"]
    assert last["change"]["size_bytes"] < 0
    assert document["metrics"]["accuracy"] == last["metrics"]["accuracy"]

    again = answered(searched, "tiny", "0", "--json")
    assert again.err == ""
    assert again.json() == document
    text = answered(searched, "tiny", "0").out
    assert "what each step bought and cost" in text
    assert "the limit that binds: " in text


def test_a_trial_is_held_against_its_network_trained_from_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_project(tmp_path, budget={"size": "1 MB", "accuracy_drop": 0.95}, search={"trials": 1, "workers": 1})
    steps = [{"technique": "svd", "energy": 0.6}, {"technique": "distill", "epochs": 1, "alpha": 0.5}]
    (folder / "space.yaml").write_text(yaml.safe_dump({"version": 1, "steps": steps}))
    assert run(folder, "search", "search.yaml", "--executor", "inline").code == 0
    hint = "not yet held against the same network trained from scratch: autocompress explain tiny 0"
    assert hint in run(folder, "show", "tiny", "0").out
    assert answered(folder, "tiny", "0", "--no-measure", "--json").json()["from_scratch"] is None

    with monkeypatch.context() as patched:  # what a rate that suits trained weights may do to fresh ones
        measure = stepwise.measure
        diverged = Failed("the loss became nan in epoch 1")
        patched.setattr(stepwise, "measure", lambda made, spec, baseline: (
            diverged if "reinitialize" in str(spec.recipe) else measure(made, spec, baseline)))  # fmt: skip
        said = answered(folder, "tiny", "0").out
    assert "not held against the same network trained from scratch" in said
    assert "the loss became nan in epoch 1" in said
    shutil.rmtree(folder / ".autocompress" / "tiny" / "prefixes")

    measured = answered(folder, "tiny", "0", "--json")
    assert "measuring trial 0's network from scratch: svd(" in measured.err
    found = measured.json()["from_scratch"]
    names = [step["technique"] for step in found["recipe"]["steps"]]
    assert names == ["svd", "reinitialize", "distill"]
    assert found["recipe"]["steps"][2]["alpha"] == 0
    own, other = measured.json()["metrics"], found["metrics"]
    assert other["params"] == own["params"], "it is the same network"
    assert found["gain"] == pytest.approx(own["accuracy"] - other["accuracy"])
    assert found["examples"] > 0

    again = answered(folder, "tiny", "0", "--json")
    assert (again.err, again.json()) == ("", measured.json())
    shown = run(folder, "show", "tiny", "0")
    assert hint not in shown.out
    assert "trained from scratch by the same steps and epochs" in shown.out
    assert "trained from scratch by the same steps and epochs" in answered(folder, "tiny", "0").out


def test_a_shell_completes_trials_of_the_front_and_others_by_their_digits(tmp_path: Path) -> None:
    studied(tmp_path, Completed(metrics(100, 0.97, 2.0), {}), *[Failed("broken")] * 10)
    context: Any = SimpleNamespace(params={"study": "made", "storage": f"sqlite:///{tmp_path}/autocompress.db"})
    (told,) = _complete_trial(context, "")
    assert told[0] == "0"
    assert told[1].startswith("svd(")
    assert [name for name, _ in _complete_trial(context, "1")] == ["1", "10"]
    context.params["study"] = "other"
    assert _complete_trial(context, "") == []


def test_a_figure_is_drawn_where_it_is_asked_for(searched: Path) -> None:
    ran = answered(searched, "tiny", "0", "--no-measure", "--figure", "steps.svg")
    assert "drawn: steps.svg" in ran.err
    assert "<!-- tiny: trial 0 -->" in (searched / "steps.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("tiny", "--figure", "a.png"), "give a trial's number"),
        (("tiny", "0", "--figure", "a.gif"), "ends in .png or .svg"),
        (("tiny", "0", "--no-measure", "--figure", "gone/a.png"), "gone"),
        (("tiny", "7"), "no finished trial 7: finished trials go up to 0"),
        (("tinny",), "no study 'tinny'"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_a_line(arguments: tuple[str, ...], told: str, searched: Path) -> None:
    ran = run(searched, "explain", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err
    assert ran.err.count("\n") == 1


def test_a_task_that_was_changed_is_not_measured_on_and_the_rest_is_told(searched: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(searched, folder, ignore=shutil.ignore_patterns("prefixes", "__pycache__"))
    moved = folder / "task.py"
    moved.write_text(moved.read_text().replace("split(0, 64)", "split(7, 64)"))
    ran = answered(folder, "tiny", "0", "--config", "search.yaml")
    assert "its steps are not measured: the data of study 'tiny' are others now" in ran.err
    assert "trial 0 of tiny: completed" in ran.out
    gone = run(folder, "explain", "tiny", "0", "--config", "gone.yaml")
    assert (gone.code, gone.out) == (2, "")
    assert "gone.yaml: no such config file" in gone.err


def test_a_search_logs_the_steps_of_the_knee_where_they_are_known(
    searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered(searched, "tiny", "0")
    tracker = MemoryTracker()
    monkeypatch.setattr(recorder, "make_tracker", lambda plan, note: tracker)
    config = yaml.safe_load((searched / "search.yaml").read_text())
    tracking = {"tracking": {"uri": "sqlite:///mlflow.db", "register": True}}
    (searched / "search.yaml").write_text(yaml.safe_dump({**config, **tracking}))
    monkeypatch.setattr(trial, "CONFIRM_SECONDS", 0.1)
    assert run(searched, "search", "search.yaml", "--executor", "inline", "--resume").code == 0
    assert tracker.summary is not None
    assert tracker.summary.files["figures/knee_steps.png"].startswith(b"\x89PNG")
    assert tracker.summary.files["report.html"].startswith(b"<!DOCTYPE html>")
    assert tracker.summary.note is not None
    assert [member.number for member in tracker.summary.note.members] == [0]
    assert tracker.aliases == dict.fromkeys(("smallest", "fastest", "most-accurate", "knee"), 0)
    assert tracker.info is not None
    assert (tracker.info.source, tracker.info.quality) == ("search.yaml", "accuracy")
    assert tracker.info.data is not None
    assert tracker.info.data.name == "task.py:tiny"
    assert tracker.info.data.examples == {"train": 64, "validation": 32, "test": 32}


# Studies in every state


def text(results: Results, trial: int | None = None) -> str:
    """What is said of a study or a trial of it, without tables."""
    _, parts = explained(results, trial, Asked(False, None, None))
    return "".join(f"{part}\n" for part in parts if isinstance(part, str))


def test_a_study_in_which_nothing_ended(tmp_path: Path) -> None:
    studied(tmp_path)
    assert "no trials ended" in answered(tmp_path, "made").out
    assert "it has no finished trials" in run(tmp_path, "explain", "made", "0").err


def test_a_study_in_which_nothing_finished_gives_the_reasons(tmp_path: Path) -> None:
    failed = Failed("step 1, svd, deciding: ValueError: odd", doing="step 1, svd, deciding")
    results = studied(
        tmp_path, failed, failed, Stopped("others were better"), Failed("ran out of memory", doing="step 2, tune")
    )
    said = text(results)
    assert "failed: 2, such as trial 0: step 1, svd, deciding: ValueError: odd" in said
    assert "failed: 1, such as trial 3: ran out of memory" in said
    assert "trial 0 of made: failed, not on the front" in (one := text(results, 0))
    assert "why: step 1, svd, deciding: ValueError: odd" in one
    assert "while doing this" not in one
    assert "why: ran out of memory\n  while doing this: step 2, tune\n" in text(results, 3)
    assert "why: others were better" in text(results, 2)


def test_an_infeasible_study_names_the_limit_and_the_nearest_miss(tmp_path: Path) -> None:
    seconds = {"train": 30.0}
    far = Infeasible(metrics(300, 0.99, 2.0), {"size": 0.5, "accuracy_drop": -0.04}, "past the limit on size", seconds)
    near = Infeasible(
        metrics(210, 0.98, 2.0), {"size": 0.05, "accuracy_drop": -0.03}, "past the limit on size", seconds
    )
    early = Infeasible({"size_bytes": 900.0}, {"size": 3.5}, "would be past the limit, before any training")
    collapsed = Infeasible({}, {"collapse": 1.0}, "collapsed: take away less")
    results = studied(tmp_path, far, near, early, collapsed)
    said = text(results)
    assert "nearest miss: trial 1" in said
    assert "past the limit on size: 3 trials; 1:00 of work" in said
    assert "given up for collapse: 1 trials" in said
    assert said.rstrip().endswith("next: autocompress explain made 1")
    nearest = text(results, 1)
    assert "trial 1 of made: infeasible, not on the front, but the nearest miss" in nearest
    assert "past the limit on size by 5.0%: 210 B, size_bytes at most 200 B" in nearest
    assert "the limit on accuracy_drop: 75% of it left" in nearest  # 0.03 of the 0.04 that may be lost
    assert "past the limit on size by 350.0%: 900 B" in text(results, 2)
    assert "why: collapsed: take away less" in text(results, 3)


def test_a_feasible_study_tells_why_trials_are_on_its_front_and_others_not(tmp_path: Path) -> None:
    results = studied(
        tmp_path,
        Completed(metrics(100, 0.97, 2.0), {}),
        Completed(metrics(150, 0.98, 2.0), {}),
        Completed(metrics(110, 0.96, 2.0), {}),
        Completed(metrics(100, 0.97, 2.0), {}),
        Infeasible(metrics(90, 0.94, 2.5), {"size": -0.5, "accuracy_drop": 0.0105}, "past the limit on accuracy_drop"),
    )
    assert results.front.trials == (0, 1)
    one = text(results, 0)
    assert "trial 0 of made: completed, on the front (smallest, " in one
    assert "better in every objective, or as good, than trials 2\n" in one
    assert "the limit that binds: size: 50% of it left: 100 B, size_bytes at most 200 B" in one
    assert "the limit on accuracy_drop: 50% of it left: 0.9700, accuracy at least 0.95" in one
    # Trial 3 equals it, and so lacks nothing.
    assert "the runner-up, trial 3, is equal in every objective, of which the first is kept" in one
    assert "equal to trial 0 in every objective, of which the first is kept" in text(results, 3)
    lost = text(results, 2)
    assert "beaten by trial 0: size_bytes 100 B against 110 B (-9.1%), accuracy 0.9700 against 0.9600 (+0.0100)" in lost
    other = text(results, 1)
    assert "on the front as no trial beats it; it beats none in every objective" in other
    assert "past the limit on accuracy_drop by 1." in text(results, 4)


def test_no_limit_binds_where_all_of_each_is_left(tmp_path: Path) -> None:
    results = studied(tmp_path, Completed(metrics(100, 0.999, 2.0), {}))
    results.limits = results.limits[1:]
    assert "the limit on accuracy_drop: all of it left: 0.9990, accuracy at least 0.95" in text(results, 0)
    assert "binds" not in text(results, 0) + text(results)


# The figure that a search logs, and single lines


def knee(results: Results, known: Known) -> Any:
    found = Found(
        results.records, results.front, ("size_bytes", "accuracy"), "accuracy", results.baseline, results.limits
    )
    return knee_picture("made", found, known)


def test_the_knee_is_drawn_where_something_is_known_between_its_ends(tmp_path: Path) -> None:
    results = studied(tmp_path, Completed(metrics(100, 0.97, 2.0), {}))
    known = Known.of(results)
    assert knee(results, known) is None
    known.keep(Prefix(1, metrics(180, 0.96, 2.0)), results.records[0].recipe_data["steps"][:1])
    picture = knee(results, known)
    assert [row.label for row in picture.rows] == ["uncompressed", "svd", "float16"]
    assert [row.metrics["size_bytes"] for row in picture.rows] == [1000, 180, 100]
    (tmp_path / "none").mkdir()
    nothing = studied(tmp_path / "none", Failed("broken"))
    assert knee(nothing, Known.of(nothing)) is None


def test_a_speed_within_the_noise_is_no_change(searched: Path) -> None:
    document = answered(searched, "tiny", "0", "--no-measure", "--json").json()
    document["steps"][-1]["speed_changed"] = False
    lines = [part for part in trial_parts(document) if isinstance(part, str)]
    assert "~: no faster or slower than the 95% intervals allow for" in lines
    document["steps"][-1]["speed_changed"] = True
    assert not any(line.startswith("~") for line in trial_parts(document) if isinstance(line, str))
