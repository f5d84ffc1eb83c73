"""Settings that are secrets: from an environment variable, or from the file that another one names, never an argument.

A file is how containers are handed secrets: it stays out of what shows the environment of a process.
"""

import os
from pathlib import Path

from .errors import ConfigError
from .reading import TEXT_BYTES, read_file


def from_environment(name: str) -> str | None:
    """The value of a variable, else the text of the file that NAME_FILE names; None where neither is set.

    Spaces and line ends around it do not count. Raises ConfigError for a file that cannot be read or is empty.
    """
    value = os.environ.get(name, "").strip()
    path = os.environ.get(f"{name}_FILE", "").strip()
    if value or not path:
        return value or None
    try:
        text = read_file(Path(path).expanduser(), TEXT_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{name}_FILE: {path}: cannot be read: {why.lower()}: name a file that holds it") from None
    if not text:
        raise ConfigError(f"{name}_FILE: {path}: is empty: write the value of {name} into it")
    return text
