"""Databases for tests: SQLite files, and those of a real Postgres where it is installed."""

import contextlib
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import postgres
import psycopg
import pytest

PASSWORD = "a:b/c@d%e"  # so that URLs have to quote it
QUOTED = "a%3Ab%2Fc%40d%25e"
PATIENCE = 60.0
# What is written has to outlive the server, and not the machine's power.
FAST = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=200")
NUMBERS = count()


def free_port() -> int:
    """A port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """A server on loopback that wants a password."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        postgres.initialize(folder / "data", PASSWORD)
        self.start()

    def url(self, database: str, password: str = QUOTED) -> str:
        """The URL of a database, with the password."""
        return f"postgresql+psycopg://postgres:{password}@127.0.0.1:{self.port}/{database}"

    def make(self) -> str:
        """A new, empty database; its URL."""
        name = f"test{next(NUMBERS)}"
        with self._connected() as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = postgres.start(self.folder / "data", self.folder / "log", ["-p", str(self.port), *FAST])
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._connected().close()
            except psycopg.OperationalError:
                log = (self.folder / "log").read_text()
                assert self._process.poll() is None, log
                assert time.monotonic() < deadline, log
                time.sleep(0.05)
            else:
                return

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it, with whoever is connected."""
        self._process.send_signal(number)
        self._process.wait(PATIENCE)

    def _connected(self) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", password=PASSWORD, dbname="postgres", autocommit=True
        )


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server of its own, which ends with the block; skips the test where Postgres is not installed."""
    if not postgres.installed():
        pytest.skip("Postgres is not installed")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    postgres.give(folder)
    try:
        server = Postgres(folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
