"""Do more channels go at equal accuracy when structured sparsity is trained first? Writes sparsify_first.csv and .md.

Channel pruning after training with a group lasso on filters, against channel pruning after as many epochs of plain
training; both fine-tuned alike, on LeNet-5 with 5,000 MNIST images, three seeds.

Usage: python experiments/techniques/sparsify_first.py   (about a quarter of an hour on one core)
"""

from pathlib import Path

import pandas as pd

from autocompress.config import load_config
from autocompress.executors import InlineExecutor
from autocompress.outcome import Candidate
from autocompress.search.plan import obtain_baseline
from autocompress.search.setup import set_up
from autocompress.techniques import recipe_from_data
from autocompress.trial.trial import TrialSpec, confirm, prepare

HERE = Path(__file__).parent
EPOCHS, RATE = 6, 0.004
FIRST = {
    "plain training": {"technique": "finetune", "epochs": EPOCHS, "learning_rate": RATE},
    "group lasso": {"technique": "sparsify", "penalty": "group_lasso", "strength": 0.2, "epochs": EPOCHS,
                    "learning_rate": RATE},
}  # fmt: skip
RATIOS, SEEDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9), (0, 1, 2)


def main() -> None:
    """Measure every case and write the table."""
    setup = set_up(load_config(HERE.parent / "mnist5k_lenet" / "search.yaml"))
    baseline = obtain_baseline(setup, InlineExecutor())
    rows = []
    for seed in SEEDS:
        for case, first in FIRST.items():
            for ratio in RATIOS:
                pruning = {"technique": "channel_pruning", "ratio": ratio, "importance": "l2", "scope": "global"}
                last = {"technique": "finetune", "epochs": EPOCHS, "learning_rate": RATE}
                recipe = recipe_from_data({"version": 1, "steps": [first, pruning, last]})
                cache = str(setup.files.stages)  # the first training is the same for all ratios
                made = prepare(TrialSpec(0, recipe.to_data(), setup.reference, seed=seed, cache=cache), baseline)
                known = {**made.metrics, **confirm(made.onnx, setup.reference)} if isinstance(made, Candidate) else {}
                rows.append({"case": case, "seed": seed, "ratio": ratio, **known})
                print(rows[-1]["case"], seed, ratio, known.get("accuracy"), flush=True)
    found = pd.DataFrame(rows)[["case", "seed", "ratio", "size_bytes", "compression_ratio", "accuracy",
                                "test_accuracy"]]  # fmt: skip
    found.to_csv(HERE / "sparsify_first.csv", index=False, float_format="%.5g")
    (HERE / "sparsify_first.md").write_text(table(found))


def table(rows: pd.DataFrame) -> str:
    """Mean accuracy on validation and test by ratio; a candidate that collapsed counts as chance."""
    mean = rows.fillna({"accuracy": 0.1, "test_accuracy": 0.1}).groupby(["case", "ratio"]).mean(numeric_only=True)
    lines = ["| channels removed | " + " | ".join(FIRST) + " |", "|---|" + "---|" * len(FIRST)]
    for ratio in RATIOS:
        cells = [f"{mean.loc[(case, ratio), 'accuracy']:.4f} ({mean.loc[(case, ratio), 'test_accuracy']:.4f})"
                 for case in FIRST]  # fmt: skip
        lines.append(f"| {ratio:.0%} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
