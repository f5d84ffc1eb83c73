"""How long does a structural step take? Writes results.csv and table.md beside this file.

Every pruning and low-rank technique decides and applies one step, without training or export, on LeNet-5 and on
ResNet-18 with fresh weights; the median of three runs, each on a fresh model, after one on ResNet-20.

Usage: python experiments/step_seconds/run.py [TECHNIQUE ...]   (about two minutes on one core for all)
"""

import sys
import time
import warnings
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from autocompress.errors import AutocompressError
from autocompress.techniques import Context, Technique, recipe_from_data

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "techniques"))
from coverage import SETTINGS, task_for, techniques  # type: ignore[import-not-found]  # noqa: E402

GOALS = {"LeNet-5": 0.3, "ResNet-18": 5.0}  # seconds
WARMUP, RUNS = "ResNet-20", 3


def step_seconds(technique: str, network: str) -> tuple[float, float]:
    """Seconds that deciding and applying one step take. Raises AutocompressError when the technique refuses."""
    task = task_for(network)
    data = {"version": 1, "steps": [{"technique": technique, **SETTINGS.get(technique, {})}]}
    step = recipe_from_data(data).steps[0]
    assert isinstance(step, Technique)
    torch.manual_seed(0)
    model = task.model().eval()
    torch.manual_seed(0)
    context = Context(task, task.model().eval().requires_grad_(False), 0)
    start = time.perf_counter()
    decision = step.decide(model, context)
    decided = time.perf_counter()
    step.apply(model, decision)
    return decided - start, time.perf_counter() - decided


def try_out(technique: str, network: str) -> dict[Hashable, Any]:
    """One row: the run of median length, or why the technique refused."""
    row: dict[Hashable, Any] = {"case": technique, "network": network}
    try:
        decide, apply = sorted((step_seconds(technique, network) for _ in range(RUNS)), key=sum)[RUNS // 2]
    except AutocompressError as error:
        return row | {"reason": str(error)}
    return row | {"decide_seconds": decide, "apply_seconds": apply, "step_seconds": decide + apply}


def table(rows: pd.DataFrame) -> str:
    """The rows in Markdown, with the refusals below them."""
    lines = [
        "| technique | " + " | ".join(f"{network}, s (goal {goal:g})" for network, goal in GOALS.items()) + " |",
        "|---|" + "---|" * len(GOALS),
    ]
    reasons: dict[str, int] = {}
    for technique, part in rows.groupby("case"):
        cells = []
        for network, goal in GOALS.items():
            row = part[part["network"] == network].iloc[0]
            if row["reason"]:
                cells.append(f"({reasons.setdefault(row['reason'], len(reasons) + 1)})")
            else:
                cells.append(f"{row['step_seconds']:.3f}" + (", **missed**" if row["step_seconds"] >= goal else ""))
        lines.append(f"| {technique} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{number}. {reason}" for reason, number in reasons.items())]) + "\n"


def main() -> None:
    """Time the techniques that are named, or all; rows of the others are kept."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen = [name for name in techniques() if name in sys.argv[1:]] or techniques()
    path = HERE / "results.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    for technique in chosen:
        try_out(technique, WARMUP)
        rows = [row for row in rows if row["case"] != technique]
        for network in GOALS:
            rows.append(try_out(technique, network))
            print(technique, network, rows[-1].get("step_seconds", rows[-1].get("reason")), flush=True)
        found = pd.DataFrame(rows).sort_values(["case", "network"])
        found.to_csv(path, index=False, float_format="%.4g")
    (HERE / "table.md").write_text(table(pd.read_csv(path).fillna({"reason": ""})))


if __name__ == "__main__":
    main()
