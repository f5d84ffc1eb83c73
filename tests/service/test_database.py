"""The service's tables beside those of the studies."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from databases import Postgres, free_port, running_postgres
from optuna.study import StudyDirection
from served import make_database
from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from autocompress.errors import ServiceError, StorageAway, StudyError
from autocompress.search.storage import LAST_MADE, close_storages, open_storage, study_names
from autocompress.service.database import VERSIONS, Base, Database
from autocompress.service.tokens import Tokens


@pytest.fixture
def database(tmp_path: Path, storage: str) -> Iterator[Database]:
    made = make_database(tmp_path, storage)
    yield made
    made.close()


def test_who_writes_waits_for_no_reader_of_a_sqlite_file(tmp_path: Path) -> None:
    database = make_database(tmp_path)
    with database.engine.connect() as reader, database.engine.connect() as writer:
        reader.exec_driver_sql("PRAGMA busy_timeout=0")
        writer.exec_driver_sql("PRAGMA busy_timeout=0")
        reader.exec_driver_sql("BEGIN")
        assert reader.exec_driver_sql("SELECT count(*) FROM service_tokens").scalar() == 0
        writer.exec_driver_sql("DELETE FROM service_tokens")
        writer.commit()
    database.close()


def test_the_migrations_make_the_tables_that_the_code_works_with(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": VERSIONS,
                "include_name": lambda name, kind, parents: kind != "table" or name in Base.metadata.tables,
            },
        )
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == "0002"


def test_studies_and_their_versions_are_left_alone(database: Database) -> None:
    database.upgrade()
    assert study_names(database.url) == []
    tables = set(inspect(database.engine).get_table_names())
    assert {"studies", "alembic_version", "service_searches", VERSIONS} <= tables
    with database.engine.connect() as connection:
        theirs = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    assert theirs != "0001"


def upgrade(url: str) -> None:
    """What a server does as it starts."""
    with closing(Database(url)) as database:
        database.upgrade()


def test_servers_that_start_at_once_make_one_set_of_tables(database: Database) -> None:
    with database.engine.begin() as connection:
        Base.metadata.drop_all(connection)
        connection.exec_driver_sql(f"DROP TABLE {VERSIONS}")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upgrade, [database.url] * 4))
    with database.transaction() as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM service_searches").scalar() == 0


def test_servers_that_start_at_once_on_an_empty_postgres_make_the_studies_tables_too(postgres_server: Postgres) -> None:
    url = postgres_server.make()
    code = "import sys; from autocompress.service.database import Database; Database(sys.argv[1]).upgrade()"
    servers = [subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.PIPE) for _ in range(2)]
    said = [server.communicate()[1].decode() for server in servers]
    assert [server.returncode for server in servers] == [0, 0], said
    upgrade(url)
    close_storages()


def test_a_postgres_that_is_away_or_wants_another_password_is_an_answer_without_the_password(
    postgres_server: Postgres,
) -> None:
    for url in (postgres_server.url("postgres", "wrong"), f"postgresql+psycopg://me:wrong@127.0.0.1:{free_port()}/a"):
        for use in (upgrade, study_names):
            with pytest.raises((ServiceError, StorageAway), match=r"cannot be (used|opened): .*: start") as refused:
                use(url)
            assert "wrong" not in str(refused.value)


def test_what_a_process_reads_of_a_postgres_shares_its_connections(postgres_server: Postgres) -> None:
    url = postgres_server.make()
    assert open_storage(url) is None
    made = open_storage(url, make=True)
    assert made is not None
    for _ in range(20):
        assert open_storage(url) is made
        assert study_names(url) == []
    assert made.engine.pool.checkedout() == 0
    close_storages()


def test_a_storage_outlives_a_postgres_that_was_killed(tmp_path: Path) -> None:
    with running_postgres() as server, closing(make_database(tmp_path, server.make())) as database:
        storage = open_storage(database.url)
        assert storage is not None
        storage.set_study_user_attr(storage.create_new_study([StudyDirection.MINIMIZE], "one"), LAST_MADE, [])
        server.stop(signal.SIGQUIT)  # it takes down all who are connected, and leaves its files as a crash would
        with pytest.raises(StorageAway, match=r"cannot be used: .*: start its server"):
            study_names(database.url)
        with pytest.raises(SQLAlchemyError):
            Tokens(database).list()
        server.start()
        assert study_names(database.url) == ["one"]
        assert Tokens(database).list() == []
        close_storages()


def test_a_database_that_is_not_there_is_an_answer(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="folder"):
        Database(f"sqlite:///{tmp_path / 'none' / 'a.db'}").upgrade()
