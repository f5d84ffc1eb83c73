"""The table of lightweight networks: means over seeds, and what distillation adds, paired, with its interval."""

import math

import pandas as pd
from scipy.stats import t

PAIRED = ["seed", "device"]  # trainings on another device had another teacher, too
TRAININGS = ("scratch", "distilled")
START, END = "<!-- table -->\n", "<!-- end -->"
HEADS = [
    "data",
    "network",
    "width",
    "size",
    "MACs",
    "latency",
    "scratch",
    "distilled",
    "distilled - scratch (95%)",
    "seeds",
]


def paired(scratch: pd.Series, distilled: pd.Series) -> tuple[float, float, int]:
    """The mean difference over the seeds that both have, half the width of its 95% interval by Student's t, and seeds.

    The half width is NaN for a single seed.
    """
    both = pd.concat([scratch, distilled], axis=1, join="inner").dropna()
    return interval(both.iloc[:, 1] - both.iloc[:, 0])


def interval(values: pd.Series) -> tuple[float, float, int]:
    """Mean, half the width of its 95% interval by Student's t, which is NaN for a single value, and count."""
    count = len(values)
    if count < 2:
        return float(values.mean()), math.nan, count
    return float(values.mean()), float(t.ppf(0.975, count - 1) * values.std(ddof=1) / math.sqrt(count)), count


def table(results: pd.DataFrame, files: pd.DataFrame) -> str:
    """Files and what trainings of them come to, as they stand in README.md; accuracy is on the test split."""
    lines = ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
    trained = results[results["training"].notna()]
    for file in files.sort_values(["data", "network", "width"], na_position="first").to_dict("records"):
        of = results[(results["data"] == file["data"]) & (results["network"] == file["network"])]
        cells = [file["data"], file["network"]]
        if math.isnan(file["width"]):
            cells += ["-", _size(file), "-", f"{file['latency_ms']:.3f} ms", _mean(of["test_accuracy"]), "-", "-", "1"]
        else:
            of = of[of["width"] == file["width"]]
            scratch, distilled = (of[of["training"] == how].set_index(PAIRED)["test_accuracy"] for how in TRAININGS)
            if len(both := scratch.index.intersection(distilled.index)):  # a seed without its other half says nothing
                scratch, distilled = scratch[both], distilled[both]
            mean, half, count = paired(scratch, distilled)
            interval = "" if math.isnan(half) else f" ± {100 * half:.1f}"
            cells += [f"{file['width']:g}", _size(file), f"{file['macs'] / 1e6:.2f} M", f"{file['latency_ms']:.3f} ms",
                      _mean(scratch), _mean(distilled), f"{100 * mean:+.1f}{interval} points" if count else "-",
                      f"{count}"]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\n{overall(trained)}\n"


def overall(students: pd.DataFrame) -> str:
    """What distillation adds, with its interval over networks of a width on a set, on each set too, and over seeds."""
    keys = ["data", "network", "width", *PAIRED]
    trained = {name: group.set_index(keys)["test_accuracy"] for name, group in students.groupby("training")}
    if trained.keys() != set(TRAININGS):
        return ""
    # One row a network, one column a seed: the difference of its pair.
    pairs = (trained["distilled"] - trained["scratch"]).dropna().unstack("seed")
    lines = [f"Distilled less from scratch, {_over(pairs.mean(axis=1), 'networks')}."]
    sets = list(pairs.groupby("data"))
    lines += [f"On {name}, {_over(part.mean(axis=1), 'networks')}." for name, part in sets if len(sets) > 1]
    whole = pairs.dropna()
    if len(pairs.columns) > 1 and len(whole) > 1:
        lines += [
            f"{what} of the {len(whole)} networks that have each seed, {_over(values, 'seeds')}."
            for what, values in (("Means", whole.mean()), ("Medians", whole.median()))
        ]
    return "\n".join(lines)


def _over(differences: pd.Series, what: str) -> str:
    mean, half, count = interval(differences)
    within = "" if math.isnan(half) else f" ± {100 * half:.2f}"
    middle, better = 100 * differences.median(), int((differences > 0).sum())
    return f"over {count} {what}: {100 * mean:+.2f}{within} points, median {middle:+.2f}, better in {better}"


def _mean(accuracies: pd.Series) -> str:
    return f"{accuracies.mean():.3f}" if len(accuracies) else "-"


def _size(row: dict[str, float] | pd.Series) -> str:
    return f"{row['size_bytes'] / 1000:.0f} KB"
