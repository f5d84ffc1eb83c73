"""What earlier studies in the same storage teach a new one: it begins with recipes of those that are most like it."""

import math
from collections.abc import Callable, Mapping

from ..front import find_front
from ..outcome import Metrics
from .plan import Plan
from .space import Space
from .storage import study_names
from .store import StudyStore
from .terrain import Row

STUDIES, RECIPES = 2, 4  # at most, of all studies together
FARTHEST = 2 * math.log(3)  # models within three times the size and the latency, say
COMPARED = ("size_bytes", "latency_ms")


def likeness(ours: Metrics, theirs: Metrics) -> float:
    """How far two uncompressed models are apart: by the logarithms of what their files take; infinite where unknown."""
    if any(not ours.get(name, 0) > 0 or not theirs.get(name, 0) > 0 for name in COMPARED):
        return math.inf
    return sum(abs(math.log(ours[name] / theirs[name])) for name in COMPARED)


def earlier_rows(plan: Plan, store: StudyStore, url: str, note: Callable[[str], None]) -> list[Row]:
    """Rows of the fronts of studies that are over, of a like model, the same target and quality; note says which."""
    found: list[tuple[float, StudyStore]] = []
    for name in study_names(url):
        if name == store.name:
            continue
        other = StudyStore.open(url, name)
        far = likeness(plan.baseline.metrics, other.get("baseline") or {})
        if far <= FARTHEST and _alike(plan, other) and other.get("verdict") == "feasible":
            found.append((far, other))
    rows: list[Row] = []
    for _, other in sorted(found, key=lambda pair: (pair[0], pair[1].name))[:STUDIES]:
        before = len(rows)
        rows += [row for row in _front_rows(other, plan.setup.space) if row not in rows][: RECIPES - len(rows)]
        if len(rows) > before:
            count = len(rows) - before
            note(f"begins with {count} recipes of study {other.name!r}, whose model is alike: --cold leaves them out")
    return rows


def _alike(plan: Plan, other: StudyStore) -> bool:
    config: Mapping[str, object] = other.get("config") or {}
    target = plan.setup.config.target.model_dump(mode="json")
    return other.get("quality") == plan.setup.quality and config.get("target") == target


def _front_rows(study: StudyStore, space: Space) -> list[Row]:
    """The rows of a space that say the recipes of a front, spread over its sizes, the smallest first."""
    trials = find_front(study.outcomes(), study.objectives, study.lower).trials
    step = max(1, math.ceil(len(trials) / RECIPES))
    records = study.records()
    rows = [space.parameters_of(records[number].recipe) for number in trials[::step]]
    return [row for row in rows if row is not None]
