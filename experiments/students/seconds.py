"""How long does the step `architecture` take, in times of what making the ResNet-18 in its place takes?

Deciding and applying it, the median of seven runs each in seconds of one core: printed, network by network.

Usage: python experiments/students/seconds.py   (ten seconds)
"""

import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from autocompress.tasks import load_task, refer
from autocompress.techniques import Context, recipe_from_data
from autocompress.techniques.students.architecture import NETWORKS, SMALLER

RUNS = 7
WIDTHS = (0.25, 0.5)


def seconds(call: Callable[[], Any]) -> float:
    """The median of several calls, after one that does not count."""
    call()
    found = []
    for _ in range(RUNS):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return statistics.median(found)


def main() -> None:
    """Time every network at two widths."""
    torch.set_num_threads(1)
    task = load_task(refer("tasks.py:mnist5k", Path(__file__).parent))
    model = task.model().eval()
    context = Context(task, copy.deepcopy(model).requires_grad_(False), 0)
    whole = seconds(task.model)
    print(f"ResNet-18: {whole:.3f} s")
    for network in (*NETWORKS, SMALLER):
        for width in WIDTHS:
            said = {"technique": "architecture", "network": network, "width": width}
            step: Any = recipe_from_data({"version": 1, "steps": [said]}).steps[0]
            decision = step.decide(model, context)
            decide = seconds(lambda: step.decide(model, context))  # noqa: B023
            given = (lambda: copy.deepcopy(model)) if network == SMALLER else lambda: model  # what it changes
            apply = seconds(lambda: step.apply(given(), decision))  # noqa: B023
            both = (decide + apply) / whole
            print(f"{network} {width:g}: {decide:.3f} s to decide, {apply:.3f} s to apply, together {both:.2f}x")


if __name__ == "__main__":
    main()
