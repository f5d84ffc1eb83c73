"""Pruning in cycles: a little at a time, with training in between."""

from typing import Any, Literal

Schedule = Literal["linear", "cubic"]


def targets(ratio: float, cycles: int, schedule: Schedule) -> list[float]:
    """The share that is gone after each cycle: in equal parts, or much at first (Zhu and Gupta, 2018: cubic)."""
    progress = [(cycle + 1) / cycles for cycle in range(cycles)]
    return [ratio * part if schedule == "linear" else ratio * (1 - (1 - part) ** 3) for part in progress]


def of_the_rest(shares: list[float]) -> list[float]:
    """The same shares, each counted from what the cycle before it left."""
    return [1 - (1 - now) / (1 - before) for before, now in zip([0.0, *shares], shares, strict=False)]


def expand(
    step: dict[str, Any], ratios: list[float], epochs: int, learning_rate: float, rewind: bool, alpha: float = 0.0
) -> list[dict[str, Any]]:
    """The plain steps of a pruning step in cycles: prune by each ratio, then train, which the last cycle leaves to
    what follows in the recipe. alpha: the teacher's share of the loss, 0 for none."""
    rows: list[dict[str, Any]] = []
    training = {"technique": "finetune", "epochs": epochs, "learning_rate": learning_rate, "rewind": rewind}
    if alpha:
        training = {"technique": "distill", "epochs": epochs, "learning_rate": learning_rate, "alpha": alpha}
    for ratio in ratios:
        rows += [{**step, "ratio": ratio, "cycles": 1}, training]
    return rows if rewind else rows[:-1]


def check_rewind(rewind: bool, alpha: float) -> None:
    """Raise ValueError where training in between is both: early weights learn from the labels."""
    if rewind and alpha:
        raise ValueError("rewind trains from early weights on the task's loss: leave out alpha, or rewind")
