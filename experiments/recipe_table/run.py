"""Replay searches against the table. Writes results.csv, the tables of README.md and curves.png.

Usage: python experiments/recipe_table/run.py [--quick] [--seeds N] [CASE ...]

Runs that are in results.csv already are not done again: remove the file to begin anew. --quick takes one seed of short
searches and writes quick.csv alone, in a few minutes. --seeds: of each case at most. A case is a name of contenders.py.
"""

import argparse
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
QUICK_TRIALS = 40


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


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Replay searches against the table.")
    parser.add_argument("--quick", action="store_true", help="one seed of short searches")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of each case at most")
    names = [[], *CONTENDERS]  # argparse holds none given, an empty list, against them too
    parser.add_argument("cases", nargs="*", metavar="CASE", choices=names, help="a name of contenders.py")
    return parser.parse_args()


def main() -> None:
    """Run what was not run yet, one seed of every case after the other, and write the report."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    given = arguments()
    most = 1 if given.quick else given.seeds
    path = QUICK if given.quick else RESULTS
    rows = [] if given.quick or not path.exists() else pd.read_csv(path).to_dict("records")
    done = {(row["case"], row["task"], row["seed"]) for row in rows}
    truths = {task: Truth.load(task) for task in TASKS}
    start = time.perf_counter()
    for seed, (case, contender), task in product(range(most), CONTENDERS.items(), TASKS):
        wanted = not given.cases or case in given.cases
        if not wanted or seed >= contender.seeds or (case, task, seed) in done:
            continue
        trials = min(QUICK_TRIALS, contender.trials) if given.quick else contender.trials
        found = line(run(truths[task], contender, seed, trials))
        rows.append({"case": case, "task": task, "workers": contender.rules.workers, "seed": seed, **found})
        pd.DataFrame(rows).to_csv(path, index=False, float_format="%.4g")
        spent = f"{found['trials']} trials, {found['cpu_s']:.0f} CPU-s, {found['think_ms']:.0f} ms an ask"
        took = f"{time.perf_counter() - start:6.0f} s"
        print(f"{took}  {case}, {task}, seed {seed}: {found['share']:.2f} in {spent}", flush=True)
    if not given.quick:
        report.main()


if __name__ == "__main__":
    main()
