"""A search against the table: the product's study and sampler, and workers whose seconds are the table's."""

import heapq
import itertools
import math
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import moocore
import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from table import SPACE, TABLE, choices

from autocompress.outcome import Completed, Infeasible, Limit, Metrics, Outcome, Stopped, violations
from autocompress.recipe import Recipe
from autocompress.search.ahead import most_ahead
from autocompress.search.facts_first import FactsFirst
from autocompress.search.lessons import LEAST, facts_off
from autocompress.search.space import Space
from autocompress.search.space_file import load_space
from autocompress.search.store import StudyStore
from autocompress.trial.facts import BURSTS_SECONDS, reject
from autocompress.trial.run import TrialSpec

OBJECTIVES = ("size_bytes", "accuracy", "latency_ms")
# Trainings count as many times as they took, as if there were 30,000 digits and not 1,000.
TRAINING = 30
TIMING = TrialSpec.latency_seconds
REPEATS, AT_RANDOM = 60, 5  # as autocompress/search/controller.py has them
# How much smaller and faster than the uncompressed model, and the drop of accuracy: such that no recipe has two thirds
# of the hypervolume by itself, that 0.95 of it takes at least five, and that little of it hangs on one trunk alone.
BUDGETS = {"mlp": (30.0, 3.0, 0.04), "cnn": (8.0, 1.5, 0.03)}

Row = dict[str, Any]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """The table of one task, with the budget that its recipes are held against."""

    task: str
    space: Space
    lines: pd.DataFrame
    baseline: Metrics
    limits: tuple[Limit, ...]

    @classmethod
    def load(cls, task: str) -> "Truth":
        """The committed table of a task."""
        whole = pd.read_csv(TABLE)
        whole = whole[whole["task"] == task]
        first = whole[whole["case"] == "baseline"].iloc[0]
        names = ("size_bytes", "accuracy", "latency_ms", "first_seconds")
        baseline = {**{name: float(first[name]) for name in names}, "speedup": 1.0}
        ratio, speedup, drop = BUDGETS[task]
        limits = (
            Limit("size_bytes", "at_most", baseline["size_bytes"] / ratio, "compression_ratio"),
            Limit("speedup", "at_least", speedup, "speedup"),
            Limit("accuracy", "at_least", baseline["accuracy"] - drop, "accuracy_drop"),
        )
        lines = whole[whole["case"] == "recipe"].reset_index(drop=True)
        return cls(task, load_space(SPACE), lines, baseline, limits)

    @cached_property
    def index(self) -> dict[Hashable, Row]:
        """What was measured, by what tells recipes apart."""
        rows = self.lines.to_dict("records")
        return {self.key(choices(row, self.space)): row for row in rows}

    def key(self, row: Row) -> Hashable:
        """What tells recipes apart: the parameters that they use."""
        used = self.space.active(row)
        return tuple((n, round(row[n], 9) if isinstance(row[n], float) else row[n]) for n in sorted(used))

    def facts(self, line: Row) -> Metrics:
        """What is known before training."""
        return self._with_ratios(line["facts_size_bytes"], line["facts_latency_ms"])

    def metrics(self, line: Row) -> Metrics:
        """What is measured after it."""
        return {**self._with_ratios(line["size_bytes"], line["latency_ms"]), "accuracy": line["accuracy"]}

    def _with_ratios(self, size_bytes: float, latency_ms: float) -> Metrics:
        return {
            "size_bytes": size_bytes, "latency_ms": latency_ms, "speedup": self.baseline["latency_ms"] / latency_ms,
            "compression_ratio": self.baseline["size_bytes"] / size_bytes,
        }  # fmt: skip

    def points(self, lines: pd.DataFrame) -> Array:
        """Rows as (rows, size, error, latency), from 0 at the best that keeps the budget to 1 at the limit."""
        return 1 + self._past(lines) / self._spans

    def _past(self, lines: pd.DataFrame) -> Array:
        """By how much rows are past the limits, below 0 where they are within: size and latency as logarithms."""
        slowest = self.baseline["latency_ms"] / self.limits[1].bound
        size, latency = np.log(lines["size_bytes"] / self.limits[0].bound), np.log(lines["latency_ms"] / slowest)
        return np.column_stack([size, self.limits[2].bound - lines["accuracy"], latency])

    @cached_property
    def _spans(self) -> Array:
        """How far within each limit recipes go that keep all of them."""
        past = self._past(self.lines)
        return np.asarray(-past[(past <= 0).all(1)].min(0))

    @cached_property
    def feasible(self) -> Array:
        """The points of all recipes that keep the budget."""
        points = self.points(self.lines)
        return np.asarray(points[(points <= 1).all(1)])

    @cached_property
    def volume(self) -> float:
        """The hypervolume of the true front, with the limits as its reference."""
        return float(moocore.hypervolume(self.feasible, ref=np.ones(3)))


@dataclass(frozen=True)
class Rules:
    """What a search does besides asking: keep stages, reject by facts before training, and how many workers it has."""

    cache: bool = True
    rejects: bool = True
    workers: int = 1


@dataclass
class Progress:
    """Where a search stands after each of its trials: simulated seconds, and the share of the true front."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    think_ms: list[float] = field(default_factory=list)
    trained: int = 0


@dataclass(frozen=True, order=True)
class Running:
    """What one worker is at until a moment; facts alone where it is no trial."""

    until: float
    order: int
    number: int | None = field(compare=False)
    row: Row = field(compare=False)
    outcome: Outcome | None = field(compare=False)


class Search:
    """One simulated search, as autocompress/search/controller.py goes about it."""

    def __init__(self, truth: Truth, sampler: optuna.samplers.BaseSampler, rules: Rules, seed: int) -> None:
        study = optuna.create_study(
            storage="sqlite://", directions=["minimize", "maximize", "minimize"], study_name="table"
        )
        study.set_user_attr("objectives", list(OBJECTIVES))
        self._truth, self._rules, self._sampler = truth, rules, sampler
        self._store = StudyStore(study, "sqlite:///table.db")
        self._store.use_sampler(sampler, seed)
        self._survey = sampler.survey() if rules.rejects and isinstance(sampler, FactsFirst) else []
        self._now, self._cpu, self._order = 0.0, 0.0, itertools.count()
        self._ready: dict[Hashable, float] = {}
        self._told: dict[Hashable, tuple[int, Outcome]] = {}
        self._asked: dict[Hashable, int] = {}
        self._outcomes: list[Outcome] = []
        self._points: list[Array] = []
        self._busy: list[Running] = []
        self.progress = Progress()

    def run(self, trials: int, share: float, seconds: float = math.inf) -> Progress:
        """Search until so many trials ended, that share of the true front is reached, or CPU-seconds are spent."""
        progress, used_up = self.progress, False
        self._survey = self._survey[: most_ahead(trials)]
        while True:
            while not used_up and len(self._busy) < self._rules.workers:
                used_up = not self._begin(trials)
            if not self._busy:
                return progress
            self._end(heapq.heappop(self._busy))
            if progress.share and (progress.share[-1] >= share or self._cpu >= seconds):
                return progress

    def _begin(self, trials: int) -> bool:
        """Give a worker something to do; False where nothing is left."""
        if self._survey:
            row = self._survey.pop(0)
            self._cpu += self._facts_seconds(line := self._truth.index[self._truth.key(row)])
            until = self._now + self._facts_seconds(line)
            heapq.heappush(self._busy, Running(until, next(self._order), None, row, None))
            return True
        if len(self._asked) >= min(trials, len(self._truth.index)):
            return False
        found = self._ask()
        if found is None:
            return False
        number, row, recipe = found
        outcome, until = self._carry_out(recipe, self._truth.index[self._truth.key(row)])
        heapq.heappush(self._busy, Running(until, next(self._order), number, row, outcome))
        return True

    def _ask(self) -> tuple[int, Row, Recipe] | None:
        """A recipe that was not tried yet; repeats are told at once, as the controller does."""
        for repeat in range(REPEATS):
            start = time.perf_counter()
            number, recipe = self._store.ask(self._truth.space, at_random=repeat > AT_RANDOM)
            self.progress.think_ms.append((time.perf_counter() - start) * 1e3)
            row = self._store.frozen(number).params
            key = self._truth.key(row)
            if key not in self._asked:
                self._asked[key] = number
                return number, row, recipe
            known = self._told.get(key, (self._asked[key], Stopped("the same recipe is running")))
            self._store.tell(number, known[1], duplicate_of=known[0])
        return None

    def _carry_out(self, recipe: Recipe, line: Row) -> tuple[Outcome, float]:
        """How a trial ends, and when: after its facts, the stages that are not there yet, its file and its timing.

        As in a trial, facts are found where something is left to train. A stage that another trains is waited for.
        """
        truth, until, stages = self._truth, self._now, _stages(recipe, line)
        kept = {key for key, _ in stages if self._rules.cache and key in self._ready}
        facts: Metrics = {}
        if self._rules.rejects and len(kept) < len(stages):
            facts, spent = truth.facts(line), self._facts_seconds(line)
            until, self._cpu = until + spent, self._cpu + spent
            tolerance = {name: max(value, LEAST) for name, value in facts_off(self._outcomes).items()}
            rejected = reject(facts, list(truth.limits[:2]), tolerance)
            if rejected is not None:
                return rejected, until
        for key, seconds in stages:
            if key in kept:
                until = max(until, self._ready[key])
                continue
            until, self._cpu = until + seconds, self._cpu + seconds
            self._ready[key] = until
        spent = line["file_seconds"] + TIMING
        until, self._cpu = until + spent, self._cpu + spent
        self.progress.trained += 1
        metrics = truth.metrics(line)
        past = violations(truth.limits, metrics)
        if max(past.values()) > 0:
            return Infeasible(metrics, past, "past a limit", facts=facts), until
        return Completed(metrics, past, facts=facts), until

    def _facts_seconds(self, line: Row) -> float:
        return float(line["facts_seconds"]) + BURSTS_SECONDS

    def _end(self, running: Running) -> None:
        """Tell what a worker found."""
        self._now = running.until
        line = self._truth.index[key := self._truth.key(running.row)]
        if running.outcome is None or running.number is None:
            assert isinstance(self._sampler, FactsFirst)
            self._sampler.know(running.row, self._truth.facts(line))
            return
        self._store.tell(running.number, running.outcome)
        self._told[key] = (running.number, running.outcome)
        self._outcomes.append(running.outcome)
        progress = self.progress
        share = progress.share[-1] if progress.share else 0.0
        if isinstance(running.outcome, Completed):
            self._points.append(self._truth.points(pd.DataFrame([line])))
            share = float(moocore.hypervolume(np.vstack(self._points), ref=np.ones(3))) / self._truth.volume
        progress.cpu.append(self._cpu)
        progress.wall.append(self._now)
        progress.share.append(share)


def _stages(recipe: Recipe, line: Row) -> list[tuple[Hashable, float]]:
    """The trained stages of a recipe, each with what tells it from others and its seconds."""
    ends = [index + 1 for index, step in enumerate(recipe.steps) if step.kind == "train"]
    seconds = (line["first_seconds"], line["second_seconds"])
    return [(recipe.prefix(end).fingerprint, TRAINING * spent) for end, spent in zip(ends, seconds, strict=False)]
