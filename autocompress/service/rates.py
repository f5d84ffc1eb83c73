"""How often somebody may ask: buckets that fill by themselves (token buckets), kept by each server for itself."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256

from .problems import Refusal
from .settings import Settings

MANY = 10_000  # keys, after which full buckets are thrown away


class Buckets:
    """A bucket for each key: it holds so many, each request takes one out, and so many a second come in."""

    def __init__(self, holds: float, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._holds, self._per_s, self._clock = holds, per_s, clock
        self._levels: dict[str, tuple[float, float]] = {}

    def wait(self, key: str) -> float:
        """Seconds until there is one to take; 0 where there is."""
        return max(0.0, 1.0 - self._level(key)) / self._per_s

    def take(self, key: str) -> float:
        """Take one where there is; else nothing is taken. Returns what wait says."""
        wait = self.wait(key)
        if wait == 0.0:
            self._levels[key] = (self._level(key) - 1.0, self._clock())
            if len(self._levels) > MANY:
                self._levels = {key: at for key, at in self._levels.items() if self._level(key) < self._holds}
        return wait

    def _level(self, key: str) -> float:
        level, since = self._levels.get(key, (self._holds, 0.0))
        return min(self._holds, level + (self._clock() - since) * self._per_s)


class Guard:
    """Who asks too often: by token, by address where tokens are wrong, and by person for streams of events."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._requests = Buckets(settings.burst, settings.rate, clock)
        self._failures = Buckets(settings.failures, settings.failures / 60.0, clock)
        self._good: dict[str, None] = {}
        self._most_streams = settings.streams
        self.streams: Counter[str] = Counter()

    def stranger(self, address: str, token: str) -> Refusal | None:
        """The refusal of an address that came with many wrong tokens; not of who was let in with this one before."""
        wait = self._failures.wait(address)
        if wait == 0.0 or _digest(token) in self._good:
            return None
        return too_often("too many wrong tokens came from this address", "Authorization", wait)

    def failed(self, address: str) -> None:
        """Count a wrong token."""
        self._failures.take(address)

    def let_in(self, token: str) -> Refusal | None:
        """Count a request with a good token; the refusal where there were too many."""
        digest = _digest(token)
        if len(self._good) > MANY:
            self._good.clear()
        self._good[digest] = None
        wait = self._requests.take(digest)
        return too_often("too many requests with this token", "request", wait) if wait else None

    @contextmanager
    def stream(self, name: str) -> Iterator[None]:
        """Count a person's stream of events while it is open. Raises Refusal (429)."""
        if self.streams[name] >= self._most_streams:
            raise too_often(f"{name} has {self._most_streams} streams open", "events", 5.0)
        self.streams[name] += 1
        try:
            yield
        finally:
            self.streams[name] -= 1
            self.streams += Counter()  # drops those who have none


def too_often(what: str, where: str, wait: float) -> Refusal:
    """The refusal of who asks too often, with when to ask again."""
    return Refusal(429, what, where, "a server has others to answer too", f"ask again in {wait:.0f} s", wait)


def _digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()
