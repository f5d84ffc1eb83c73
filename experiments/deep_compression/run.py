"""How small does LeNet-5 become by pruning, sharing and packing, and what does each step give? Writes results.csv.

Deep compression (Han et al., 2016) by itself, then with distillation, then with channels pruned first, on 5,000 MNIST
images. Sizes, accuracies and speed-ups are those of the exported file; bound_bytes is the entropy of its weights as
they are shared, with their values.

Usage: python experiments/deep_compression/run.py   (about half an hour on one core)
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd

from autocompress.artifacts.packing import weights
from autocompress.config import load_config
from autocompress.executors import InlineExecutor
from autocompress.outcome import Baseline, Candidate
from autocompress.search.plan import obtain_baseline
from autocompress.search.setup import Setup, set_up
from autocompress.techniques import recipe_from_data
from autocompress.trial.trial import TrialSpec, confirm, measure, prepare

HERE = Path(__file__).parent
IMAGES = 1000  # in each of the two splits
RATE = 0.05


def channels(ratio: float) -> dict[str, Any]:
    """Channels pruned by the Taylor criterion, the same share in each layer."""
    return {"technique": "channel_pruning", "ratio": ratio, "importance": "taylor", "scope": "layer"}


def distill(epochs: int) -> dict[str, Any]:
    """Training on the uncompressed model's logits."""
    return {"technique": "distill", "epochs": epochs, "learning_rate": 0.004}


def finetune(epochs: int) -> dict[str, Any]:
    """Training on the labels alone."""
    return {"technique": "finetune", "epochs": epochs, "learning_rate": 0.004}


def deep(ratio: float, bits: int, train: Any, epochs: int = 20) -> list[dict[str, Any]]:
    """Pruning, training, sharing, training."""
    steps: list[dict[str, Any]] = [{"technique": "weight_pruning", "ratio": ratio}] if ratio else []
    steps += [train(epochs)] if ratio else []
    return [*steps, {"technique": "weight_clustering", "bits": bits}, train(16)]


def by_rate(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with bits at a price where values are shared."""
    return [{**step, "rate": RATE} if step["technique"] == "weight_clustering" else step for step in steps]


def in_pairs(
    channels_left: tuple[int, int, int], conv2: bool, fc2: bool, epochs: int, rate: float, alpha: float, after: int
) -> list[dict[str, Any]]:
    """LeNet-5 with so many channels behind each convolution and so many units, whose weights share codes and values.

    Pairs of weights take one of 16 codes in the first linear layer, and in conv2 and fc2 where that is said; elsewhere
    weights take 8 values. alpha: the teacher's share of all losses; rate: the learning rate behind the second cut.
    """
    first, second, units = channels_left
    each = {"conv1": first / 6, "conv2": second / 15, "fc1": units / 150}  # shares of what the first turn leaves
    cuts = [{**channels(round(1 - share, 6)), "layers": [layer]} for layer, share in each.items()]
    pairs = ["fc1", *(["conv2"] if conv2 else []), *(["fc2"] if fc2 else [])]
    single = [layer for layer in ("conv1", "conv2", "fc2") if layer not in pairs]
    return [
        channels(0.7),
        {**distill(20), "alpha": alpha},
        *cuts,
        {**distill(epochs), "learning_rate": rate, "alpha": alpha},
        {"technique": "weight_clustering", "bits": 3, "layers": single},
        {"technique": "product_quantization", "bits": 4, "block": 2, "layers": pairs},
        {**distill(after), "alpha": alpha},
        {"technique": "float16", "layers": ["fc1", "fc2"]},
    ]


NARROW = [channels(0.7), distill(20), channels(0.5), distill(20)]
NARROWER = [channels(0.7), distill(20), channels(0.6), distill(30)]
NARROWEST = [channels(0.7), distill(20), channels(0.65), distill(40)]
CASES: dict[str, list[dict[str, Any]]] = {
    "8 bits": [{"technique": "low_bit", "bits": 8}],
    "share": deep(0, 4, finetune),
    "prune and share": deep(0.9, 4, finetune),
    "prune more and share": deep(0.95, 4, finetune),
    "prune more and share, distilled": deep(0.95, 4, distill),
    "channels": [*NARROW],
    "channels, share": [*NARROW, *deep(0, 3, distill)],
    "channels, prune and share": [*NARROW, *deep(0.7, 3, distill)],
    "more channels, prune and share": [*NARROWER, *deep(0.65, 3, distill)],
    "more channels, prune more and share": [*NARROWER, *deep(0.8, 3, distill, 30)],
    "most channels, prune and share": [*NARROWEST, *deep(0.65, 3, distill, 40)],
    "most channels, prune more and share": [*NARROWEST, *deep(0.7, 3, distill, 40)],
    "most channels, prune more and share by rate": by_rate([*NARROWEST, *deep(0.7, 3, distill, 40)]),
    "4, 5 and 28 channels, share pairs": in_pairs((4, 5, 28), False, True, 60, 0.004, 0.7, 40),
    "4, 5 and 18 channels, share pairs": in_pairs((4, 5, 18), True, False, 60, 0.006, 0.5, 60),
    "3, 5 and 14 channels, share pairs": in_pairs((3, 5, 14), False, False, 60, 0.01, 0.7, 60),
}
COLUMNS = ["case", "seed", "size_bytes", "bound_bytes", "compression_ratio", "params", "nonzero_params", "accuracy",
           "accuracy_low", "accuracy_high", "test_accuracy", "test_accuracy_low", "test_accuracy_high", "latency_ms",
           "speedup", "speedup_low", "speedup_high", "recipe"]  # fmt: skip


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share of `count` images (Wilson, 1927)."""
    z = 1.96
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return middle - half, middle + half


def entropy_bytes(data: bytes) -> float:
    """The entropy of each stored weight of two or more dimensions, zeros included, and four bytes for each value."""
    total = 0.0
    for _, values in weights(onnx.load_from_string(data)):
        if values.ndim in (2, 4) and values.dtype == np.float32:  # linear layers and convolutions
            counts = np.unique(values, return_counts=True)[1]
            share = counts / values.size
            total += float(-(share * np.log2(share)).sum()) * values.size / 8 + 4 * len(counts)
    return total


def with_intervals(metrics: dict[str, float]) -> dict[str, float]:
    """The same numbers with intervals around the accuracies."""
    found = dict(metrics)
    for name in ("accuracy", "test_accuracy"):
        found[f"{name}_low"], found[f"{name}_high"] = wilson(metrics[name], IMAGES)
    return found


def main() -> None:
    """Measure every case, the table growing as they come; rows that are there are kept."""
    setup = set_up(load_config(HERE.parent / "mnist5k_lenet" / "search.yaml"))
    baseline = obtain_baseline(setup, InlineExecutor())
    path = HERE / "results.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    known = {(row["case"], row["seed"]) for row in rows}
    if ("baseline", 0) not in known:
        metrics = {**baseline.metrics, **confirm(baseline.onnx, setup.reference)}
        rows.append({"case": "baseline", "seed": 0, "recipe": "", **with_intervals(metrics)})
    for case, steps in CASES.items():
        for seed in (seed for seed in seeds_of(case) if (case, seed) not in known):
            rows.append(try_out(case, steps, seed, setup, baseline))
            shown = {key: rows[-1].get(key) for key in ("size_bytes", "bound_bytes", "accuracy", "test_accuracy")}
            print(case, seed, shown, flush=True)
            order = ["baseline", *CASES]
            found = pd.DataFrame(rows).reindex(columns=COLUMNS)
            place = found["case"].map(order.index) * 10 + found["seed"]
            found.loc[place.sort_values().index].to_csv(path, index=False, float_format="%.6g")
    (HERE / "table.md").write_text(table(pd.read_csv(path)))


def bounded(case: str) -> bool:
    """Whether the entropy of single weights bounds a file: not where they share nothing, or blocks."""
    return "share" in case and "pairs" not in case


def seeds_of(case: str) -> range:
    """One seed for each case, three for the smallest, whose accuracy depends on it."""
    return range(3 if "channels, prune" in case or "pairs" in case else 1)


def try_out(case: str, steps: list[dict[str, Any]], seed: int, setup: Setup, baseline: Baseline) -> dict[str, Any]:
    """One row: a recipe on one seed, measured on its file and confirmed on the test split."""
    recipe, cache = recipe_from_data({"version": 1, "steps": steps}), str(setup.files.stages)
    spec = TrialSpec(0, recipe.to_data(), setup.reference, seed, latency_seconds=2.0, cache=cache)
    made = prepare(spec, baseline)
    assert isinstance(made, Candidate), made
    metrics = {**getattr(measure(made, spec, baseline), "metrics", {}), **confirm(made.onnx, setup.reference)}
    bound = {"bound_bytes": entropy_bytes(made.onnx)} if bounded(case) else {}
    return {"case": case, "seed": seed, "recipe": str(recipe), **with_intervals(metrics), **bound}


def table(rows: pd.DataFrame) -> str:
    """The rows in Markdown."""
    lines = ["| case | seed | bytes | smaller | entropy bound | validation (95%) | test (95%) | faster (95%) |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows.to_dict("records"):
        bound = f"{row['bound_bytes']:,.0f}" if bounded(row["case"]) else ""
        validation, test = (
            f"{row[name]:.3f} ({row[f'{name}_low']:.3f}-{row[f'{name}_high']:.3f})"
            for name in ("accuracy", "test_accuracy")
        )
        lines.append(
            f"| {row['case']} | {row['seed']} | {row['size_bytes']:,.0f} | {row['compression_ratio']:.0f}x | {bound} "
            f"| {validation} | {test} | {row['speedup']:.2f}x ({row['speedup_low']:.2f}-{row['speedup_high']:.2f}) |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
