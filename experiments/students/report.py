"""The table of lightweight networks: means over seeds, and what distillation adds, paired, with its interval."""

import math

import numpy as np
import pandas as pd
from scipy.stats import t

START, END = "<!-- table -->\n", "<!-- end -->"
HEADS = [
    "data",
    "network",
    "width",
    "size",
    "MACs",
    "latency",
    "scratch",
    "distilled",
    "distilled - scratch (95%)",
    "seeds",
]


def paired(scratch: pd.Series, distilled: pd.Series) -> tuple[float, float, int]:
    """The mean difference over the seeds that both have, half the width of its 95% interval by Student's t, and seeds.

    The half width is NaN for a single seed.
    """
    both = pd.concat([scratch, distilled], axis=1, join="inner").dropna()
    difference = (both.iloc[:, 1] - both.iloc[:, 0]).to_numpy()
    count = len(difference)
    if count < 2:
        return float(difference.mean()) if count else math.nan, math.nan, count
    return (
        float(difference.mean()),
        float(t.ppf(0.975, count - 1) * np.std(difference, ddof=1) / math.sqrt(count)),
        count,
    )


def table(rows: pd.DataFrame) -> str:
    """The rows as they stand in README.md; accuracy is on the test split."""
    lines = ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
    students = rows[rows["training"].notna()] if "training" in rows else rows[:0]
    for data, of_data in rows.groupby("data", sort=False):
        for row in of_data[~of_data.index.isin(students.index)].to_dict("records"):
            lines.append(f"| {data} | {row['network']} | - | {_size(row)} | - | {row['latency_ms']:.3f} ms | "
                         f"{row['test_accuracy']:.3f} | - | - | 1 |")  # fmt: skip
        for (network, width), group in students[students["data"] == data].groupby(["network", "width"], sort=True):
            scratch, distilled = (
                group[group["training"] == training].set_index("seed")["test_accuracy"]
                for training in ("scratch", "distilled")
            )
            mean, half, count = paired(scratch, distilled)
            interval = "" if math.isnan(half) else f" ± {100 * half:.1f}"
            lines.append(
                f"| {data} | {network} | {width:g} | {_size(group.mean(numeric_only=True))} | "
                f"{group['macs'].iloc[0] / 1e6:.2f} M | {group['latency_ms'].median():.3f} ms | {_mean(scratch)} | "
                f"{_mean(distilled)} | {f'{100 * mean:+.1f}{interval} points' if count else '-'} | {count} |"
            )
    return "\n".join(lines) + f"\n\n{overall(students)}\n"


def overall(students: pd.DataFrame) -> str:
    """What distillation adds over all pairs of one network, width, set and seed, with its 95% interval over them."""
    if students.empty:
        return ""
    keys = ["data", "network", "width", "seed"]
    trained = {name: group.set_index(keys)["test_accuracy"] for name, group in students.groupby("training")}
    if trained.keys() != {"scratch", "distilled"}:
        return ""
    mean, half, count = paired(trained["scratch"], trained["distilled"])
    return f"Distilled less from scratch, over all {count} pairs: {100 * mean:+.2f} ± {100 * half:.2f} points."


def _mean(accuracies: pd.Series) -> str:
    return f"{accuracies.mean():.3f}" if len(accuracies) else "-"


def _size(row: dict[str, float] | pd.Series) -> str:
    return f"{row['size_bytes'] / 1000:.0f} KB"
