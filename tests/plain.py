"""The plain model's task as trials find it: by reference, with a trained and measured baseline."""

import functools
from pathlib import Path
from typing import Any

from autocompress import Classification, Training
from autocompress.outcome import Baseline
from autocompress.tasks import TaskReference, refer
from autocompress.testing.models import Plain, make_task
from autocompress.trial.baseline import make_baseline
from autocompress.trial.trial import TrialSpec


def plain_task() -> Classification:
    """The plain model with a baseline that is trained first."""
    return make_task(Plain, baseline=Training(epochs=8, learning_rate=5e-3, batch_size=16))


def reference() -> TaskReference:
    """Where `plain_task` comes from, as trials are told."""
    return refer("plain:plain_task", Path(__file__).parent)


@functools.cache
def plain_baseline() -> Baseline:
    """Its trained, exported and measured baseline, made once."""
    return make_baseline(reference(), seed=0)


def trial_spec(*steps: dict[str, Any], **settings: Any) -> TrialSpec:
    """A trial of that task with a short latency measurement."""
    recipe = {"version": 1, "steps": list(steps)}
    return TrialSpec(
        **{"number": 0, "recipe": recipe, "task": reference(), "seed": 0, "latency_seconds": 0.05, **settings}
    )
