"""What stands before every route: nobody without a token comes in, and no body is larger than it may be."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .page.signing import SIGN_IN, from_elsewhere, presented
from .problems import MEDIA_TYPE, Refusal
from .rates import Guard
from .tokens import Person, Tokens

FULL = ("database or disk is full", "No space left on device")  # SQLite's words, and Postgres'
OPEN = frozenset({"/healthz", "/readyz", SIGN_IN})


class Gate:
    """Asks for a token before a byte of the body is read, and counts the body's bytes while it is.

    open: the beginning of the paths of what pages are made of, which everybody may read; reply: how it refuses.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: Tokens,
        guard: Guard,
        body_bytes: int,
        open: str,
        reply: Callable[[Scope, Refusal], Response],
    ) -> None:
        self._app, self._tokens, self._guard, self._most = app, tokens, guard, body_bytes
        self._open, self._reply = open, reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one request."""
        if scope["type"] != "http" or scope["path"] in OPEN or scope["path"].startswith(self._open):
            await self._app(scope, receive, send)
            return
        headers, (token, by_cookie) = dict(scope["headers"]), presented(scope)
        person = await admitted(scope, self._tokens, self._guard, token)
        if isinstance(person, Refusal):
            await self._reply(scope, person)(scope, receive, send)
        elif by_cookie and from_elsewhere(scope):
            await self._reply(scope, elsewhere())(scope, receive, send)
        elif _length(headers.get(b"content-length", b"0")) > self._most:
            await self._reply(scope, too_large(self._most))(scope, receive, send)
        else:
            scope.setdefault("state", {})["person"] = person
            await self._app(scope, self._counting(receive), send)

    def _counting(self, receive: Receive) -> Receive:
        left = self._most

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, str(too_large(self._most)))
            return message

        return counted


async def admitted(scope: Scope, tokens: Tokens, guard: Guard, token: str) -> Person | Refusal:
    """Who comes with a token, or why they are not let in; an address that brings many wrong ones has to wait."""
    address = (scope.get("client") or ("",))[0]
    refused = guard.stranger(address, token)
    if refused is not None:
        return refused
    try:
        person = await asyncio.to_thread(tokens.person, token)
    except SQLAlchemyError:
        return away()
    if person is None:
        if token:  # a browser that was not signed in yet guesses nothing
            guard.failed(address)
        return unknown()
    return guard.let_in(token) or person


def answer(problem: Refusal) -> JSONResponse:
    """A refusal as a response."""
    headers: dict[str, Any] = {"WWW-Authenticate": "Bearer"} if problem.status == 401 else {}
    retry_s = problem.retry_s or (5.0 if problem.status == 503 else None)
    headers |= {} if retry_s is None else {"Retry-After": str(max(1, math.ceil(retry_s)))}
    return JSONResponse(problem.document(), problem.status, headers, MEDIA_TYPE)


def _length(header: bytes) -> int:
    return int(header) if header.isdigit() else 0


def unknown() -> Refusal:
    """The refusal of whoever has no good token; it does not say what is wrong with theirs."""
    return Refusal(
        401,
        "there is no good token with this request",
        "Authorization",
        "everything but health wants `Bearer TOKEN`, and tokens expire and can be revoked",
        "ask for one made by `autocompress token create NAME`",
    )


def elsewhere() -> Refusal:
    """The refusal of what another site's page would have a browser do."""
    return Refusal(
        403,
        "this request does not come from a page of this server",
        "Origin",
        "with the cookie of a browser, only this server's own pages may change something",
        "use its pages, or send the token as `Authorization: Bearer TOKEN`",
    )


def away() -> Refusal:
    """The refusal while the database is away."""
    return Refusal(503, "the database does not answer", "server", "nothing was changed", "try again in a while")


def full(error: Exception) -> Refusal | None:
    """The refusal of what the database has no room for; None where that is not what an error says."""
    if not any(words in str(error) for words in FULL):
        return None
    return Refusal(
        507, "the database has no room", "server", "nothing was changed", "make room on its disk, and ask again"
    )


def too_large(most: int) -> Refusal:
    """The refusal of a body that is too large."""
    return Refusal(413, "the body is too large", "body", f"at most {most / 1e6:.0f} MB are taken", "leave data out")
