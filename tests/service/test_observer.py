"""What is told of a study while another process searches."""

from pathlib import Path

import pytest
from pretender import pretend

from autocompress.service.observer import Observer


def test_trials_are_told_once_as_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = {"storage": f"sqlite:///{tmp_path / 'a.db'}", "study": "one"}
    observer = Observer(config["storage"], "one", set())
    assert list(observer.look()) == []
    for number in range(3):
        pretend(config, number + 1, {"seconds": 0}, [])
        told = list(observer.look())
        assert [(kind, data.get("trial")) for kind, data in told] == [("trial", number), ("front", None)]
        assert list(observer.look()) == []
