"""Recommendation: ranks against a plain loop and scikit-learn, splits that do not leak, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import ndcg_score
from tiny import run

from autocompress.data import SPLITS, batches
from autocompress.errors import ArtifactError, TaskError
from autocompress.measure.quality import measure_quality
from autocompress.tasks import load_task, refer
from autocompress.tasks.kinds import task_kind
from autocompress.tasks.protocol import Task
from autocompress.tasks.recommendation import Ranking, RecommendationConfig

USERS, ITEMS, EACH = 12, 30, 6


def interactions(seed: int = 0) -> pd.DataFrame:
    """Six different items a user, each at a time of its own, in no order."""
    chance = np.random.default_rng(seed)
    rows = [(f"u{user:02}", item) for user in range(USERS) for item in chance.choice(ITEMS, EACH, replace=False)]
    found = pd.DataFrame(rows, columns=["user", "item"])
    found["time"] = chance.permutation(len(found))
    return found


def task(folder: Path, frame: pd.DataFrame, **settings: Any) -> Task:
    frame.to_csv(folder / "taken.csv", index=False)
    given = {"kind": "recommendation", "data": "csv:taken.csv", "candidates": 10, "k": 5, "time": "time", **settings}
    return load_task(refer(task_kind("recommendation").model_validate(given), folder))


def rows(found: Task, name: str) -> pd.DataFrame:
    """A split as user, item, whether it was taken, and list; users and items as the table names them."""
    batch = next(batches(found.split(name), 10_000))
    users, items = (_values(said) for said in found.inputs)  # type: ignore[attr-defined]
    columns = {"user": users[batch.inputs[0].numpy()], "item": items[batch.inputs[1].numpy()]}
    return pd.DataFrame({**columns, "taken": batch.targets[:, 0].numpy(), "list": batch.targets[:, 1].numpy()})


def _values(said: str) -> np.ndarray[Any, Any]:
    listed = said.partition("(N,): ")[2].partition(";")[0].split(", ")
    assert [int(text.partition(" for ")[0]) for text in listed] == list(range(len(listed)))
    values = [yaml.safe_load(text.partition(" for ")[2]) for text in listed]
    return np.array(values)


def ranking(k: int) -> Ranking:
    return Ranking(lambda: torch.nn.Linear(1, 1), None, None, None, k=k)


Lists = st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5), min_size=1, max_size=8)


@given(Lists, st.integers(1, 4), st.randoms())
def test_ndcg_is_that_of_scikit_learn_and_hits_are_those_of_a_plain_loop(
    scores: list[list[int]], k: int, random: Any
) -> None:
    target = np.array([[int(place == 0), number] for number in range(len(scores)) for place in range(5)])
    output = np.array(scores, np.float32).ravel()
    order = list(range(len(output)))
    random.shuffle(order)
    found = ranking(k).metrics(output[order], target[order])
    true = np.eye(1, 5).repeat(len(scores), axis=0)
    assert found["ndcg"] == pytest.approx(ndcg_score(true, np.array(scores), k=k))
    hits = []
    for first, *others in scores:
        above, alike = sum(other > first for other in others), 1 + sum(other == first for other in others)
        hits.append(sum(place < k for place in range(above, above + alike)) / alike)
    assert found["hit_rate"] == pytest.approx(np.mean(hits))


def test_a_model_that_says_nothing_is_as_good_as_chance_and_one_that_breaks_down_is_refused(tmp_path: Path) -> None:
    found = task(tmp_path, interactions())
    constant = measure_quality(lambda users, items: np.zeros(len(users), np.float32), found, "test")
    assert constant["hit_rate"] == pytest.approx(5 / 11)
    with pytest.raises(ArtifactError, match="ndcg of the exported model is nan"):
        measure_quality(lambda users, items: np.full(len(users), np.nan, np.float32), found, "test")


def test_the_last_item_is_for_test_and_the_one_before_for_validation(tmp_path: Path) -> None:
    frame = interactions()
    found = task(tmp_path, frame)
    parts = {name: rows(found, name) for name in SPLITS}
    for user, own in frame.sort_values("time").groupby("user"):
        taken = {
            name: list(part["item"][(part["user"] == user) & (part["taken"] == 1)]) for name, part in parts.items()
        }
        *train, validation, test = own["item"]
        assert taken == {"train": train, "validation": [validation], "test": [test]}
    assert not any("random;" in note for note in found.notes)  # type: ignore[attr-defined]


def test_what_is_ranked_beside_was_never_touched_and_what_is_learned_beside_does_not_tell_of_other_splits(
    tmp_path: Path,
) -> None:
    frame = interactions()
    found = task(tmp_path, frame, negatives=20)
    touched = {user: set(own["item"]) for user, own in frame.groupby("user")}
    for name in ("validation", "test"):
        for _, part in rows(found, name).groupby("list"):
            assert list(part["taken"]) == [1] + [0] * 10
            assert part["user"].nunique() == 1
            assert part["item"].nunique() == 11  # candidates are drawn without repeats
            assert not touched[part["user"].iloc[0]] & set(part["item"][part["taken"] == 0])
    train = rows(found, "train")
    held = pd.concat([rows(found, name) for name in ("validation", "test")])
    held = held[held["taken"] == 1]
    chosen = 0
    for user, part in train.groupby("user"):
        learned = set(part["item"][part["taken"] == 1])
        others = set(part["item"][part["taken"] == 0])
        assert not learned & others
        chosen += len(others & set(held["item"][held["user"] == user]))
    # Were held-out items spared, never to be a negative would give them away.
    assert chosen > 0.8 * len(held)


def test_without_time_held_out_items_are_drawn_with_a_seed_and_that_is_said(tmp_path: Path) -> None:
    frame = interactions().drop(columns="time")
    first, again, other = (rows(task(tmp_path, frame, time=None, seed=seed), "test") for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert list(first["item"]) != list(other["item"])
    notes = task(tmp_path, frame, time=None).notes  # type: ignore[attr-defined]
    assert any("drawn at random; `time` holds out the last" in note for note in notes)


def test_dates_are_ordered_as_times(tmp_path: Path) -> None:
    frame = interactions()
    dated = frame.assign(time=(pd.Timestamp("2020-01-31") + pd.to_timedelta(frame["time"], unit="D")).astype(str))
    pd.testing.assert_frame_equal(rows(task(tmp_path, frame), "test"), rows(task(tmp_path, dated), "test"))


def test_only_liked_items_are_learned_but_others_are_no_candidates(tmp_path: Path) -> None:
    frame = interactions().assign(rating=0.7)
    low = frame.groupby("user").head(2).index
    frame.loc[low, "rating"] = 0.6
    found = task(tmp_path, frame, rating="rating", at_least=0.7, candidates=8)  # which no 32-bit float is
    liked, disliked = frame.drop(low), frame.loc[low]
    parts = {name: rows(found, name) for name in SPLITS}
    taken = pd.concat(parts.values()).query("taken == 1")
    assert set(zip(taken["user"], taken["item"], strict=True)) == set(zip(liked["user"], liked["item"], strict=True))
    pairs = set(zip(disliked["user"], disliked["item"], strict=True))
    for name in ("validation", "test"):
        assert not pairs & set(zip(parts[name]["user"], parts[name]["item"], strict=True))


def test_what_is_left_out_or_taken_once_is_said(tmp_path: Path) -> None:
    frame = interactions()
    again = (
        frame.sort_values("time").groupby("user").head(1).assign(time=1000)
    )  # the first item, as if it were the last
    rare = pd.DataFrame({"user": ["z1", "z1", "z2"], "item": [0, 1, 2], "time": [1, 2, 3]})
    found = task(tmp_path, pd.concat([frame, again, rare]))
    notes = "\n".join(found.notes)  # type: ignore[attr-defined]
    assert "come again are taken once: row 73 and 11 more" in notes
    assert "fewer than 3 different items are left out: 'z1' and 1 more" in notes
    assert "z1" not in found.inputs[0]  # type: ignore[attr-defined]
    expected = frame.sort_values("time").groupby("user")["item"].last()
    test = rows(found, "test").query("taken == 1").set_index("user")["item"]
    assert dict(test) == dict(expected)


def test_ties_in_time_untrained_items_and_what_popularity_comes_to_are_said(tmp_path: Path) -> None:
    frame = interactions()
    frame["time"] = np.where(frame["user"] == "u03", 7, frame["time"])
    last = frame[frame["user"] == "u00"]["time"].idxmax()
    frame.loc[last, "item"] = 99
    found = task(tmp_path, frame)
    notes = "\n".join(found.notes)  # type: ignore[attr-defined]
    assert "at one time is held out in the order of rows: 'u03'" in notes
    train, part = rows(found, "train").query("taken == 1"), rows(found, "validation")
    held = pd.concat([part, rows(found, "test")]).query("taken == 1")["item"]
    untrained = held[~held.isin(train["item"])]
    assert 99 in set(untrained)
    assert f"are ranked untrained: {untrained.iloc[0]} and {len(untrained) - 1} more" in notes
    scores = part["item"].map(train["item"].value_counts()).fillna(0).to_numpy().reshape(-1, 11)
    expected = ndcg_score(np.eye(1, 11).repeat(len(scores), axis=0), scores, k=5)
    assert f"comes to an ndcg of {expected:.4g} on validation" in notes


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({}, {"user": "usr"}, r"task.user: .* has no column 'usr': did you mean 'user'\?"),
        ({}, {"rating": "stars", "at_least": 3}, "task.rating: .* has no column 'stars'"),
        ({"item": [np.nan, *[1.0] * 71]}, {}, "'item' has 1 empty or NA cells, first in row 1"),
        ({"rating": ["good"] * 72}, {"rating": "rating", "at_least": 3}, "'rating' holds text, such as 'good'"),
        ({"rating": [2] * 72}, {"rating": "rating", "at_least": 3}, "no row has a 'rating' of 3 or more, the largest"),
        ({"time": ["soon"] * 72}, {}, "task.time: .* 'time' holds no times"),
        ({"time": ["01/02/2020"] * 72}, {}, "task.time: .* 'time' holds no times"),
        ({"user": range(72)}, {}, "no user has 3 different items, one for each split: the most are 1"),
        (
            {},
            {"candidates": 25},
            "user '.*' has no row with 21 of 27 items, and 25 are to be ranked: lower task.candidates to 21",
        ),
        ({}, {"negatives": 0}, "negatives"),
    ],
)
def test_what_is_wrong_with_interactions_is_said_before_training(
    change: dict[str, Any], settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises((TaskError, ValidationError), match=words):
        task(tmp_path, interactions().assign(**change), **settings)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rating": "stars"}, "`rating` and `at_least` go together"),
        ({"k": 11, "candidates": 10}, "k is 11 but candidates 10"),
        ({"time": "user"}, "two of them have one name"),
    ],
)
def test_settings_that_do_not_belong_together_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RecommendationConfig.model_validate({"kind": "recommendation", "data": "csv:a.csv", **given})


def tasteful() -> pd.DataFrame:
    """Forty users of two tastes, who take ten of the twenty items that they like."""
    chance = np.random.default_rng(0)
    rows = [(user, 20 * (user % 2) + int(item)) for user in range(40) for item in chance.permutation(20)[:10]]
    return pd.DataFrame(rows, columns=["user", "item"]).assign(time=np.arange(400))


SPACE = {"version": 1, "steps": [{"one_of": [{"technique": "low_bit", "bits": [6, 8]}, "float16"]}]}


def test_tastes_are_learned_and_the_file_scores_any_number_of_pairs(tmp_path: Path) -> None:
    tasteful().to_csv(tmp_path / "taken.csv", index=False)
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    described = {
        "kind": "recommendation", "data": "csv:taken.csv", "time": "time", "candidates": 25,
        "baseline": {"epochs": 30, "learning_rate": 1e-2},
    }  # fmt: skip
    config = {
        "study": "taste", "task": described, "tracking": None, "search_space": "space.yaml",
        "budget": {"size": "200 KB", "metrics": {"ndcg": 0.3}}, "search": {"trials": 2, "workers": 1},
        "objectives": ["size_bytes", "ndcg", "latency_ms"],
    }  # fmt: skip
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(config))
    ran = run(tmp_path, "search", "search.yaml", "--executor", "inline")
    assert ran.code == 0
    assert "comes to an ndcg of" in ran.err
    assert run(tmp_path, "export", "taste", "--out", "chosen").code == 0
    assert "`input_0`: users (N,): 0 for 0, 1 for 1" in (tmp_path / "chosen" / "MODEL_CARD.md").read_text()
    session = onnxruntime.InferenceSession(tmp_path / "chosen" / "model.onnx")
    names = [given.name for given in session.get_inputs()]
    own = session.run(None, dict(zip(names, (np.zeros(20, np.int64), np.arange(20)), strict=True)))[0]
    other = session.run(None, dict(zip(names, (np.zeros(20, np.int64), np.arange(20, 40)), strict=True)))[0]
    assert own.mean() > other.mean() + 1
