"""Which files of the user's a task's code is made of, and one digest of all of them."""

import ast
import contextlib
import hashlib
import sys
from collections.abc import Iterator
from importlib.util import cache_from_source
from pathlib import Path

from ..reading import CODE_BYTES, read_file

_LOADED: dict[str, str] = {}  # the digest that each local file had when its module was imported


def code_digest(start: Path, root: Path) -> str:
    """A digest of a file and of every file below root that it imports, by their places there; not of where that is."""
    whole = hashlib.sha256()
    for path in local_files(start, root):
        whole.update(f"{_within(path, root)} {file_digest(path)}\n".encode())
    return whole.hexdigest()


def _within(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(read_file(path, CODE_BYTES)).hexdigest()


def local_files(start: Path, root: Path) -> list[Path]:
    """A Python file and the files below root that it imports, directly or not, in the order of their names."""
    found: set[Path] = set()
    todo = [start]
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            todo += [file for name in _imported(path, root) for file in _files_of(name, path, root)]
    return sorted(found)


def _imported(path: Path, root: Path) -> Iterator[str]:
    """The modules that a file names in its imports, relative ones in full from root."""
    try:
        tree = ast.parse(read_file(path, CODE_BYTES))
    except (SyntaxError, ValueError):  # importing it will say so
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.parent.relative_to(root).parts if path.is_relative_to(root) else ()
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (base, node.module or "") if part)
            yield origin
            yield from (f"{origin}.{alias.name}".lstrip(".") for alias in node.names)


def _files_of(name: str, importer: Path, root: Path) -> Iterator[Path]:
    """The files that importing a module runs: its own and its packages'; from root, or beside who imports it."""
    parts = name.split(".") if name else []
    for folder in dict.fromkeys((root, importer.parent)):
        for length in range(1, len(parts) + 1):
            stem = folder.joinpath(*parts[:length])
            yield from (path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file())


def file_stamp(places: list[Path]) -> str:
    """A digest of names, sizes and times of files and of what folders hold: whether they still are what was read."""
    whole = hashlib.sha256()
    for place in places:
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            with contextlib.suppress(OSError):
                found = path.stat()
                whole.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    return whole.hexdigest()


def forget_others(start: Path, root: Path) -> None:
    """Let the modules that a file imports be its own: not those of another folder, nor what stood in them before."""
    for path in local_files(start, root):
        digest = file_digest(path)
        same = _LOADED.setdefault(str(path), digest) == digest
        name = _within(path, root).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        loaded = getattr(sys.modules.get(name), "__file__", None)
        if loaded is not None and not (same and loaded == str(path)):
            del sys.modules[name]
        if not same:
            # Bytecode is told from its source by seconds and size, which an edit may leave as they are.
            Path(cache_from_source(str(path))).unlink(missing_ok=True)
            _LOADED[str(path)] = digest
