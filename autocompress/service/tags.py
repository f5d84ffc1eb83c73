"""Documents with a tag by which a client that has one already asks whether it is still the same (ETag)."""

import hashlib
from typing import Any

from fastapi import Request, Response
from pydantic_core import to_json


def tagged(request: Request, document: dict[str, Any]) -> Response:
    """A document as JSON; 304 and no body where the client has it already."""
    # What is not a number is null: JSON has no word for it.
    body = to_json(document, inf_nan_mode="null")
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if _known(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def _known(header: str, tag: str) -> bool:
    tags = [part.strip().removeprefix("W/") for part in header.split(",")]
    return tag in tags or tags == ["*"]
