"""Handing calls to a tracker without waiting for it."""

import queue
import threading
from collections.abc import Callable

from .protocol import Tracker

RETRY_SECONDS, FLUSH_SECONDS = 5.0, 60.0


class Background:
    """Hands calls to a tracker in a thread of its own, in order; one that fails is tried again until it works.

    report is told, once an outage, that the store is away, and once that it is back.
    """

    def __init__(self, tracker: Tracker, report: Callable[[str], None]) -> None:
        self._tracker, self._report = tracker, report
        self._calls: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue()
        self._closing = threading.Event()
        self.away = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def put(self, call: Callable[[Tracker], None]) -> None:
        """Queue a call."""
        self._calls.put(call)

    @property
    def waiting(self) -> int:
        """How many calls have not been made yet."""
        return self._calls.unfinished_tasks

    def run_ids(self) -> dict[int, str]:
        """Where each trial was kept, as far as is known now."""
        return dict(self._tracker.run_ids())

    def close(self, wait: float = FLUSH_SECONDS) -> int:
        """Make the calls that are left, for at most `wait` seconds; returns how many were not made."""
        self._calls.put(None)
        self._closing.set()
        self._thread.join(wait)
        return max(0, self._calls.unfinished_tasks - 1)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if not self._try(call):
                return
            self._calls.task_done()
        self._calls.task_done()

    def _try(self, call: Callable[[Tracker], None]) -> bool:
        """Make one call until it works; gives up when the search is over and the store still away."""
        refused = False
        while True:
            try:
                call(self._tracker)
            except Exception as error:
                if not self._alive():
                    self._gone(error)
                    if self._closing.is_set():
                        return False
                    self._closing.wait(RETRY_SECONDS)
                elif refused:
                    self._back()
                    self._report(f"MLflow refused an entry ({_first_line(error)}): it is left out")
                    return True
                else:
                    refused = True  # or the store came back between the call and the question: try once more
                continue
            self._back()
            return True

    def _gone(self, error: Exception) -> None:
        if not self.away:
            self._report(f"MLflow is away ({_first_line(error)}): the search goes on and logs when it is back")
        self.away = True

    def _back(self) -> None:
        if self.away:
            self._report("MLflow is back: logging what is missing")
            self.away = False

    def _alive(self) -> bool:
        """Whether the store answers, so that a failing call is itself at fault."""
        try:
            return self._tracker.alive()
        except Exception:
            return False


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
