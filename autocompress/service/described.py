"""What the API answers, as its OpenAPI description says it."""

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from .problems import MEDIA_TYPE
from .states import State

PROBLEMS = {
    "400": "The config, or what is in it, cannot be used.",
    "401": "There is no good token with the request.",
    "403": "It is for admins.",
    "404": "There is no such thing of yours.",
    "405": "The method is another one.",
    "409": "It cannot be done in the state that the search is in, or a name is in use.",
    "413": "The body is too large.",
    "422": "A value is not what it must be.",
    "429": "It is asked too often: Retry-After says when to come again.",
    "500": "The server made a mistake.",
    "503": "The database is away, or too much is being made: Retry-After says when to come again.",
    "507": "The server's disk is full.",
}
OPEN_PROBLEMS = ("405", "500")  # of what wants no token


class Problem(BaseModel):
    """A problem document (RFC 9457) with what is wrong, where, by which rule, and the fix."""

    type: Literal["about:blank"]
    title: str
    status: int
    detail: str = Field(description="All of the following in one line, as the terminal prints it.")
    what: str
    where: str
    rule: str
    fix: str


class Loose(BaseModel):
    """A document whose main parts are named, and may have more."""

    model_config = ConfigDict(extra="allow")


class SearchAnswer(BaseModel):
    """A search. reason says why it waits or was paused by itself, and resumes when it goes on by itself."""

    study: str
    owner: str
    state: State
    verdict: str | None
    error: str | None
    reason: str | None
    resumes: str | None
    priority: int
    created: str
    config: str
    trials: int | None
    timeout_s: float | None
    workers: int | None
    spent_s: float
    run: int
    events: int
    id: str


class SearchesAnswer(BaseModel):
    """A page of searches; next is the `after` of the following one."""

    searches: list[SearchAnswer]
    next: str | None


class RowAnswer(Loose):
    """A trial in short."""

    recipe: dict[str, Any]
    metrics: dict[str, Any]
    feasible: bool
    run_id: str | None


class FrontAnswer(Loose):
    """A front: its trials, the verdict on the budget, the nearest miss and the limit that binds."""

    study: str
    verdict: Literal["feasible", "infeasible", "nothing_finished"]
    baseline: dict[str, Any]
    front: list[RowAnswer]
    counts: dict[str, int]
    quality: str
    limits: list[dict[str, Any]]


class TrialAnswer(RowAnswer):
    """A trial: what was asked for, what came of it, and what was done to each layer."""

    study: str
    trial: int
    outcome: str | None
    reason: str | None
    seconds: dict[str, float]
    decisions: list[dict[str, Any]]
    baseline: dict[str, Any]


class ExplainAnswer(Loose):
    """Why a study came to its front, or why a trial is on it or not."""


class PlanAnswer(Loose):
    """What a search would do: its config, the baseline's metrics, the limits, and the same as lines to read."""


class QuotaAnswer(BaseModel):
    """What one person may have; null is no limit."""

    searches: int | None
    workers: int | None
    trial_seconds: float | None


class PersonAnswer(BaseModel):
    """Whose token this is, what they may have and what they have today; the day ends at resets."""

    name: str
    admin: bool
    quota: QuotaAnswer
    running: int
    used_trial_seconds: float
    resets: str


class Told(BaseModel):
    """What every event says: when it happened."""

    time: str


class StateTold(Told):
    """A search is in another state; error, reason and verdict where there is one."""

    state: State
    error: str | None = None
    reason: str | None = None
    verdict: str | None = None


class TrialTold(Told):
    """A trial ended."""

    trial: int
    outcome: str | None
    reason: str | None
    feasible: bool
    recipe: str
    metrics: dict[str, Any]
    seconds: float


class FrontTold(Told):
    """The front changed: its trials with the objectives they are compared by."""

    verdict: str
    front: list[dict[str, Any]]
    counts: dict[str, int]


class ChangedTold(Told):
    """Trials, time, workers or priority were changed."""

    trials: int | None = None
    timeout_s: float | None = None
    workers: int | None = None
    priority: int | None = None


EVENTS: dict[str, type[Told]] = {"state": StateTold, "trial": TrialTold, "front": FrontTold, "changed": ChangedTold}


def describe(app: FastAPI, prefix: str) -> None:
    """Let an application's description tell of its problem documents and of its events, beside what FastAPI knows."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(make(), prefix)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation says


def _complete(document: dict[str, Any], prefix: str) -> None:
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    models: list[type[BaseModel]] = [Problem, *EVENTS.values()]
    for model in models:
        found = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= found.pop("$defs", {})
        schemas[model.__name__] = found
    problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, methods in document["paths"].items():
        open_to_all = not path.startswith(prefix) and path != "/metrics"
        for operation in methods.values():
            statuses = OPEN_PROBLEMS if open_to_all else tuple(PROBLEMS)
            told = {status: {"description": PROBLEMS[status], "content": problem} for status in statuses}
            operation["responses"].pop("422", None)
            operation["responses"] |= told
            stream = operation["responses"].get("200", {}).get("content", {}).get("text/event-stream")
            if stream is not None:
                stream["itemSchema"] = _event_schema()


def _event_schema() -> dict[str, Any]:
    """An event of a stream: its kind says what its data, which is JSON, holds."""

    def of(kind: str, model: type[Told]) -> dict[str, Any]:
        data = {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": f"#/components/schemas/{model.__name__}"},
        }
        properties = {"id": {"type": "string"}, "event": {"const": kind}, "data": data}
        return {"type": "object", "properties": properties, "required": ["id", "event", "data"]}

    return {"oneOf": [of(kind, model) for kind, model in EVENTS.items()]}
