"""Searches as jobs: submitting, listing, changing and steering them."""

import hashlib
import json
import shutil
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Header, Query, Response, UploadFile
from pydantic import BaseModel, ConfigDict, Field, Json

from .. import submission
from ..database import Search
from ..described import PlanAnswer, SearchAnswer, SearchesAnswer
from ..parts import Parts, WithParts, WithPerson, WithSearch, search_document
from ..queue import Wanted
from ..states import State
from ..tokens import Person

router = APIRouter(tags=["searches"])
AGAIN: dict[int | str, dict[str, Any]] = {200: {"model": SearchAnswer, "description": "It was submitted before."}}
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]
Trials = Annotated[int, Field(ge=1, le=100_000)]
Seconds = Annotated[float, Field(gt=0, le=366 * 86_400, allow_inf_nan=False)]
Workers = Annotated[int, Field(ge=1, le=4096)]
Priority = Annotated[int, Field(ge=-1000, le=1000)]


class New(BaseModel):
    """A search to be: an archive of its folder and the config's path in it, or a bundled experiment's name.

    budget is a JSON object of limits that replace the config's own, such as {"size": "60 KB", "speedup": 2}.
    """

    model_config = ConfigDict(extra="forbid")
    archive: UploadFile | None = None
    config: str = "search.yaml"
    experiment: str | None = None
    study: str | None = None
    priority: Priority = 0
    trials: Trials | None = None
    timeout_s: Seconds | None = None
    workers: Workers | None = None
    budget: Json[dict[str, Any]] | None = None


class Change(BaseModel):
    """What may be changed of a search, at any time."""

    model_config = ConfigDict(extra="forbid")
    priority: Priority = 0
    trials: Trials | None = None
    timeout_s: Seconds | None = None
    workers: Workers | None = None


NewForm = Annotated[New, Form(media_type="multipart/form-data")]


@router.post("/searches", status_code=201, response_model=SearchAnswer, responses=AGAIN)
def create(parts: WithParts, person: WithPerson, response: Response, new: NewForm, key: Key = None) -> dict[str, Any]:
    """Submit a search; the same Idempotency-Key again gives back the one that was submitted first, with status 200."""
    search, fresh = _submit(parts, person, new, key)
    response.status_code = 201 if fresh else 200
    response.headers["Location"] = f"/api/v1/searches/{search.study}"
    return search_document(search)


def _submit(parts: Parts, person: Person, new: New, key: str | None) -> tuple[Search, bool]:
    form, identity = _form(new, key), uuid.uuid4().hex
    with parts.places.incoming(identity) as project:
        content = _received(form, new, parts, identity)
        before = parts.queue.submitted(person, key, content)
        if before is None:
            found = submission.prepare(form, project, content, identity, parts.settings)
            search, fresh = parts.queue.submit(person, found)
        else:
            search, fresh = before, False
    if not fresh:
        shutil.rmtree(parts.places.search(identity), ignore_errors=True)
    return search, fresh


def _form(new: New, key: str | None) -> submission.Form:
    return submission.Form(**new.model_dump(exclude={"archive"}), key=key)


def _received(form: submission.Form, new: New, parts: Parts, identity: str) -> str:
    """The digest of what was submitted: of the folder, and of what was said of it."""
    archive = new.archive.file if new.archive is not None else None
    content = submission.receive(form, archive, parts.places.search(identity) / "project")
    said = json.dumps([content, new.model_dump(exclude={"archive"})], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


@router.post("/plans", response_model=PlanAnswer)
def plan(parts: WithParts, new: NewForm) -> dict[str, Any]:
    """What a search would do: its config, the baseline's measurements, the budget as limits and the time it takes."""
    form, identity = _form(new, None), uuid.uuid4().hex
    try:
        with parts.places.incoming(identity) as project:
            content = _received(form, new, parts, identity)
            submission.prepare(form, project, content, identity, parts.settings)
            return parts.exports.plan((project / form.config).with_name(submission.DERIVED))
    finally:
        shutil.rmtree(parts.places.search(identity), ignore_errors=True)


class Page(BaseModel):
    """Which searches a list is of."""

    model_config = ConfigDict(extra="forbid")
    state: State | None = None
    owner: str | None = None
    study: str | None = None
    after: str | None = None
    limit: int = Field(50, ge=1, le=200)


@router.get("/searches", response_model=SearchesAnswer)
def list_searches(parts: WithParts, person: WithPerson, page: Annotated[Page, Query()]) -> dict[str, Any]:
    """Searches, newest first; `next` is the `after` of the next page, null on the last."""
    rows, following = parts.queue.page(person, Wanted(**page.model_dump()))
    return {"searches": [search_document(row) for row in rows], "next": following}


@router.get("/searches/{study}", response_model=SearchAnswer)
def get(search: WithSearch) -> dict[str, Any]:
    """One search."""
    return search_document(search)


@router.patch("/searches/{study}", response_model=SearchAnswer)
def patch(parts: WithParts, person: WithPerson, study: str, change: Change) -> dict[str, Any]:
    """Change trials, time, workers or priority; a running search waits for its running trials and goes on with them."""
    return search_document(parts.queue.patch(person, study, change.model_dump(exclude_unset=True)))


@router.post("/searches/{study}/{request}", status_code=202, response_model=SearchAnswer)
def steer(
    parts: WithParts, person: WithPerson, study: str, request: Literal["pause", "resume", "cancel"]
) -> dict[str, Any]:
    """Pause (running trials end first), resume, or cancel a search."""
    return search_document(parts.queue.ask(person, study, request))
