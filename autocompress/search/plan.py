"""What a search starts from: the baseline, the budget as bounds on its metrics, and the objectives."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..config import MEASURED
from ..data import batches
from ..errors import TaskError
from ..executors import Executor
from ..outcome import Baseline, Limit, Metrics
from ..tasks import Classification, Task
from ..tasks.examples import size_notes
from ..tasks.models import model_notes
from ..tasks.objects import is_object
from ..tasks.protocol import Segmentation, lower_is_better
from ..trial.baseline import time_baseline, train_baseline
from .leaving_out import note_of, obtain_obstacles
from .setup import Setup, changed, find_goal, find_limits, objectives
from .state import View


@dataclass(frozen=True)
class Plan:
    """A setup with its baseline, what is searched for and within which limits, and what is enough."""

    setup: Setup
    baseline: Baseline
    limits: tuple[Limit, ...]
    objectives: tuple[str, ...]
    left_out: Mapping[str, str]
    goal: tuple[Limit, ...] = ()

    @property
    def lower(self) -> tuple[str, ...]:
        """The task's own metrics of which less is better."""
        return lower_is_better(self.setup.task)


def make_plan(setup: Setup, executor: Executor, view: View, left_out: Mapping[str, str] | None = None) -> Plan:
    """Train and measure the baseline, unless it is kept, and hold budget, objectives and search space against it.

    view is told what was left out of the data or guessed, what makes a search from this baseline doubtful, and which
    techniques of the space cannot be applied to the model, and why: left_out says that for a study that was begun.
    Raises ConfigError or TaskError.
    """
    for text in (*getattr(setup.task, "notes", ()), *model_notes(setup.task), *_said(setup)):
        view.note(f"note: {text}")
    baseline = obtain_baseline(setup, executor, view)
    for text in doubts(setup.task, baseline.metrics):
        view.note(f"warning: {text}")
    limits = check_limits(setup, baseline.metrics)
    for text in too_fine(setup.task, setup.config.budget.accuracy_drop):
        view.note(f"warning: {text}")
    goal = find_goal(setup.config, setup.task, baseline.metrics)
    names = objectives(setup.config, setup.quality, baseline.metrics)
    if left_out is None:
        left_out = obtain_obstacles(setup, baseline, executor, view)
    for name, reason in left_out.items():
        view.note(note_of(name, reason))
    setup = replace(setup, space=setup.space.without(left_out))
    return Plan(setup, baseline, limits, names, left_out, goal)


def obtain_baseline(setup: Setup, executor: Executor, view: View | None = None) -> Baseline:
    """The baseline that is kept, or a new one, trained and measured where the trials run. Raises TaskError.

    A task that is another than when its last baseline was kept is said to view.
    """
    kept = setup.files.load_baseline(setup.baseline_key)
    if kept is not None:
        return kept
    config = setup.config
    # Objects have no place by which one could be taken for the next version of another.
    before = None if is_object(setup.reference.code) else setup.files.latest_facts(setup.reference.code)
    if view is not None:
        if before:
            names = ", ".join(changed(before, setup.baseline_facts))
            view.note(f"the baseline is made anew: {names} changed since the last one was kept")
        view.phase("training and measuring the baseline" if setup.task.baseline else "measuring the baseline")
    threads = max(config.target.threads, executor.processors)
    trained = executor.call(
        train_baseline, setup.reference, config.search.seed, config.target, setup.how, threads, trains=True
    )
    baseline = executor.call(time_baseline, trained, setup.reference, config.target)
    setup.files.store_baseline(setup.baseline_key, baseline, setup.reference.code, setup.baseline_facts)
    return baseline


def _said(setup: Setup) -> list[str]:
    """On what latency is measured, and what is changed of a space to train at the rates of the task."""
    notes, rates = size_notes(setup.task, setup.config.target.batch_size), setup.space.rates
    if rates != 1:
        notes.append(f"learning rates of the search space are multiplied by {rates:.3g}, to be near the task's own")
    return notes


def check_limits(setup: Setup, baseline: Metrics) -> tuple[Limit, ...]:
    """The budget as bounds. Raises ConfigError for a metric nobody measures, TaskError for a baseline past them."""
    limits = find_limits(setup.config, setup.task, baseline)
    own = {setup.quality, *(set(baseline) - set(MEASURED))}
    for limit in limits:
        if limit.metric in own and limit.violation(baseline) > 0:
            least = limit.sense == "at_least"
            raise TaskError(
                f"budget.{limit.label}: asks for {limit.metric} {'of at least' if least else 'of at most'} "
                f"{limit.bound:.4g} but the uncompressed model has {baseline[limit.metric]:.4g}: "
                f"{'lower' if least else 'raise'} the limit, or train the baseline better"
            )
    return limits


def doubts(task: Task, baseline: Metrics) -> list[str]:
    """What makes a search from this baseline doubtful, each in a sentence."""
    if not isinstance(task, Classification | Segmentation):
        return []
    targets = np.concatenate([batch.targets.numpy() for batch in batches(task.split("validation"), 1024)])
    quality = "accuracy" if isinstance(task, Classification) else "pixel_accuracy"
    counted = targets[targets != getattr(task, "ignore", None)]
    chance = np.bincount(counted.ravel()).max() / counted.size
    value = baseline.get(quality, 1.0)
    if value > chance + 0.1 * min(chance, 1 - chance):
        return []
    return [
        f"the uncompressed model's {quality} {value:.4f} is no better than always naming the most frequent class "
        f"({chance:.4f}): train the baseline longer, or check data and learning rate"
    ]


def too_fine(task: Task, drop: float | None) -> list[str]:
    """What an allowed drop of accuracy comes to that fewer than two examples decide upon, in a sentence."""
    if not drop or not isinstance(task, Classification):
        return []
    count = len(task.split("validation"))  # type: ignore[arg-type]
    allowed = int(round(drop * count, 6))
    if allowed >= 2:
        return []
    return [
        f"accuracy_drop: {drop:g} of {count} validation examples is {'one' if allowed else 'less than one'}: chance "
        "decides what keeps to it; validate on more examples, or allow a larger drop"
    ]
