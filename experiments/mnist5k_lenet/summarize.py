"""Write results.csv and front.png beside this file from the finished study, and print the tables of the README.

Usage, in the folder in which the search ran: python experiments/mnist5k_lenet/summarize.py
"""

from pathlib import Path

import pandas as pd

from autocompress.recipe import recipe_line
from autocompress.search.results import Results
from autocompress.search.store import StudyStore
from autocompress.tracking.figures import front_png
from autocompress.wording import size

HERE = Path(__file__).parent
COLUMNS = ["case", "size_bytes", "compression_ratio", "params", "accuracy", "test_accuracy", "latency_ms",
           "latency_ms_low", "latency_ms_high", "speedup", "speedup_low", "speedup_high", "recipe"]  # fmt: skip


def main() -> None:
    """Read the study and write what the README shows."""
    results = Results(StudyStore.open("sqlite:///autocompress.db", "mnist5k-lenet"))
    document = results.document()
    rows = [{"case": "baseline", **document["baseline"]}]
    for row in document["front"]:
        rows.append({"case": f"trial {row['trial']}", **row["metrics"], "recipe": recipe_line(row["recipe"])})
    pd.DataFrame(rows)[COLUMNS].to_csv(HERE / "results.csv", index=False, float_format="%.6g")
    (HERE / "front.png").write_bytes(front_png(results.picture()))
    print_front(rows)
    print_seconds(results)


def print_front(rows: list[dict]) -> None:
    """The front as a table in Markdown."""
    print("| | size | smaller | accuracy | test accuracy | latency | faster (95%) | recipe |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [row["case"], size(row["size_bytes"]), f"{row['compression_ratio']:.0f}x", f"{row['accuracy']:.3f}",
                 f"{row['test_accuracy']:.3f}", f"{row['latency_ms']:.4f} ms",
                 f"{row['speedup']:.2f}x ({row['speedup_low']:.2f}-{row['speedup_high']:.2f})",
                 row.get("recipe", "uncompressed")]  # fmt: skip
        print("| " + " | ".join(cells) + " |")


def print_seconds(results: Results) -> None:
    """Where the seconds of all trials went, as shares."""
    total: dict[str, float] = {}
    for record in results.records.values():
        for name, value in record.outcome.seconds.items():
            total[name] = total.get(name, 0.0) + value
    everything = sum(total.values())
    print(f"\n{everything:.0f} trial seconds in {len(results.records)} trials ({results.front.counts}):")
    print("| " + " | ".join(total) + " |\n|" + "---|" * len(total))
    print("| " + " | ".join(f"{value / everything:.1%}" for value in total.values()) + " |")


if __name__ == "__main__":
    main()
