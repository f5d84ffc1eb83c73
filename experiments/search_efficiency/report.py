"""The tables and the figure of README.md, from results.csv, and from parts.csv a session of its own.

Usage: python experiments/search_efficiency/report.py
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from contenders import BASELINE, CONTENDERS, OURS, STUDIES
from numpy.typing import NDArray

from autocompress.config import Budget, load_config

Array = NDArray[np.float64]
Key = tuple[str, int]  # of a search: contender and seed

HERE = Path(__file__).parent
RESULTS, PARTS, FIGURE = HERE / "results.csv", HERE / "parts.csv", HERE / "curves.png"
START, STOP = "<!-- tables -->\n", "<!-- end -->\n"
REFERENCE = (
    1.1  # on every axis: 0 is the best of all searches, 1 the limit, and what just keeps a limit counts a little
)
STEP = 0.1  # of the logarithm of a speed-up, as finely as it is told from noise
# What ours is to reach: the final hypervolume of a search in this share of its CPU-seconds, in every seed.
GOALS = {"TPE": 1 / 10, "multivariate TPE": 1 / 5, "random": 1 / 20}
COLOURS = {"random": "tab:gray", "NSGA-II": "tab:brown", "GP": "tab:purple", "TPE": "tab:orange",
           "multivariate TPE": "tab:red", OURS: "tab:blue"}  # fmt: skip
PANEL = (6.5, 4.2)  # inches


@dataclass(frozen=True)
class Curve:
    """The hypervolume of a search after each of its trials: CPU-seconds and values, both (trials,), and its budget."""

    seconds: Array
    values: Array
    budget: float

    @property
    def final(self) -> float:
        """The hypervolume at the end."""
        return float(self.values[-1]) if len(self.values) else 0.0

    def reached(self, target: float) -> float:
        """CPU-seconds until the hypervolume is above zero and at least the target; infinite where it never is."""
        there = self.seconds[(self.values >= target) & (self.values > 0)]
        return float(there[0]) if len(there) else math.inf

    def at(self, seconds: Array) -> Array:
        """The hypervolume after so many CPU-seconds."""
        known = np.concatenate([[0.0], self.values])
        return np.asarray(known[np.searchsorted(self.seconds, seconds, side="right")])


def read(path: Path) -> pd.DataFrame:
    """The table of results."""
    return pd.read_csv(path, dtype={"outcome": str, "seed": int})


def costs(rows: pd.DataFrame, accuracies: Mapping[int, float]) -> Array:
    """Rows as (rows, 3), less being better: the log of the size, the accuracy lost, and minus the log of the speed-up.

    accuracies: of the uncompressed model, by seed.
    """
    lost = rows["seed"].map(accuracies) - rows["accuracy"]
    return np.column_stack([np.log(rows["size_bytes"]), lost, slowness(rows["speedup"])])


def slowness(speedup: Array) -> Array:
    """Minus the logarithm of speed-ups, in steps."""
    return np.asarray(-np.round(np.log(np.asarray(speedup, dtype=float)) / STEP) * STEP)


def worst(budget: Budget) -> Array:
    """The limits of a budget on size, accuracy drop and speed-up, as costs."""
    size, drop, speedup = budget.size or budget.size_bytes, budget.accuracy_drop, budget.speedup
    if size is None or drop is None or speedup is None:
        raise ValueError(
            "a study's budget must limit size, accuracy_drop and speedup: hypervolumes are counted by them"
        )
    return np.array([math.log(size), drop, float(slowness(np.array(speedup)))])


def scaled(points: Array, best: Array, limits: Array) -> Array:
    """Costs from 0 at the best of all searches to 1 at the limits."""
    return np.asarray((points - best) / np.maximum(limits - best, 1e-9))


def hypervolume(points: Array) -> float:
    """The share of the box up to the reference that scaled points dominate."""
    import moocore

    if not len(points):
        return 0.0
    return float(moocore.hypervolume(points, ref=np.full(points.shape[1], REFERENCE)) / REFERENCE ** points.shape[1])


def curves(rows: pd.DataFrame, limits: Array) -> dict[Key, Curve]:
    """The curve of each finished search of a study, all by one scale; of several budgets the largest counts."""
    base = rows[rows["case"] == BASELINE]
    accuracies = dict(zip(base["seed"], base["accuracy"], strict=True))
    budget = float(rows["budget_seconds"].max())
    rows = rows[rows["budget_seconds"] == budget]
    last = rows[rows["outcome"] == "end"]
    ended = list(zip(last["case"], last["seed"], strict=True))
    whole = np.array([key in ended for key in zip(rows["case"], rows["seed"], strict=True)], dtype=bool)
    trials = rows[whole & (rows["cpu_seconds"] <= budget) & (rows["outcome"] != "end")]
    good = trials[trials["outcome"] == "completed"]
    best = np.minimum(costs(good, accuracies).min(0), limits) if len(good) else limits
    found = {}
    for case, seed in ended:
        own = trials[(trials["case"] == case) & (trials["seed"] == seed)]
        points = scaled(costs(own, accuracies), best, limits)
        kept = (own["outcome"] == "completed").to_numpy()
        values = [hypervolume(points[: count + 1][kept[: count + 1]]) for count in range(len(own))]
        found[case, int(seed)] = Curve(own["cpu_seconds"].to_numpy(float), np.array(values), budget)
    return found


def of(found: Mapping[Key, Curve], case: str) -> dict[int, Curve]:
    """The curves of a contender, by seed."""
    return {seed: curve for (name, seed), curve in found.items() if name == case}


def shares(found: Mapping[Key, Curve], case: str, other: str, own_time: bool = False) -> list[float]:
    """By what share of the CPU-seconds of another contender's search one reaches its final hypervolume, a seed each.

    own_time: by what share of those until the other's own hypervolume stood there. Infinite where it never does.
    """
    ours, theirs = of(found, case), of(found, other)
    ratios = []
    for seed in sorted(ours.keys() & theirs.keys()):
        final = theirs[seed].final
        whole = theirs[seed].reached(final) if own_time else theirs[seed].budget
        ratios.append(ours[seed].reached(final) / whole if math.isfinite(whole) else 0.0)
    return ratios


def share(ratio: float) -> str:
    """A share in words, as 1/8 or 2x; 0 is that of a search that found nothing."""
    if not math.isfinite(ratio):
        return "never"
    if ratio > 1:
        return f"{ratio:.3g}x"
    return f"1/{1 / ratio:.3g}" if ratio > 0 else "it found nothing"


def interval(values: Sequence[float], shown: Callable[[float], str] = "{:.3f}".format) -> str:
    """The median of some values, and the least and the greatest; of an even number the greater of the middle two.

    Shares that are infinite have no mean.
    """
    if not values:
        return "-"
    least, middle, most = (shown(sorted(values)[index]) for index in (0, len(values) // 2, -1))
    return f"**{middle}**" if least == most else f"**{middle}** ({least} to {most})"


def higher(found: Mapping[Key, Curve], case: str, other: str) -> str:
    """In how many seeds one ends with more hypervolume than the other."""
    ours, theirs = of(found, case), of(found, other)
    seeds = ours.keys() & theirs.keys()
    return f"{sum(ours[seed].final > theirs[seed].final for seed in seeds)} of {len(seeds)}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def compared(found: Mapping[Key, Curve]) -> str:
    """All contenders: their final hypervolumes, how soon they reach those of others, and ours reaches theirs."""
    others = [name for name in GOALS if of(found, name)]
    head = ["search", "trials", "final hypervolume", *(f"reaches that of {name} in" for name in others),
            "ours reaches its in", "ours ends higher"]  # fmt: skip
    rows = []
    for case in CONTENDERS:
        own = of(found, case)
        if own:
            counts = [float(len(curve.seconds)) for curve in own.values()]
            cells = [case, interval(counts, "{:.0f}".format), interval([curve.final for curve in own.values()])]
            cells += [interval(shares(found, case, name), share) if case != name else "" for name in others]
            ours = [interval(shares(found, OURS, case), share), higher(found, OURS, case)]
            rows.append([*cells, *(ours if case != OURS else ["", ""])])
    return markdown(head, rows)


def goals(found: Mapping[Key, Curve]) -> str:
    """The goals, each with whether it is met in every seed."""
    rows = []
    for name, goal in GOALS.items():
        ratios, own = shares(found, OURS, name), shares(found, OURS, name, own_time=True)
        if ratios:
            met = sum(ratio <= goal for ratio in ratios)
            rows.append([f"{name}'s in {share(goal)}", f"{'yes' if met == len(ratios) else 'no'}: {met} of "
                         f"{len(ratios)}", share(max(ratios)), share(max(own))])  # fmt: skip
    return (
        ""
        if not rows
        else markdown(
            ["ours reaches", "in every seed", "worst seed", "worst, against when the other stood there"], rows
        )
    )


def found_in(rows: pd.DataFrame, study: str) -> dict[Key, Curve]:
    """The curves of a study."""
    return curves(rows[rows["study"] == study], worst(load_config(STUDIES[study]).budget))


def table(rows: pd.DataFrame, study: str) -> str:
    """What the README says of a study."""
    found = found_in(rows, study)
    if not found:
        return f"No search of {study} is finished.\n"
    budget, seeds = next(iter(found.values())).budget, len({seed for _, seed in found})
    head = f"**{study}**: {budget:.0f} CPU-seconds a search, {seeds} {'seed' if seeds == 1 else 'seeds'}"
    return "\n".join(part for part in (f"{head}\n", compared(found), goals(found)) if part)


def draw(panels: Mapping[str, Mapping[Key, Curve]], path: Path) -> None:
    """Hypervolume over CPU-seconds, a panel a study: medians, with bands from the least to the greatest of seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    size = (PANEL[0] * len(panels), PANEL[1])
    figure, all_axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
    for axes, (study, found) in zip(all_axes[0], panels.items(), strict=True):
        budget = next(iter(found.values())).budget
        seconds = np.geomspace(budget / 200, budget, 400)
        for case in (case for case in CONTENDERS if of(found, case)):
            values = np.array([curve.at(seconds) for curve in of(found, case).values()])
            colour = COLOURS.get(case)
            style = {"color": colour, "linewidth": 1.6} if colour else {"linestyle": ":", "linewidth": 1.2}
            (line,) = axes.plot(seconds, np.median(values, axis=0), label=case, drawstyle="steps-post", **style)
            if colour:
                bounds = (values.min(0), values.max(0))
                axes.fill_between(seconds, *bounds, step="post", alpha=0.12, color=line.get_color(), linewidth=0)
        axes.set(xscale="log", xlabel="CPU-seconds", ylabel="hypervolume", title=study)
    all_axes[0][-1].legend(loc="upper left", fontsize=8)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def report() -> None:
    """Write the figure and the tables."""
    rows, readme = read(RESULTS), HERE / "README.md"
    panels = {study: found for study in STUDIES if (found := found_in(rows[rows["study"] == study], study))}
    draw(panels, FIGURE)
    before, rest = readme.read_text().split(START)
    apart = read(PARTS) if PARTS.exists() else rows[:0]
    tables = [table(rows, study) for study in panels]
    tables += [
        f"In one session of their own, {table(apart, study)}" for study in STUDIES if study in set(apart["study"])
    ]
    text = "\n".join(["![hypervolume over CPU-seconds](curves.png)\n", *tables])
    readme.write_text(f"{before}{START}\n{text}{STOP}{rest.split(STOP)[1]}")


if __name__ == "__main__":
    report()
