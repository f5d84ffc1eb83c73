"""Where studies are kept: SQLite files and databases of servers, opened for Optuna; errors that people can act on."""

from collections.abc import Callable
from typing import Any

import optuna
from optuna.storages._rdb import models
from sqlalchemy import Engine, event, func, select
from sqlalchemy.exc import SQLAlchemyError

from ..errors import NO_PERMISSION, NO_ROOM, RESUMES, StorageAway, StudyError
from ..recipe import digest
from ..urls import WAIT_SECONDS, checked_url, connect_arguments, is_server, owners, shown, sqlite_file
from .records import ENDED

optuna.logging.set_verbosity(optuna.logging.WARNING)
DEFAULT_STORAGE = "sqlite:///autocompress.db"
HELD = f"another process holds it: end that, or wait longer (?timeout=300 in the URL); {RESUMES}"
# By the beginning of SQLite's names for its errors; others are defects, or tried again by Optuna.
SQLITE_RULES = {
    "SQLITE_BUSY": HELD,
    "SQLITE_LOCKED": HELD,
    "SQLITE_FULL": NO_ROOM,
    "SQLITE_IOERR": f"check the disk, its room and its quota; {RESUMES}",
    "SQLITE_READONLY": NO_PERMISSION,
    "SQLITE_PERM": NO_PERMISSION,
    "SQLITE_CANTOPEN": NO_PERMISSION,
    "SQLITE_NOTADB": "name a file of SQLite",
    "SQLITE_CORRUPT": "the file is damaged: put back a copy",
}
LAST_MADE = "objectives"  # the last of what is kept with a study when it is made
# What drivers of servers raise where there is no connection, or where it or the transaction was ended from afar.
AWAY = {"OperationalError", "InterfaceError"}
BACK = f"start its server, or check the URL and its password; {RESUMES}"
# The storages in databases of servers: all that a process reads and writes there shares one pool of connections.
_POOLS: dict[str, optuna.storages.RDBStorage] = {}


def open_storage(url: str, make: bool = False, wait: float = WAIT_SECONDS) -> optuna.storages.RDBStorage | None:
    """Connect to an Optuna storage; None where there is none yet, unless it is to be made.

    wait: seconds to wait while others hold a SQLite file locked, where the URL does not say. Raises StudyError when
    the database cannot be opened or is somebody else's, here and at every later use.
    """
    try:
        url = checked_url(url, "storage")
        if url in _POOLS:
            return _POOLS[url]
        found = owners(url, wait)
        if found and "Optuna" not in found:
            raise ValueError(_foreign(found))
        if not found and not make:
            return None
        arguments = {"connect_args": connect_arguments(url, wait), "pool_pre_ping": True}
        # Optuna fills in braces.
        template = url.replace("{", "{{").replace("}", "}}")
        storage = optuna.storages.RDBStorage(template, arguments, skip_table_creation="Optuna" in found)
    except Exception as error:
        raise _trouble(url, "opened", getattr(error, "orig", None) or error) from None
    event.listen(storage.engine, "handle_error", _teller(url), retval=True)
    if sqlite_file(url) is None:
        storage = _POOLS.setdefault(url, storage)
    return storage


def close_storages() -> None:
    """Give back the connections to servers that this process holds."""
    while _POOLS:
        _POOLS.popitem()[1].engine.dispose()


def check_tracking(uri: str, there: bool = False) -> None:
    """Raise StudyError when the database that MLflow is to use is somebody else's; there: or when none is there yet."""
    try:
        found = set() if is_server(uri) else owners(uri, wait=1.0)
    except ValueError as error:
        raise StudyError(str(error)) from None
    except (SQLAlchemyError, ImportError):
        return  # what keeps MLflow from using it is said, and waited for, when something is logged
    if found and "MLflow" not in found:
        whose = "the studies of Optuna" if "Optuna" in found else "tables of something else"
        raise StudyError(f"tracking store {shown(uri)}: holds {whose}: give MLflow a database of its own")
    if there and not found and not is_server(uri):
        raise StudyError(f"no tracking store at {shown(uri)}: run a search first, or give --uri")


def _foreign(found: set[str]) -> str:
    whose = "MLflow's" if "MLflow" in found else "something else's"
    return f"it holds {whose} tables and no studies: name another database, such as {DEFAULT_STORAGE}"


def _teller(url: str) -> Callable[[Any], Exception | None]:
    def tell(context: Any) -> Exception | None:
        """Every error of the database that people can act on, in words, wherever it comes up."""
        if context.is_pre_ping:
            return None  # a connection of the pool was lost: another one is opened in its place
        error = context.original_exception
        known = _sqlite_rule(error) is not None
        return _trouble(url, "used", error) if known or _away(url, error) or context.is_disconnect else None

    return tell


def _sqlite_rule(error: BaseException) -> str | None:
    """What people can do about an error of SQLite; None for other errors."""
    name = getattr(error, "sqlite_errorname", "")  # such as SQLITE_IOERR_WRITE
    return next((rule for code, rule in SQLITE_RULES.items() if name.startswith(code)), None)


def _away(url: str, error: BaseException) -> bool:
    """Whether an error means that the server of a database is away."""
    return any(kind.__name__ in AWAY for kind in type(error).__mro__) and sqlite_file(url) is None


def _trouble(url: str, what: str, error: BaseException) -> StudyError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    rule = _sqlite_rule(error)
    if _away(url, error):
        return StorageAway(f"storage {shown(url)}: cannot be {what}: {first}: {BACK}")
    kind = StorageAway if rule == HELD else StudyError
    return kind(f"storage {shown(url)}: cannot be {what}: {first}" + (f": {rule}" if rule else ""))


def study_stamp(engine: Engine, name: str) -> tuple[int, int, str] | None:
    """What is another whenever somebody writes of a study: which it is, how many of its trials ended, and what is kept
    with it. None where there is none, or it is being made. It reads little, however many trials there are.
    """
    trial, attribute = models.TrialModel, models.StudyUserAttributeModel
    with engine.connect() as connection:
        study = connection.scalar(select(models.StudyModel.study_id).where(models.StudyModel.study_name == name))
        if study is None:
            return None
        ended = select(func.count()).select_from(trial).where(trial.study_id == study, trial.state.in_(ENDED))
        kept = select(attribute.key, attribute.value_json).where(attribute.study_id == study).order_by(attribute.key)
        rows = {row.key: row.value_json for row in connection.execute(kept)}
        return (int(study), int(connection.scalar(ended) or 0), digest(rows)) if LAST_MADE in rows else None


def study_names(url: str, wait: float = WAIT_SECONDS) -> list[str]:
    """The names of the studies in a storage that were made to the end; none where there is no storage yet."""
    storage = open_storage(url, wait=wait)
    studies = [] if storage is None else storage.get_all_studies()
    return sorted(study.study_name for study in studies if LAST_MADE in study.user_attrs)
