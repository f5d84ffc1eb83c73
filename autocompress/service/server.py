"""A server from its settings to its end."""

import signal
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from ..errors import ServiceError
from ..search.storage import close_storages
from .app import make_app
from .bell import Bell
from .database import Database
from .jobs import COMMAND
from .parts import parts_of
from .runner import Runner
from .runs_store import make_runs_store
from .settings import Settings
from .sweeping import Sweeper
from .tokens import Tokens, keep_admin_token

DRAIN_S = 5  # for requests that are being answered when the server stops


def serve(settings: Settings, say: Callable[[str], None], job_command: tuple[str, ...] = COMMAND) -> None:
    """Serve until SIGTERM or SIGINT. Raises ServiceError or StudyError where it cannot begin.

    job_command begins the command line of a controller.
    """
    database = Database(settings.storage)
    database.upgrade()
    token = keep_admin_token(Tokens(database), settings.token_file)
    runner, bell = Runner(settings, database, job_command), Bell(database, settings.poll_s)
    sweeper = Sweeper(settings, database)
    app = make_app(parts_of(settings, runner, database, bell))
    server = uvicorn.Server(_uvicorn(app, settings))
    bell.closing = lambda: server.should_exit
    with _listening(settings) as listening:
        make_runs_store(settings.tracking)
        # uvicorn raises the signal again once it stopped, which must not end what comes after.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        port = listening.getsockname()[1]
        runner.start()
        sweeper.start()
        try:
            say(f"autocompress on http://{settings.host}:{port}")
            say(f"an admin's token is in {token}")
            server.run(sockets=[listening])
        finally:
            with suppress(OSError):  # who started it may not listen any more
                say("stopping: searches are handed back")
            sweeper.stop()
            runner.stop()
            database.close()
            close_storages()


def _listening(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        made = socket.create_server((settings.host, settings.port), family=family, backlog=128)
        # Named as TCP, without which asyncio lets every answer wait 40 ms for more to send (Nagle's algorithm).
        return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=made.detach())
    except OSError as error:
        raise ServiceError(
            f"{settings.host}:{settings.port}: cannot be listened on: {(error.strerror or str(error)).lower()}: "
            "choose another --port or --host"
        ) from error


def _uvicorn(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
    )
