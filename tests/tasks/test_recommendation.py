"""Recommendation without code: what is held out, ranked and counted, and interactions that cannot be used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from autocompress.errors import TaskError
from autocompress.tasks import load_task, refer
from autocompress.tasks.recommendation import Ranking, RecommendationConfig

USERS, ITEMS = 15, 40


def interactions() -> pd.DataFrame:
    """Each user takes 5 to 9 items, one after the other."""
    chance = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        items = chance.choice(ITEMS, int(chance.integers(5, 10)), replace=False)
        times = np.sort(chance.choice(10_000, len(items), replace=False))
        rows += [(f"u{user}", f"i{item}", int(time)) for item, time in zip(items, times, strict=True)]
    return pd.DataFrame(rows, columns=["user", "item", "time"]).sample(frac=1, random_state=0)


def made(root: Path, table: pd.DataFrame, **settings: Any) -> Any:
    table.to_csv(root / "taken.csv", index=False)
    given = {"kind": "recommendation", "data": "csv:taken.csv", "candidates": 20, "k": 5, **settings}
    return load_task(refer(RecommendationConfig.model_validate(given), root))


def pairs(task: Any, split: str) -> pd.DataFrame:
    """Rows of a split: user, item, whether it was taken, and the list that it is in, users and items by their names."""
    users, items, target = task.split(split).tensors
    names = [text.partition("): ")[2].partition(";")[0] for text in task.inputs]
    known = [
        {int(code): name.strip("'") for code, name in (part.split(" for ") for part in text.split(", "))}
        for text in names
    ]
    return pd.DataFrame({
        "user": [known[0][int(user)] for user in users], "item": [known[1][int(item)] for item in items],
        "taken": target[:, 0], "list": target[:, 1],
    })  # fmt: skip


def test_the_last_item_of_each_user_is_for_test_and_the_one_before_for_validation(tmp_path: Path) -> None:
    table = interactions()
    task = made(tmp_path, table, time="time")
    ordered = table.sort_values("time").groupby("user")["item"].apply(list)
    found = {name: pairs(task, name) for name in ("train", "validation", "test")}
    for user, items in ordered.items():
        held = {
            name: part[(part["user"] == user) & (part["taken"] == 1)]["item"].tolist() for name, part in found.items()
        }
        assert held["test"] == items[-1:]
        assert held["validation"] == items[-2:-1]
        assert sorted(held["train"]) == sorted(items[:-2])
        others = found["test"][(found["test"]["user"] == user) & (found["test"]["taken"] == 0)]["item"]
        assert len(set(others)) == 20
        assert not set(others) & set(items), "candidates are items that the user has in no row"
        negatives = found["train"][(found["train"]["user"] == user) & (found["train"]["taken"] == 0)]["item"]
        assert len(negatives) == 4 * len(items[:-2])
        assert not set(negatives) & set(items[:-2])


@given(st.integers(0, 10_000), st.integers(1, 8), st.booleans())
def test_metrics_are_those_of_a_plain_loop_and_of_scikit_learn(seed: int, k: int, ties: bool) -> None:
    chance = np.random.default_rng(seed)
    scores = chance.normal(size=(6, 9)).round(0 if ties else 9)
    target = np.zeros((6, 9, 2), np.int64)
    target[:, 0, 0], target[:, :, 1] = 1, np.arange(6)[:, None]
    found = Ranking(torch.nn.Identity, (), (), (), k=k).metrics(scores.ravel(), target.reshape(-1, 2))
    expected = ndcg_score(target[:, :, 0], scores, k=k)  # which also takes the mean over all orders of ties
    assert found["ndcg"] == pytest.approx(expected)
    hits = []
    for row in scores:
        before, alike = int((row > row[0]).sum()), int((row == row[0]).sum())
        hits.append(sum(place < k for place in range(before, before + alike)) / alike)
    assert found["hit_rate"] == pytest.approx(np.mean(hits))


def test_ratings_below_the_limit_count_as_touched_and_not_as_liked(tmp_path: Path) -> None:
    table = interactions().assign(stars=lambda rows: np.arange(len(rows)) % 5 + 1)
    task = made(tmp_path, table, time="time", rating="stars", at_least=3)
    liked = table[table["stars"] >= 3]
    every = pd.concat([pairs(task, name) for name in ("train", "validation", "test")])
    taken = set(map(tuple, every[every["taken"] == 1][["user", "item"]].to_numpy()))
    assert taken <= set(map(tuple, liked[["user", "item"]].to_numpy()))
    ranked = pairs(task, "test")
    others = set(map(tuple, ranked[ranked["taken"] == 0][["user", "item"]].to_numpy()))
    assert not others & set(map(tuple, table[["user", "item"]].to_numpy())), "what was disliked is no candidate"


def spoiled(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[], pd.DataFrame]:
    return lambda: change(interactions())


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        (interactions, {"user": "usr"}, "task.user: .* has no column 'usr': did you mean 'user'"),
        (
            spoiled(lambda t: t.assign(item=t["item"].where(t.index != t.index[2]))),
            {},
            "column 'item' has 1 empty or NA",
        ),
        (spoiled(lambda t: t.groupby("user").head(2)), {}, "no user has 3 different items"),
        (interactions, {"candidates": 39}, "task.candidates: .* are to be ranked: lower task.candidates to"),
        (spoiled(lambda t: t.assign(stars="good")), {"rating": "stars", "at_least": 3}, "holds text"),
        (spoiled(lambda t: t.assign(stars=1)), {"rating": "stars", "at_least": 3}, "no row has a 'stars' of 3 or more"),
        (spoiled(lambda t: t.assign(time="yesterday")), {"time": "time"}, "holds no times"),
    ],
)
def test_what_cannot_be_used_is_refused(
    table: Callable[[], pd.DataFrame], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match=message):
        made(tmp_path, table(), **settings)


def test_what_is_left_out_or_drawn_is_said(tmp_path: Path) -> None:
    once = pd.DataFrame([("once", "i1", 5)], columns=["user", "item", "time"])
    table = pd.concat([interactions(), interactions().head(4), once])
    notes = " ".join(made(tmp_path, table).notes)
    for words in ("come again are taken once", "fewer than 3 different items are left out: 'once'", "drawn at random",
                  "20 others", "how many users have them comes to an ndcg of"):  # fmt: skip
        assert words in notes
