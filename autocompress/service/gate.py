"""What stands before every route: nobody without a token comes in, and no body is larger than it may be."""

import asyncio
from typing import Any

from fastapi import HTTPException
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import MEDIA_TYPE, Refusal
from .tokens import Tokens

OPEN = frozenset({"/healthz", "/readyz"})


class Gate:
    """Asks for a token before a byte of the body is read, and counts the body's bytes while it is."""

    def __init__(self, app: ASGIApp, tokens: Tokens, body_bytes: int) -> None:
        self._app, self._tokens, self._most = app, tokens, body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one request."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
            person = await asyncio.to_thread(self._tokens.person, token.strip() if scheme.lower() == "bearer" else "")
        except SQLAlchemyError:
            await answer(away())(scope, receive, send)
            return
        if person is None:
            await answer(unknown())(scope, receive, send)
        elif int(headers.get(b"content-length", b"0") or 0) > self._most:
            await answer(too_large(self._most))(scope, receive, send)
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


def away() -> Refusal:
    """The refusal while the database is away."""
    return Refusal(503, "the database does not answer", "server", "nothing was changed", "try again in a while")


def too_large(most: int) -> Refusal:
    """The refusal of a body that is too large."""
    return Refusal(413, "the body is too large", "body", f"at most {most / 1e6:.0f} MB are taken", "leave data out")
