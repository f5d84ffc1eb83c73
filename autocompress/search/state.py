"""What a search knows of itself while it runs, and those who look on."""

import time
from dataclasses import dataclass, field
from typing import Protocol

from ..front import Front
from ..outcome import Baseline, Limit
from ..recipe import Recipe
from .records import Record


@dataclass
class State:
    """Where a search stands: what it aims at, the trials that ended and their front, and the recipes that run.

    lower are the task's own metrics of which less is better.
    """

    study: str
    target: int
    objectives: tuple[str, ...]
    quality: str
    baseline: Baseline
    limits: tuple[Limit, ...]
    front: Front
    lower: tuple[str, ...] = ()
    started: float = field(default_factory=time.monotonic)
    records: dict[int, Record] = field(default_factory=dict)
    running: dict[int, Recipe] = field(default_factory=dict)
    waiting: dict[int, Recipe] = field(default_factory=dict)  # asked for, but not begun yet
    draining: bool = False
    begun_with: int = 0
    deadline: float | None = None
    used_up: bool = False
    ended: str = ""  # why, where that was before trials and time were used up


class Listener(Protocol):
    """Somebody who is told how a search goes; calls come often and must return at once."""

    def update(self, state: State) -> None:
        """Trials started or ended, or time went by."""


class View(Listener, Protocol):
    """A listener that shows a search to people."""

    def phase(self, text: str) -> None:
        """What is going on before and after the trials."""

    def note(self, text: str) -> None:
        """Something worth a line."""
