"""Who may have how much, and whose search is taken next: pure functions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

DAY_S = 86_400.0


@dataclass(frozen=True)
class Quota:
    """What one person may have: searches at once, workers a search, and seconds of trials a day; None is no limit."""

    searches: int | None = None
    workers: int | None = None
    trial_seconds: float | None = None

    def or_else(self, usual: "Quota") -> "Quota":
        """This one, and the usual where it says nothing."""
        return Quota(
            usual.searches if self.searches is None else self.searches,
            usual.workers if self.workers is None else self.workers,
            usual.trial_seconds if self.trial_seconds is None else self.trial_seconds,
        )


@dataclass(frozen=True)
class Standing:
    """What a person may have, and has: searches that run, seconds of trials today, and when one was last begun."""

    quota: Quota = Quota()
    running: int = 0
    used_s: float = 0.0
    begun: float = 0.0


@dataclass(frozen=True)
class Waiting:
    """A search in the queue."""

    id: str
    owner: str
    priority: int
    created: float


def day(now: float) -> int:
    """The day of a moment, in UTC, which days of trials are counted by."""
    return int(now // DAY_S)


def tomorrow(now: float) -> float:
    """When the next day begins."""
    return (day(now) + 1) * DAY_S


def spent(owner: str, standing: Standing, now: float) -> str | None:
    """Why no trials of a person's may run today; None where they may."""
    most = standing.quota.trial_seconds
    if most is None or standing.used_s < most:
        return None
    when = datetime.fromtimestamp(tomorrow(now), UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{owner} has used up today's {most:,.0f} seconds of trials: it goes on at {when}"


def blocked(owner: str, standing: Standing, now: float) -> str | None:
    """Why no further search of a person's is begun; None where one may be."""
    most = standing.quota.searches
    if most is not None and standing.running >= most:
        return f"{owner} runs {standing.running} of at most {most} searches at once: it waits for one of them to end"
    return spent(owner, standing, now)


def workers(wanted: int | None, quota: Quota) -> int | None:
    """How many workers a search gets; None is what its config says."""
    given = [count for count in (wanted, quota.workers) if count is not None]
    return min(given, default=None)


def next_in_turn(waiting: Iterable[Waiting], standings: Mapping[str, Standing], now: float, room: int) -> list[Waiting]:
    """The searches to begin, in order: by priority, then the person's who has least, then by age.

    Who has least runs the fewest searches, then used the fewest seconds today, then had one begun longest ago.
    """
    left, now_has = list(waiting), dict(standings)
    chosen: list[Waiting] = []
    while len(chosen) < room:
        able = [search for search in left if blocked(search.owner, now_has[search.owner], now) is None]
        if not able:
            break
        best = min(able, key=lambda search: _rank(search, now_has[search.owner]))
        left.remove(best)
        chosen.append(best)
        has = now_has[best.owner]
        now_has[best.owner] = replace(has, running=has.running + 1, begun=now)
    return chosen


def _rank(search: Waiting, standing: Standing) -> tuple[object, ...]:
    has = (standing.running, standing.used_s, standing.begun)
    return (-search.priority, *has, search.created, search.id)
