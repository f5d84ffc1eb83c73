"""Pages from templates, what browsers may do with them, and refusals as pages."""

from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...tracking.report import templates
from ...wording import clock, size
from ..gate import answer
from ..problems import Refusal
from . import static
from .signing import SIGN_IN

# Style attributes alone: plotly moves and colours parts of its drawings by them.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; img-src 'self' data: "
    "blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
GUARDS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not `no-referrer`, with which browsers would not say where a form was sent from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guards:
    """Adds to every answer what browsers may do with it; nothing is kept by them but what says so itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {"Cache-Control": "no-store", **GUARDS}.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, guarded if scope["type"] == "http" else send)


@cache
def _templates() -> Any:
    found = templates(Path(__file__).parent)
    found.globals |= {"static": static.address, "unused": static.unused}
    found.filters |= {"clock": clock, "size": size, "path": lambda text: quote(text, safe="")}
    return found


def page(request: Request, name: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page from a template; all values are plain, and escaped there."""
    person = getattr(request.state, "person", None)
    found: str = _templates().get_template(f"{name}.html.j2").render(person=person, **values)
    return HTMLResponse(found.encode("utf-8", "replace"), status)


def reply(scope: Scope, problem: Refusal) -> Response:
    """A refusal as whoever asked can read it: a page for people, a document for programs, or the way to sign in."""
    if not _wants_page(scope):
        return answer(problem)
    request = Request(scope)
    if problem.status == 401 and scope["method"] == "GET":
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{SIGN_IN}?to={quote(path, safe='')}", 303)
    found = page(request, "problem", problem.status, problem=problem.document())
    for name, value in answer(problem).headers.items():
        if name in ("retry-after", "www-authenticate"):
            found.headers[name] = value
    return found


def _wants_page(scope: Scope) -> bool:
    return not scope["path"].startswith("/api/") and "text/html" in Headers(scope=scope).get("accept", "")
