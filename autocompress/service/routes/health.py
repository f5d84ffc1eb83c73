"""Whether a server lives, whether it is ready, and what it counts."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from ..parts import AdminOnly, WithParts

router = APIRouter(tags=["health"])


class Ready(BaseModel):
    """What a server needs: its database answers, and its searches were looked at of late."""

    database: bool
    runner: bool


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """That the server answers, without a thread of those that requests wait for."""
    return {"status": "ok"}


@router.get("/readyz", response_model=Ready, responses={503: {"model": Ready, "description": "One is not."}})
def ready(parts: WithParts) -> JSONResponse:
    """Whether the database answers and searches are looked after."""
    try:
        parts.queue.counts()
        database = True
    except SQLAlchemyError:
        database = False
    found = {"database": database, "runner": parts.runner.ready}
    return JSONResponse(found, 200 if all(found.values()) else 503)


@router.get("/metrics", response_class=PlainTextResponse, dependencies=[AdminOnly])
def metrics(parts: WithParts) -> PlainTextResponse:
    """Requests of this server, and searches and leases of its database, for Prometheus; for admins."""
    counts, leases = parts.queue.counts(), parts.queue.leases()
    text = parts.metrics.text(counts, leases, parts.guard.streams.total())
    return PlainTextResponse(text, media_type=CONTENT_TYPE_LATEST)
