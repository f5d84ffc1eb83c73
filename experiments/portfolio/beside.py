"""Would lightweight students and guided distillation earn a place among the recipes that searches begin with?

Recipes of techniques that `hybrid` does not have, measured on the tasks of run.py as its candidates are. Writes
beside.csv and README.md's table of what they add.

Usage: python experiments/portfolio/beside.py   (after run.py; a quarter of an hour on one core; a run that was stopped
goes on)
"""

import warnings

import pandas as pd
from choice import Reached, greedy, mean_covered, only, reached
from recipes import RECIPES, Step, Steps, bits, codes, cut, distil, named
from report import table, tasks_of
from run import HERE, MOST, TASKS, measure_all

START, END = "<!-- beside -->", "<!-- beside end -->"


def network(name: str, width: float) -> Step:
    """Another network in the model's place."""
    return {"technique": "architecture", "network": name, "width": width}


def guided(by: str, epochs: int) -> Step:
    """Training on what is inside of the uncompressed model, besides its outputs."""
    return {"technique": f"{by}_distill", "epochs": epochs, "learning_rate": 0.004}


def said(steps: Steps) -> str:
    """A recipe in plain words."""
    known = {"hint": "hints", "attention": "attention", "patient": "hidden states"}
    words = []
    for step in steps:
        by = step["technique"].removesuffix("_distill")
        if step["technique"] == "architecture":
            words.append(f"{step['network']} {step['width']:g}")
        else:
            words.append(f"{known[by]} {step['epochs']}" if by in known else named([step]))
    return ", ".join(words)


ENDS = [[bits(6)], [codes(4, 2), distil(16)]]
LIGHT = "squeezenet", "mobilenet_v1", "mobilenet_v3", "shufflenet_v2"
GROUPS: dict[str, list[Steps]] = {
    "lightweight students": [
        [network(name, width), distil(28), *end]
        for name, width in (("smaller", 0.25), ("smaller", 0.5), *((name, 0.25) for name in LIGHT))
        for end in ENDS
    ],
    "hints, attention, hidden states": [
        [cut(0.5), guided(by, 12), *end]
        for by in ("hint", "attention", "patient")
        for end in ([bits(6)], [codes(4, 2), guided(by, 12)])
    ],
}


def report(given: Reached) -> str:
    """What each group adds to the hypervolume of all recipes on each task, and whether one would be chosen."""
    groups = {group: [said(steps) for steps in recipes] for group, recipes in GROUPS.items()}
    every = [*RECIPES, *(name for names in groups.values() for name in names)]
    rows = []
    for group, names in groups.items():
        others = [name for name in every if name not in names]
        lost = [1 - mean_covered(only(given, task), others) for task in tasks_of(given)]
        rows.append([group, str(len(names)), *(f"{share:.0%}" for share in lost), f"**{sum(lost) / len(lost):.0%}**"])
    chosen = greedy(every, lambda picked: mean_covered(given, picked), MOST)
    of = [f"{place}. {name}" for place, name in enumerate(chosen, 1) if name not in RECIPES]
    also = "; ".join(of) or "none"
    head = ["lost without", "recipes", *tasks_of(given), "mean"]
    return (
        f"{table(head, rows)}\nOf the {MOST} that would be chosen among all {len(every)}, these are of them: {also}.\n"
    )


def main() -> None:
    """Measure, and write the table."""
    warnings.simplefilter("ignore")
    path = HERE / "beside.csv"
    for task in TASKS:
        measure_all({said(steps): steps for recipes in GROUPS.values() for steps in recipes}, task, path)
    own = pd.read_csv(path)
    rows = pd.concat([pd.read_csv(HERE / "results.csv"), own[own["case"] != "baseline"]])
    text = report(reached(rows[rows["task"].isin(TASKS)]))
    readme = HERE / "README.md"
    before, rest = readme.read_text().split(START)
    readme.write_text(f"{before}{START}\n{text}{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
