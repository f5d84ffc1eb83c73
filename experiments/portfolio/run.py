"""With which recipes should a search begin? Writes results.csv, README.md's tables and the search's portfolio.yaml.

Every recipe of recipes.py is run on every task of tasks.py and measured as a search measures; of them those are chosen
that together reach most of the hypervolume of all. The demo's own task is no part of that: what was chosen is tried on
it afterwards.

Usage: python experiments/portfolio/run.py   (half an hour on one core; a run that was stopped goes on)
"""

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
from choice import Reached, greedy, mean_covered, reached
from recipes import RECIPES, Steps
from report import END, START, report

from autocompress.outcome import Baseline, Candidate
from autocompress.search.portfolio import FILE, MOST
from autocompress.tasks import TaskReference, refer
from autocompress.techniques import recipe_from_data
from autocompress.trial.baseline import make_baseline
from autocompress.trial.trial import TrialSpec, measure, prepare

HERE = Path(__file__).parent
TASKS = ["cancer_linear", "digits_linear", "digits_convolutional", "text_lstm", "rows_transformer",
         "scattered_mobilenet", "scattered_resnet"]  # fmt: skip
DEMO = "lenet_mnist5k"
SHARING = {"weight_clustering", "product_quantization", "gptq"}
COLUMNS = ["case", "task", "seed", "size_bytes", "compression_ratio", "accuracy", "latency_ms", "speedup",
           "speedup_low", "speedup_high", "train_seconds", "seconds", "note"]  # fmt: skip


def reference_of(task: str) -> TaskReference:
    """Where a task is made."""
    if task == DEMO:
        return refer(f"task.py:{DEMO}", HERE.parent / "mnist5k_lenet")
    return refer(f"tasks.py:{task}", HERE)


def try_out(case: str, steps: Steps, task: str, baseline: Baseline) -> dict[str, Any]:
    """One row: a recipe on a task, measured on its file."""
    recipe, cache = recipe_from_data({"version": 1, "steps": steps}), str(HERE / ".autocompress" / "stages")
    spec = TrialSpec(0, recipe.to_data(), reference_of(task), seed=0, latency_seconds=0.4, cache=cache)
    made = prepare(spec, baseline)
    outcome = measure(made, spec, baseline)
    row = {"case": case, "task": task, "seed": 0, **getattr(outcome, "metrics", {})}
    row |= {"train_seconds": outcome.seconds.get("train", 0.0), "seconds": sum(outcome.seconds.values())}
    return row if isinstance(made, Candidate) else {**row, "accuracy": None, "note": getattr(outcome, "reason", "")}


def measure_all(recipes: dict[str, Steps], task: str, path: Path) -> None:
    """Measure every recipe on a task, the table growing as they come; rows that are there are kept."""
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    known = {row["case"] for row in rows if row["task"] == task}
    left = {name: steps for name, steps in recipes.items() if name not in known}
    if not left:
        return
    baseline = make_baseline(reference_of(task), seed=0)
    if "baseline" not in known:
        rows.append({"case": "baseline", "task": task, "seed": 0, **baseline.metrics})
    for case, steps in left.items():
        rows.append(try_out(case, steps, task, baseline))
        shown = {key: rows[-1].get(key) for key in ("compression_ratio", "accuracy", "speedup", "seconds", "note")}
        print(task, case, shown, flush=True)
        pd.DataFrame(rows).reindex(columns=COLUMNS).to_csv(path, index=False, float_format="%.6g")


def choose(mined: Reached, plain: bool = False) -> list[str]:
    """The recipes that together reach most; plain: of those that narrow spaces say too."""
    names = [name for name in RECIPES if not plain or is_plain(RECIPES[name])]
    return greedy(names, lambda chosen: mean_covered(mined, chosen), MOST)


def is_plain(steps: Steps) -> bool:
    """Whether a recipe trains once at most and has no weights that share values."""
    techniques = [step["technique"] for step in steps]
    return not SHARING.intersection(techniques) and techniques.count("distill") + techniques.count("finetune") < 2


def portfolio(chosen: list[str]) -> str:
    """The chosen recipes as a file to begin searches with."""
    lines = ["# Recipes to begin a search with, as experiments/portfolio/run.py chose them: the first eleven that its",
             "# space can say, as they are where they fit the budget, else scaled to it. The later ones are for spaces",
             "# without shared values, codes and wide steps.",
             "version: 1", "recipes:"]  # fmt: skip
    for name in chosen:
        lines += [f"  - name: {name}", "    steps:"]
        rows = (", ".join(f"{key}: {value}" for key, value in step.items()) for step in RECIPES[name])
        lines += [f"      - {{{row}}}" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, choose, write the portfolio and what it reaches."""
    warnings.simplefilter("ignore")
    path = HERE / "results.csv"
    for task in TASKS:
        measure_all(RECIPES, task, path)
    rows = pd.read_csv(path)
    mined = reached(rows[rows["task"].isin(TASKS)])
    chosen = choose(mined)
    FILE.write_text(portfolio(chosen + [name for name in choose(mined, plain=True) if name not in chosen]))
    measure_all({name: RECIPES[name] for name in chosen}, DEMO, path)
    write(mined, chosen, path)


def write(mined: Reached, chosen: list[str], path: Path) -> None:
    """The tables of README.md."""
    rows, readme = pd.read_csv(path), HERE / "README.md"
    before, rest = readme.read_text().split(START)
    found = report(mined, chosen, rows[rows["task"] == DEMO])
    readme.write_text(f"{before}{START}\n{found}{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
