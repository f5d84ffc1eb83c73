"""Signing in: the token in a cookie that no script reads, and no other site's page may make use of."""

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Scope

COOKIE = "autocompress"
SIGN_IN = "/sign-in"
DAYS = 30.0  # after which the token is asked for again; it may end sooner by itself
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def presented(scope: Scope) -> tuple[str, bool]:
    """The token that a request brings, and whether a cookie does; a header goes before a cookie."""
    connection = HTTPConnection(scope)
    header = connection.headers.get("authorization")
    if header is None:
        return connection.cookies.get(COOKIE, ""), True
    scheme, _, token = header.partition(" ")
    return (token.strip() if scheme.lower() == "bearer" else ""), False


def from_elsewhere(scope: Scope) -> bool:
    """Whether a request would change something and is not shown to come from a page of this very server.

    Browsers say where a request comes from by headers that no page can set.
    """
    if scope["method"] in SAFE:
        return False
    headers = HTTPConnection(scope).headers
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site != "same-origin"
    return headers.get("origin") != f"{scope['scheme']}://{headers.get('host')}"


def keep(response: Response, token: str, secure: bool) -> None:
    """Let the browser keep a token; secure: where it came by https, it is never sent otherwise."""
    seconds = int(DAYS * 86_400)
    response.set_cookie(COOKIE, token, seconds, httponly=True, samesite="strict", secure=secure)


def forget(response: Response, secure: bool) -> None:
    """Let the browser forget it."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=secure)


def within(path: str) -> str:
    """The path to go on to, where it is one of this server's; else the first page."""
    # Browsers take a backslash for a slash, and two slashes for the beginning of another host.
    inside = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if inside else "/"
