"""Disks that are full and folders that may not be written to: one line with the fix, and a search that goes on."""

import contextlib
import gc
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tiny import Ran, configure, make_project, run

from autocompress.errors import WriteError
from autocompress.outcome import Candidate
from autocompress.search.files import StudyFiles, write_folder
from autocompress.techniques import recipe_from_data
from autocompress.testing.models import Plain, seeded
from autocompress.testing.work import context_of
from autocompress.trial.stages import StageCache

SEARCH = ("search", "search.yaml", "--executor", "inline")


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system lets no file of this process grow past a size, as a disk that is full would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"only a user who may mount can have a small disk: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path) -> Path:
    """Take all the room there is."""
    path = disk / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"0" * 512)
    return path


def remount(disk: Path, how: str) -> None:
    """Let nobody write there (ro), or everybody (rw)."""
    gc.collect()  # databases that this process has open
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


def error_of(ran: Ran) -> str:
    """The one line of error, which is the last."""
    assert ran.code == 2, ran.err
    assert "Traceback" not in ran.err
    lines = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert lines == ran.err.splitlines()[-1:]
    return lines[0]


# Folders


def test_a_folder_that_may_not_be_written_to_is_one_line(disk: Path) -> None:
    make_project(disk)
    remount(disk, "ro")
    line = error_of(run(disk, *SEARCH))
    assert ".autocompress/tiny/lock: cannot be written: read-only file system: give write permission or work in" in line
    assert run(disk, "list").code == 0


def test_a_study_in_a_folder_that_may_not_be_written_to_is_read(disk: Path) -> None:
    make_project(disk)
    assert run(disk, *SEARCH, "--trials", "1").code == 0
    before = run(disk, "front", "tiny", "--json").json()
    remount(disk, "ro")
    assert run(disk, "front", "tiny", "--json").json() == before
    assert "cannot be written: read-only" in error_of(run(disk, *SEARCH, "--resume", "--trials", "2"))
    remount(disk, "rw")
    assert run(disk, *SEARCH, "--resume", "--trials", "2", "--json").json()["counts"]["completed"] == 2


def test_a_search_on_a_full_disk_is_one_line_and_goes_on_when_there_is_room(disk: Path) -> None:
    make_project(disk)
    assert run(disk, *SEARCH, "--trials", "1").code == 0
    filler = fill(disk)
    line = error_of(run(disk, *SEARCH, "--resume", "--trials", "2"))
    assert "database or disk is full: make room, and a search goes on from there with --resume" in line
    assert "no space left on device: make room" in error_of(run(disk, "export", "tiny", "--out", "chosen"))
    assert not (disk / "chosen").exists()
    filler.unlink()
    ended = run(disk, *SEARCH, "--resume", "--trials", "2", "--json")
    assert ended.code == 0
    assert ended.json()["counts"] == {"completed": 2, "infeasible": 0, "stopped": 0, "failed": 0}
    assert run(disk, "export", "tiny", "--out", "chosen").code == 0


def test_a_disk_that_is_full_from_the_start_is_one_line(disk: Path) -> None:
    make_project(disk)
    filler = fill(disk)
    assert "make room" in error_of(run(disk, *SEARCH, "--trials", "1"))
    filler.unlink()
    assert run(disk, *SEARCH, "--trials", "1").code == 0


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    make_project(tmp_path)
    (tmp_path / ".autocompress").touch()
    line = error_of(run(tmp_path, *SEARCH))
    assert ".autocompress/tiny/lock: cannot be written: " in line
    assert line.endswith("move away the file that stands in the place of a folder")


def test_a_folder_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {"b": b"old"})
    with (
        files_of_at_most(1000),
        pytest.raises(WriteError, match="a: cannot be written: file too large: raise"),
    ):
        write_folder(tmp_path / "a", {"b": b"new", "c": b"0" * 5000})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert (tmp_path / "a" / "b").read_bytes() == b"old"


# What can be made again


def test_a_candidate_that_cannot_be_kept_is_said_and_the_search_goes_on(tmp_path: Path) -> None:
    make_project(tmp_path)
    trials = tmp_path / ".autocompress" / "tiny" / "trials"
    trials.parent.mkdir(parents=True)
    trials.touch()  # a file in the place of the folder
    ended = run(tmp_path, *SEARCH, "--trials", "2", "--json")
    assert ended.code == 0
    assert ended.json()["counts"]["completed"] == 2
    for row in ended.json()["front"]:
        assert f"trial {row['trial']}: its files are not kept, `autocompress export` makes them again: " in ended.err
        assert "test_accuracy" in row["metrics"]  # made again for that
    row = ended.json()["front"][0]
    exported = run(tmp_path, "export", "tiny", "--trial", str(row["trial"]), "--out", "chosen", "--json")
    assert exported.code == 0
    assert exported.json()["measured"]["size_bytes"] == row["metrics"]["size_bytes"]


def test_a_stage_that_cannot_be_cached_is_no_failed_trial(tmp_path: Path) -> None:
    make_project(tmp_path)
    (tmp_path / ".autocompress").mkdir()
    (tmp_path / ".autocompress" / "stages").touch()
    space = {"version": 1, "steps": ["svd", {"technique": "finetune", "epochs": 1}]}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    configure(tmp_path / "search.yaml")
    counts = run(tmp_path, *SEARCH, "--trials", "1", "--json").json()["counts"]
    assert counts["failed"] == 0


TRAINED = recipe_from_data({"version": 1, "steps": [{"technique": "finetune", "epochs": 1}]})


def test_a_stage_that_finds_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    cache, model = StageCache(tmp_path / "stages", "base"), seeded(Plain)
    with files_of_at_most(100):
        cache.store(TRAINED, [{}], model)
    assert cache.longest(TRAINED) is None
    assert list((tmp_path / "stages").iterdir()) == []
    cache.store(TRAINED, [{}], model)
    assert cache.longest(TRAINED) is not None


def test_a_scan_that_finds_no_room_is_used_all_the_same(tmp_path: Path) -> None:
    context = context_of("plain")
    context.folder = tmp_path / "scans"
    values = list(range(1000))
    with files_of_at_most(100):
        assert context.kept("scan", lambda: values) == values
    assert list((tmp_path / "scans").iterdir()) == []
    (tmp_path / "file").touch()
    context.folder = tmp_path / "file" / "scans"
    assert context.kept("another scan", lambda: values) == values


def test_a_candidate_that_cannot_be_kept_says_so(tmp_path: Path) -> None:
    files = StudyFiles(tmp_path, "s")
    with files_of_at_most(100), pytest.raises(WriteError, match="--resume"):
        files.store(3, Candidate(b"0" * 5000, [], b"", {}))
    assert files.load(3) is None
