"""The pages' routes: signing in, the list, a search and what came of it."""

from collections.abc import AsyncIterable
from typing import Annotated, Literal
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from .. import events
from ..gate import admitted, elsewhere, too_large
from ..parts import WithParts, WithPerson
from ..problems import Refusal
from ..queue import Wanted
from ..states import State
from . import static
from .listing import standings
from .rendering import page
from .signing import SIGN_IN, forget, from_elsewhere, keep, within

router = APIRouter(include_in_schema=False)
FORM_BYTES = 10_000  # of what signs in
PER_PAGE = 50


@router.get(f"{static.PREFIX}{{name}}")
def static_file(request: Request, name: str) -> Response:
    """A style, a script or a picture."""
    found = static.send(request, name)
    if found is None:
        raise Refusal(404, "there is no such file", request.url.path, "", "see the page that names it")
    return found


@router.get(SIGN_IN)
def sign_in(request: Request, to: str = "/") -> Response:
    """The form that takes a token."""
    return page(request, "sign_in", to=within(to), wrong=False)


@router.post(SIGN_IN)
async def signed_in(request: Request, parts: WithParts) -> Response:
    """Take a token, and let the browser keep it where no script reads it."""
    if from_elsewhere(request.scope):
        raise elsewhere()
    given = await _form(request)
    token, to = given.get("token", "").strip(), within(given.get("to", "/"))
    person = await admitted(request.scope, parts.tokens, parts.guard, token)
    if isinstance(person, Refusal):
        if person.status == 401:
            return page(request, "sign_in", 401, to=to, wrong=True)
        raise person
    found = RedirectResponse(to, 303)
    keep(found, token, request.url.scheme == "https")
    return found


async def _form(request: Request) -> dict[str, str]:
    """The fields of a short form. Raises Refusal (413): nobody is known yet who could be trusted with more."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > FORM_BYTES:
            raise too_large(FORM_BYTES)
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=10)
    return {name: values[0] for name, values in fields.items()}


@router.post("/sign-out")
def sign_out(request: Request) -> Response:
    """Let the browser forget the token."""
    found = RedirectResponse(SIGN_IN, 303)
    forget(found, request.url.scheme == "https")
    return found


@router.get("/")
def searches(
    request: Request, parts: WithParts, person: WithPerson, state: str = "", after: str | None = None
) -> Response:
    """Searches, newest first; of one state, where it is named."""
    number = events.newest(parts.database, [events.topic(person)])[events.topic(person)]
    chosen = State(state) if state in State.__members__ else None
    rows, following = parts.queue.page(person, Wanted(state=chosen, after=after, limit=PER_PAGE))
    found = standings(parts, rows)
    return page(request, "searches", rows=found, following=following, state=chosen, states=list(State), number=number)


@router.get("/events", response_class=EventSourceResponse)
async def changes(
    parts: WithParts,
    person: WithPerson,
    last_event_id: Annotated[int, Header(alias="Last-Event-ID", ge=0)] = 0,
    after: Annotated[int, Query(ge=0)] = 0,
) -> AsyncIterable[ServerSentEvent]:
    """That something happened to a search that a person sees, counted, until the server stops."""
    topic, number = events.topic(person), max(after, last_event_id)
    while not parts.bell.closing():
        now = (await run_in_threadpool(events.newest, parts.database, [topic]))[topic]
        if now > number:
            number = now
            yield ServerSentEvent(data={}, event="changed", id=str(number))
        await parts.bell.wait(topic, number)


@router.post("/searches/{study}/{asked}")
def steer(parts: WithParts, person: WithPerson, study: str, asked: Literal["pause", "resume", "cancel"]) -> Response:
    """Pause, resume or cancel a search, and come back to its page."""
    parts.queue.ask(person, study, asked)
    return RedirectResponse(f"/searches/{quote(study, safe='')}", 303)
