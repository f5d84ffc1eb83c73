"""How long does the step `architecture` take, in times of what making the ResNet-18 in its place takes?

Deciding and applying it and making the ResNet-18 by turns, the median of seven rounds in seconds of one core: printed.

Usage: python experiments/students/seconds.py   (half a minute)
"""

import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autocompress.tasks import load_task, refer
from autocompress.techniques import Context, recipe_from_data
from autocompress.techniques.students.architecture import NETWORKS, SMALLER

RUNS = 7
WIDTHS = (0.25, 0.5)


def seconds(*calls: Callable[[], Any]) -> list[float]:
    """The median seconds of each call, which take turns, so that all are slowed alike; a first round is left out."""
    rounds = [[_seconds(call) for call in calls] for _ in range(1 + RUNS)]
    return [statistics.median(each) for each in zip(*rounds[1:], strict=True)]


def _seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    """Time every network at two widths."""
    torch.set_num_threads(1)
    task = load_task(refer("tasks.py:mnist5k", Path(__file__).parent))
    model = task.model().eval()
    context = Context(task, copy.deepcopy(model).requires_grad_(False), 0)
    for network in (*NETWORKS, SMALLER):
        for width in WIDTHS:
            made, decided, applied = step_seconds(network, width, model, context)
            print(
                f"{network} {width:g}: {decided:.3f} s to decide, {applied:.3f} s to apply, "
                f"{(decided + applied) / made:.2f}x the {made:.3f} s of making a ResNet-18"
            )


def step_seconds(network: str, width: float, model: nn.Module, context: Context) -> list[float]:
    """Seconds to make the whole model, to decide and to apply, each time to a model of its own, as it may change it."""
    given = {"technique": "architecture", "network": network, "width": width}
    step: Any = recipe_from_data({"version": 1, "steps": [given]}).steps[0]
    decision = step.decide(model, context)
    models = iter([copy.deepcopy(model) for _ in range(1 + RUNS)])
    return seconds(context.task.model, lambda: step.decide(model, context), lambda: step.apply(next(models), decision))


if __name__ == "__main__":
    main()
