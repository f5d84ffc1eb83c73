"""Exports and plans: commands in processes of their own, whose results are kept and whose errors are told."""

import hashlib
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from served import ANN, parts_for, submission

from autocompress.errors import ServiceError
from autocompress.service import exports as module
from autocompress.service.database import Search
from autocompress.service.parts import Parts
from autocompress.service.problems import Refusal

# Writes down what it was called with; as `export` two files, as `plan` a document.
COMMAND = """
import json, os, sys
from pathlib import Path
command, *rest = sys.argv[1:]
with Path("called.txt").open("a") as called:
    called.write(json.dumps([command, *rest, os.environ["AUTOCOMPRESS_STORAGE"]]) + chr(10))
if "7" in rest:
    sys.exit("some words\\nerror: trial 7 failed: export another")
if command == "export":
    out = Path(rest[rest.index("--out") + 1])
    out.mkdir()
    (out / "model.onnx").write_bytes(bytes(1000))
    (out / "recipe.yaml").write_text("version: 1")
print('{"lines": ["baseline"]}')
"""


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    monkeypatch.setattr(module, "COMMAND", (sys.executable, "-S", "-c", COMMAND))
    return parts_for(tmp_path)


@pytest.fixture
def search(parts: Parts) -> Search:
    found, _ = parts.queue.submit(ANN, submission("one"))
    parts.places.project(found).mkdir(parents=True)
    return found


def calls(parts: Parts, search: Search) -> list[str]:
    return (parts.places.project(search) / "called.txt").read_text().splitlines()


def test_an_export_is_made_once_and_packed_in_both_ways(parts: Parts, search: Search) -> None:
    zipped = parts.exports.archive(search, 3, "zip")
    digest = hashlib.sha256(zipped.read_bytes()).hexdigest()
    assert module.sha256(zipped) == digest
    assert parts.exports.archive(search, 3, "zip") == zipped
    packed = parts.exports.archive(search, 3, "tar.gz")
    assert len(calls(parts, search)) == 1
    with zipfile.ZipFile(zipped) as one, tarfile.open(packed) as other:
        assert sorted(one.namelist()) == sorted(other.getnames()) == ["one-3/model.onnx", "one-3/recipe.yaml"]
        assert one.read("one-3/model.onnx") == bytes(1000)
    zipped.unlink()
    assert hashlib.sha256(parts.exports.archive(search, 3, "zip").read_bytes()).hexdigest() == digest
    assert len(calls(parts, search)) == 1


def test_the_storage_is_told_by_environment_and_not_by_argument(parts: Parts, search: Search) -> None:
    parts.exports.archive(search, 3, "zip")
    (call,) = calls(parts, search)
    assert call.count(parts.settings.storage) == 1
    assert call.endswith(f'"{parts.settings.storage}"]')


def test_what_a_command_refuses_is_told_and_nothing_is_kept(parts: Parts, search: Search) -> None:
    with pytest.raises(ServiceError, match=r"^trial 7 failed: export another$"):
        parts.exports.archive(search, 7, "zip")
    kept = parts.places.search(search.id) / "exports"
    assert [path.name for path in kept.iterdir()] == ["lock"]


def test_a_plan_is_what_the_command_says(parts: Parts, search: Search) -> None:
    config = parts.places.project(search) / "search.yaml"
    assert parts.exports.plan(config) == {"lines": ["baseline"]}
    assert '"--executor", "inline", "--json"' in calls(parts, search)[0]


def test_a_command_that_takes_too_long_is_ended(parts: Parts, search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMAND", (sys.executable, "-S", "-c", "import time; time.sleep(60)"))
    with pytest.raises(ServiceError, match="export: took longer than 0 s"):
        parts.exports.run(["export"], parts.places.project(search), 0.3)


def test_plans_and_exports_leave_threads_to_other_requests(
    parts: Parts, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.exports.archive(search, 4, "zip")
    monkeypatch.setattr(module, "TAKEN", threading.BoundedSemaphore(1))
    with module._taken():
        with pytest.raises(Refusal, match="too many plans and exports") as refused:
            parts.exports.archive(search, 3, "zip")
        with pytest.raises(Refusal, match="ask again in 10 s"):
            parts.exports.plan(parts.places.project(search) / "search.yaml")
    assert (refused.value.status, refused.value.retry_s) == (503, 10.0)
    assert parts.exports.archive(search, 3, "zip").is_file()
