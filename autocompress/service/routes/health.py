"""Whether a server lives, whether it is ready, and what it counts."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError

from ..parts import WithParts

router = APIRouter(tags=["health"])


@router.get("/healthz")
def alive() -> dict[str, str]:
    """That the server answers."""
    return {"status": "ok"}


@router.get("/readyz")
def ready(parts: WithParts) -> JSONResponse:
    """Whether the database answers and searches are looked after."""
    try:
        parts.queue.counts()
        database = True
    except SQLAlchemyError:
        database = False
    found = {"database": database, "runner": parts.runner.ready}
    return JSONResponse(found, 200 if all(found.values()) else 503)


@router.get("/metrics")
def metrics(parts: WithParts) -> PlainTextResponse:
    """Searches by state, for Prometheus; all servers of a database say the same."""
    registry = CollectorRegistry()
    gauge = Gauge("autocompress_searches", "Searches by state.", ["state"], registry=registry)
    for state, count in parts.queue.counts().items():
        gauge.labels(state).set(count)
    return PlainTextResponse(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
