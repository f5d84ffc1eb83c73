"""Ctrl-C: once to wait for what runs, twice to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupts:
    """Counts interrupts: the first drains a search, the second stops it at once; SIGTERM is as good as two."""

    def __init__(self) -> None:
        self.level = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over SIGINT and SIGTERM where this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._terminate)
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: object) -> None:
        self.level += 1
        if self.level > 2:
            raise KeyboardInterrupt

    def _terminate(self, number: int, frame: object) -> None:
        self.level = 2
