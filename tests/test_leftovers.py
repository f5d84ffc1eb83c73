"""What a process leaves on the machine: temporary files after its death, what workers print, and how they ended."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import PATIENCE

from autocompress.errors import ExecutorError
from autocompress.executors import RayExecutor
from autocompress.executors.cluster import PRINTED_BYTES
from autocompress.executors.rooms import LONGEST_ROOM

# Forks stand for other searches: each has a room of its own, and locks of its own.
ROOMS = """
import os, signal, sys
from pathlib import Path
from autocompress.executors.shipping import stage_code

def copies():
    return {path.parents[1] for path in Path(sys.argv[1]).glob("autocompress-*/*/*/task.py")}

def fork(ending):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        stage_code(Path(sys.argv[2]))
        os.write(writer, b".")
        ending()
    assert os.read(reader, 1) == b"."
    return child

mine = stage_code(Path(sys.argv[2])).parent
living = fork(signal.pause)
(theirs,) = copies() - {mine}
killed = fork(lambda: os.kill(os.getpid(), signal.SIGKILL))
os.waitpid(killed, 0)
(left,) = copies() - {mine, theirs}
later = stage_code(Path(sys.argv[2])).parent
print(copies() == {mine, theirs, later})
os.kill(living, signal.SIGKILL)
os.waitpid(living, 0)
stage_code(Path(sys.argv[2]))
print(theirs in copies(), len(copies()))
"""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary folder of its own, with a path that is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_a_later_start_removes_what_killed_processes_left_and_nothing_else(tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "task.py").touch()
    foreign = temporary / "autocompress-of-somebody-else" / "folder"
    foreign.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ROOMS, str(temporary), str(tmp_path)],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert done.stdout.splitlines() == ["True", "False 3"]
    assert foreign.is_dir()
    # Who ends by himself takes his own along.
    assert list(temporary.glob("autocompress-*/*/*/task.py")) == []


def test_what_a_worker_prints_has_an_end_and_a_cluster_leaves_nothing(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    executor = RayExecutor("local", 1, None)
    try:
        rows = 10 * PRINTED_BYTES // 1000
        executor.call(
            exec,
            f"import sys\nfor _ in range({rows}): print('x' * 999)\nsys.stderr.write(('e' * 999 + '\\n') * {rows})",
        )
        # Ray links its newest session as session_latest: the same files once more.
        logs = {path.resolve() for path in temporary.glob("autocompress-*/*/session_*/logs/worker-*")}
        sizes = {
            suffix: sum(path.stat().st_size for path in logs if suffix in path.name) for suffix in (".out", ".err")
        }
        for size in sizes.values():
            assert PRINTED_BYTES / 2 < size <= 2.1 * PRINTED_BYTES  # the file that is written and one before it
        with pytest.raises(ExecutorError, match=r"exec failed on two workers: its worker was ended by os\._exit\(3\)"):
            executor.call(exec, "import os; os._exit(3)")
        with pytest.raises(ExecutorError, match=r"exit failed: the task's code called sys\.exit\('enough'\)"):
            executor.call(sys.exit, "enough")
    finally:
        executor.close()
    assert [path for path in temporary.glob("autocompress-*/*") if path.is_dir()] == []


def test_a_temporary_folder_whose_path_is_too_long_for_sockets_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autocompress.executors.rooms import Room

    deep = tmp_path / ("x" * LONGEST_ROOM)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    room = Room()
    assert len(str(room.folder)) <= LONGEST_ROOM
    room.close()
    assert not room.folder.exists()
    assert list(deep.iterdir()) == []


ENDINGS = """
import ctypes, os, signal, sys, time
from pathlib import Path
from autocompress.executors.work import guarded, last_words, read_end

def forks():
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    os.kill(os.getpid(), signal.SIGKILL)

ways = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "os._exit": lambda: os._exit(7),
    "kill after a fork": forks,
    "none": lambda: None,
}
for name, way in ways.items():
    path = Path(sys.argv[1], name)
    child = os.fork()
    if not child:
        guarded(way, (), path)
        os._exit(0)
    os.waitpid(child, 0)
    found = read_end(path)
    print(name, found and found[0], bool(found and found[1]), sep="|")
print(guarded(sys.exit, (3,), Path(sys.argv[1], "exit")).reason)
"""


def test_the_ways_in_which_a_worker_ends_are_told_apart(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ENDINGS, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert done.stdout.splitlines() == [
        "kill|its worker was killed|False",
        "segfault|its worker crashed: Segmentation fault|True",
        "abort|its worker crashed: Aborted|True",
        "os._exit|its worker was ended by os._exit(7)|False",
        "kill after a fork|its worker was killed|False",
        "none|None|False",
        "the task's code called sys.exit(3)",
    ]
    assert list(tmp_path.glob("none")) == list(tmp_path.glob("exit")) == []
