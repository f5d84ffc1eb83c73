"""What do several small students of one teacher save a device? Writes results.csv and README.md's table.

A network of networks (NoNN) against its teacher and against one student that is as large as all of its students
together, trained alike. A device holds one student, and the one that joins them the last layer too. Sizes and
accuracies are those of exported files.

Usage: python experiments/nonn/run.py [--quick]   (about an hour on one core; cases that results.csv has are kept;
--quick: one seed of the smallest cases with two epochs, kept nowhere)
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autocompress.artifacts.devices import files_of_devices
from autocompress.config import load_config
from autocompress.executors import InlineExecutor
from autocompress.outcome import Baseline, Candidate
from autocompress.search.plan import obtain_baseline
from autocompress.search.setup import Setup, set_up
from autocompress.tasks.examples import example_inputs
from autocompress.tasks.models import build_model
from autocompress.techniques import recipe_from_data
from autocompress.trial.stages import rebuild
from autocompress.trial.trial import TrialSpec, confirm, prepare

HERE = Path(__file__).parent
START, END = "<!-- table -->", "<!-- end -->"
CONFIGS = {
    "LeNet-5": HERE.parent / "mnist5k_lenet" / "search.yaml",
    "ResNet-20": HERE.parent / "techniques" / "resnet20.yaml",
}
TEACHER = "teacher"
SEEDS = range(3)


@dataclass(frozen=True)
class Case:
    """Students of a teacher: how many, and the channels that each begins with."""

    network: str
    students: int
    width: int
    epochs: int

    def __str__(self) -> str:
        return f"{self.students} x width {self.width}"

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The recipe."""
        return [{"technique": "nonn", "students": self.students, "width": self.width, "epochs": self.epochs}]


# Under each network of students, one student with about as many weights as all of them.
CASES = [
    Case("LeNet-5", 2, 8, 12),
    Case("LeNet-5", 1, 10, 12),
    Case("LeNet-5", 2, 4, 12),
    Case("LeNet-5", 1, 5, 12),
    Case("LeNet-5", 4, 4, 12),
    Case("LeNet-5", 1, 6, 12),
    Case("ResNet-20", 2, 16, 30),
    Case("ResNet-20", 1, 19, 30),
    Case("ResNet-20", 4, 16, 30),
    Case("ResNet-20", 1, 24, 30),
]
COLUMNS = ["case", "network", "seed", "students", "params", "size_bytes", "device_bytes", "macs", "device_macs",
           "sent_numbers", "accuracy", "test_accuracy"]  # fmt: skip


def macs(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
    """Multiplications for one example."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(*(tensor[:1] for tensor in inputs))
    return counter.get_total_flops() / 2


def teacher(network: str, setup: Setup, baseline: Baseline) -> dict[str, Any]:
    """The row of the uncompressed model, which is on one device."""
    count = macs(build_model(setup.task, 0), example_inputs(setup.task))
    found = {**baseline.metrics, **confirm(baseline.onnx, setup.reference)}
    size = found["size_bytes"]
    return {"case": TEACHER, "network": network, "seed": 0, "students": 1, **found, "device_bytes": size, "macs": count,
            "device_macs": count, "sent_numbers": 0}  # fmt: skip


def try_out(case: Case, seed: int, setup: Setup, baseline: Baseline) -> dict[str, Any]:
    """One row: students trained from one seed, as one file and as one a device."""
    recipe = recipe_from_data({"version": 1, "steps": case.steps})
    made = prepare(TrialSpec(0, recipe.to_data(), setup.reference, seed), baseline)
    assert isinstance(made, Candidate), made
    model = rebuild(build_model(setup.task, seed), recipe, made.decisions, made.weights)
    inputs = example_inputs(setup.task)
    students = list(model.get_submodule("students").children())
    each, joined = [macs(student, inputs) for student in students], model.get_submodule("last").weight.numel()
    device_bytes, sent = made.metrics["size_bytes"], 0
    if len(students) > 1:
        *files, last = [len(file.SerializeToString()) for file in files_of_devices(onnx.load_from_string(made.onnx))]
        device_bytes, sent = max(files) + last, sum(len(part) for part in made.decisions[0]["parts"])
    found = {**made.metrics, **confirm(made.onnx, setup.reference)}
    return {"case": str(case), "network": case.network, "seed": seed, "students": case.students, **found,
            "device_bytes": device_bytes, "macs": sum(each) + joined, "device_macs": max(each) + joined,
            "sent_numbers": sent}  # fmt: skip


def table(rows: pd.DataFrame) -> str:
    """The rows in Markdown, means over seeds; accuracies with their lowest and highest."""
    lines = [
        "| teacher | students | seeds | weights | file | a device holds | less than the teacher | multiplies | less | "
        "sends | validation | test |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for network in CONFIGS:
        of = rows[rows["network"] == network]
        whole = of[of["case"] == TEACHER].iloc[0]
        for case, group in of.groupby("case", sort=False):
            mean = group.mean(numeric_only=True)
            spread = " | ".join(_spread(group[name]) for name in ("accuracy", "test_accuracy"))
            lines.append(
                f"| {network} | {case if case != TEACHER else 'itself'} | {len(group)} | {mean['params'] / 1e3:.1f} k "
                f"| {mean['size_bytes'] / 1e3:.1f} KB | {mean['device_bytes'] / 1e3:.1f} KB "
                f"| {whole['device_bytes'] / mean['device_bytes']:.1f}x | {mean['device_macs'] / 1e6:.2f} M "
                f"| {whole['device_macs'] / mean['device_macs']:.1f}x | {mean['sent_numbers']:.0f} | {spread} |"
            )
    return "\n".join(lines) + "\n"


def _spread(values: pd.Series) -> str:
    if len(values) == 1:
        return f"{values.iloc[0]:.3f}"
    return f"{np.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def write(rows: list[dict[str, Any]]) -> None:
    """The rows as CSV, in the order of cases, and as the table of README.md."""
    order = [(network, case) for network in CONFIGS for case in (TEACHER, *map(str, CASES))]
    rows = sorted(rows, key=lambda row: (order.index((row["network"], row["case"])), row["seed"]))
    pd.DataFrame(rows).reindex(columns=COLUMNS).to_csv(HERE / "results.csv", index=False, float_format="%.6g")
    readme = HERE / "README.md"
    before, rest = readme.read_text().split(START)
    readme.write_text(f"{before}{START}\n{table(pd.read_csv(HERE / 'results.csv'))}{END}{rest.split(END)[1]}")


def main() -> None:
    """Measure each case on each seed; the table grows as they come."""
    quick, path = "--quick" in sys.argv[1:], HERE / "results.csv"
    setups = {network: set_up(load_config(config)) for network, config in CONFIGS.items()}
    rows = pd.read_csv(path).to_dict("records") if path.exists() and not quick else []
    known = {(row["network"], row["case"], row["seed"]) for row in rows}
    smallest = [Case(case.network, case.students, case.width, 2) for case in (CASES[2], CASES[6])]
    baselines = {network: obtain_baseline(setup, InlineExecutor()) for network, setup in setups.items()}
    asked = [(case, seed) for seed in (SEEDS[:1] if quick else SEEDS) for case in (smallest if quick else CASES)]
    for network, baseline in baselines.items():
        if (network, TEACHER, 0) not in known:
            rows.append(teacher(network, setups[network], baseline))
    for case, seed in asked:
        if (case.network, str(case), seed) in known:
            continue
        rows.append(try_out(case, seed, setups[case.network], baselines[case.network]))
        print({key: rows[-1][key] for key in COLUMNS}, flush=True)
        if not quick:
            write(rows)


if __name__ == "__main__":
    main()
