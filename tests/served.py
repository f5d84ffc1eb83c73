"""Servers for tests: an application in this process, or a real one whose controllers only pretend to search."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from tiny import CONFIG, SPACE, TASK

from autocompress.service.bell import Bell
from autocompress.service.database import Database, Search
from autocompress.service.parts import Parts, parts_of
from autocompress.service.queue import Queue, Submission
from autocompress.service.runner import Runner
from autocompress.service.settings import Settings
from autocompress.service.tokens import Person, Tokens

PRETENDER = Path(__file__).parent / "pretender.py"
PATIENCE = 300.0  # a slow machine beside other work; waits end as soon as what they wait for is there
ANN, BOB, ADA = Person("ann"), Person("bob"), Person("ada", admin=True)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def sqlite_in(folder: Path) -> str:
    """The URL of the usual SQLite file in a folder."""
    return f"sqlite:///{folder / 'autocompress.db'}"


def make_database(folder: Path, storage: str | None = None) -> Database:
    """A database with all tables, in a folder unless it has a URL."""
    database = Database(storage or sqlite_in(folder))
    database.upgrade()
    return database


def submission(study: str = "one", **changes: Any) -> Submission:
    """A search to be, of which nothing but its row is there."""
    return Submission(**{"study": study, "config": "search.yaml", "config_text": "", "content": "0", **changes})


def submit(database: Database, clock: Callable[[], float], study: str = "one", **changes: Any) -> Search:
    """A search of Ann's in the queue."""
    return Queue(database, clock).submit(ANN, submission(study, **changes))[0]


def archive(files: dict[str, bytes | str] | None = None, **config: Any) -> bytes:
    """The tiny project as a .tar.gz, with changes to its config, or any files."""
    given = {"task.py": TASK, "space.yaml": json.dumps(SPACE), "search.yaml": json.dumps({**CONFIG, **config})}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in (given if files is None else files).items():
            data = text.encode() if isinstance(text, str) else text
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def settings_for(folder: Path, **changes: Any) -> Settings:
    """Settings of a server in a folder, which waits for nothing long."""
    usual = {"storage": sqlite_in(folder), "folder": folder / "service", "executor": "inline",
             "lease_s": 1.5, "poll_s": 0.1, "grace_s": 5.0, "port": 0}  # fmt: skip
    return Settings(**{**usual, **changes})


def parts_for(folder: Path, **changes: Any) -> Parts:
    """The parts of a server in this process whose runner is not started."""
    settings = settings_for(folder, **changes)
    database = Database(settings.storage)
    database.upgrade()
    runner = Runner(settings, database, (sys.executable, str(PRETENDER)))
    return parts_of(settings, runner, database, Bell(database, settings.poll_s))


def client_for(url: str, token: str) -> httpx2.Client:
    """A client with a token."""
    return httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE)


@dataclass(frozen=True)
class Server:
    """A server in a process of its own, and a client with its admin's token."""

    process: subprocess.Popen[str]
    url: str
    client: httpx2.Client
    folder: Path
    storage: str

    def tokens(self) -> Tokens:
        """The tokens of its database."""
        return Tokens(Database(self.storage))

    def submit(self, study: str, **config: Any) -> dict[str, Any]:
        """Submit the tiny project under a name."""
        sent = self.client.post("/api/v1/searches", files={"archive": archive(study=study, **config)})
        assert sent.status_code == 201, sent.text
        found: dict[str, Any] = sent.json()
        return found

    def get(self, study: str) -> dict[str, Any]:
        """A search as the server tells it."""
        found: dict[str, Any] = self.client.get(f"/api/v1/searches/{study}").json()
        return found

    def wait(self, study: str, *states: str) -> dict[str, Any]:
        """Wait until a search is in one of the states."""
        return until(lambda: (found := self.get(study))["state"] in states and found)

    def kill(self) -> None:
        """kill -9, as if the power of the server alone was cut."""
        self.process.kill()
        self.process.wait()


def until(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Wait until a condition holds, and return what it found."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to this"
        time.sleep(0.05)
    return found


SERVE = """
import json, sys
from served import PRETENDER, settings_for
from autocompress.service.server import serve
from pathlib import Path
settings = settings_for(Path(sys.argv[1]), **json.loads(sys.argv[2]))
serve(settings, lambda line: print(line, flush=True), (sys.executable, str(PRETENDER)))
"""


@contextlib.contextmanager
def served(folder: Path, slots: int = 2, env: dict[str, str] | None = None, **changes: Any) -> Iterator[Server]:
    """A real server on a free port, with changes to its settings; what it left running is killed in the end."""
    arguments = [sys.executable, "-c", SERVE, str(folder), json.dumps({"slots": slots, **changes})]
    paths = [str(PRETENDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**(env or os.environ), "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip().removeprefix("autocompress on ")
        assert url, (folder / "server.log").read_text()
        process.stdout.readline()
        token = (folder / "service" / "admin.token").read_text().strip()
        with client_for(url, token) as client:
            yield Server(process, url, client, folder, changes.get("storage") or sqlite_in(folder))
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE)
        process.stdout.close()
        end_controllers(folder)


def controllers(folder: Path, study: str | None = None) -> list[int]:
    """The processes that hold the lock of a search in a folder, by what they wrote there."""
    found = []
    for lock in (folder / "service" / "searches").glob("*/runs/lock"):
        with contextlib.suppress(ValueError, ProcessLookupError):
            pid = json.loads(lock.read_text())["pid"]
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/cmdline").read_bytes() and (
                study is None
                or f"study: {study}\n" in (lock.parents[1] / "project" / ".autocompress-service.yaml").read_text()
            ):
                found.append(pid)
    return found


def end_controllers(folder: Path) -> None:
    """Kill what a killed server left."""
    for pid in controllers(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
