"""The HTTP API as an application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import InterfaceError, OperationalError, TimeoutError
from starlette.responses import Response

from ..errors import NO_SPACE, AutocompressError, unwritten
from .archives import Caps
from .described import describe
from .gate import Gate, away, full
from .metrics import API, Measured
from .page import form, pages
from .page import results as result_pages
from .page.rendering import Guards, reply
from .page.static import PREFIX
from .parts import Parts, bearer
from .problems import Refusal, refusal
from .routes import health, people, results, searches, stream

FORM_BYTES = 100_000  # of a body beside its archive


def make_app(parts: Parts) -> FastAPI:
    """The application of a server."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ringing = asyncio.create_task(parts.bell.ring())
        yield
        ringing.cancel()
        with suppress(asyncio.CancelledError):
            await ringing

    app = FastAPI(
        title="autocompress",
        description="Searches of compression recipes as jobs.",
        version="1",
        openapi_url=f"{API}/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.parts = parts
    describe(app, API)
    api = APIRouter(prefix=API, dependencies=[Depends(bearer)])
    for router in (results.router, stream.router, searches.router, people.router):
        api.include_router(router)
    app.include_router(api)
    app.include_router(health.router)
    for router in (form.router, result_pages.router, pages.router):
        app.include_router(router)
    most = Caps().packed_bytes + FORM_BYTES
    app.add_middleware(Gate, tokens=parts.tokens, guard=parts.guard, body_bytes=most, open=PREFIX, reply=reply)
    app.add_middleware(Guards)
    app.add_middleware(Measured, metrics=parts.metrics)
    app.add_exception_handler(AutocompressError, _ours)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(404, _plain)
    app.add_exception_handler(405, _plain)
    app.add_exception_handler(RequestValidationError, _invalid)
    for trouble in (OperationalError, InterfaceError, TimeoutError):
        app.add_exception_handler(trouble, _away)
    app.add_exception_handler(OSError, _unwritten)
    app.add_exception_handler(Exception, _defect)
    return app


def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, AutocompressError)
    # The store tells so that its database is away, or takes no more.
    return reply(request.scope, full(error) or away() if str(error).startswith("storage ") else refusal(error))


def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException) or hasattr(error, "status_code")
    status, detail = int(getattr(error, "status_code", 500)), str(getattr(error, "detail", ""))
    return reply(
        request.scope, Refusal(status, detail, f"{request.method} {request.url.path}", "", "see /api/v1/openapi.json")
    )


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return reply(
        request.scope,
        Refusal(422, f"{str(first.get('input'))[:60]!r}", where, first["msg"], "see /api/v1/openapi.json"),
    )


def _away(request: Request, error: Exception) -> Response:
    return reply(request.scope, full(error) or away())


def _unwritten(request: Request, error: Exception) -> Response:
    """What a request's own parts could not be written to, such as an archive while it arrives."""
    assert isinstance(error, OSError)
    if error.errno not in NO_SPACE:
        raise error
    return reply(request.scope, refusal(unwritten(error)))


def _defect(request: Request, error: Exception) -> Response:
    return reply(
        request.scope, Refusal(500, "the server made a mistake", "server", "its log says which", "tell who runs it")
    )
