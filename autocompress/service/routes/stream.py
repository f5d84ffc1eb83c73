"""A search's events as a stream."""

from collections.abc import AsyncIterable
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from .. import events
from ..parts import Listening, WithParts, WithPerson, WithSearch, moment
from ..states import State

router = APIRouter(tags=["events"])
MOST = 2**31 - 1  # that the database counts to
LAST = frozenset({State.finished, State.failed, State.cancelled})


@router.get("/searches/{study}/events", response_class=EventSourceResponse, dependencies=[Listening])
async def stream(
    parts: WithParts,
    person: WithPerson,
    search: WithSearch,
    last_event_id: Annotated[int, Header(alias="Last-Event-ID", ge=0, le=MOST)] = 0,
    after: Annotated[int, Query(ge=0, le=MOST)] = 0,
) -> AsyncIterable[ServerSentEvent]:
    """Trials that end, changes of the front, and changes of state, from the first or past Last-Event-ID.

    It ends after the state that is the last for now, and when the server stops: come again with the last id.
    """
    number = max(last_event_id, after)
    while not parts.bell.closing():
        for event in await run_in_threadpool(events.read, parts.database, search.id, number):
            number = event.number
            data = {**event.data, "time": moment(event.time)}
            yield ServerSentEvent(data=data, event=event.kind, id=str(number))
        found = await run_in_threadpool(parts.queue.find, person, search.study)
        if found.events == number and found.state in LAST:
            return
        if found.events == number:
            await parts.bell.wait(search.id, number)
