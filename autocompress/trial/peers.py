"""What a training that is under way is held against: how earlier ones went on from where it stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..config import less_is_better
from ..outcome import Limit, Metrics, Stopped

ENOUGH, NEAREST = 6, 8
Pair = tuple[Metrics, Metrics]  # qualities at a rung, and of the file in the end


@dataclass(frozen=True)
class Peers:
    """The front, and by rung what others had there and came to; objectives and lower are the study's."""

    objectives: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()
    front: tuple[Metrics, ...] = ()
    passed: Mapping[str, Sequence[Pair]] = field(default_factory=dict)

    def judge(self, rung: str, there: Metrics, facts: Metrics, limits: Sequence[Limit]) -> Stopped | None:
        """Why a training with these qualities at a rung ends there; None where it may still win.

        It ends when even the most that those alike gained from there on, the NEAREST by quality, leaves it past a
        limit or behind a member of the front. facts: at their best. Until ENOUGH passed a rung it stops nobody, and in
        a quality nobody who stands worse than all of them: those who stand high have little left to gain.
        """
        pairs = self.passed.get(rung, ())
        if len(pairs) < ENOUGH:
            return None
        gains = {name: self._gains(name, value, pairs) for name, value in there.items()}
        gains = {name: found for name, found in gains.items() if found.size}
        most = dict(facts)
        for name, found in gains.items():
            most[name] = there[name] + float(found.min() if less_is_better(name, self.lower) else found.max())
        why = self._why(most, [limit for limit in limits if limit.metric in gains])
        if why is None:
            return None
        shown = ", ".join(f"{name} {there[name]:.4g}" for name in gains)
        reason = f"{shown} after {rung}: with the most that others gained from there {why}"
        usual = {name: there[name] + float(np.median(found)) for name, found in gains.items()}
        return Stopped(reason, expected=usual)

    def _gains(self, name: str, value: float, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        """What those that stood nearest gained in a metric from there on; nothing where nobody stood as low."""
        known = np.array([(at[name], end[name]) for at, end in pairs if name in at and name in end]).reshape(-1, 2)
        less = less_is_better(name, self.lower)
        if not (known[:, 0] >= value if less else known[:, 0] <= value).any():
            return np.zeros(0)
        nearest = np.argsort(np.abs(known[:, 0] - value), kind="stable")[:NEAREST]
        gains: NDArray[np.float64] = known[nearest, 1] - known[nearest, 0]
        return gains

    def _why(self, most: Metrics, limits: Sequence[Limit]) -> str | None:
        for limit in limits:
            if limit.violation(most) > 0:
                return f"it is past the limit on {limit.label} ({limit.metric} {most[limit.metric]:.4g})"
        if all(name in most for name in self.objectives) and any(self._beats(other, most) for other in self.front):
            return "it is behind one of the front in everything"
        return None

    def _beats(self, other: Metrics, most: Metrics) -> bool:
        """Whether a member of the front is as good in all objectives."""
        return all(
            other[name] <= most[name] if less_is_better(name, self.lower) else other[name] >= most[name]
            for name in self.objectives
        )
