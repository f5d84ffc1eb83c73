"""What does each technique do by itself? Writes results.csv, techniques.png, table.md and README.md's table.

Each technique alone, at three strengths, then the same fine-tuning (6 epochs), on LeNet-5 with 5,000 MNIST images and
on ResNet-20 with the 8x8 digits; measured on the exported file, as a search measures.

Usage: python experiments/techniques/run.py   (about half an hour on one core)
"""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from autocompress.config import load_config
from autocompress.executors import InlineExecutor
from autocompress.outcome import Candidate
from autocompress.search.plan import obtain_baseline
from autocompress.search.setup import Setup, set_up
from autocompress.techniques import recipe_from_data, registry
from autocompress.trial.trial import TrialSpec, confirm, measure, prepare

HERE = Path(__file__).parent
START, END = "<!-- table -->", "<!-- end -->"
NETWORKS = {"LeNet-5": HERE.parent / "mnist5k_lenet" / "search.yaml", "ResNet-20": HERE / "resnet20.yaml"}
TRAINING = {"technique": "finetune", "epochs": 6, "learning_rate": 0.004}


def steps(technique: str, key: str, values: tuple[Any, ...], **fixed: Any) -> list[dict[str, Any]]:
    """One technique at several strengths."""
    return [{"technique": technique, key: value, **fixed} for value in values]


# Weak, medium and strong. Where the two networks take different strengths, both find theirs among these.
CASES: list[dict[str, Any]] = [
    *steps("weight_pruning", "ratio", (0.5, 0.8, 0.95)),
    {"technique": "nm_pruning", "n": 4, "m": 8},
    {"technique": "nm_pruning", "n": 2, "m": 4},
    {"technique": "nm_pruning", "n": 1, "m": 4},
    *steps("stripe_pruning", "ratio", (0.3, 0.5, 0.7)),
    *steps("channel_pruning", "ratio", (0.25, 0.5, 0.75), scope="layer"),
    *steps("block_pruning", "blocks", (1, 2, 3)),
    *steps("sparsify", "strength", (0.05, 0.2, 0.5), penalty="l1", epochs=6, learning_rate=0.004),
    *steps("svd", "energy", (0.9, 0.7, 0.5)),
    *steps("tucker", "energy", (0.9, 0.7, 0.5)),
    *steps("cp", "energy", (0.9, 0.7, 0.5)),
    *steps("tensor_train", "energy", (0.9, 0.7, 0.5)),
    *steps("kronecker", "terms", (8, 4, 1)),
    {"technique": "int8_static"},
    {"technique": "int8_dynamic"},
    {"technique": "float16"},
    *steps("low_bit", "bits", (8, 4, 2)),
    *steps("mixed_precision", "bits", (6.0, 4.0, 2.5)),
    *steps("log2_quantization", "bits", (6, 4, 3)),
    *steps("weight_clustering", "bits", (6, 4, 2)),
    {"technique": "ternary", "epochs": 6, "learning_rate": 0.004},
    {"technique": "binary", "epochs": 6, "learning_rate": 0.004},
    *steps("qat", "bits", (8, 4, 2), epochs=6, learning_rate=0.004),
]
COLUMNS = ["case", "network", "technique", "strength", "seed", "size_bytes", "compression_ratio", "params", "accuracy",
           "test_accuracy", "accuracy_kept", "latency_ms", "speedup", "speedup_low", "speedup_high", "train_seconds",
           "note"]  # fmt: skip


def try_out(step: dict[str, Any], network: str, setup: Setup, baseline: Any) -> dict[str, Any]:
    """One row: a technique at one strength, fine-tuned and measured."""
    kind = registry()[step["technique"]]
    # What encodes a file comes last, after the same training; qat trains and leaves what is encoded.
    encodes, name = kind.kind == "encode", step["technique"]
    steps = [TRAINING, step] if encodes else [step] if name == "qat" else [step, TRAINING]
    recipe = recipe_from_data({"version": 1, "steps": steps})
    row = {
        "case": str(recipe.steps[encodes]),
        "network": network,
        "technique": name,
        "seed": 0,
        "strength": strength(step),
    }
    spec = TrialSpec(0, recipe.to_data(), setup.reference, seed=0, latency_seconds=2.0)
    candidate = prepare(spec, baseline)
    if not isinstance(candidate, Candidate):
        return {**row, "note": getattr(candidate, "reason", "")}
    outcome = measure(candidate, spec, baseline)
    metrics = {**getattr(outcome, "metrics", {}), **confirm(candidate.onnx, setup.reference)}
    kept = metrics["accuracy"] / baseline.metrics["accuracy"]
    return {**row, **metrics, "accuracy_kept": kept, "train_seconds": outcome.seconds["train"], "note": ""}


def strength(step: dict[str, Any]) -> str:
    """The settings that are not a technique's defaults, as words."""
    return ", ".join(f"{key} {value}" for key, value in step.items() if key not in ("technique", "learning_rate"))


def draw(rows: pd.DataFrame) -> None:
    """Accuracy kept and speed-up against size, a line a technique; what keeps less than 95% lies on the edge."""
    figure = Figure(figsize=(13, 9), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(step["technique"] for step in CASES))
    lowest = 0.95
    for column, network in zip(figure.subplots(2, 2).T, NETWORKS, strict=True):
        for axes, value, label in zip(
            column, ("accuracy_kept", "speedup"), ("accuracy kept", "times faster"), strict=True
        ):
            shown = rows[(rows["network"] == network) & rows["size_bytes"].notna()]
            for index, name in enumerate(names):
                part = shown[shown["technique"] == name].sort_values("compression_ratio")
                style = {"marker": "osD^v<>Pp*X"[index % 11], "linewidth": 1, "color": f"C{index % 10}"}
                height = part[value].clip(lower=lowest) if value == "accuracy_kept" else part[value]
                axes.plot(part["compression_ratio"], height, label=name, **style)
            axes.axhline(1, color="black", linestyle="--", linewidth=1, label="uncompressed")
            axes.set(xscale="log", title=network, xlabel="times smaller file", ylabel=label)
            axes.grid(alpha=0.3)
        column[1].set_yscale("log")
    figure.legend(*column[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(HERE / "techniques.png")


def table(rows: pd.DataFrame) -> str:
    """The rows in Markdown."""
    lines = ["| network | technique | strength | smaller | accuracy kept | faster (95%) | training, s |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows[rows["technique"] != ""].to_dict("records"):
        head = f"| {row['network']} | {row['technique']} | {row['strength']} |"
        if pd.isna(row["size_bytes"]):
            lines.append(f"{head} refused | | | |")
            continue
        lines.append(
            f"{head} {row['compression_ratio']:.1f}x | {row['accuracy_kept']:.1%} | {row['speedup']:.2f}x "
            f"({row['speedup_low']:.2f}-{row['speedup_high']:.2f}) | {row['train_seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def summary(rows: pd.DataFrame) -> str:
    """A row a technique: how much smaller and faster the strongest case is that keeps 99% of the accuracy."""
    lines = ["| technique | " + " | ".join(f"{network}: smaller | faster (95%) | kept" for network in NETWORKS) + " |",
             "|---|" + "---|" * 3 * len(NETWORKS)]  # fmt: skip
    for technique in dict.fromkeys(step["technique"] for step in CASES):
        cells = []
        for network in NETWORKS:
            part = rows[(rows["technique"] == technique) & (rows["network"] == network) & rows["size_bytes"].notna()]
            kept = part[part["accuracy_kept"] >= 0.99]
            if kept.empty:
                cells += ["-" if part.empty else f"({part['compression_ratio'].min():.1f}x)", "", ""]
                continue
            best = kept.loc[kept["compression_ratio"].idxmax()]
            interval = f"({best['speedup_low']:.2f}-{best['speedup_high']:.2f})"
            cells += [f"{best['compression_ratio']:.1f}x", f"{best['speedup']:.2f}x {interval}",
                      f"{best['accuracy_kept']:.1%}"]  # fmt: skip
        lines.append(f"| {technique} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every case on both networks and write what was found; rows that are there are kept."""
    path = HERE / "results.csv"
    kept = pd.read_csv(path, keep_default_na=False).to_dict("records") if path.exists() else []
    rows = {key_of(row): row for row in kept}
    for network, config in NETWORKS.items():
        setup = set_up(load_config(config))
        baseline = obtain_baseline(setup, InlineExecutor())
        tested = confirm(baseline.onnx, setup.reference)
        plain = {"case": "baseline", "network": network, "technique": "", "strength": "", "seed": 0, "note": ""}
        rows[key_of(plain)] = {**plain, **baseline.metrics, **tested, "accuracy_kept": 1.0}
        for step in (step for step in CASES if step["technique"] in registry()):
            key = (network, step["technique"], strength(step))
            if key not in rows:
                rows[key] = try_out(step, network, setup, baseline)
                shown = {name: rows[key].get(name) for name in ("compression_ratio", "accuracy", "speedup", "note")}
                print(network, rows[key]["case"], shown, flush=True)
            pd.DataFrame(rows.values()).reindex(columns=COLUMNS).to_csv(path, index=False, float_format="%.5g")
    found = pd.read_csv(path).fillna({"technique": "", "strength": "", "note": ""})
    found = found.sort_values("network", kind="stable")
    (HERE / "table.md").write_text(table(found))
    readme = HERE / "README.md"
    before, rest = readme.read_text().split(START)
    readme.write_text(f"{before}{START}\n{summary(found)}{END}{rest.split(END)[1]}")
    draw(found)


def key_of(row: dict[str, Any]) -> tuple[str, str, str]:
    """What a row is of."""
    return row["network"], row["technique"], row["strength"]


if __name__ == "__main__":
    main()
