"""Disks that are full: an answer with the fix, nothing half done, and it goes on when there is room."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import ANN, archive, parts_for, submission
from sqlalchemy import event
from starlette.testclient import TestClient
from test_no_room import files_of_at_most

from autocompress.service import exports
from autocompress.service.app import make_app
from autocompress.service.parts import Parts

# Stands in for `autocompress export`, and says what that says where there is no room.
COMMAND = """
import os, sys
from pathlib import Path
if os.path.exists("full"):
    sys.exit("error: /x/model.onnx: cannot be written: no space left on device: make room")
out = Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir()
(out / "model.onnx").write_bytes(os.urandom(5000))
"""


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    made = parts_for(tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def client(parts: Parts) -> Iterator[TestClient]:
    headers = {"Authorization": f"Bearer {parts.tokens.create('ann')}"}
    with TestClient(make_app(parts), headers=headers, raise_server_exceptions=False) as made:
        yield made


def no_room(answer: Any, words: str) -> None:
    assert answer.status_code == 507, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]
    assert "make room" in answer.json()["fix"] or "ulimit" in answer.json()["detail"]


def submit(client: TestClient, **files: str) -> Any:
    config = '{"study": "one", "task": "task.py:tiny", "search_space": "space.yaml", "tracking": null}'
    given = {"search.yaml": config, "task.py": "", "space.yaml": '{"version": 1, "steps": ["svd"]}', **files}
    return client.post("/api/v1/searches", files={"archive": archive(given)})


def test_a_submission_without_room_leaves_nothing_and_is_taken_later(parts: Parts, client: TestClient) -> None:
    large = {"large.py": "#" * 100_000}
    with files_of_at_most(60_000):
        no_room(submit(client, **large), "large.py: cannot be written: file too large")
    assert list((parts.settings.folder / "searches").iterdir()) == []
    assert client.get("/api/v1/searches").json()["searches"] == []
    assert submit(client, **large).status_code == 201


def test_a_full_database_is_an_answer_and_not_the_end(parts: Parts, client: TestClient) -> None:
    def full(connection: Any, record: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(parts.database.engine, "connect", full)
    parts.database.engine.dispose()
    long = '{"study": "one", "task": "task.py:tiny", "search_space": "space.yaml", "tracking": null}\n#' + "x" * 50_000
    no_room(submit(client, **{"search.yaml": long}), "the database has no room")
    assert list((parts.settings.folder / "searches").iterdir()) == []
    event.remove(parts.database.engine, "connect", full)
    parts.database.engine.dispose()
    assert submit(client, **{"search.yaml": long}).status_code == 201


def test_an_export_without_room_is_made_when_there_is_some(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "COMMAND", (sys.executable, "-S", "-c", COMMAND))
    search, _ = parts.queue.submit(ANN, submission("one"))
    parts.places.project(search).mkdir(parents=True)
    (parts.places.project(search) / "full").touch()
    with pytest.raises(exports.WriteError, match="no space left on device"):
        parts.exports.archive(search, 3, "zip")
    (parts.places.project(search) / "full").unlink()
    path = parts.exports.archive(search, 3, "zip")
    os.unlink(path)
    with files_of_at_most(1000), pytest.raises(exports.WriteError, match="file too large"):
        parts.exports.archive(search, 3, "zip")
    kept = {found.name for found in path.parent.iterdir()}
    assert kept == {"lock", "3"}
    assert parts.exports.archive(search, 3, "zip").stat().st_size > 5000
