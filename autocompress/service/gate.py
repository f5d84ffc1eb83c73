"""What stands before every route: nobody without a token comes in, and no body is larger than it may be."""

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .page.signing import SIGN_IN, from_elsewhere, presented
from .problems import MEDIA_TYPE, Refusal
from .tokens import Tokens

OPEN = frozenset({"/healthz", "/readyz", SIGN_IN})


class Gate:
    """Asks for a token before a byte of the body is read, and counts the body's bytes while it is.

    open: the beginning of the paths of what pages are made of, which everybody may read; reply: how it refuses.
    """

    def __init__(
        self, app: ASGIApp, tokens: Tokens, body_bytes: int, open: str, reply: Callable[[Scope, Refusal], Response]
    ) -> None:
        self._app, self._tokens, self._most = app, tokens, body_bytes
        self._open, self._reply = open, reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one request."""
        if scope["type"] != "http" or scope["path"] in OPEN or scope["path"].startswith(self._open):
            await self._app(scope, receive, send)
            return
        headers, (token, by_cookie) = dict(scope["headers"]), presented(scope)
        try:
            person = await asyncio.to_thread(self._tokens.person, token)
        except SQLAlchemyError:
            await self._reply(scope, away())(scope, receive, send)
            return
        if person is None:
            await self._reply(scope, unknown())(scope, receive, send)
        elif by_cookie and from_elsewhere(scope):
            await self._reply(scope, elsewhere())(scope, receive, send)
        elif int(headers.get(b"content-length", b"0") or 0) > self._most:
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


def answer(problem: Refusal) -> JSONResponse:
    """A refusal as a response."""
    headers: dict[str, Any] = {"WWW-Authenticate": "Bearer"} if problem.status == 401 else {}
    headers |= {"Retry-After": "5"} if problem.status == 503 else {}
    return JSONResponse(problem.document(), problem.status, headers, MEDIA_TYPE)


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


def too_large(most: int) -> Refusal:
    """The refusal of a body that is too large."""
    return Refusal(413, "the body is too large", "body", f"at most {most / 1e6:.0f} MB are taken", "leave data out")
