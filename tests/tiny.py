"""A task of one layer that is right from the start, and the command line run in this process."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autocompress.measure import latency
from autocompress.terminal import cli

# Of bursts in a session: nothing that is shown by commands in this process depends on how exactly a file was timed.
ROUNDS = 20  # of latency, a session: few, but enough that a measurement repeats
# The layer's own answers are the labels, so that the model has an accuracy of 1 without any training.
TASK = '''
"""One linear layer over 8x8 random pixels; its own answers are the labels."""

import torch
from torch import nn

from autocompress import Classification


def network():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def split(seed, count):
    pixels = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return pixels, network()(pixels).argmax(1)


def tiny(make=network, baseline=None, **splits):
    parts = {"train": split(0, 64), "validation": split(1, 32), "test": split(2, 32), **splits}
    return Classification(make, **parts, baseline=baseline)
'''
SPACE = {
    "version": 1,
    "steps": [{"technique": "svd", "energy": [0.3, 0.5], "variant": "channel"}, {"one_of": ["float16", "none"]}],
}
CONFIG: dict[str, Any] = {
    "study": "tiny",
    "task": "task.py:tiny",
    "search_space": "space.yaml",
    "search": {"trials": 3, "workers": 1},
    "tracking": None,
    "ray": {"address": "local"},
}


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output, which must be one JSON document and nothing else: without NaN and Infinity."""

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is no JSON")

        return json.loads(self.out, parse_constant=refuse)


class Silent:
    """A view that shows nothing."""

    def phase(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def update(self, state: Any) -> None:
        """Nothing."""


def make_project(folder: Path, **changes: Any) -> Path:
    """Write task, space and config into a folder; changes replace entries of the config."""
    (folder / "task.py").write_text(TASK)
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE, sort_keys=False))
    configure(folder / "search.yaml", **changes)
    return folder


def configure(path: Path, **changes: Any) -> None:
    """Write the config with changes."""
    path.write_text(yaml.safe_dump({**CONFIG, **changes}, sort_keys=False))


def run(folder: Path, *arguments: str, storage: str | None = None) -> Ran:
    """Run a command in a folder; storage is what AUTOCOMPRESS_STORAGE says."""
    out, err = io.StringIO(), io.StringIO()
    with _called(folder, arguments, storage), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return Ran(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _called(folder: Path, arguments: tuple[str, ...], storage: str | None) -> Iterator[None]:
    """This process as if the command had been called from a folder."""
    argv, path, before = sys.argv, list(sys.path), os.environ.pop("AUTOCOMPRESS_STORAGE", None)
    rounds = latency.MOST_ROUNDS
    sys.argv, latency.MOST_ROUNDS = ["autocompress", *arguments], ROUNDS
    if storage is not None:
        os.environ["AUTOCOMPRESS_STORAGE"] = storage
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        sys.argv, sys.path[:], latency.MOST_ROUNDS = argv, path, rounds
        os.environ.pop("AUTOCOMPRESS_STORAGE", None)
        if before is not None:
            os.environ["AUTOCOMPRESS_STORAGE"] = before
