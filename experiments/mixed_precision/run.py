"""Is a width for each layer better than one for all, at equal size? Writes results.csv, mixed.png and table.md.

low_bit at 2 to 8 bits against mixed_precision under limits from 2 to 8, without training after it, on LeNet-5 with
5,000 MNIST images and on ResNet-20 with the 8x8 digits, each from baselines of three seeds. All is computed on the
exported file. Drift is the divergence of its outputs from those of the uncompressed file, in nats; no label decides it.

Usage: python experiments/mixed_precision/run.py   (about a quarter of an hour on two cores)
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from autocompress.artifacts.runtime import Model
from autocompress.config import load_config
from autocompress.data import batches
from autocompress.executors import InlineExecutor
from autocompress.outcome import Candidate
from autocompress.search.plan import obtain_baseline
from autocompress.search.setup import set_up
from autocompress.tasks import Task
from autocompress.techniques import recipe_from_data
from autocompress.trial.trial import TrialSpec, confirm, prepare

HERE = Path(__file__).parent
NETWORKS = {"LeNet-5": HERE.parent / "mnist5k_lenet" / "search.yaml",
            "ResNet-20": HERE.parent / "techniques" / "resnet20.yaml"}  # fmt: skip
SEEDS = (0, 1, 2)
UNIFORM, MIXED = "low_bit", "mixed_precision"
LIMITS = (2, 2.25, 2.5, 2.75, 2.9, 3, 3.25, 3.5, 3.75, 3.9, 4, 4.25, 4.5, 4.75, 4.9, 5, 5.5, 5.9, 6, 6.5, 7, 7.5, 8)
CASES = [("baseline", 32.0), *((UNIFORM, bits) for bits in range(2, 9)), *((MIXED, bits) for bits in LIMITS)]
MEASURES = {"error": "validation error", "loss": "validation loss", "drift": "drift"}
COLUMNS = ["network", "seed", "technique", "bits", "mean_bits", "weight_bits", "size_bytes", "accuracy", "error",
           "loss", "drift", "test_accuracy", "widths"]  # fmt: skip


def outputs(data: bytes, task: Task) -> tuple[Tensor, Tensor]:
    """The outputs of a file on the validation split, as logarithms of probabilities, and the labels."""
    model, found, labels = Model(data), [], []
    for batch in batches(task.split("validation"), 64):
        found.append(model(*(tensor.numpy() for tensor in batch.inputs)))
        labels.append(batch.targets)
    return log_softmax(torch.from_numpy(np.concatenate(found)), 1), torch.cat(labels)


def weight_bits(decision: dict[str, Any]) -> tuple[float, float, str]:
    """All bits of the quantized weights, their mean, and that of each weight as words."""
    sizes = [int(np.prod(found["shape"])) for found in decision["grids"].values()]
    means = [float(np.mean(found["bits"])) for found in decision["grids"].values()]
    total = float(np.dot(sizes, means))
    return total, total / sum(sizes), " ".join(f"{mean:.2f}" for mean in means)


def rows_of(network: str, seed: int) -> list[dict[str, Any]]:
    """Every case from the baseline of one seed."""
    config = load_config(NETWORKS[network])
    setup = set_up(config.model_copy(update={"search": config.search.model_copy(update={"seed": seed})}))
    baseline = obtain_baseline(setup, InlineExecutor())
    whole, labels = outputs(baseline.onnx, setup.task)
    rows = []
    for technique, bits in CASES:
        row: dict[str, Any] = {"network": network, "seed": seed, "technique": technique, "bits": bits}
        data, metrics = baseline.onnx, baseline.metrics
        if technique != "baseline":
            recipe = recipe_from_data({"version": 1, "steps": [{"technique": technique, "bits": bits}]})
            made = prepare(TrialSpec(0, recipe.to_data(), setup.reference, seed), baseline)
            assert isinstance(made, Candidate), made
            data, metrics = made.onnx, made.metrics
            row["weight_bits"], row["mean_bits"], row["widths"] = weight_bits(made.decisions[0])
        found = outputs(data, setup.task)[0]
        row |= {"size_bytes": metrics["size_bytes"], "accuracy": metrics["accuracy"], **confirm(data, setup.reference)}
        row |= {"error": 1 - row["accuracy"], "loss": float(cross_entropy(found, labels))}
        row["drift"] = float(kl_div(found, whole, reduction="batchmean", log_target=True))
        rows.append(row)
        print(*(f"{key} {row[key]}" for key in COLUMNS if key in row and key != "widths"), flush=True)
    return rows


def rivals(rows: pd.DataFrame, size: str) -> pd.DataFrame:
    """For each uniform file the largest mixed one that is no larger, side by side; no look is taken at its quality."""
    pairs = []
    for row in rows[rows["technique"] == UNIFORM].to_dict("records"):
        same = (rows["network"] == row["network"]) & (rows["seed"] == row["seed"]) & (rows["technique"] == MIXED)
        small = rows[same & (rows[size] <= row[size] + 0.5)].sort_values([size, "bits"])
        if len(small):
            pairs.append({**row, **small.iloc[-1].add_prefix("mixed_").to_dict()})
    return pd.DataFrame(pairs)


def table(rows: pd.DataFrame, size: str) -> str:
    """Uniform and mixed files of equal size in Markdown: means over seeds, and in how many mixed is better, worse."""
    names = "".join(f" {name}, uniform | mixed | better |" for name in ("size", *MEASURES.values()))
    names = names.replace(" better |", "", 1)
    lines = [f"| network | bits |{names}", "|" + "---|" * (names.count("|") + 2)]
    for (network, bits), part in rivals(rows, size).groupby(["network", "bits"]):
        cells = f"| {network} | {bits:.0f} | {part[size].mean():,.0f} | {part[f'mixed_{size}'].mean():,.0f} |"
        for name in MEASURES:
            better = (part[f"mixed_{name}"] < part[name]).sum()
            worse = (part[f"mixed_{name}"] > part[name]).sum()
            style = ".2%" if name == "error" else ".3g" if name == "drift" else ".4f"
            cells += f" {part[name].mean():{style}} | {part[f'mixed_{name}'].mean():{style}} | {better}:{worse} |"
        lines.append(cells)
    return "\n".join(lines) + "\n"


def draw(rows: pd.DataFrame) -> None:
    """Accuracy, loss and drift against the size of the file; thin lines are seeds, thick ones their means."""
    figure = Figure(figsize=(12, 12), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(3, 2)
    for column, network in enumerate(NETWORKS):
        shown = rows[rows["network"] == network]
        for axes, (name, label) in zip(grid[:, column], MEASURES.items(), strict=True):
            for technique, color in ((UNIFORM, "C1"), (MIXED, "C0")):
                part = shown[shown["technique"] == technique]
                for _, one in part.sort_values("size_bytes").groupby("seed"):
                    axes.plot(one["size_bytes"] / 1000, one[name], color=color, linewidth=0.5, alpha=0.5)
                mean = part.groupby("bits")[["size_bytes", name]].mean()
                axes.plot(mean["size_bytes"] / 1000, mean[name], color=color, marker="o", markersize=4, label=technique)
            if name != "drift":
                base = shown[shown["technique"] == "baseline"][name].mean()
                axes.axhline(base, color="black", linestyle="--", linewidth=1, label="uncompressed")
            axes.set(title=network, xlabel="file, KB", ylabel=label, yscale="log")
            axes.grid(alpha=0.3, which="both")
    grid[0, 0].legend()
    figure.savefig(HERE / "mixed.png")


def main() -> None:
    """Measure every case from every baseline, and write what was found."""
    work = [(network, seed) for network in reversed(NETWORKS) for seed in SEEDS]  # the slower network first
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        found = [row for rows in pool.map(rows_of, *zip(*work, strict=True)) for row in rows]
    rows = pd.DataFrame(found).reindex(columns=COLUMNS).sort_values("network", kind="stable")
    rows.to_csv(HERE / "results.csv", index=False, float_format="%.6g")
    rows = pd.read_csv(HERE / "results.csv")
    bytes_, bits = table(rows, "size_bytes"), table(rows, "weight_bits")
    (HERE / "table.md").write_text(f"Files no larger in bytes:\n\n{bytes_}\nWeights of no more bits:\n\n{bits}")
    draw(rows)


if __name__ == "__main__":
    main()
