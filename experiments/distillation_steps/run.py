"""What does a step of distillation cost that looks inside of both networks, against one on logits alone?

Processor seconds a step, in turns within one run, of a student of full width and of one with half its channels. Writes
results.csv and table.md beside this file.

Usage: python experiments/distillation_steps/run.py [--repeats 5]   (about five minutes of one core)
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torchvision import models

from autocompress import Classification
from autocompress.techniques import Context, Technique, recipe_from_data

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "mnist5k_lenet"))

from task import LeNet5  # noqa: E402  the network of that example

# Name: how it is made, the shape of its inputs, and how many examples an epoch has, in batches of 64.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "LeNet-5": (LeNet5, (1, 28, 28), 1024),
    "MobileNetV3-small, 64x64": (lambda: models.mobilenet_v3_small(num_classes=10), (3, 64, 64), 128),
    "ResNet-18, 64x64": (lambda: models.resnet18(num_classes=10), (3, 64, 64), 64),
}
CASES = ("distill", "hint_distill", "attention_distill")
EPOCHS = 3


def step(technique: str, **settings: Any) -> Technique:
    """A step of a recipe."""
    found = recipe_from_data({"version": 1, "steps": [{"technique": technique, **settings}]}).steps[0]
    assert isinstance(found, Technique)
    return found


def seconds(technique: str, student: nn.Module, context: Context, examples: int) -> float:
    """Processor seconds of one step of training: those of some epochs less those of one."""
    spent = []
    for epochs in (1, 1 + EPOCHS):
        model = copy.deepcopy(student)
        began = time.process_time()
        step(technique, epochs=epochs).train(model, context)
        spent.append(time.process_time() - began)
    return (spent[1] - spent[0]) / (EPOCHS * -(-examples // 64))


def measure(network: str, half: bool, repeats: int) -> list[dict[str, Any]]:
    """Rows of one network: the median seconds of each case, and of the ratios to distillation of logits."""
    make, shape, count = NETWORKS[network]
    torch.manual_seed(0)
    teacher = make().eval()
    data = torch.randn(count, *shape), torch.arange(count) % 10
    context = Context(Classification(make, data, data, data), teacher.requires_grad_(False), 0)
    student = copy.deepcopy(teacher).requires_grad_(True)
    if half:
        prune = step("channel_pruning", ratio=0.5, importance="l1", scope="layer")
        student = prune.apply(student, prune.decide(student, context))
    # The first round keeps what the teacher says, and warms up.
    rounds = [[seconds(case, student, context, count) for case in CASES] for _ in range(repeats + 1)][1:]
    return [
        {
            "case": case,
            "network": network,
            "student": "half the channels" if half else "all channels",
            "step_ms": 1000 * statistics.median(found[at] for found in rounds),
            "ratio": statistics.median(found[at] / found[0] for found in rounds),
        }
        for at, case in enumerate(CASES)
    ]


def main() -> None:
    """Measure all and write both files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    rows = [row for network in NETWORKS for half in (False, True) for row in measure(network, half, repeats)]
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "results.csv", index=False, float_format="%.4g")
    lines = ["| network | student | " + " | ".join(CASES) + " |", "|---|---|" + "---|" * len(CASES)]
    for (network, student), part in table.groupby(["network", "student"], sort=False):
        cells = [f"{ms:.1f} ms, {ratio:.2f}x" for ms, ratio in zip(part["step_ms"], part["ratio"], strict=True)]
        lines.append(f"| {network} | {student} | " + " | ".join(cells) + " |")
    (HERE / "table.md").write_text("\n".join(lines) + "\n")
    print((HERE / "table.md").read_text())


if __name__ == "__main__":
    main()
