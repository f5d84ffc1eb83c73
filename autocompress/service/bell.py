"""One look at the database for all streams of events: it rings where a topic (events.newest) has new ones."""

import asyncio
from collections import Counter
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from . import events
from .database import Database


class Bell:
    """Knows the number of the last event of every topic that somebody listens to."""

    def __init__(self, database: Database, poll_s: float) -> None:
        self._database, self._poll_s = database, poll_s
        self._listened: Counter[str] = Counter()
        self._numbers: dict[str, int] = {}
        self._changed = asyncio.Condition()
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
