"""One search for each kind of task, on real data or data that a script here makes: results.csv, fronts.png and a table.

Kinds that are finished are left as they are; a search that was stopped goes on. Each takes under six minutes on two
cores.

Usage: python experiments/domains/run.py [--kind tabular --kind texts ...] [--executor ray|inline] [--report]
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import yaml

from autocompress.techniques import recipe_from_data
from autocompress.terminal.ending import NOTHING_FITS

matplotlib.use("agg")
from matplotlib import pyplot

HERE = Path(__file__).parent
WORK = HERE / ".autocompress"
RESULTS, README = HERE / "results.csv", HERE / "README.md"
BEGIN, END = "<!-- table -->", "<!-- end -->"
# What makes the data of each, in this folder; called with the folder that its config names.
KINDS = {
    "tabular": ("tabular_data.py", "data/tabular"),
    "series": ("series_data.py", "data/series"),
    "texts": ("texts_data.py", "data/texts"),
    "segmentation": ("segmentation_data.py", "shapes"),
    "audio": ("audio_data.py", "words"),
    "recommendation": ("recommendation_data.py", "."),
    "control": ("cartpole_policy.py", "."),
}


def search(kind: str, executor: str) -> None:
    """Make the data of a kind, where they are not there, and run or go on with its search."""
    script, place = KINDS[kind]
    made = WORK / "made" / kind
    if not made.exists():
        (WORK / place).mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, str(HERE / script), str(WORK / place)], check=True)
        made.parent.mkdir(exist_ok=True)
        made.touch()
    shutil.copy(HERE / f"{kind}.yaml", WORK)
    autocompress("search", f"{kind}.yaml", "--resume", "--executor", executor)


def autocompress(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command where the studies are, which may find nothing within the budget. Raises CalledProcessError."""
    command = [str(Path(sys.executable).with_name("autocompress")), *words]
    done = subprocess.run(command, cwd=WORK, check=False, text=True, **options)
    if done.returncode not in (0, NOTHING_FITS):
        done.check_returncode()
    return done


def rows(kind: str) -> list[dict[str, Any]]:
    """The uncompressed model and the front of a kind's study."""
    study = yaml.safe_load((HERE / f"{kind}.yaml").read_text())["study"]
    document = json.loads(autocompress("front", study, "--json", stdout=subprocess.PIPE).stdout)
    quality = quality_of(kind, document["baseline"])
    found = [{"member": "baseline", **document["baseline"]}]
    for member in document["front"]:
        line = str(recipe_from_data(member["recipe"]))
        found.append({"member": member["trial"], "recipe": line, **member["metrics"]})
    kept = ("member", "size_bytes", "compression_ratio", "speedup", "latency_ms", "recipe")
    return [
        {"kind": kind, "quality": quality, **{key: row.get(key) for key in kept}, "validation": row[quality],
         "test": row.get(f"test_{quality}")}
        for row in found
    ]  # fmt: skip


def quality_of(kind: str, baseline: dict[str, float]) -> str:
    """The metric of a kind's own among its objectives, or accuracy."""
    config = yaml.safe_load((HERE / f"{kind}.yaml").read_text())
    names = [name for name in config.get("objectives", []) if name not in ("size_bytes", "latency_ms", "speedup")]
    own = next((name for name in ("accuracy", "mean_iou", "ndcg", "mean_return", "r2") if name in baseline), "accuracy")
    return str(names[0]) if names else own


def table(results: pd.DataFrame) -> str:
    """The baseline and the smallest member of each front, in Markdown."""
    lines = ["| kind | quality | uncompressed | smallest of the front | smaller | faster | its recipe |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for kind, part in results.groupby("kind", sort=False):
        base, rest = part[part["member"] == "baseline"].iloc[0], part[part["member"] != "baseline"]
        if rest.empty:
            lines.append(f"| {kind} | {base['quality']} | {_told(base)} | none within its budget | | | |")
            continue
        best = rest.sort_values("size_bytes").iloc[0]
        lines.append(
            f"| {kind} | {base['quality']} | {_told(base)} | {_told(best)} | {best['compression_ratio']:.1f}x | "
            f"{best['speedup']:.2f}x | {best['recipe']} |"
        )
    return "\n".join(lines)


def _told(row: Any) -> str:
    test = "" if pd.isna(row["test"]) else f", test {row['test']:.3g}"
    return f"{row['size_bytes'] / 1000:,.1f} KB, {row['validation']:.3g}{test}"


def draw(results: pd.DataFrame) -> None:
    """A small picture for each kind: size against quality, the uncompressed model as a line."""
    kinds = list(dict.fromkeys(results["kind"]))
    columns = min(4, len(kinds))
    lines = math.ceil(len(kinds) / columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(3.2 * columns, 2.6 * lines), squeeze=False)
    for axis, kind in zip(axes.flat, kinds, strict=False):
        part = results[results["kind"] == kind]
        base, rest = part[part["member"] == "baseline"].iloc[0], part[part["member"] != "baseline"]
        axis.axhline(base["validation"], color="0.6", linewidth=1)
        axis.plot(rest["size_bytes"] / 1000, rest["validation"], "o", color="#1f77b4")
        axis.set(title=kind, xlabel=f"KB (uncompressed {base['size_bytes'] / 1000:,.0f})", ylabel=base["quality"])
    for axis in axes.flat[len(kinds) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(HERE / "fronts.png", dpi=100)


def report() -> None:
    """Write figure and table from results.csv."""
    results = pd.read_csv(RESULTS)
    draw(results)
    text = README.read_text()
    before, rest = text.split(BEGIN)
    README.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{rest.split(END)[1]}")
    print(table(results))


def main() -> None:
    """Search, gather, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="may be given again; all by default")
    parser.add_argument("--executor", choices=("ray", "inline"), default="ray")
    parser.add_argument("--report", action="store_true", help="only write figure and table")
    given = parser.parse_args()
    for kind in [] if given.report else given.kind or list(KINDS):
        search(kind, given.executor)
        known = pd.read_csv(RESULTS) if RESULTS.exists() else pd.DataFrame({"kind": []})
        both = pd.concat([known[known["kind"] != kind], pd.DataFrame(rows(kind))])
        order = {name: index for index, name in enumerate(KINDS)}
        both.sort_values("kind", key=lambda column: column.map(order), kind="stable").to_csv(
            RESULTS, index=False, float_format="%.6g"
        )
    report()


if __name__ == "__main__":
    main()
