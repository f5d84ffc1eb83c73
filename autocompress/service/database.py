"""The service's tables, in the database that holds the studies; Alembic makes and upgrades them.

Every moment is in seconds since 1970.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alembic.command import upgrade
from alembic.config import Config
from sqlalchemy import JSON, Double, ForeignKey, Index, Integer, String, Text, UniqueConstraint, create_engine, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from ..errors import ServiceError
from ..search.storage import open_storage
from ..urls import connect_arguments, shown
from .states import State

VERSIONS = "service_versions"  # Optuna and MLflow keep theirs in alembic_version
LOCK = 7_302_144_516_093_201  # of Postgres, while tables are made


class Base(DeclarativeBase):
    """The service's tables."""


class Search(Base):
    """One search: what was submitted, where it stands, and which server holds it until when.

    run counts how often its controller was started; begun says that how the last one ended was not told yet, and
    run_revision what it was started with: revision counts changes of trials, timeout and workers. interrupted is the
    last run that was told to drain. spent_s is the time of earlier runs, events the number of the last event. reason
    says why it waits or was paused by itself, and resumes, when it goes on by itself.
    """

    __tablename__ = "service_searches"
    __table_args__ = (
        UniqueConstraint("owner", "key", name="service_searches_key"),
        Index("service_searches_order", "state", "priority", "created"),
    )
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    study: Mapped[str] = mapped_column(String(100), unique=True)
    owner: Mapped[str] = mapped_column(String(100), index=True)
    key: Mapped[str | None] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(16), default=State.queued)
    priority: Mapped[int] = mapped_column(Integer, default=0)
    created: Mapped[float] = mapped_column(Double)
    config: Mapped[str] = mapped_column(String(500))
    config_text: Mapped[str] = mapped_column(Text)
    content: Mapped[str] = mapped_column(String(64))
    trials: Mapped[int | None] = mapped_column(Integer)
    timeout_s: Mapped[float | None] = mapped_column(Double)
    workers: Mapped[int | None] = mapped_column(Integer)
    revision: Mapped[int] = mapped_column(Integer, default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(100))
    lease_expires: Mapped[float | None] = mapped_column(Double)
    run: Mapped[int] = mapped_column(Integer, default=0)
    run_revision: Mapped[int] = mapped_column(Integer, default=0)
    run_started: Mapped[float | None] = mapped_column(Double)
    begun: Mapped[bool] = mapped_column(default=False)
    interrupted: Mapped[int] = mapped_column(Integer, default=0)
    losses: Mapped[int] = mapped_column(Integer, default=0)
    spent_s: Mapped[float] = mapped_column(Double, default=0.0)
    events: Mapped[int] = mapped_column(Integer, default=0)
    verdict: Mapped[str | None] = mapped_column(String(32))
    error: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    resumes: Mapped[float | None] = mapped_column(Double)


class Event(Base):
    """Something that happened to a search; numbers count up within a search, in the order of their transactions."""

    __tablename__ = "service_events"
    search: Mapped[str] = mapped_column(String(32), ForeignKey("service_searches.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    time: Mapped[float] = mapped_column(Double)


class Token(Base):
    """What a person proves with who they are: only a salted hash of it is kept."""

    __tablename__ = "service_tokens"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), index=True)
    salt: Mapped[str] = mapped_column(String(32))
    hash: Mapped[str] = mapped_column(String(64))
    admin: Mapped[bool]
    created: Mapped[float] = mapped_column(Double)
    expires: Mapped[float | None] = mapped_column(Double)
    revoked: Mapped[float | None] = mapped_column(Double)


class Allowance(Base):
    """What one person may have, where it is not what is usual (None), and has had.

    used_s are seconds of trials on a day, which is in days since 1970; begun is when a search of theirs last was.
    """

    __tablename__ = "service_allowances"
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    searches: Mapped[int | None] = mapped_column(Integer)
    workers: Mapped[int | None] = mapped_column(Integer)
    trial_seconds: Mapped[float | None] = mapped_column(Double)
    day: Mapped[int] = mapped_column(Integer, default=0)
    used_s: Mapped[float] = mapped_column(Double, default=0.0)
    begun: Mapped[float] = mapped_column(Double, default=0.0)


class Database:
    """Sessions on the service's tables; raises ServiceError where the database cannot be opened."""

    def __init__(self, url: str, wait: float = 30.0) -> None:
        self.url = url
        try:
            self.engine = create_engine(url, connect_args=connect_arguments(url, wait), pool_pre_ping=True)
        except ImportError as error:
            raise _away(url, error) from error
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session whose changes are kept together, or not at all."""
        with self._sessions.begin() as session:
            yield session

    def upgrade(self) -> None:
        """Make the tables of the studies and our own, or bring ours up to date; several servers may do so at once."""
        try:
            with _alone(self.engine):
                open_storage(self.url, make=True)  # first: it refuses a SQLite file of others' tables
                with self.engine.begin() as connection:
                    if connection.dialect.name == "sqlite":
                        connection.exec_driver_sql("BEGIN IMMEDIATE")
                    upgrade(migrations(connection), "head")
            if self.engine.dialect.name == "sqlite":
                with self.engine.connect() as connection:
                    # Who writes waits for nobody who reads, and a server reads all the time.
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        except SQLAlchemyError as error:
            raise _away(self.url, error) from error

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()


def migrations(connection: Connection) -> Config:
    """Alembic's settings for our tables on a connection."""
    folder = Path(__file__).parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@contextlib.contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """Wait for other servers that make tables in a Postgres, and let others wait; a SQLite file has a lock itself."""
    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.begin() as connection:  # the lock goes with its transaction
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        yield


def _away(url: str, error: BaseException) -> ServiceError:
    first = (str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__])[0]
    return ServiceError(f"database {shown(url)}: cannot be used: {first}: start it, or name another with --storage")
