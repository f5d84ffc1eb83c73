"""What a search would do, and which task an artifact directory belongs to."""

import json
import math
from typing import Any

from ..recipe import Range
from ..search.plan import Plan
from ..wording import clock, counted, limit_text, size


def plan_document(plan: Plan) -> dict[str, Any]:
    """Config, baseline, space and time of a search, as values and as lines to read."""
    config, metrics = plan.setup.config, plan.baseline.metrics
    count = plan.setup.space.count()
    seconds = estimate_seconds(plan)
    quality = plan.setup.quality
    trained = plan.baseline.seconds.get("train")
    goal = ", ".join(limit_text(limit) for limit in plan.goal)
    lines = [
        f"baseline: {size(metrics['size_bytes'])}, {quality} {metrics[quality]:.4f} on validation, "
        f"{metrics['latency_ms']:.4f} ms" + (f" (trained in {clock(trained)})" if trained else ""),
        f"a file against itself: {metrics['aa_ratio']:.3f}x; speed-ups closer to 1 than that say nothing",
        f"budget: {', '.join(limit_text(limit) for limit in plan.limits) or 'no limits'}",
        *([f"goal: {config.search.until}: ends with the first trial of {goal}"] if goal else []),
        f"space: {plan.setup.space.source}: " + ("endless" if math.isinf(count) else f"{count:,.0f}") + " recipes",
        f"estimate: {config.search.trials} trials on {counted(config.search.workers, 'worker')}"
        f" in about {clock(seconds)}"
        + (f", stopped after {clock(config.search.timeout)}" if config.search.timeout else ""),
    ]
    return {
        "config": config.shown(),
        "baseline": metrics,
        "limits": [vars(limit) for limit in plan.limits],
        "goal": [vars(limit) for limit in plan.goal],
        "recipes": None if math.isinf(count) else count,
        "left_out": dict(plan.left_out),
        "estimated_seconds": seconds,
        "lines": lines,
    }


def plan_parts(document: dict[str, Any]) -> list[str]:
    """A plan's document as lines to read."""
    return [*json.dumps(document["config"], indent=2, ensure_ascii=False).split("\n"), *document["lines"]]


def estimate_seconds(plan: Plan) -> float:
    """Each trial takes its mean epochs at half the baseline's seconds an epoch, as it is smaller, and 3 s more."""
    trained = plan.baseline.trial_seconds
    baseline = plan.setup.task.baseline
    epoch = trained / baseline.epochs if baseline and trained else 1.0
    epochs = [
        (domain.low + domain.high) / 2
        for group in plan.setup.space.groups
        for option in group.options
        if option is not None
        for name, domain in option.searched.items()
        if name == "epochs" and isinstance(domain, Range)
    ]
    per_trial = 3.0 + 0.5 * epoch * (sum(epochs) / len(epochs) if epochs else 3.0)
    search = plan.setup.config.search
    return search.trials * per_trial / search.workers
