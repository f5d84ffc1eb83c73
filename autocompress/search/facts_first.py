"""The sampler of `sampler: auto`: facts are known before training, and proposals aim at what the budget allows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from ..config import less_is_better
from ..outcome import Limit, Metrics
from .aim import Aim, Axis, Bound, Seen, best_of
from .proposals import Proposer
from .space import Space
from .terrain import Row, Terrain

FACTS = ("size_bytes", "params", "nonzero_params", "latency_ms")
# Metrics that say the same as another: which, and its value from the baseline's and theirs.
SAME = {"compression_ratio": "size_bytes", "speedup": "latency_ms"}
REACH = {"size_bytes": 200.0, "latency_ms": 50.0}  # how far below its limit the ideal of an objective lies
MOST = 400  # trials that surrogates choose from, of the best and of the last
SURVEYED = 12  # rows whose facts are found ahead, at least
OVERHEAD = 1.5  # seconds of a trial besides its training
DROP = 0.02  # of a quality that no limit is on, as a share of the baseline's


class FactsFirst(optuna.samplers.BaseSampler):
    """Asks for what promises most hypervolume a second, by surrogates of facts and of quality.

    Facts (size, speed) are learned from every candidate, trained or not; quality from the trained. first: rows of
    parameters to begin with, each scaled to the budget. seconds_per_epoch: of the uncompressed model. A trial is read
    by its user attribute `outcome`, as StudyStore writes it, which tells of every trial that began or ended; as a
    sampler of Optuna's alone it reads the study each time.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[str],
        limits: Sequence[Limit],
        baseline: Metrics,
        lower: Sequence[str] = (),
        seed: int = 0,
        first: Sequence[Row] = (),
        seconds_per_epoch: float = 1.0,
    ) -> None:
        self._space, self._baseline, self._lower = space, baseline, tuple(lower)
        self.domains = distributions(space)
        self._aim = make_aim(objectives, limits, baseline, lower)
        self._rate, self._first = seconds_per_epoch, [self._complete(row) for row in first]
        self._terrain = Terrain(self.domains, space.active, space.leaves, space.orders(), space.switches())
        self._proposer = Proposer(self._terrain, self._aim, self._seconds, seed)
        self._independent = optuna.samplers.RandomSampler(seed=seed)
        self._seen: list[Seen] = []
        self._ahead: list[Seen] = []
        self._known: set[Any] = set()  # keys of rows that were tried
        self._count = 0  # of them
        self._ended: set[int] = set()  # their numbers
        self._running: dict[int, Row] = {}
        self._chance = np.random.default_rng([seed, 1])
        self._stages: set[Any] = set()
        self._busy: set[Any] = set()

    def know(self, row: Row, facts: Metrics) -> None:
        """Take in the facts of a row that no trial has."""
        self._ahead.append(Seen(row, self._facts(facts)))

    def survey(self) -> list[Row]:
        """Rows whose facts are worth knowing first: those to begin with, each number moved once, and some at random.

        What one number does by itself is an elementary effect (Morris, 1991).
        """
        generator = np.random.default_rng(0)
        randoms = [self._terrain.random(generator) for _ in range(SURVEYED)]
        rows, moved = list(self._first), set[str]()
        for row in (*self._first, *randoms):
            for name in self._terrain.knobs(row):
                if name not in moved:
                    moved.add(name)
                    rows.append(self._terrain.moved(row, name))
        return [*rows, *randoms[: max(SURVEYED - len(rows), SURVEYED // 3)]]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters of the space, of which every trial suggests all."""
        return dict(self.domains)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A row of parameters."""
        for frozen in study.get_trials(deepcopy=False):
            self.take(frozen)
        self._running.pop(trial.number, None)
        return self.draw()

    def draw(self) -> Row:
        """A row of parameters for the next trial."""
        running = [self._complete(row) for _, row in sorted(self._running.items()) if row]
        self._busy = {key for row in running for key, _ in self._space.stages(row)} - self._stages
        begun = self._count + len(running)
        return self._proposer.propose(self._learned(), self._known, running, self._first[begun : begun + 1])

    def random(self) -> Row:
        """A row of parameters at random."""
        return self._terrain.random(self._chance)

    def take(self, frozen: FrozenTrial) -> None:
        """Take in a trial as it is now: that it runs, or once what its end tells."""
        if not frozen.state.is_finished():
            self._running[frozen.number] = dict(frozen.params)
        elif frozen.number not in self._ended:
            self._running.pop(frozen.number, None)
            self._ended.add(frozen.number)
            if frozen.params:
                self._learn(frozen)

    def _learned(self) -> list[Seen]:
        """What surrogates learn from: all, or of many the best and the last."""
        if len(self._seen) > 2 * MOST:
            older = self._seen[:-MOST]
            misses = np.array([self._aim.miss(one) for one in older])
            best = [older[index] for index in best_of(self._aim.costs(older), misses, MOST)]
            self._seen = [*best, *self._seen[-MOST:]]
        return [*self._ahead, *self._seen]

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value of a parameter that is none of the space's."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _complete(self, row: Mapping[str, Any]) -> Row:
        """A row with the middle of its domain for what it does not say."""
        return {name: row.get(name, _middle(domain)) for name, domain in self.domains.items()}

    def _learn(self, frozen: FrozenTrial) -> None:
        outcome = frozen.user_attrs.get("outcome") or {}
        metrics: Metrics = {**outcome.get("facts", {}), **outcome.get("metrics", {})}
        row = self._complete(frozen.params)
        self._known.add(self._terrain.key(row))
        self._count += 1
        facts, qualities = self._facts(metrics), {}
        if "latency_ms" in outcome.get("metrics", {}):
            qualities = {name: self._quality(name, metrics[name]) for name in self._aim.qualities}
            self._stages.update(key for key, _ in self._space.stages(row))
        elif self._aim.qualities.keys() <= (expected := outcome.get("expected", {})).keys():
            qualities = {name: self._quality(name, expected[name]) for name in self._aim.qualities}
        elif "collapse" in outcome.get("violations", {}):
            qualities = {name: base - 50 * drop for name, (base, drop) in self._aim.qualities.items()}
        feasible = outcome.get("type") == "completed"
        if facts or qualities:
            self._seen.append(Seen(row, facts, qualities, feasible))

    def _facts(self, metrics: Metrics) -> dict[str, float]:
        """Facts under one name each, speeds in steps of a tenth, so that a search does not hang on their noise."""
        found = {name: metrics[name] for name in FACTS if name in metrics}
        if "latency_ms" not in found and "speedup" in metrics:
            found["latency_ms"] = self._baseline["latency_ms"] / metrics["speedup"]
        if "latency_ms" in found:
            found["latency_ms"] = math.exp(round(math.log(found["latency_ms"]) * 10) / 10)
        return found

    def _quality(self, name: str, value: float) -> float:
        return -value if less_is_better(name, self._lower) else value

    def _seconds(self, row: Row) -> float:
        """What a row costs: the training of the stages that are not cached yet, and the rest of a trial.

        A row that begins with what another trains right now is to wait for that.
        """
        stages = self._space.stages(row)
        if any(key in self._busy for key, _ in stages):
            return math.inf
        left = 0.0
        for key, epochs in reversed(stages):
            if key in self._stages:
                break
            left += epochs
        return OVERHEAD + 0.4 * self._rate * left


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The domain of each parameter of a space."""
    recorder = _Recorder()
    space.sample(recorder)
    return recorder.found


class _Recorder:
    """A trial that notes what may be suggested."""

    def __init__(self) -> None:
        self.found: dict[str, BaseDistribution] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """The lowest."""
        self.found[name] = FloatDistribution(low, high, log=log, step=step)
        return low

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """The lowest."""
        self.found[name] = IntDistribution(low, high, log=log, step=step)
        return low

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The first."""
        self.found[name] = CategoricalDistribution(choices)
        return choices[0]


def _middle(domain: BaseDistribution) -> Any:
    if isinstance(domain, CategoricalDistribution):
        return domain.choices[0]
    assert isinstance(domain, FloatDistribution | IntDistribution)
    value: float = math.sqrt(domain.low * domain.high) if domain.log else (domain.low + domain.high) / 2
    if domain.step and not domain.log:
        value = domain.low + round((value - domain.low) / domain.step) * domain.step
    return int(value) if isinstance(domain, IntDistribution) else value


def make_aim(objectives: Sequence[str], limits: Iterable[Limit], baseline: Metrics, lower: Sequence[str] = ()) -> Aim:
    """Objectives and limits as a surrogate takes them: facts under one name each, qualities so that more is better."""
    bounds: dict[str, Bound] = {}
    for limit in limits:
        name, at_most, value = _plain(limit.metric, limit.sense == "at_most", limit.bound, baseline)
        if name not in FACTS and less_is_better(name, lower):
            at_most, value = not at_most, -value
        tighter = bounds.get(name)
        if tighter is None or (value < tighter.bound) == at_most:
            bounds[name] = Bound(name, at_most, value)
    names = list(dict.fromkeys(_plain(name, True, 1.0, baseline)[0] for name in objectives))
    qualities = {}
    for name in dict.fromkeys((*names, *bounds)):
        if name not in FACTS:
            base = -baseline[name] if less_is_better(name, lower) else baseline[name]
            drop = DROP * max(abs(base), 1e-6)
            if name in bounds and not bounds[name].at_most:
                drop = max(base - bounds[name].bound, drop / 8)
            qualities[name] = (base, drop)
    axes = tuple(_axis(name, bounds, qualities, baseline) for name in names)
    return Aim(axes, tuple(bounds.values()), qualities)


def _plain(name: str, at_most: bool, value: float, baseline: Metrics) -> tuple[str, bool, float]:
    """A metric that is another one's ratio to the baseline, as that."""
    if name in SAME:
        return SAME[name], not at_most, baseline[SAME[name]] / value
    if name == "space_saving":
        return "size_bytes", not at_most, baseline["size_bytes"] * (1 - value)
    return name, at_most, value


def _axis(
    name: str, bounds: Mapping[str, Bound], qualities: Mapping[str, tuple[float, float]], baseline: Metrics
) -> Axis:
    if name in qualities:
        base, drop = qualities[name]
        return Axis(name, False, base + drop, bounds[name].bound if name in bounds else base - 5 * drop, False, False)
    worst = bounds[name].bound if name in bounds else baseline[name]
    return Axis(name, True, worst / REACH.get(name, 200.0), worst, True, True)
