"""What the README says of the chosen recipes: what they cover, also of tasks that they were not chosen on."""

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
import tasks as makers
from choice import Reached, greedy, mean_covered, only, without
from likeness import likeness, profile
from recipes import BY_HAND, RECIPES

START, END = "<!-- tables -->", "<!-- end -->"
COUNTS = (3, 5, 10)
DRAWS = 200
LEAST = 0.1  # what a task counts whose model is not alike at all
FAMILIES = {
    "channels": ("channel_pruning",),
    "ranks": ("svd",),
    "zeros": ("weight_pruning",),
    "shared values": ("weight_clustering",),
    "wide steps": ("gptq",),
    "few bits": ("low_bit", "mixed_precision"),
    "integers": ("int8_static",),
    "training": ("distill", "finetune"),
}


def tasks_of(given: Reached) -> list[str]:
    """The tasks, in their order."""
    return list(dict.fromkeys(task for task, _ in given))


def chosen_on(given: Reached, count: int, weights: Mapping[str, float] | None = None) -> list[str]:
    """What is chosen on some tasks."""
    return greedy(list(RECIPES), lambda names: mean_covered(given, names, weights), count)


def random_covered(given: Reached, count: int) -> float:
    """The mean share that as many recipes cover which are drawn at random."""
    generator, names = np.random.default_rng(0), list(RECIPES)
    draws = [generator.choice(len(names), size=count, replace=False) for _ in range(DRAWS)]
    return float(np.mean([mean_covered(given, [names[index] for index in draw]) for draw in draws]))


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def coverage(given: Reached, chosen: list[str]) -> str:
    """The share that is covered after each recipe, on all tasks and on each."""
    tasks = tasks_of(given)
    rows = []
    for count, name in enumerate(chosen, 1):
        epochs = sum(step.get("epochs", 0) for step in RECIPES[name])
        shares = [mean_covered(given, chosen[:count]), *(mean_covered(only(given, t), chosen[:count]) for t in tasks)]
        rows.append([str(count), name, str(epochs), f"**{shares[0]:.0%}**", *(f"{share:.0%}" for share in shares[1:])])
    return table(["", "recipe", "epochs", "all", *tasks], rows)


def weights_of(task: str, tasks: list[str]) -> dict[str, float]:
    """How much other tasks count for one, by the likeness of their models."""
    profiles = {name: profile(getattr(makers, name)().model()) for name in tasks}
    return {name: LEAST + likeness(profiles[task], profiles[name]) for name in tasks}


def left_out(given: Reached) -> str:
    """For each task, what recipes cover of it that were chosen on the others."""
    rows, totals = [], []
    for task in tasks_of(given):
        own, others = only(given, task), without(given, task)
        chosen, best = chosen_on(others, max(COUNTS)), chosen_on(own, max(COUNTS))
        alike = chosen_on(others, max(COUNTS), weights_of(task, tasks_of(given)))
        shares = [mean_covered(own, names[:count]) for names in (chosen, alike) for count in COUNTS]
        shares += [mean_covered(own, best[: min(COUNTS)]), random_covered(own, max(COUNTS)), mean_covered(own, BY_HAND)]
        totals.append(shares)
        rows.append([task, *(f"{share:.0%}" for share in shares)])
    rows.append(["**mean**", *(f"**{share:.0%}**" for share in np.mean(totals, axis=0))])
    head = [
        *(f"others' {count}" for count in COUNTS),
        *(f"alike {count}" for count in COUNTS),
        f"its own {min(COUNTS)}",
        f"{max(COUNTS)} at random",
    ]
    return table(["left out", *head, f"{len(BY_HAND)} by hand"], rows)


def uses(name: str, techniques: Collection[str]) -> bool:
    """Whether a recipe has a step of these techniques."""
    return any(step["technique"] in techniques for step in RECIPES[name])


def families(given: Reached) -> str:
    """What share of a task's hypervolume only recipes with a family of techniques reach."""
    rows = []
    for task in tasks_of(given):
        row = [task]
        for techniques in FAMILIES.values():
            others = [name for name in RECIPES if not uses(name, techniques)]
            row.append(f"{1 - mean_covered(only(given, task), others):.0%}")
        rows.append(row)
    return table(["lost without", *FAMILIES], rows)


def demo(rows: pd.DataFrame, chosen: list[str]) -> str:
    """What the chosen recipes reach on the demo's task."""
    found = rows.set_index("case")
    base = found.loc["baseline"]
    lines = []
    for count, name in enumerate(chosen, 1):
        if name not in found.index or pd.isna(found.loc[name, "accuracy"]):
            lines.append([str(count), name, "refused" if name in found.index else "not measured yet", "", "", "", ""])
            continue
        row = found.loc[name]
        drop = 100 * (base["accuracy"] - row["accuracy"])
        faster = f"{row['speedup']:.2f}x ({row['speedup_low']:.2f}-{row['speedup_high']:.2f})"
        lines.append([str(count), name, f"{row['size_bytes']:,.0f}", f"{row['compression_ratio']:.0f}x",
                      f"{drop:+.1f}", faster, f"{row['seconds']:.0f}"])  # fmt: skip
    return table(["", "recipe", "bytes", "smaller", "points lost", "faster (95%)", "seconds"], lines)


def report(given: Reached, chosen: list[str], tried: pd.DataFrame) -> str:
    """The tables, each with a sentence on what it shows; tried: the rows of the demo's task."""
    return "\n".join(
        [
            "The share of the hypervolume of all recipes that the first ones cover, and the epochs of each:\n",
            coverage(given, chosen),
            "The same for recipes that were chosen without looking at a task, and for others:\n",
            left_out(given),
            "What only recipes with a family of techniques reach:\n",
            families(given),
            "The portfolio on the demo's task, from which none of it was chosen:\n",
            demo(tried, chosen),
        ]
    )
