"""The commands of who runs the service: serve, and token."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from ..config import LINK
from ..environment import from_environment
from ..errors import ConfigError, ServiceError
from .options import Controllers, JsonOption, StorageOption, Workers, storage_url
from .plain import output, print_json, say, write_lines

if TYPE_CHECKING:
    from ..service.database import Database
    from ..service.tokens import Tokens

token = typer.Typer(help="Make, list and revoke the tokens of the service.", no_args_is_help=True)
LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
SearchesOption = Annotated[int | None, typer.Option(min=0, help="How many searches a person may run at once.")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="How many workers a search of theirs gets at most.")]
SecondsOption = Annotated[
    float | None, typer.Option(min=0, metavar="T", help="How many seconds of trials a day; then searches wait.")
]
NEEDS = ("alembic", "fastapi", "httpx2", "prometheus_client", "python_multipart", "uvicorn")


def need_extra() -> None:
    """Raise ServiceError where what the service needs beside the rest is not installed."""
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise ServiceError(
            f"the service needs {', '.join(missing)}, not installed here: pip install 'autocompress[service]'"
        )


def serve(
    host: Annotated[str, typer.Option(help="Where to listen; other machines reach it by theirs.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    storage: StorageOption = None,
    tracking: Annotated[
        str | None,
        typer.Option(
            envvar="AUTOCOMPRESS_TRACKING",
            metavar="URL",
            help="MLflow's store; mlflow.db beside the studies if none is given.",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="How people reach this server, for links, if not by host and port."),
    ] = None,
    mlflow_url: Annotated[
        str | None, typer.Option(metavar="URL", help="How people reach MLflow, for links, if not by --tracking.")
    ] = None,
    ray: Annotated[str, typer.Option(metavar="ADDRESS", help="auto, local, or a cluster's HOST:PORT.")] = "auto",
    folder: Annotated[
        Path | None, typer.Option(help="What searches are made of and export; servers of one database share it.")
    ] = None,
    searches: Annotated[int, typer.Option(min=1, max=1000, help="How many searches run at once.")] = 2,
    executor: Annotated[Workers, typer.Option(help="Ray workers, or each search's own process.")] = Workers.ray,
    controllers: Annotated[
        Controllers | None,
        typer.Option(help="A process here for each search, or a job of the cluster, as is usual for HOST:PORT."),
    ] = None,
    quota_searches: SearchesOption = None,
    quota_workers: WorkersOption = None,
    quota_trial_seconds: SecondsOption = None,
    rate: Annotated[
        float, typer.Option(min=0.1, help="Requests a second by one token; twice as many at once.")
    ] = 100.0,
    exports_days: Annotated[float, typer.Option(min=0, help="Exports go that nobody asked for in so long.")] = 30.0,
    exports_gb: Annotated[float, typer.Option(min=0, help="The oldest exports go while all take more.")] = 20.0,
    streams: Annotated[int, typer.Option(min=0, help="Open streams of events by one person.")] = 250,
) -> None:
    """Serve searches as jobs over HTTP, until Ctrl-C or SIGTERM; prints the URL and where the first token is.

    Whoever has a token can run code here: keep it on loopback, or behind TLS. Passwords come by environment or file:
    AUTOCOMPRESS_STORAGE, AUTOCOMPRESS_TRACKING, MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD and
    MLFLOW_TRACKING_TOKEN, or each with _FILE behind it for a file that holds it; Postgres' own PGPASSFILE; Ray's
    RAY_AUTH_TOKEN_PATH. Quotas are each person's, where `autocompress token quota` says nothing else.
    """
    need_extra()
    _no_secrets({"--storage": storage, "--tracking": tracking})
    take_secrets()
    from ..service.quotas import Quota
    from ..service.server import serve as run
    from ..service.settings import Settings, default_folder
    from ..urls import is_server, under

    studies = under(storage_url(storage), Path.cwd())
    where = (folder or default_folder(studies)).resolve()
    beside = f"sqlite:///{where.parent.parent / 'mlflow.db'}"
    store = tracking or from_environment("AUTOCOMPRESS_TRACKING") or beside
    settings = Settings(
        storage=studies,
        folder=where,
        tracking=store if is_server(store) else under(store, Path.cwd()),
        host=host,
        port=port,
        url=_link("--url", url),
        mlflow_url=_link("--mlflow-url", mlflow_url),
        ray=ray,
        executor=executor.value,
        controllers=_controllers(controllers, ray),
        slots=searches,
        quota=Quota(quota_searches, quota_workers, quota_trial_seconds),
        rate=rate,
        burst=max(1, round(2 * rate)),
        streams=streams,
        exports_days=exports_days,
        exports_bytes=round(exports_gb * 1e9),
    )
    run(settings, say)


def _no_secrets(given: Mapping[str, str | None]) -> None:
    """Raise ConfigError for a URL with a password among the arguments, which every user of the machine can see."""
    from ..urls import shown

    for option, url in given.items():
        if url and shown(url) != url and any(argument.endswith(url) for argument in sys.argv):
            name = option.removeprefix("--").upper()
            raise ConfigError(
                f"{option} {shown(url)}: holds a password, and arguments are seen by everybody on the machine: set "
                f"AUTOCOMPRESS_{name}, or AUTOCOMPRESS_{name}_FILE to a file with it"
            )


def _link(option: str, url: str | None) -> str | None:
    """An address that pages lead to. Raises ConfigError for another scheme, or with what no link should hold."""
    if url is not None and not re.fullmatch(LINK, url):
        raise ConfigError(f"{option} {url!r}: is no address of a page: write http://HOST:PORT, without a password")
    return url


def take_secrets() -> None:
    """Hand on to the controllers what MLflow itself reads from no file. Raises ConfigError."""
    for name in LOGIN:
        value = from_environment(name)
        if value is not None:
            os.environ[name] = value


def _controllers(chosen: Controllers | None, ray: str) -> Literal["process", "ray"]:
    """What searches run as. Raises ServiceError for jobs of a cluster that would end with the server's own process."""
    named = ray not in ("auto", "local") and not ray.startswith("ray://")
    if chosen is Controllers.ray and not named:
        raise ServiceError(f"--controllers ray: --ray {ray} is no cluster of its own: name one by --ray HOST:PORT")
    return "ray" if (chosen or (Controllers.ray if named else None)) is Controllers.ray else "process"


@contextmanager
def _database(storage: str | None) -> "Iterator[Database]":
    need_extra()
    from ..service.database import Database
    from ..urls import under

    database = Database(under(storage_url(storage), Path.cwd()))
    try:
        database.upgrade()
        yield database
    finally:
        database.close()


@contextmanager
def _tokens(storage: str | None) -> "Iterator[Tokens]":
    with _database(storage) as database:
        from ..service.tokens import Tokens

        yield Tokens(database)


@token.command("create")
def create_token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is: searches belong to this name.")],
    admin: Annotated[bool, typer.Option("--admin", help="Sees and steers everybody's searches.")] = False,
    days: Annotated[float, typer.Option(min=0.01, help="When it expires.")] = 365.0,
    searches: SearchesOption = None,
    workers: WorkersOption = None,
    trial_seconds: SecondsOption = None,
    storage: StorageOption = None,
) -> None:
    """Make a token, and print it: it is shown this once. What is said of quotas is for all of that name."""
    with _database(storage) as database:
        from ..service.allowances import Allowances
        from ..service.quotas import Quota
        from ..service.tokens import Tokens

        made = Tokens(database).create(name, admin, days)
        quota = Quota(searches, workers, trial_seconds)
        if quota != Quota():
            Allowances(database, Quota()).give(name, quota)
    write_lines(sys.stdout, made + "\n")


@token.command("quota")
def change_quota(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose: the name of their tokens.")],
    searches: SearchesOption = None,
    workers: WorkersOption = None,
    trial_seconds: SecondsOption = None,
    reset: Annotated[bool, typer.Option("--reset", help="First back to what `autocompress serve` says.")] = False,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show or change what a person may have; running searches get other workers when they are next started."""
    with _database(storage) as database:
        from ..service.allowances import Allowances
        from ..service.quotas import Quota

        allowances = Allowances(database, Quota())
        if reset:
            allowances.reset(name)
        quota = Quota(searches, workers, trial_seconds)
        own = allowances.own(name) if quota == Quota() else allowances.give(name, quota)
        standing = allowances.standing(name)
    document = {"name": name, **vars(own), "running": standing.running, "used_seconds": standing.used_s}
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        output().print(f"{key.replace('_', ' ')}: {'as the server says' if value is None else value}")


@token.command("list")
def list_tokens(storage: StorageOption = None, as_json: JsonOption = False) -> None:
    """List tokens by id and name; none is shown."""
    need_extra()
    from ..service.events import moment

    with _tokens(storage) as tokens:
        rows = [
            {
                "id": row.id,
                "name": row.name,
                "admin": row.admin,
                "created": moment(row.created),
                "expires": row.expires and moment(row.expires),
                "revoked": row.revoked and moment(row.revoked),
            }
            for row in tokens.list()
        ]
    if as_json:
        print_json(rows)
        return
    table = Table("id", "name", "admin", "created", "expires", "revoked", box=None)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    output().print(table)


@token.command("revoke")
def revoke_token(
    name: Annotated[str, typer.Argument(metavar="NAME|ID", help="All tokens of a name, or one by its id.")],
    storage: StorageOption = None,
) -> None:
    """End a token, or all of a name: its requests are refused from now on."""
    with _tokens(storage) as tokens:
        say(f"revoked: {tokens.revoke(name)}")
