"""Bounded reads: what is no regular file, or too large, is refused in one line, wherever people name a file."""

import contextlib
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tiny import Ran, configure, make_project, run

import autocompress
from autocompress.artifacts.directory import NAMES, Contents, check_sums
from autocompress.documents import MAX_DEPTH, MAX_NODES, read_json, read_yaml
from autocompress.errors import ArtifactError, ConfigError
from autocompress.reading import TEXT_BYTES, Unreadable, open_file, read_file

Make = Callable[[Path], object]


def test_a_file_is_read_whole_up_to_the_limit_and_not_beyond(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(Unreadable, match="holds 5 bytes, and at most 4 are read"):
        read_file(path, 4)
    path.write_bytes(b"")
    assert read_file(path, 0) == b""


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link", 1) == b"1"


def test_an_open_file_can_be_handed_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    with open_file(tmp_path / "file", 3) as file:
        assert (file.read(1), file.seek(0), file.read()) == (b"1", 0, b"123")


def test_what_is_not_there_and_folders_raise_what_open_raises(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("missing", "dangling"):
        with pytest.raises(FileNotFoundError):
            read_file(tmp_path / name, 1)
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path, 1)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def bound(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)  # a socket's path has 108 characters at most


STRANGE = [
    pytest.param(os.mkfifo, "is a FIFO: give a regular file", id="fifo"),
    pytest.param(zeros, "is a device: give a regular file", id="device"),
    pytest.param(bound, "is a socket: give a regular file", id="socket"),
]


@pytest.mark.parametrize(("make", "reason"), STRANGE)
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, make: Make, reason: str) -> None:
    make(tmp_path / "strange")
    with pytest.raises(Unreadable, match=reason):
        read_file(tmp_path / "strange", 10**9)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="files that say they are empty are Linux's")
def test_a_file_that_holds_more_than_it_says_is_refused() -> None:
    with pytest.raises(Unreadable, match="holds more than it says"):
        read_file(Path("/proc/self/status"), 10**6)


# YAML and JSON


def test_yaml_past_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text("a: 1\n")
    os.truncate(path, 20_000_000)
    with pytest.raises(ConfigError, match=r"large\.yaml: holds 20,000,000 bytes, and at most 1,000,000 are read"):
        read_yaml(path)


@pytest.mark.parametrize("row", ["- 1\n", "- {a: b}\n"])
def test_yaml_of_many_values_is_given_up_before_it_is_read_to_its_end(tmp_path: Path, row: str) -> None:
    path = tmp_path / "many.yaml"
    # The error at the end would be told if the reader ever came there.
    path.write_text("a:\n" + row * ((TEXT_BYTES - 10) // len(row)) + "]")
    with pytest.raises(ConfigError, match=f"holds more than {MAX_NODES} values: write less"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("NaN", "NaN is no number that JSON knows"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": {"b": 1, "b": 2}}', "key 'b' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested too deeply"),
        ("9" * 5000, "cannot be read as JSON"),
        ('"' + "x" * 1_000_000 + '"', "at most 1,000,000 are read"),
    ],
)
def test_json_that_readers_would_take_differently_or_not_at_all_is_refused(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        read_json(path, 1_000_000)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_json_is_utf_8(tmp_path: Path) -> None:
    (tmp_path / "some.json").write_bytes('["ä", 1.5]'.encode())
    assert read_json(tmp_path / "some.json", 100) == ["ä", 1.5]
    (tmp_path / "some.json").write_bytes('["ä"]'.encode("utf-16"))
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        read_json(tmp_path / "some.json", 100)


def test_json_as_deep_as_the_limit_says_is_read(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    found, depth = read_json(tmp_path / "deep.json", 1000), 1
    while found:
        found, depth = found[0], depth + 1
    assert depth == MAX_DEPTH


# Where people name files


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in which nothing was run."""
    return make_project(tmp_path)


def refused(ran: Ran, path: str, reason: str) -> None:
    assert ran.code == 2
    assert ran.out == ""
    assert "Traceback" not in ran.err
    last = ran.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert f"{path}: {reason}" in last


@pytest.mark.parametrize(("make", "reason"), STRANGE)
def test_no_command_waits_for_a_file_that_is_none(project: Path, make: Make, reason: str) -> None:
    make(project / "strange")
    (project / "strange.py").symlink_to("strange")
    refused(run(project, "plan", "strange"), "strange", reason)
    refused(run(project, "apply", "strange", "--config", "search.yaml", "--out", "new"), "strange", reason)
    refused(run(project, "verify", "strange"), "strange", "no such folder")
    configure(project / "search.yaml", search_space="strange")
    refused(run(project, "plan", "search.yaml"), "strange", reason)
    configure(project / "search.yaml", task="strange.py:tiny")
    refused(run(project, "plan", "search.yaml"), "strange.py", reason)


def test_a_large_recipe_is_refused(project: Path) -> None:
    (project / "large.yaml").write_text(yaml.safe_dump({"version": 1, "steps": []}))
    os.truncate(project / "large.yaml", 20_000_000)
    ran = run(project, "apply", "large.yaml", "--config", "search.yaml", "--out", "new")
    refused(ran, "large.yaml", "holds 20,000,000 bytes, and at most 1,000,000 are read")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact directory whose checksums hold; its files say little."""
    folder = tmp_path_factory.mktemp("whole")
    for name, data in Contents(b"", "", [], {}, "").files().items():
        (folder / name).write_bytes(data)
    check_sums(folder)
    return folder


@pytest.mark.parametrize("name", [*NAMES, "SHA256SUMS"])
@pytest.mark.parametrize(("make", "reason"), STRANGE)
def test_an_artifact_holds_regular_files(whole: Path, tmp_path: Path, name: str, make: Make, reason: str) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "made"))
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(ArtifactError, match=f"{name}: {reason}"):
        autocompress.load(folder)
    refused(run(tmp_path, "verify", "made"), name, reason)


@pytest.mark.parametrize("name", ["recipe.yaml", "measurement.json", "environment.json", "MODEL_CARD.md", "SHA256SUMS"])
def test_an_artifact_s_text_is_modest(whole: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "made"))
    os.truncate(folder / name, TEXT_BYTES + 1)
    refused(run(tmp_path, "verify", "made"), name, "holds 1,000,001 bytes, and at most 1,000,000 are read")


def test_an_artifact_s_large_files_have_limits_of_their_own(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "made"))
    for name, most in (("model.onnx", 2**31 - 1), ("decisions.json", 256_000_000)):
        before = (folder / name).read_bytes()
        os.truncate(folder / name, most + 1)  # a hole: takes no room
        with pytest.raises(ArtifactError, match=f"{name}: holds .* at most {most:,} are read"):
            check_sums(folder)
        (folder / name).write_bytes(before)
