"""What pages are made of besides their text: styles, scripts and a picture, all from here."""

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from ...tracking.report import beside, unused_styles

PREFIX = "/static/"
SCRIPT, STYLE, PICTURE = "text/javascript", "text/css", "image/svg+xml"
FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Static:
    """A file: its kind, its bytes, the same compressed, and a digest of them."""

    kind: str
    data: bytes
    packed: bytes
    digest: str


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _own(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


FILES: dict[str, tuple[str, Callable[[], str]]] = {
    "report.css": (STYLE, lambda: beside("report.css")),
    "page.css": (STYLE, lambda: _own("page.css")),
    "figures.js": (SCRIPT, lambda: beside("figures.js")),
    "page.js": (SCRIPT, lambda: _own("page.js")),
    "front.js": (SCRIPT, lambda: _own("front.js")),
    "plotly.js": (SCRIPT, _plotly),
    "icon.svg": (PICTURE, lambda: _own("icon.svg")),
}


@cache
def static(name: str) -> Static | None:
    """A file by its name; read once, as it is part of the program."""
    if name not in FILES:
        return None
    kind, read = FILES[name]
    data = read().encode()
    return Static(kind, data, gzip.compress(data, 6, mtime=0), hashlib.sha256(data).hexdigest()[:16])


def address(name: str) -> str:
    """Where a file is, by a name that changes with it, so that browsers may keep it."""
    found = static(name)
    assert found is not None
    return f"{PREFIX}{name}?{found.digest}"


@cache
def unused() -> list[str]:
    """Names of elements that keep plotly from adding styles."""
    return unused_styles(_plotly())


def send(request: Request, name: str) -> Response | None:
    """A file as a response."""
    found = static(name)
    if found is None:
        return None
    packed = "gzip" in request.headers.get("accept-encoding", "")
    headers = {
        "Cache-Control": FOREVER if request.url.query == found.digest else "no-cache",
        "Vary": "Accept-Encoding",
        **({"Content-Encoding": "gzip"} if packed else {}),
    }
    return Response(found.packed if packed else found.data, media_type=found.kind, headers=headers)
