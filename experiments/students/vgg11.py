"""What does a choice of lightweight networks add to a search from a VGG-11? Writes vgg11.csv, vgg11.png and a table.

The same search twice, for as long and on as many workers: in the space `hybrid`, and in the same one behind a choice of
lightweight networks. Neither knows of the other, nor takes up what it trained. What is in vgg11.csv is not searched
again.

Usage: python experiments/students/vgg11.py [--report]   (half an hour on two cores)
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

import autocompress

matplotlib.use("agg")
from matplotlib import pyplot

HERE = Path(__file__).parent
RESULTS, BEGIN, END = HERE / "vgg11.csv", "<!-- vgg11 -->", "<!-- vgg11 end -->"
SPACES = {"hybrid": "hybrid", "with architecture": str(HERE / "with_architecture.yaml")}
KEPT = ("size_bytes", "compression_ratio", "speedup", "latency_ms", "accuracy", "test_accuracy", "recipe")


def search(name: str) -> list[dict[str, Any]]:
    """The uncompressed model and the front of one space, with what all of its trials came to."""
    folder = HERE / ".autocompress" / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{folder}/autocompress.db"
    study = autocompress.search(HERE / "vgg11.yaml", space=SPACES[name], storage=storage, tracking=False, resume=True)
    front, trials = study.front(), study.trials()
    counts = {"trials": len(trials), "feasible": int((trials["outcome"] == "completed").sum())}
    return [{"space": name, "member": row["case"], **counts, **{key: row.get(key) for key in KEPT}} for row in
            front.to_dict("records")]  # fmt: skip


def table(rows: pd.DataFrame) -> str:
    """A line for the uncompressed model, and for the smallest and the most accurate member of each front."""
    lines = ["| space | trials, within the budget | member | size | smaller | faster | validation | test | recipe |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows.loc[shown(rows)].to_dict("records"):
        found = row["member"] != "baseline"
        counts = f"{row['space']} | {row['trials']}, {row['feasible']}" if found else " | "
        lines.append(
            f"| {counts} | {row['member']} | {row['size_bytes'] / 1000:,.1f} KB | "
            f"{row['compression_ratio']:.0f}x | {row['speedup']:.1f}x | {row['accuracy']:.3f} | "
            f"{row['test_accuracy']:.3f} | {'' if pd.isna(row['recipe']) else row['recipe']} |"
        )
    return "\n".join(lines)


def shown(rows: pd.DataFrame) -> list[int]:
    """The places of the rows that the table holds."""
    first = int(rows.index[rows["member"] == "baseline"][0])
    members = rows[rows["member"] != "baseline"].groupby("space", sort=False)
    return [first, *(at for _, part in members for at in (part["size_bytes"].idxmin(), part["accuracy"].idxmax()))]


def draw(rows: pd.DataFrame) -> None:
    """Size against accuracy of both fronts, on the test split."""
    figure, axis = pyplot.subplots(figsize=(5.2, 3.4))
    for (name, part), mark in zip(rows.groupby("space", sort=False), "os", strict=False):
        rest = part[part["recipe"].notna() & (part["recipe"] != "")]
        axis.plot(rest["size_bytes"] / 1000, rest["test_accuracy"], mark, label=name)
    axis.axhline(rows["test_accuracy"].iloc[0], color="0.6", linewidth=1, label="VGG-11")
    axis.set(xlabel="KB", ylabel="accuracy on the test split", xscale="log")
    axis.legend()
    figure.tight_layout()
    figure.savefig(HERE / "vgg11.png", dpi=100)


def main() -> None:
    """Search in both spaces and write what came of it."""
    if "--report" not in sys.argv:
        known = pd.read_csv(RESULTS) if RESULTS.exists() else pd.DataFrame({"space": []})
        for name in SPACES:
            if name not in set(known["space"]):
                known = pd.concat([known, pd.DataFrame(search(name))])
                known.to_csv(RESULTS, index=False, float_format="%.6g")
    rows = pd.read_csv(RESULTS)
    draw(rows)
    readme = HERE / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
