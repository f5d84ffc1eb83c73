"""One look at the database for all streams of events: it rings where a topic (events.newest) has new ones."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from . import events
from .database import Database

KEPT = 64  # runs of events


@dataclass(frozen=True)
class Told:
    """An event as it is sent; state is what the search is in from then on, where it tells of that."""

    number: int
    kind: str
    text: str
    state: str | None


class Bell:
    """Knows the number of the last event of every topic that somebody listens to, and reads events once for all."""

    def __init__(self, database: Database, poll_s: float) -> None:
        self._database, self._poll_s = database, poll_s
        self._listened: Counter[str] = Counter()
        self._numbers: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self._reading: dict[tuple[str, int, int], asyncio.Task[list[Told]]] = {}
        self.closing: Callable[[], bool] = lambda: False

    async def ring(self) -> None:
        """Look again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            numbers = self._numbers
            if self._listened:
                try:
                    numbers = await asyncio.to_thread(events.newest, self._database, list(self._listened))
                except SQLAlchemyError:
                    continue  # it is away: those who listen wait on
            if numbers != self._numbers or self.closing():
                async with self._changed:
                    self._numbers = numbers
                    self._changed.notify_all()

    async def wait(self, topic: str, after: int) -> int:
        """Wait until a topic has an event past a number, or the server closes; the number of its last event."""
        self._listened[topic] += 1
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: self.closing() or self._numbers.get(topic, 0) > after)
                return self._numbers.get(topic, 0)
        finally:
            self._listened[topic] -= 1
            self._listened += Counter()  # drops those that nobody listens to

    async def past(self, search: str, after: int, upto: int) -> Sequence[Told]:
        """The events of a search past a number and up to one that has come: streams that saw as much share one look."""
        key = (search, after, upto)
        if key not in self._reading:
            while len(self._reading) >= KEPT:
                del self._reading[next(iter(self._reading))]
            self._reading[key] = asyncio.create_task(asyncio.to_thread(_told, self._database, *key))
        try:
            return await asyncio.shield(self._reading[key])
        except Exception:
            self._reading.pop(key, None)  # who asks again may find it back
            raise


def _told(database: Database, search: str, after: int, upto: int) -> list[Told]:
    return [
        Told(
            event.number,
            event.kind,
            json.dumps({**event.data, "time": events.moment(event.time)}),
            event.data["state"] if event.kind == "state" else None,
        )
        for event in events.read(database, search, after, upto)
    ]
