"""Archives that are unpacked without trust, and packed with caps."""

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from served import archive

from autocompress.service import archives
from autocompress.service.archives import Caps, pack, unpack
from autocompress.service.problems import Refusal

SMALL = Caps(packed_bytes=10_000, unpacked_bytes=2_000, members=20, depth=4)


def tar(change: Callable[[tarfile.TarInfo], None], name: str = "a", data: bytes = b"") -> io.BytesIO:
    """One entry, changed before it is written."""
    buffer, info = io.BytesIO(), tarfile.TarInfo(name)
    info.size = len(data)
    change(info)
    with tarfile.open(fileobj=buffer, mode="w") as written:
        written.addfile(info, io.BytesIO(data))
    return buffer


def zipped(*entries: tuple[str, bytes], mode: int = 0) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as written:
        for name, data in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            written.writestr(info, data)
    return buffer


def plain(info: tarfile.TarInfo) -> None:
    """Nothing is changed."""


def kind(letter: bytes, target: str = "") -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname = letter, target

    return change


OUT = ["../a", "/etc/a", "a/../../b", "b/..", "..", "C:\\a", "a\\b", "a\nb", "a/b/c/d/e", "x" * 300]


@pytest.mark.parametrize("name", OUT)
def test_what_leads_out_of_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    for made in (tar(plain, name, b"1"), zipped((name, b"1"))):
        with pytest.raises(Refusal) as refused:
            unpack(made, tmp_path / "in", SMALL)
        assert refused.value.status == 422
        assert list(tmp_path.iterdir()) == []


LINKS = [(tarfile.SYMTYPE, "/etc/passwd"), (tarfile.SYMTYPE, "b"), (tarfile.LNKTYPE, "b")]
DEVICES = [(tarfile.FIFOTYPE, ""), (tarfile.CHRTYPE, ""), (tarfile.BLKTYPE, "")]


@pytest.mark.parametrize(("letter", "target"), [*LINKS, *DEVICES])
def test_links_and_devices_are_refused(letter: bytes, target: str, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="is a link or a device"):
        unpack(tar(kind(letter, target)), tmp_path / "in", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="is a link or a device"):
        unpack(zipped(("a", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777), tmp_path / "in", SMALL)


@pytest.mark.parametrize("pack_it", [lambda data: gzip.compress(tar(plain, "a", data).getvalue()),
                                     lambda data: zipped(("a", data)).getvalue()])  # fmt: skip
def test_a_bomb_is_refused_before_it_fills_the_disk(pack_it: Callable[[bytes], bytes], tmp_path: Path) -> None:
    bomb = io.BytesIO(pack_it(bytes(5_000_000)))
    assert len(bomb.getvalue()) < SMALL.packed_bytes
    with pytest.raises(Refusal, match="more bytes than are taken") as refused:
        unpack(bomb, tmp_path / "in", SMALL)
    assert refused.value.status == 413
    assert list(tmp_path.iterdir()) == []


def test_a_bomb_of_headers_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as written:
        written.addfile(tarfile.TarInfo("a" * 3_000_000))
    with pytest.raises(Refusal, match="more bytes than are taken"):
        unpack(buffer, tmp_path / "in", SMALL)


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    many = archive({f"f{index}": "" for index in range(SMALL.members + 1)})
    with pytest.raises(Refusal, match="more than 20 files"):
        unpack(io.BytesIO(many), tmp_path / "in", SMALL)
    unpack(io.BytesIO(archive({f"f{index}": "" for index in range(SMALL.members)})), tmp_path / "in", SMALL)


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive", gzip.compress(b"none either"), archive()[:-30], zipped(("a", b"1")).getvalue()[:40]],
    ids=["empty", "text", "gzip", "tar", "zip"],
)
def test_what_is_no_whole_archive_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(Refusal):
        unpack(io.BytesIO(data), tmp_path / "in")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as written:
        written.addfile(tarfile.TarInfo("a"))
        written.addfile(tarfile.TarInfo("./a"))
    with pytest.raises(Refusal, match="stands twice"):
        unpack(buffer, tmp_path / "in", SMALL)


def test_files_arrive_with_plain_permissions(tmp_path: Path) -> None:
    def change(info: tarfile.TarInfo) -> None:
        info.mode, info.uid = 0o6777, 12345

    unpack(tar(change, "a", b"12"), tmp_path / "in", SMALL)
    found = (tmp_path / "in" / "a").stat()
    assert (found.st_mode & 0o7111, found.st_size) == (0, 2)


def test_the_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    def digest(name: str, made: io.BytesIO) -> str:
        return unpack(made, tmp_path / name)

    one = digest("1", zipped(("a", b"1"), ("b/c", b"2")))
    assert one == digest("2", io.BytesIO(archive({"b/c": "2", "a": "1"})))
    assert one != digest("3", zipped(("a", b"2"), ("b/c", b"1")))
    assert one != digest("4", zipped(("a", b"1"), ("b/d", b"2")))


def test_a_folder_survives_packing_but_for_what_is_ignored(tmp_path: Path) -> None:
    source = tmp_path / "from"
    (source / "data").mkdir(parents=True)
    for name in ("task.py", "data/big.bin", "notes.txt", ".secret"):
        (source / name).write_text(name)
    (source / archives.IGNORE_FILE).write_text("# not these\ndata/\n*.txt\n")
    packed = pack(source)
    assert packed.left_out == dict.fromkeys(("data/big.bin", "notes.txt"), "named in .autocompressignore")
    unpack(io.BytesIO(packed.data), tmp_path / "to")
    assert [path.name for path in (tmp_path / "to").rglob("*")] == ["task.py"]


def test_what_is_past_the_caps_of_packing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text("1234")
    (tmp_path / "b.bin").write_text("12345678")
    monkeypatch.setattr("autocompress.executors.shipping.SHIPPED_BYTES", 10)
    assert list(pack(tmp_path).left_out) == ["b.bin"]
