"""Project folders as archives: packed with the caps of what is sent to workers, unpacked without trust."""

import fnmatch
import gzip
import hashlib
import io
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from ..errors import unwritten
from .problems import Refusal

IGNORE_FILE = ".autocompressignore"
BLOCK_BYTES = 1 << 20
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)


@dataclass(frozen=True)
class Caps:
    """What an archive may hold: bytes packed and unpacked, files and folders, and levels of folders."""

    packed_bytes: int = 100_000_000
    unpacked_bytes: int = 400_000_000
    members: int = 5_000
    depth: int = 20


@dataclass(frozen=True)
class Packed:
    """A folder as an archive, and what was left out of it and why, by path."""

    data: bytes
    left_out: dict[str, str]


def pack(folder: Path) -> Packed:
    """A folder's code and small files as a .tar.gz: what travels to workers, but for what its ignore file names."""
    from ..executors.shipping import SHIPPED_BYTES, SHIPPED_FILES, may_travel  # and torch with it

    ignored = _patterns(folder / IGNORE_FILE)
    buffer, left_out = io.BytesIO(), {}
    total = count = 0
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in may_travel(folder):
            name, size = path.relative_to(folder).as_posix(), path.stat().st_size
            if any(fnmatch.fnmatch(name, pattern) or name.startswith(f"{pattern}/") for pattern in ignored):
                left_out[name] = f"named in {IGNORE_FILE}"
            elif total + size > SHIPPED_BYTES or count >= SHIPPED_FILES:
                left_out[name] = f"past {SHIPPED_BYTES / 1e6:.0f} MB or {SHIPPED_FILES} files"
            else:
                archive.add(path.resolve(), name, recursive=False)
                total, count = total + size, count + 1
    return Packed(buffer.getvalue(), left_out)


def _patterns(path: Path) -> list[str]:
    lines = path.read_text().splitlines() if path.is_file() else []
    return [line.strip().rstrip("/") for line in lines if line.strip() and not line.startswith("#")]


@dataclass(frozen=True)
class _Member:
    name: str
    folder: bool
    open: IO[bytes] | None


def unpack(archive: IO[bytes], folder: Path, caps: Caps | None = None) -> str:
    """Write a .tar, .tar.gz or .zip into a new folder; returns a digest of names and contents.

    Nothing but regular files and folders below the folder itself is written, each with plain permissions. Raises
    Refusal (413 or 422), and then the folder is gone, as it is when the disk is full (WriteError).
    """
    caps = caps or Caps()
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise unwritten(error, folder) from error
    try:
        return _write_all(_members(archive, caps), folder, caps)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write_all(members: Iterator[_Member], folder: Path, caps: Caps) -> str:
    left, digests = caps.unpacked_bytes, {}
    for count, member in enumerate(members, 1):
        if count > caps.members:
            raise _refused(f"it holds more than {caps.members:,} files and folders", "leave data out", 413)
        path = folder / _checked_name(member.name, caps.depth)
        path_there = folder if path == folder else path.parent
        try:
            (path if member.folder else path_there).mkdir(parents=True, exist_ok=True)
            if member.open is not None:
                digest, size = _copy(member.open, path, left)
                digests[path.relative_to(folder).as_posix()] = digest
                left -= size
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            raise _refused(f"{member.name!r} stands twice in it", "name every file once") from None
    if not digests:
        raise _refused("it holds no files", "send the folder of the config")
    whole = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(whole.encode()).hexdigest()


def _checked_name(name: str, depth: int) -> str:
    parts = PurePosixPath(name).parts
    if PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name or ":" in name[:2]:
        raise _outside(name)
    if len(parts) > depth or any(len(part.encode(errors="surrogateescape")) > 255 for part in parts):
        raise _refused(f"{name[:80]!r} lies deeper than {depth} folders, or has long names", "use a flatter folder")
    if not name.isprintable():
        raise _refused(f"{name!r} holds what cannot be printed", "rename that file")
    return name


def _copy(source: IO[bytes], path: Path, most: int) -> tuple[str, int]:
    """Write a new file of at most so many bytes, whatever its header says; its digest and size."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("xb") as file:
            while block := source.read(BLOCK_BYTES):
                size += len(block)
                if size > most:
                    raise _refused("it unpacks to more bytes than are taken", "leave data out", 413)
                digest.update(block)
                file.write(block)
    except DAMAGED as error:
        if isinstance(error, FileExistsError | IsADirectoryError | NotADirectoryError):
            raise
        if isinstance(error, OSError) and error.errno is not None:
            raise unwritten(error, path) from error
        raise _damaged(error) from None
    return digest.hexdigest(), size


class _Bounded(io.RawIOBase):
    """A stream that ends with a Refusal where it goes on for longer than it may."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, most: int) -> None:
        self._stream, self._left = stream, most

    def read(self, size: int = -1) -> bytes:
        """Up to so many bytes."""
        block = self._stream.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(block)
        if self._left < 0:
            raise _refused("it unpacks to more bytes than are taken", "leave data out", 413)
        return block


def _members(archive: IO[bytes], caps: Caps) -> Iterator[_Member]:
    archive.seek(0)
    start = archive.read(4)
    archive.seek(0)
    # Headers can be as large as files: they count too, two blocks each.
    most = caps.unpacked_bytes + 1024 * (caps.members + 20)
    try:
        if start == b"PK\x03\x04":
            yield from _zip_members(archive)
        else:
            stream = gzip.GzipFile(fileobj=archive, mode="rb") if start[:2] == b"\x1f\x8b" else archive
            yield from _tar_members(_Bounded(stream, most))
    except DAMAGED as error:
        raise _damaged(error) from None


def _tar_members(archive: _Bounded) -> Iterator[_Member]:
    with tarfile.open(fileobj=archive, mode="r|") as tar:
        for info in tar:
            if not (info.isreg() or info.isdir()) or info.issparse():
                raise _refused(f"{info.name!r} is a link or a device", "send regular files and folders only")
            try:
                tarfile.data_filter(info, "/nowhere")
            except tarfile.FilterError:
                raise _outside(info.name) from None
            yield _Member(info.name, info.isdir(), tar.extractfile(info) if info.isreg() else None)


def _zip_members(archive: IO[bytes]) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as found:
        for info in found.infolist():
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(f"{info.filename!r} is a link or a device", "send regular files and folders only")
            if info.is_dir():
                yield _Member(info.filename, True, None)
            else:
                with found.open(info) as file:
                    yield _Member(info.filename, False, file)


def _outside(name: str) -> Refusal:
    return _refused(f"{name!r} leads out of its folder", "name files by relative paths without `..`")


def _damaged(error: BaseException) -> Refusal:
    return _refused(f"it cannot be read ({error})", "send a whole .tar, .tar.gz or .zip")


def _refused(what: str, fix: str, status: int = 422) -> Refusal:
    return Refusal(status, what, "archive", "archives hold a project's own files, within limits", fix)
