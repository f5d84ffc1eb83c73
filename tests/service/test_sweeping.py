"""What is removed and what is not: dead submissions, and exports by age and size, never what is in use."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from served import ANN, Clock, parts_for, submission

from autocompress.service.database import Search
from autocompress.service.parts import Parts
from autocompress.service.sweeping import YOUNG_S, Sweeper, in_use

DAY_S = 86_400.0
# A submission that gets no further than its folder.
FILLS = """
import sys, time
from pathlib import Path
from autocompress.service.submission import Places
from served import settings_for
with Places(settings_for(Path(sys.argv[1]))).incoming("dying") as project:
    project.mkdir()
    print("filling", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return parts_for(tmp_path, exports_days=3.0, exports_bytes=2500)


def sweep(parts: Parts, clock: Clock) -> None:
    Sweeper(parts.settings, parts.database, clock).sweep()


def aged(path: Path, clock: Clock, seconds: float) -> None:
    """Make something look as if it was last touched so long ago."""
    os.utime(path, (clock.now - seconds,) * 2)


@pytest.fixture
def clock() -> Clock:
    found = Clock()
    found.now = 1e9
    return found


def test_a_killed_submissions_folder_is_removed_and_one_that_is_being_filled_is_not(
    parts: Parts, clock: Clock, tmp_path: Path
) -> None:
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", FILLS, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "filling\n"
        folder = parts.places.search("dying")
        aged(folder, clock, 2 * YOUNG_S)
        sweep(parts, clock)
        assert (folder / "project").is_dir()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    aged(folder, clock, YOUNG_S / 2)
    sweep(parts, clock)
    assert folder.is_dir()
    aged(folder, clock, 2 * YOUNG_S)
    sweep(parts, clock)
    assert not folder.exists()


def test_a_search_keeps_its_folder_however_old(parts: Parts, clock: Clock) -> None:
    with parts.places.incoming("kept") as project:
        project.mkdir()
        parts.queue.submit(ANN, submission("one", id="kept"))
    aged(project.parent, clock, 1000 * DAY_S)
    sweep(parts, clock)
    assert project.is_dir()


@pytest.fixture
def search(parts: Parts) -> Search:
    found, _ = parts.queue.submit(ANN, submission("one"))
    (parts.places.search(found.id) / "exports").mkdir(parents=True)
    return found


def export(parts: Parts, search: Search, name: str, clock: Clock, days: float) -> Path:
    """An export of 1,000 bytes that was last asked for so many days ago."""
    path = parts.places.search(search.id) / "exports" / name
    path.write_bytes(bytes(1000))
    aged(path, clock, days * DAY_S)
    return path


def kept(parts: Parts, search: Search) -> set[str]:
    return {path.name for path in (parts.places.search(search.id) / "exports").iterdir() if path.name != "lock"}


def test_exports_go_by_age_and_the_oldest_first_by_size(parts: Parts, search: Search, clock: Clock) -> None:
    for name, days in (("a.zip", 4.0), ("b.zip", 2.0), ("c.zip", 1.0), ("d.zip", 0.5)):
        export(parts, search, name, clock, days)
    sweep(parts, clock)
    assert kept(parts, search) == {"c.zip", "d.zip"}  # a is old, and b, c and d would take 3,000 bytes
    clock.now += 3 * DAY_S
    sweep(parts, clock)
    assert kept(parts, search) == set()


def test_what_is_in_use_is_never_removed(parts: Parts, search: Search, clock: Clock) -> None:
    export(parts, search, "a.zip", clock, 4.0)
    with in_use(parts.places.search(search.id) / "exports"):
        sweep(parts, clock)
        assert kept(parts, search) == {"a.zip"}
    for name in ("b.zip", "c.zip", "d.zip", "e.zip"):
        export(parts, search, name, clock, 0.0)
    sweep(parts, clock)
    assert kept(parts, search) == {"b.zip", "c.zip", "d.zip", "e.zip"}  # asked for a moment ago


def test_what_a_killed_export_left_is_removed(parts: Parts, search: Search, clock: Clock) -> None:
    left = export(parts, search, ".one-3.zip.new", clock, 0.1)
    export(parts, search, "b.zip", clock, 0.1)
    folder = left.with_name(".3-abcd")
    folder.mkdir()
    (folder / "model.onnx").write_bytes(bytes(10))
    aged(folder, clock, YOUNG_S * 2)
    sweep(parts, clock)
    assert kept(parts, search) == {"b.zip"}


def test_an_export_that_is_asked_for_again_is_as_new(parts: Parts, search: Search) -> None:
    path = parts.places.search(search.id) / "exports" / "one-3.zip"
    path.write_bytes(b"made")
    os.utime(path, (1000.0, 1000.0))
    assert parts.exports.archive(search, 3, "zip").read_bytes() == b"made"
    assert path.stat().st_mtime > 1000.0
