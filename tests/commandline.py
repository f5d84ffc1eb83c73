"""The command line as users have it: subprocesses in a folder of their own, or the same calls in this process."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tiny import Ran, run

DIGITS = Path(__file__).parent / "digits"
COMMAND = (sys.executable, "-c", "from autocompress.terminal.cli import main; main()")
# Long enough for a machine that does much else; a test that waits this long has failed.
PATIENCE = 600.0


@dataclass
class Project:
    """A folder that holds a copy of the digits project, and in which commands are run."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, **changes: Any) -> "Project":
        """Copy the project; changes replace entries of its search.yaml."""
        shutil.copytree(DIGITS, folder / "digits", ignore=shutil.ignore_patterns("__pycache__"))
        project = cls(folder)
        project.configure(**changes)
        return project

    def configure(self, **changes: Any) -> None:
        """Replace entries of search.yaml."""
        path = self.folder / self.config
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}, sort_keys=False))

    @property
    def config(self) -> str:
        """The config as commands name it."""
        return "digits/search.yaml"

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, with one thread and without settings that would change what is tested."""
        kept = {key: value for key, value in os.environ.items() if key not in ("AUTOCOMPRESS_STORAGE", "RAY_ADDRESS")}
        return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **self.env}

    def call(self, *arguments: str, expect: int = 0) -> Ran:
        """Run a command in this process, which has loaded torch already; it must have the expected exit code."""
        done = run(self.folder, *arguments)
        assert done.code == expect, f"exit code {done.code}\n{done.out}\n{done.err}"
        return done

    def run(self, *arguments: str, expect: int = 0) -> Ran:
        """Run a command in a process of its own to its end, which must have the expected exit code."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return Ran(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def start(self, *arguments: str) -> Iterator["Running"]:
        """A command that runs meanwhile, as the leader of a session of its own; killed at the end if it still runs."""
        out, err = self.folder / "out.txt", self.folder / "err.txt"
        with out.open("w") as out_file, err.open("w") as err_file:
            process = subprocess.Popen(
                [*COMMAND, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
                start_new_session=True,
            )
        try:
            yield Running(process, out, err)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def trials(self) -> dict[int, "Trial"]:
        """What the Optuna storage holds of each trial, read without taking part in the study."""
        path = self.folder / "autocompress.db"
        if not path.is_file():
            return {}
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as database:
            try:
                states = database.execute("SELECT trial_id, number, state FROM trials ORDER BY number").fetchall()
                rows = database.execute("SELECT trial_id, key, value_json FROM trial_user_attributes").fetchall()
            except sqlite3.OperationalError:  # the tables are being made
                return {}
        found: dict[int, Trial] = {}
        for identity, number, state in states:
            assert number not in found, f"trial {number} stands twice"
            found[number] = Trial(state, {key: json.loads(value) for trial, key, value in rows if trial == identity})
        return found

    def states(self) -> Counter[str]:
        """How many trials are in which state."""
        return Counter(trial.state for trial in self.trials().values())

    def counted(self) -> dict[int, "Trial"]:
        """The trials that ended, without repeats of earlier ones."""
        return {
            number: trial
            for number, trial in self.trials().items()
            if trial.ended and "duplicate_of" not in trial.attributes
        }


@dataclass(frozen=True)
class Trial:
    """One row of the Optuna storage."""

    state: str
    attributes: dict[str, Any]

    @property
    def ended(self) -> bool:
        """Whether Optuna was told how it ended."""
        return self.state not in ("RUNNING", "WAITING")

    @property
    def outcome(self) -> dict[str, Any]:
        """How it ended."""
        outcome: dict[str, Any] = self.attributes["outcome"]
        return outcome


@dataclass(frozen=True)
class Running:
    """A command that runs."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition that must come true while the command runs."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"it ended early with {self.process.returncode}\n{self.err.read_text()}"
            assert time.monotonic() < deadline, f"it did not come to this\n{self.err.read_text()}"
            pause(self.process)

    def says(self, text: str) -> bool:
        """Whether a text stands on standard error."""
        return text in self.err.read_text()

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal sends it: to every process of the command's group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> Ran:
        """Wait for the end."""
        code = self.process.wait(PATIENCE)
        return Ran(code, self.out.read_text(), self.err.read_text())


def pause(process: subprocess.Popen[bytes]) -> None:
    """A moment between two looks, cut short when the process ends."""
    try:
        process.wait(0.1)
    except subprocess.TimeoutExpired:
        return
