"""Handing calls to a tracker without waiting for it."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable

from ..urls import without_passwords
from .protocol import Away, Barred, Tracker

Call = Callable[[Tracker], None]

RETRY_SECONDS, SHOW_SECONDS = 5.0, 5.0
# At the end of a search: how long an outage is waited for, however much was logged before and is left.
LOST_SECONDS = 60.0
# A call that neither works nor fails: its requests have time limits of their own, which are shorter.
HUNG_SECONDS = 300.0


class Background:
    """Hands calls to a tracker in a thread of its own, in order; one that fails is tried again until it works.

    report is told, once an outage, that the store is away, and once that it is back; of entries that it refuses; and
    when it lets nobody in, after which nothing more is tried.
    """

    def __init__(self, tracker: Tracker, report: Callable[[str], None]) -> None:
        self._tracker, self._report = tracker, report
        self._calls: queue.Queue[tuple[Call, bool] | None] = queue.Queue()
        self._closing, self._hurry = threading.Event(), threading.Event()
        self._worked = False
        self._away_since: float | None = None
        self._tried = time.monotonic()
        self.barred: Barred | None = None
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def put(self, call: Call, needed: bool = False) -> None:
        """Queue a call. needed: the others make no sense where this one is refused."""
        self._calls.put((call, needed))

    @property
    def away(self) -> bool:
        """Whether the store is away."""
        return self._away_since is not None

    @property
    def waiting(self) -> int:
        """How many calls have not been made yet."""
        return self._calls.unfinished_tasks

    def run_ids(self) -> dict[int, str]:
        """Where each trial was kept, as far as is known now."""
        return dict(self._tracker.run_ids())

    def page(self) -> str:
        """The study's address within the place's own page, as far as is known now."""
        return self._tracker.page()

    def close(self, show: Callable[[int], None] = lambda left: None) -> int:
        """Make the calls that are left, as long as the store takes them; returns how many were not made.

        show is told now and then how many are left, where that changed. Ctrl-C ends the waiting.
        """
        self._calls.put(None)
        self._closing.set()
        self._hurry.set()
        shown, last = time.monotonic(), -1
        with contextlib.suppress(KeyboardInterrupt):
            while self._thread.is_alive() and time.monotonic() - self._tried < HUNG_SECONDS:
                self._thread.join(min(0.25, HUNG_SECONDS))
                if self._thread.is_alive() and time.monotonic() - shown >= SHOW_SECONDS and self._left != last:
                    shown, last = time.monotonic(), self._left
                    show(last)
        return self._left

    @property
    def _left(self) -> int:
        return max(0, self._calls.unfinished_tasks - 1)  # the last one says that there are no more

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            if not self._make(*item):
                return
            self._calls.task_done()
        self._calls.task_done()

    def _make(self, call: Call, needed: bool) -> bool:
        """Make one call until it works or is refused; False when there is no use in going on."""
        again = False
        while (error := self._failure(call)) is not None:
            if isinstance(error, Barred):
                return self._bar(error)
            if isinstance(error, Away):
                if self._lost(error):
                    return False
                self._pause()
                continue
            self._back()
            if again and needed:
                return self._bar(Barred(f"MLflow cannot be used ({_first_line(error)})", "correct `tracking:`"))
            if again:
                self._report(f"MLflow refused an entry ({_first_line(error)}): it is left out")
                return True
            again = True  # the store came back between the call and the question, or was put right by it
        self._back()
        self._worked = True
        return True

    def _failure(self, call: Call) -> Exception | None:
        """Why a call did not work: Away or Barred where the store is at fault, else what it raised."""
        self._tried = time.monotonic()
        try:
            call(self._tracker)
        except (Away, Barred) as error:
            return error
        except Exception as error:
            return self._judged(error)
        return None

    def _judged(self, error: Exception) -> Exception:
        try:
            alive = self._tracker.alive()
        except Barred as barred:
            return barred
        except Exception:
            alive = False
        return error if alive else Away(_first_line(error))

    def _lost(self, error: Away) -> bool:
        """Note an outage; whether it is to be waited for no longer: only once the search is over."""
        now = time.monotonic()
        if self._away_since is None:
            self._report(f"MLflow is away ({_first_line(error)}): the search goes on and logs when it is back")
            self._away_since = now
        # One that never answered is not about to come back.
        return self._closing.is_set() and (not self._worked or now - self._away_since >= LOST_SECONDS)

    def _pause(self) -> None:
        """Wait before the next try; the end of the search cuts this short, once."""
        self._hurry.wait(RETRY_SECONDS)
        self._hurry.clear()

    def _back(self) -> None:
        if self._away_since is not None:
            self._report("MLflow is back: logging what is missing")
            self._away_since = None

    def _bar(self, barred: Barred) -> bool:
        self._report(f"{without_passwords(str(barred))}; the search goes on, and nothing more is logged")
        self.barred = barred
        return False


def _first_line(error: Exception) -> str:
    # MLflow's errors hold the store's address as it was given.
    return without_passwords((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]
