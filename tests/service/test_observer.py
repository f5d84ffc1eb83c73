"""What is told of a search while it runs."""

from pathlib import Path

import pytest
from pretender import pretend
from served import make_database

from autocompress.service.observer import Observer


def test_trials_are_told_as_they_end_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = make_database(tmp_path).url
    observer = Observer(storage, "one", set())
    assert list(observer.look()) == []
    for target, expected in ((2, [0, 1]), (2, []), (5, [2, 3, 4])):
        pretend({"storage": storage, "study": "one"}, target, {"seconds": 0}, [])
        assert [data["trial"] for kind, data in observer.look() if kind == "trial"] == expected
