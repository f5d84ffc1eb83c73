"""Database URLs: read as SQLAlchemy reads them, compared, and asked whose tables are behind them.

SQLAlchemy is imported where it is used: help and completion of commands need none of this.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

WAIT_SECONDS = 60.0  # for others who hold a database locked
KNOCK_SECONDS = 10  # for a server that does not answer at all
PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}
# Tables that only these have; a database may hold both.
OWNERS = {"Optuna": {"studies", "trials", "study_directions"}, "MLflow": {"experiments", "runs", "experiment_tags"}}


def is_server(url: str) -> bool:
    """Whether a tracking URI means a server and no database."""
    return url.startswith(("http://", "https://"))


def checked_url(url: str, key: str) -> str:
    """The URL with `~` written out; raises ValueError for one that nothing could be kept in. key names it in errors."""
    parsed = _parsed(url, key)
    if parsed.get_backend_name() != "sqlite":
        return url
    path = sqlite_file(url)
    if path is None:
        raise ValueError(f"{url!r}: {key} in memory would keep nothing: name a file, such as sqlite:///autocompress.db")
    if path.is_dir():
        raise ValueError(f"{url!r}: {path} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise ValueError(f"{url!r}: folder {path.parent} is not there: make it, or choose another path")
    return _text(parsed.set(database=str(path))) if (parsed.database or "").startswith("~") else url


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite URL, relative as it is written; None for other databases and for one in memory."""
    parsed = _parsed(url, "storage")
    name = parsed.database or ""
    if parsed.get_backend_name() != "sqlite" or parsed.query.get("mode") == "memory":
        return None
    if "uri" in parsed.query:
        name = name.removeprefix("file:")
    return None if name in ("", ":memory:") else Path(name).expanduser()


def under(url: str, folder: Path) -> str:
    """The URL with a relative SQLite file looked for in a folder."""
    path = sqlite_file(url)
    return url if path is None else _text(_parsed(url, "storage").set(database=str(folder / path)))


def shown(url: str) -> str:
    """The URL as people may see it: without its password."""
    try:
        parsed = _parsed(url, "storage")
    except ValueError:
        return url
    return url if parsed.password is None else parsed.render_as_string()


def without_passwords(text: str) -> str:
    """A text of others, such as an error's, without the passwords of the URLs in it."""
    return re.sub(r"(//[^/\s:@]*):[^/\s@]+@", r"\1:***@", text)


def same_database(one: str, other: str) -> bool:
    """Whether two URLs mean one database, however they are written."""
    return _place(one) == _place(other)


def _place(url: str) -> tuple[Any, ...]:
    path, parsed = sqlite_file(url), _parsed(url, "storage")
    if path is not None:
        resolved = path.resolve()
        # Links of either kind lead to the same file.
        return (resolved.stat().st_dev, resolved.stat().st_ino) if resolved.is_file() else (resolved,)
    backend = parsed.get_backend_name()
    # The query may choose another schema, the user and the driver may not.
    query = sorted(parsed.normalized_query.items())
    return (backend, (parsed.host or "").lower(), parsed.port or PORTS.get(backend), parsed.database, query)


def connect_arguments(url: str, wait: float = WAIT_SECONDS) -> dict[str, Any]:
    """What to connect with: SQLite waits this long for locks of others, unless the URL says how long."""
    parsed = _parsed(url, "storage")
    if parsed.get_backend_name() == "postgresql" and "connect_timeout" not in parsed.query:
        return {"connect_timeout": KNOCK_SECONDS}
    plain = parsed.get_backend_name() == "sqlite" and "timeout" not in parsed.query
    return {"timeout": wait} if plain else {}


def owners(url: str, wait: float = WAIT_SECONDS) -> set[str]:
    """Whose tables a database holds: Optuna's, MLflow's, or in a SQLite file those of `others`.

    Makes nothing, not even an empty SQLite file. Other tables of a server's database say nothing: it may be shared.
    """
    from sqlalchemy import create_engine, inspect

    path = sqlite_file(url)
    if path is not None and not path.is_file():
        return set()
    engine = create_engine(url, connect_args=connect_arguments(url, wait))
    try:
        tables = set(inspect(engine).get_table_names())
    finally:
        engine.dispose()
    found = {name for name, theirs in OWNERS.items() if theirs <= tables}
    return found or ({"others"} if tables and path is not None else set())


def _parsed(url: str, key: str) -> "URL":
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(f"{url!r}: {key} needs a URL, such as sqlite:///autocompress.db") from None


def _text(url: "URL") -> str:
    return url.render_as_string(hide_password=False)
