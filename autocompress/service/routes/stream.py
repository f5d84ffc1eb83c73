"""A search's events as a stream."""

from collections.abc import AsyncIterable
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from ..parts import Listening, WithParts, WithSearch
from ..states import State

router = APIRouter(tags=["events"])
MOST = 2**31 - 1  # that the database counts to
LAST = frozenset({State.finished, State.failed, State.cancelled})


@router.get("/searches/{study}/events", response_class=EventSourceResponse, dependencies=[Listening])
async def stream(
    parts: WithParts,
    search: WithSearch,
    last_event_id: Annotated[int, Header(alias="Last-Event-ID", ge=0, le=MOST)] = 0,
    after: Annotated[int, Query(ge=0, le=MOST)] = 0,
) -> AsyncIterable[ServerSentEvent]:
    """Trials that end, changes of the front, and changes of state, from the first or past Last-Event-ID.

    It ends after the state that is the last for now, and when the server stops: come again with the last id.
    """
    number, upto, state = max(last_event_id, after), search.events, search.state
    while not parts.bell.closing():
        while number < upto:
            for told in await parts.bell.past(search.id, number, upto):
                number, state = told.number, told.state or state
                yield ServerSentEvent(raw_data=told.text, event=told.kind, id=str(number))
        if number >= upto and state in LAST:
            return
        upto = await parts.bell.wait(search.id, number)
