"""Databases that the service's tests are run on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import Postgres, running_postgres
from served import sqlite_in

from autocompress.search.storage import close_storages


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A Postgres that these tests share, each in databases of its own."""
    with running_postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty storage."""
    if request.param == "sqlite":
        yield sqlite_in(tmp_path)
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    yield server.make()
    close_storages()
