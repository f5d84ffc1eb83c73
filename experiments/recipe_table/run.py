"""Replay searches against the table. Writes results.csv, the tables of README.md and curves.png.

Usage: python experiments/recipe_table/run.py [--quick] [CASE ...]

Runs that are in results.csv already are not done again: remove the file to begin anew. --quick takes two seeds of short
searches and writes quick.csv alone, in a few minutes. A case is a name of contenders.py.
"""

import sys
import time
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import report
from clock import Progress, Search, Truth
from contenders import CONTENDERS, SEEDS, Contender
from table import TASKS

HERE = Path(__file__).parent
RESULTS, QUICK = HERE / "results.csv", HERE / "quick.csv"
LEVELS = (0.01, *(step / 40 for step in range(1, 40)))
ENOUGH = LEVELS[-1]
LONGEST = {"mlp": 1200.0, "cnn": 6000.0}  # simulated CPU-seconds
QUICK_SEEDS, QUICK_TRIALS = 2, 40


def run(truth: Truth, contender: Contender, seed: int, trials: int) -> Progress:
    """One simulated search."""
    search = Search(truth, contender.make(truth, seed), contender.rules, seed)
    return search.run(trials, ENOUGH, LONGEST[truth.task])


def line(progress: Progress) -> dict[str, Any]:
    """A search in a line: when each share of the true hypervolume was reached, and where it ended."""
    share, found = np.array(progress.share), dict[str, Any]()
    for name in ("cpu", "wall"):
        spent = getattr(progress, name)
        reached = [int(np.argmax(share >= level)) if (share >= level).any() else None for level in LEVELS]
        moments = zip(LEVELS, reached, strict=True)
        found |= {f"{name}_s_{level:g}": None if at is None else spent[at] for level, at in moments}
        found[f"{name}_s"] = spent[-1]
    think = float(np.mean(progress.think_ms))
    return {**found, "share": share[-1], "trials": len(share), "trained": progress.trained, "think_ms": think}


def main() -> None:
    """Run what was not run yet, one seed of every case after the other, and write the report."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    quick = "--quick" in sys.argv
    named = [name for name in sys.argv[1:] if not name.startswith("--")]
    unknown = [name for name in named if name not in CONTENDERS]
    if unknown:
        raise SystemExit(f"no case {unknown[0]!r}: choose of {', '.join(CONTENDERS)}")
    path = QUICK if quick else RESULTS
    rows = [] if quick or not path.exists() else pd.read_csv(path).to_dict("records")
    done = {(row["case"], row["task"], row["seed"]) for row in rows}
    truths = {task: Truth.load(task) for task in TASKS}
    start = time.perf_counter()
    for seed, (case, contender), task in product(range(SEEDS), CONTENDERS.items(), TASKS):
        seeds = min(contender.seeds, QUICK_SEEDS) if quick else contender.seeds
        if seed >= seeds or (case, task, seed) in done or (named and case not in named):
            continue
        trials = min(QUICK_TRIALS, contender.trials) if quick else contender.trials
        found = line(run(truths[task], contender, seed, trials))
        rows.append({"case": case, "task": task, "workers": contender.rules.workers, "seed": seed, **found})
        pd.DataFrame(rows).to_csv(path, index=False, float_format="%.4g")
        spent = f"{found['trials']} trials, {found['cpu_s']:.0f} CPU-s, {found['think_ms']:.0f} ms an ask"
        took = f"{time.perf_counter() - start:6.0f} s"
        print(f"{took}  {case}, {task}, seed {seed}: {found['share']:.2f} in {spent}", flush=True)
    if not quick:
        report.main()


if __name__ == "__main__":
    main()
