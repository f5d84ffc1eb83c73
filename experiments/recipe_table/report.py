"""Results of replays as tables in README.md and a figure.

Usage: python experiments/recipe_table/report.py   (run.py does the same when it is through)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from clock import TIMING, TRAINING, Truth
from contenders import AS_IT_COMES, CONTENDERS, MANY, OURS, SOME
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from moocore import hypervolume
from numpy.typing import NDArray
from table import TASKS

HERE = Path(__file__).parent
RESULTS, README, FIGURE = HERE / "results.csv", HERE / "README.md", HERE / "curves.png"
BEGIN, END = "<!-- tables -->\n", "<!-- end -->\n"
MARKS = (0.5, 0.8, 0.9, 0.95)  # shares of the true hypervolume that are waited for
SHARED = (0.8, 0.9)  # by which more workers are held against one
RIVAL, GOAL = 0.5, 0.95  # what TPE as it comes has at the moment where ours is to have this
EARLIER = 4.0  # at what part of that moment shares are looked at too
RESAMPLES = 1000
DRAWN = (OURS, "TPE, multivariate, stages kept, rejection", "TPE, multivariate", AS_IT_COMES, "NSGA-II", "random")

Array = NDArray[np.float64]


def levels(rows: pd.DataFrame) -> list[float]:
    """The shares whose times results hold."""
    return [float(name.removeprefix("cpu_s_")) for name in rows if name.startswith("cpu_s_")]


def shares(rows: pd.DataFrame, moments: Array) -> Array:
    """The share that each search had after so many CPU-seconds: (searches, moments); the last level that it reached."""
    found = np.zeros((len(rows), len(moments)))
    for level in levels(rows):
        reached = rows[f"cpu_s_{level:g}"].to_numpy(float)[:, None] <= moments
        found = np.where(reached, level, found)
    return found


def until(rows: pd.DataFrame, level: float, clock: str = "cpu") -> Array:
    """The seconds until a share was reached by each search, infinite where it was not."""
    return np.asarray(rows[f"{clock}_s_{level:g}"].fillna(np.inf), dtype=float)


def median(values: Array) -> float:
    """The lower median, which is no mean of a number and infinity."""
    return float(np.sort(values)[(len(values) - 1) // 2])


def interval(values: Array) -> tuple[float, float]:
    """The 95% interval of the mean by resampling of seeds."""
    generator = np.random.default_rng(0)
    means = values[generator.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def seconds(values: Array) -> str:
    """The median of seconds, and how many searches got there where not all did."""
    middle, reached = median(values), int(np.isfinite(values).sum())
    text = f"{middle:,.0f}" if np.isfinite(middle) else "-"
    return text if reached == len(values) else f"{text} ({reached} of {len(values)})"


def mean(values: Array) -> str:
    """A mean with its 95% interval."""
    low, high = interval(values)
    return f"{values.mean():.2f} ({low:.2f} to {high:.2f})"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Lines under their heads, as Markdown."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, ["---"] * len(heads), *lines))


def rival_moment(rows: pd.DataFrame) -> float:
    """The CPU-seconds at which the mean share of TPE as it comes reaches a half, of one task; or its last ones."""
    part = rows[rows["case"] == AS_IT_COMES]
    moments = np.geomspace(10, part["cpu_s"].min(), 1000)
    reached = shares(part, moments).mean(0) >= RIVAL
    return float(moments[np.argmax(reached)]) if reached.any() else float(moments[-1])


def samplers_table(rows: pd.DataFrame, moment: float) -> str:
    """Cases of one worker of one task: when shares were reached, and the share at a moment and earlier."""
    heads = ["case", "seeds", *(f"CPU-s to {mark:g}" for mark in MARKS), f"share at {moment:,.0f} CPU-s",
             f"at {moment / EARLIER:,.0f} CPU-s", "when it ended", "CPU-s then", "trials", "ms an ask"]  # fmt: skip
    lines = []
    for case, contender in CONTENDERS.items():
        part = rows[rows["case"] == case]
        if contender.rules.workers > 1 or not len(part):
            continue
        at = shares(part, np.array([moment, moment / EARLIER]))
        means = part[["cpu_s", "trials", "think_ms"]].mean()
        cells = [case, str(len(part)), *(seconds(until(part, mark)) for mark in MARKS), mean(at[:, 0]), mean(at[:, 1])]
        lines.append([*cells, f"{part['share'].mean():.2f}", *(f"{value:,.0f}" for value in means)])
    return table(heads, lines)


def workers_table(rows: pd.DataFrame) -> str:
    """Ours of one task by its number of workers: how long shares took, and how efficient that was."""
    heads = ["workers", "seeds"]
    for mark in SHARED:
        heads += [f"seconds to {mark:g}", "one worker", "efficiency", "CPU-s"]
    alone, lines = rows[rows["case"] == OURS], []
    for count, case in (SOME | MANY).items():
        part = rows[rows["case"] == case]
        if not len(part):
            continue
        same, cells = alone[alone["seed"].isin(part["seed"])], [str(count), str(len(part))]
        for mark in SHARED:
            one, many = until(same, mark, "wall"), until(part, mark, "wall")
            worth = median(one) / median(many) / count
            cells += [seconds(many), seconds(one), f"{worth:.0%}" if worth > 0 else "-", seconds(until(part, mark))]
        lines.append(cells)
    return table(heads, lines)


def shortest(truth: Truth, share: float) -> float:
    """The seconds below which no number of workers comes to a share, as the recipes for it take longer one by one."""
    lines, points = truth.lines, truth.points(truth.lines)
    taken = TRAINING * (lines["first_seconds"] + lines["second_seconds"]) + lines["file_seconds"] + TIMING
    inside = (points <= 1).all(axis=1)
    for moment in np.sort(taken[inside].unique()):
        volume = hypervolume(points[inside & (taken <= moment)], ref=np.ones(3))
        if volume >= share * truth.volume:
            return float(moment)
    raise ValueError(f"{truth.task}: no share {share}: name one of 1 or less")


def summary(rows: pd.DataFrame, truth: Truth, moment: float) -> str:
    """What a task is, and what ours has at the compute where TPE as it comes has a half."""
    limits = ", ".join(f"{limit.metric} {limit.sense.replace('_', ' ')} {limit.bound:.4g}" for limit in truth.limits)
    rival = shares(rows[rows["case"] == AS_IT_COMES], np.array([moment]))[:, 0]
    ours = shares(rows[rows["case"] == OURS], np.array([moment]))[:, 0]
    reached = f"{int((ours >= GOAL).sum())} of {len(ours)} at {GOAL} or more"
    least = " and ".join(f"{share} takes {shortest(truth, share):.0f} seconds at least" for share in SHARED)
    return (
        f"{limits}: {len(truth.feasible)} of {len(truth.index):,} recipes keep all. {AS_IT_COMES} has "
        f"{rival.mean():.2f} of the true hypervolume after {moment:,.0f} CPU-seconds; **there ours has "
        f"{ours.mean():.2f}** (worst seed {ours.min():.2f}, {reached}). With any number of "
        f"workers {least}.\n"
    )


def draw_curve(axes: Axes, rows: pd.DataFrame, moments: Array, label: str) -> None:
    """The mean share over CPU-seconds, with a 95% interval by resampling of seeds."""
    found = shares(rows, moments)
    band = np.array([interval(column) for column in found.T])
    axes.plot(moments, found.mean(0), label=label)
    axes.fill_between(moments, band[:, 0], band[:, 1], alpha=0.2)


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Samplers by compute, a task a column."""
    figure = Figure(figsize=(12, 5), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, len(TASKS), sharey=True)
    for axes, task in zip(grid, TASKS, strict=True):
        own = rows[rows["task"] == task]
        moments = np.geomspace(20, own["cpu_s"].max(), 160)
        for case in DRAWN:
            if (own["case"] == case).any():
                draw_curve(axes, own[own["case"] == case], moments, case)
        axes.axvline(rival_moment(own), color="black", linestyle=":", linewidth=1)
        axes.set(
            title=task,
            xlabel="simulated CPU-seconds",
            ylabel="share of the true hypervolume",
            xscale="log",
            ylim=(0, 1),
        )
        axes.grid(alpha=0.3)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, metadata={"Software": None})


def tables(rows: pd.DataFrame, truths: Mapping[str, Truth]) -> str:
    """Both tables of every task."""
    text = ""
    for task, truth in truths.items():
        own = rows[rows["task"] == task]
        moment = rival_moment(own)
        text += f"\n### {task}\n\n{summary(own, truth, moment)}\n{samplers_table(own, moment)}\n{workers_table(own)}"
    return text + "\n"


def main() -> None:
    """Put the tables of results.csv in README.md, and draw curves.png."""
    rows = pd.read_csv(RESULTS)
    found = tables(rows, {task: Truth.load(task) for task in TASKS})
    head, rest = README.read_text().split(BEGIN)
    README.write_text(head + BEGIN + found + END + rest.split(END)[1])
    draw(rows, FIGURE)


if __name__ == "__main__":
    main()
