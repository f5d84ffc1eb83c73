"""The service's tables beside those of the studies."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from served import make_database
from sqlalchemy import inspect

from autocompress.errors import StudyError
from autocompress.search.store import study_names
from autocompress.service.database import VERSIONS, Base, Database


def test_the_migrations_make_the_tables_that_the_code_works_with(tmp_path: Path) -> None:
    database = make_database(tmp_path)
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


def test_studies_and_their_versions_are_left_alone(tmp_path: Path) -> None:
    database = make_database(tmp_path)
    database.upgrade()
    assert study_names(database.url) == []
    tables = set(inspect(database.engine).get_table_names())
    assert {"studies", "alembic_version", "service_searches", VERSIONS} <= tables
    with database.engine.connect() as connection:
        theirs = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    assert theirs != "0001"


def test_servers_that_start_at_once_make_one_set_of_tables(tmp_path: Path) -> None:
    make_database(tmp_path).close()
    url = f"sqlite:///{tmp_path / 'autocompress.db'}"
    with Database(url).engine.begin() as connection:
        Base.metadata.drop_all(connection)
        connection.exec_driver_sql(f"DROP TABLE {VERSIONS}")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: Database(url).upgrade(), range(4)))
    with Database(url).transaction() as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM service_searches").scalar() == 0


def test_a_database_that_is_not_there_is_an_answer(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="folder"):
        Database(f"sqlite:///{tmp_path / 'none' / 'a.db'}").upgrade()
