"""What the report of a study says, for studies in every state."""

from pathlib import Path

from studies import metrics, studied

from autocompress.outcome import Completed, Failed, Infeasible, Stopped
from autocompress.search.report import study_page, study_report
from autocompress.search.storage import DEFAULT_STORAGE


def test_a_front_with_its_recipes_seconds_and_reasons(tmp_path: Path) -> None:
    results = studied(
        tmp_path,
        Completed(metrics(100, 0.97, 2.0), {}, {"train": 6.0, "export": 2.0}),
        Completed(metrics(150, 0.98, 2.0), {}, {"train": 2.0}, remarks=["names one class alone"]),
        Infeasible(metrics(210, 0.98, 2.0), {"size": 0.05}, "past the limit on size", {"train": 10.0}),
    )
    report = study_report(results, DEFAULT_STORAGE)
    assert report.study == "made"
    assert report.budget == ["size_bytes at most 200 B", "accuracy at least 0.95"]
    assert "feasible: 2 on the front" in report.verdict[-2]
    assert report.verdict[-1] == "warning: trial 1 names one class alone"
    assert [(member.number, member.cells[0]) for member in report.members] == [(0, "100 B"), (1, "150 B")]
    assert report.members[0].picks[0] == "smallest"
    assert report.baseline[0] == "1.0 KB"
    assert [(row.name, row.seconds) for row in report.spent] == [("completed (2)", 10.0), ("past a limit (1)", 10.0)]
    assert [(row.name, row.seconds) for row in report.phases] == [("train", 18.0), ("export", 2.0)]
    assert any(line.startswith("past the limit on size: 1 trials") for line in report.lines)
    assert not any(line in report.verdict or line.startswith(("the front:", "next:")) for line in report.lines)
    first, second = report.sections
    assert [step.partition("(")[0] for step in first.steps] == ["svd", "float16"]
    assert [(row.name, row.share) for row in first.seconds] == [("train", 0.75), ("export", 0.25)]
    assert ("size_bytes", "100 (100 B)", "1,000 (1.0 KB)") in first.metrics
    assert first.effects[1][0] == "uncompressed"
    assert first.effects[-1][1] == "100 B"
    assert any(line.startswith("the limit that binds: ") for line in first.reasons)
    assert first.commands[0] == "autocompress export made --trial 0 --out chosen"
    assert second.remarks == ["names one class alone"]
    assert "autocompress export made --pick knee --out chosen" in report.commands
    assert len(report.picture.points) == 3


def test_commands_name_another_storage_and_never_its_password(tmp_path: Path) -> None:
    results = studied(tmp_path, Completed(metrics(100, 0.97, 2.0), {}))
    report = study_report(results, "postgresql://me:secret@host/db")
    said = [*report.commands, *report.sections[0].commands]
    assert sum("--storage" in line for line in said) == len(said) - 1  # the config says it for `search`
    assert b"secret" not in study_page(results, "postgresql://me:secret@host/db")


def test_where_nothing_fits_the_nearest_miss_is_shown(tmp_path: Path) -> None:
    results = studied(
        tmp_path,
        Infeasible(metrics(300, 0.99, 2.0), {"size": 0.5}, "past the limit on size"),
        Infeasible(metrics(210, 0.98, 2.0), {"size": 0.05}, "past the limit on size"),
        Infeasible({"size_bytes": 900.0}, {"size": 3.5}, "would be past the limit, before any training"),
    )
    report = study_report(results, DEFAULT_STORAGE)
    assert "nearest miss" in report.about
    assert [(member.number, member.picks) for member in report.members] == [(1, ("nearest miss",))]
    (section,) = report.sections
    assert section.reasons[0] == "past the limit on size"
    assert section.commands[0] == "autocompress show made 1"
    assert any(line.startswith("the limit that binds: size") for line in report.verdict)
    assert b"nearest miss" in study_page(results, DEFAULT_STORAGE)


def test_a_miss_that_was_never_measured_is_shown(tmp_path: Path) -> None:
    results = studied(tmp_path, Infeasible({"size_bytes": 900.0}, {"size": 3.5}, "would be past the limit"))
    assert study_report(results, DEFAULT_STORAGE).members[0].cells[0] == "900 B"
    assert b"would be past the limit" in study_page(results, DEFAULT_STORAGE)


def test_where_nothing_finished_the_reasons_are_given(tmp_path: Path) -> None:
    results = studied(tmp_path, Failed("ran out of memory"), Stopped("others were better"))
    report = study_report(results, DEFAULT_STORAGE)
    assert report.members == []
    assert "failed: 1, such as trial 0: ran out of memory" in report.lines
    assert b"ran out of memory" in study_page(results, DEFAULT_STORAGE)


def test_a_study_in_which_nothing_ended_has_a_page(tmp_path: Path) -> None:
    assert b"no trials ended" in study_page(studied(tmp_path), DEFAULT_STORAGE)
