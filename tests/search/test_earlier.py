"""A new study begins with recipes of earlier ones of a like model, and with none where it is to learn nothing."""

import math
from pathlib import Path

import pytest
from tiny import make_project, run

from autocompress.search.earlier import likeness
from autocompress.search.store import StudyStore


def test_models_are_compared_by_the_ratios_of_size_and_latency() -> None:
    ours = {"size_bytes": 1000.0, "latency_ms": 2.0}
    assert likeness(ours, ours) == 0
    assert likeness(ours, {"size_bytes": 500.0, "latency_ms": 4.0}) == pytest.approx(2 * math.log(2))
    assert likeness({"size_bytes": 500.0, "latency_ms": 4.0}, ours) == pytest.approx(2 * math.log(2))
    assert math.isinf(likeness(ours, {"size_bytes": 1000.0}))


def first_of(folder: Path, study: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = StudyStore.open(f"sqlite:///{folder / 'autocompress.db'}", study).get("first")
    return rows


def test_a_search_begins_with_what_an_earlier_one_of_a_like_model_found(tmp_path: Path) -> None:
    make_project(tmp_path)
    assert run(tmp_path, "search", "search.yaml", "--executor", "inline").code == 0
    assert first_of(tmp_path, "tiny") == []

    make_project(tmp_path, study="again")
    again = run(tmp_path, "search", "search.yaml", "--executor", "inline", "--json")
    assert again.code == 0
    assert "of study 'tiny', whose model is alike: --cold leaves them out" in again.err
    store = StudyStore.open(f"sqlite:///{tmp_path / 'autocompress.db'}", "tiny")
    known = {record.fingerprint for record in store.finished().values()}
    assert again.json()["front"]
    begun = StudyStore.open(f"sqlite:///{tmp_path / 'autocompress.db'}", "again")
    assert begun.finished()[0].fingerprint in known
    assert len(first_of(tmp_path, "again")) >= 1

    make_project(tmp_path, study="cold")
    cold = run(tmp_path, "search", "search.yaml", "--executor", "inline", "--cold", "--trials", "1")
    assert cold.code == 0
    assert "whose model is alike" not in cold.err
    assert first_of(tmp_path, "cold") == []
