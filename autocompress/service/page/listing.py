"""The list of searches, and where each stands, as values for pages."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from ...config import SearchSettings, less_is_better
from ...wording import TYPES, value_text
from .. import events
from ..database import Search
from ..parts import Parts
from ..states import ENDED, REQUESTS, State

BUTTONS = ("pause", "resume")  # cancelling has a place of its own, as it cannot be taken back
IN_WORDS = {"feasible": "meets the budget", "infeasible": "nothing meets the budget", "nothing_finished": "no result"}


@dataclass(frozen=True)
class Standing:
    """Where a search stands: ended of target trials, their kinds, and the best of each objective on the front."""

    search: Search
    ended: int
    target: int
    tally: str
    members: int
    best: str
    verdict: str
    seconds: float
    requests: Sequence[str]

    @property
    def share(self) -> float:
        """How far it is, from 0 to 1."""
        return min(1.0, self.ended / self.target)

    @property
    def over(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.search.state in ENDED

    @property
    def cancellable(self) -> bool:
        """Whether it can still be cancelled."""
        return self.search.state in REQUESTS["cancel"] and self.search.state != State.cancelled


def standings(parts: Parts, searches: Sequence[Search]) -> list[Standing]:
    """Where searches stand, as their events tell."""
    fronts = events.latest(parts.database, [search.id for search in searches], "front")
    return [standing(search, fronts.get(search.id)) for search in searches]


def standing(search: Search, front: Mapping[str, Any] | None) -> Standing:
    """Where a search stands, by the newest event of its front."""
    counts: dict[str, int] = front["counts"] if front else {}
    members: list[dict[str, Any]] = front["front"] if front else []
    verdict = search.verdict or (front["verdict"] if front else None)
    running = time.time() - search.run_started if search.run_started is not None else 0.0
    asked = [name for name in BUTTONS if REQUESTS[name].get(State(search.state), search.state) != search.state]
    return Standing(
        search,
        sum(counts.values()),
        search.trials or _configured_trials(search.config_text),
        ", ".join(f"{counts[name]} {name}" for name in TYPES if counts.get(name)),
        len(members),
        _best(members, front.get("lower", ()) if front else ()),
        IN_WORDS.get(str(verdict), ""),
        search.spent_s + max(0.0, running),
        asked,
    )


def brief(name: str, value: float) -> str:
    """A metric with its unit, and its name where that does not say it."""
    return f"{value:.4g} ms" if name == "latency_ms" else value_text(name, value)


def _best(members: Sequence[Mapping[str, Any]], lower: Sequence[str]) -> str:
    names = [name for name in (members[0] if members else {}) if name != "trial"]
    values = {name: [row[name] for row in members if row[name] is not None] for name in names}
    return ", ".join(
        brief(name, (min if less_is_better(name, lower) else max)(found)) for name, found in values.items() if found
    )


@lru_cache(maxsize=256)
def _configured_trials(text: str) -> int:
    """What a config says; it was checked when it was submitted."""
    data = yaml.safe_load(text) or {}
    given = (data.get("search") or {}).get("trials") if isinstance(data, dict) else None
    return given if isinstance(given, int) else SearchSettings().trials
