"""What a worker keeps to: its number of threads, and where its seconds go."""

import contextlib
import time
from collections.abc import Iterator

import torch

NOTE = "while doing this: "


class Clock:
    """Seconds spent, by what they were spent on."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds: dict[str, float] = dict(seconds or {})

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@contextlib.contextmanager
def during(what: str) -> Iterator[None]:
    """Note on an error what was being done when it was raised; an inner note stays."""
    try:
        yield
    except Exception as error:
        if not doing(error):
            error.add_note(f"{NOTE}{what}")
        raise


def doing(error: BaseException) -> str:
    """What was being done when an error was raised, as `during` noted it; nothing where it did not."""
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith(NOTE)]
    return notes[0].removeprefix(NOTE) if notes else ""


def use_threads(threads: int) -> None:
    """Keep torch to the target's threads: more on a busy machine is ruinous."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
