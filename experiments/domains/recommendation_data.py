"""Who took which item, drawn with a seed: tastes of a few dimensions, popular items, users more or less active.

Writes interactions.csv (user, item, time).

Usage: python experiments/domains/recommendation_data.py FOLDER
"""

import csv
import sys
from pathlib import Path

import numpy as np

USERS, ITEMS, TASTES = 600, 300, 6
MEAN_TAKEN = 36  # items a user, at least 8


def draw(seed: int = 0) -> list[tuple[str, str, int]]:
    """Rows of user, item and time: each user takes items without repeating any, by taste and popularity."""
    chance = np.random.default_rng(seed)
    users, items = (chance.normal(size=(count, TASTES)) for count in (USERS, ITEMS))
    popularity = np.log(1 / np.arange(1, ITEMS + 1))[chance.permutation(ITEMS)]
    liking = users @ items.T + popularity
    rows = []
    for user in range(USERS):
        count = 8 + chance.poisson(chance.exponential(MEAN_TAKEN - 8))
        # The largest of utilities with Gumbel noise are a draw without replacement by softmax.
        drawn = np.argsort(-(liking[user] + chance.gumbel(size=ITEMS)))[: min(count, ITEMS // 2)]
        times = np.sort(chance.integers(0, 10**6, len(drawn)))
        rows += [
            (f"u{user}", f"i{item}", int(time)) for item, time in zip(chance.permutation(drawn), times, strict=True)
        ]
    return [rows[index] for index in chance.permutation(len(rows))]


if __name__ == "__main__":
    with (Path(sys.argv[1]) / "interactions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user", "item", "time"), *draw()])
