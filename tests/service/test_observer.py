"""What is told of a search while others write to its study."""

from pathlib import Path

from served import make_database
from studies import metrics, studied

from autocompress.outcome import Completed
from autocompress.search.space_file import load_space
from autocompress.service.observer import Observer
from autocompress.service.studies import Studies


def test_trials_are_told_as_they_end_and_not_at_the_end_alone(tmp_path: Path) -> None:
    results = studied(tmp_path, Completed(metrics(150, 0.97, 2.0), {}))
    observer = Observer(Studies(make_database(tmp_path)), "made", set())
    assert [kind for kind, _ in observer.look()] == ["trial", "front"]
    assert list(observer.look()) == []
    number, _ = results.store.ask(load_space(tmp_path / "space.yaml"))
    assert list(observer.look()) == []
    results.store.tell(number, Completed(metrics(100, 0.98, 3.0), {}))
    told = list(observer.look())
    assert [(kind, data.get("trial")) for kind, data in told] == [("trial", number), ("front", None)]
    assert [row["trial"] for row in told[1][1]["front"]] == [number]
    assert list(observer.look()) == []
