"""What is read of studies: once a version, from the version before, and as the storage has it by now."""

import threading
from pathlib import Path

import pytest
from served import make_database
from studies import metrics, studied

from autocompress.outcome import Completed
from autocompress.search.space_file import load_space
from autocompress.search.store import StudyStore
from autocompress.service.studies import Kept, Studies


def test_a_value_is_made_once_a_version_and_for_few_keys() -> None:
    kept, made = Kept(2), []

    def get(key: str, version: int) -> str:
        def make(before: str | None) -> str:
            made.append((before, f"{key}{version}"))
            return f"{key}{version}"

        return kept.get(key, version, make)

    asked = (("a", 1), ("b", 1), ("a", 1), ("a", 2), ("a", 2))
    assert [get(*one) for one in asked] == ["a1", "b1", "a1", "a2", "a2"]
    assert made == [(None, "a1"), (None, "b1"), ("a1", "a2")]
    assert get("c", 1) == "c1"  # which takes the place of b
    assert (get("a", 2), get("b", 1)) == ("a2", "b1")
    assert made[3:] == [(None, "c1"), (None, "b1")]


def test_many_who_ask_at_once_wait_for_one_and_an_error_is_nobody_elses() -> None:
    kept, made, asking = Kept(2), [], threading.Barrier(8)
    found: list[int] = []

    def make(before: int | None) -> int:
        made.append(before)
        if len(made) == 1:
            raise ValueError("the first fails")
        return 7

    def ask() -> None:
        asking.wait()
        try:
            found.append(kept.get("a", 1, make))
        except ValueError:
            found.append(-1)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [-1, *[7] * 7]
    assert made == [None, None]


def test_a_study_is_read_again_when_somebody_wrote_of_it_and_old_trials_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = Studies(make_database(tmp_path))
    assert studies.results("made") is None
    theirs = studied(tmp_path, Completed(metrics(150, 0.97, 2.0), {})).store
    first = studies.results("made")
    assert first is not None
    assert studies.results("made") is first
    assert studies.worked_out(first, "count", lambda results: len(results.records)) == 1
    number, _ = theirs.ask(load_space(tmp_path / "space.yaml"))
    assert studies.results("made") is first  # what runs says nothing yet
    monkeypatch.setattr(StudyStore, "open", None)
    theirs.tell(number, Completed(metrics(100, 0.98, 3.0), {}))
    second = studies.results("made")
    assert second is not None
    assert list(second.records) == [0, number]
    assert studies.worked_out(second, "count", lambda results: len(results.records)) == 2
    theirs.confirm({"0": metrics(150, 0.96, 2.5)})
    third = studies.results("made")
    assert third is not None
    assert (second.metrics(0)["accuracy"], third.metrics(0)["accuracy"]) == (0.97, 0.96)
    assert studies.results("made") is third
