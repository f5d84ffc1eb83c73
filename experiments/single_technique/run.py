"""Does any single technique meet the budget of the mnist5k_lenet search? Writes results.csv and README.md's table.

Each technique alone, at every strength that could matter, followed by the same generous training (24 epochs of
distillation), measured as the search measures. Usage: python experiments/single_technique/run.py
"""

from pathlib import Path

import pandas as pd

from autocompress.config import load_config
from autocompress.executors import InlineExecutor
from autocompress.outcome import Candidate, violations
from autocompress.search.plan import check_limits, obtain_baseline
from autocompress.search.setup import set_up
from autocompress.techniques import recipe_from_data
from autocompress.trial.trial import TrialSpec, measure, prepare

HERE = Path(__file__).parent
START, END = "<!-- table -->", "<!-- end -->"
TRAINING = {"technique": "distill", "epochs": 24, "learning_rate": 0.008, "temperature": 2.0, "alpha": 0.7}
PRUNING = [
    {"technique": "channel_pruning", "ratio": ratio, "scope": scope, "importance": "taylor", "max_ratio": 0.97}
    for scope in ("layer", "global")
    for ratio in (0.8, 0.85, 0.88, 0.9, 0.905, 0.91, 0.92, 0.93, 0.94)
]
FACTORIZATION = [{"technique": "svd", "energy": energy} for energy in (0.1, 0.2, 0.3, 0.5)]
KRONECKER = [{"technique": "kronecker", "terms": terms} for terms in (1, 2, 4)]
SHARING = [{"technique": "weight_pruning", "ratio": 0.97}, {"technique": "weight_clustering", "bits": 1}]
FEW = [{"technique": name, "epochs": 24, "learning_rate": 0.008, "alpha": 0.7} for name in ("ternary", "binary")]
ENCODING = [{"technique": "int8_static"}, {"technique": "low_bit", "bits": 2}, {"technique": "float16"}]


def main() -> None:
    """Measure every case and write the table."""
    setup = set_up(load_config(HERE.parent / "mnist5k_lenet" / "search.yaml"))
    baseline = obtain_baseline(setup, InlineExecutor())
    limits = check_limits(setup, baseline.metrics)
    rows = [{"case": "baseline", **baseline.metrics}]
    for step in (*PRUNING, *FACTORIZATION, *KRONECKER, *SHARING, *FEW, *ENCODING):
        steps = [TRAINING, step] if step in ENCODING else [step, TRAINING]
        recipe = recipe_from_data({"version": 1, "steps": steps})
        # Without limits nothing is rejected before it is measured; what the budget says of it is added here.
        spec = TrialSpec(0, recipe.to_data(), setup.reference, seed=0)
        candidate = prepare(spec, baseline)
        assert isinstance(candidate, Candidate), candidate
        metrics = measure(candidate, spec, baseline).metrics
        past = [label for label, value in violations(limits, metrics).items() if value > 0]
        rows.append({"case": str(recipe.steps[-1 if step in ENCODING else 0]), **metrics, "past": " ".join(past)})
        print(f"{rows[-1]['case']}: {metrics['size_bytes']:,} bytes, accuracy {metrics['accuracy']}, past: {past}")
    kept = ["case", "size_bytes", "compression_ratio", "accuracy", "latency_ms", "speedup", "speedup_low",
            "speedup_high", "past"]  # fmt: skip
    pd.DataFrame(rows)[kept].to_csv(HERE / "results.csv", index=False, float_format="%.5g")
    write_table(pd.read_csv(HERE / "results.csv"))
    met = [row["case"] for row in rows[1:] if not row["past"]]
    print("met by:", met or "no single technique")


def write_table(rows: pd.DataFrame) -> None:
    """Put the rows into README.md, with the limits that each is past."""
    lines = ["| case | size | smaller | accuracy | faster (95%) | past the limit on |", "|---|---|---|---|---|---|"]
    for row in rows.fillna({"past": "-"}).to_dict("records"):
        faster = f"{row['speedup']:.2f}x ({row['speedup_low']:.2f}-{row['speedup_high']:.2f})"
        size = f"{row['size_bytes'] / 1000:.1f} KB | {row['compression_ratio']:.0f}x"
        past = row["past"].replace(" ", ", ")
        lines.append(f"| {row['case']} | {size} | {row['accuracy']:.3f} | {faster} | {past} |")
    readme = HERE / "README.md"
    before, rest = readme.read_text().split(START)
    readme.write_text("\n".join([f"{before}{START}", *lines, f"{END}{rest.split(END)[1]}"]))


if __name__ == "__main__":
    main()
