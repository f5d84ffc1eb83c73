"""How many CPU-seconds do searches take for the same front? Writes results.csv, curves.png and the table of README.md.

Every search runs in a process of its own, on one thread, by one worker in that process. Those that are finished are
left as they are; those that were stopped begin anew.

Usage: python experiments/search_efficiency/run.py [--study lenet5] [--seeds 5] [--seconds 1200] [--jobs 1]
       python experiments/search_efficiency/run.py --quick    (five minutes; shows a table and writes nothing here)
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from contenders import BASELINE, CONTENDERS, STUDIES
from report import HERE, PARTS, RESULTS, read, report, table
from search import COLUMNS, END

WORK = HERE / ".autocompress"  # baselines, and what searches keep while they run
QUICK = ("small", 1, 15.0)  # study, seeds and CPU-seconds


@dataclass(frozen=True)
class Job:
    """One search, or the baseline that those of the same study and seed begin from."""

    study: str
    case: str
    seed: int
    seconds: float


def jobs(studies: Sequence[str], cases: Sequence[str], seeds: int, seconds: float) -> list[Job]:
    """Every search, all contenders of a seed before the next one."""
    return [Job(study, case, seed, seconds) for study in studies for seed in range(seeds) for case in cases]


def finished(rows: pd.DataFrame, job: Job) -> bool:
    """Whether a table has all rows of a search."""
    own = rows[(rows["case"] == job.case) & (rows["study"] == job.study) & (rows["seed"] == job.seed)]
    if job.case == BASELINE:
        return len(own) > 0
    return bool(((own["outcome"] == END) & (own["budget_seconds"] == job.seconds)).any())


def clear(path: Path, left: Sequence[Job]) -> None:
    """Take out the rows of searches that are to run, and begin the table where there is none."""
    rows = read(path) if path.exists() else pd.DataFrame(columns=COLUMNS)
    again = {(job.case, job.study, job.seed) for job in left}
    keys = zip(rows["case"], rows["study"], rows["seed"], strict=True)
    kept = np.array([key not in again for key in keys], dtype=bool)
    rows.loc[kept].to_csv(path, index=False, float_format="%.6g")


def run(job: Job, path: Path) -> None:
    """Run one search in a process of its own. Raises CalledProcessError."""
    words = (job.study, job.case, str(job.seed), str(job.seconds), str(path), str(WORK))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    print(f"{job.study}, seed {job.seed}: {job.case}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, str(HERE / "search.py"), *words], check=True, env=environment)


def run_all(path: Path, wanted: Sequence[Job], processes: int) -> None:
    """Run what is not finished, the baselines first."""
    WORK.mkdir(exist_ok=True)
    pairs = dict.fromkeys((job.study, job.seed) for job in wanted)
    baselines = [Job(study, BASELINE, seed, 0.0) for study, seed in pairs]
    for group in (baselines, wanted):
        rows = read(path) if path.exists() else pd.DataFrame(columns=COLUMNS)
        left = [job for job in group if not finished(rows, job)]
        clear(path, left)
        with ThreadPoolExecutor(processes) as pool:
            list(pool.map(lambda job: run(job, path), left))


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=STUDIES, action="append", help="lenet5 unless given; may be repeated")
    parser.add_argument("--contender", choices=CONTENDERS, action="append", help="all unless given; may be repeated")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1200.0, help="CPU-seconds of a search")
    parser.add_argument("--jobs", type=int, default=1, help="searches that run side by side")
    parser.add_argument("--parts", action="store_true", help="into parts.csv: searches compared with one another alone")
    parser.add_argument("--quick", action="store_true", help="a small task and one seed; results.csv stays as it is")
    return parser.parse_args()


def main() -> None:
    """Run the searches and write what came of them."""
    asked = arguments()
    cases = asked.contender or list(CONTENDERS)
    if asked.quick:
        path = WORK / "quick.csv"
        run_all(path, jobs(*([QUICK[0]], cases), *QUICK[1:]), asked.jobs)
        print(table(read(path), QUICK[0]))
        return
    run_all(
        PARTS if asked.parts else RESULTS,
        jobs(asked.study or ["lenet5"], cases, asked.seeds, asked.seconds),
        asked.jobs,
    )
    report()


if __name__ == "__main__":
    main()
