"""Digests of the code that compresses: what other code has made is made again."""

import functools
import hashlib
import inspect
from pathlib import Path

from ..recipe import digest

PACKAGE = Path(__file__).parents[1]


@functools.cache
def package_code() -> str:
    """A digest of all of this package."""
    files = sorted(PACKAGE.rglob("*.py"))
    return digest([[str(path.relative_to(PACKAGE)), _sha256(path)] for path in files])


@functools.cache
def code_of(kind: type) -> str:
    """A digest of the file that a technique is in, or its name where that cannot be read."""
    try:
        return _sha256(Path(inspect.getfile(kind)))
    except (OSError, TypeError):
        return f"{kind.__module__}.{kind.__qualname__}"


def code_from_elsewhere(kinds: list[type]) -> list[str]:
    """Digests of the files of those that are in other packages."""
    own = PACKAGE.name
    return [code_of(kind) for kind in kinds if kind.__module__.partition(".")[0] != own]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
