"""Recommendation without code: who took which item, from a CSV or parquet file; held-out items are ranked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ..errors import TaskError, suggest
from ..training import Training
from .bounds import MOST_BYTES
from .kinds import Load, TaskKind
from .networks import NeuralMF
from .preparation import Preparation
from .protocol import Array, Supervised
from .remarks import Remarks
from .tables import check_filled, moments, numbers, plain, read_table, table_of

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 3  # interactions of a user: one to learn from, one to choose by, one to confirm on
MOST_RANKED = 10_000  # users whose items are ranked in a split
MOST_LISTED = 10_000
ROW_BYTES = 4 * 8
USUAL = Training(epochs=10, learning_rate=3e-3, batch_size=256, weight_decay=0.3)
Codes = NDArray[np.int64]


class PairPreparation(Preparation):
    """Users and items in two columns; `users` and `items` are the values that codes from 0 stand for."""

    example: ClassVar[str] = '"pairs.csv"'

    columns: tuple[str, str]
    users: tuple[str | int | float, ...]
    items: tuple[str | int | float, ...]

    def arrays(self, raw: Any) -> tuple[Array, ...]:
        """Codes of users (N,) and items (N,) of a DataFrame, a file, or mappings. Raises TaskError for unknown ones."""
        table = table_of(raw, self.columns)
        return tuple(_codes(plain(table[name]), known, name) for name, known in zip(
            self.columns, (self.users, self.items), strict=True))  # fmt: skip


def _codes(values: NDArray[Any], known: tuple[str | int | float, ...], name: str) -> Codes:
    place = {value: code for code, value in enumerate(known)}
    missing = next((value for value in values.tolist() if value not in place), None)
    if missing is not None:
        raise TaskError(f"{name} {missing!r} is none of the {len(known):,} that the model was trained on")
    return np.array([place[value] for value in values.tolist()], np.int64)


class RecommendationConfig(TaskKind):
    """The `task:` mapping of a search config with `kind: recommendation`.

    data is `csv:FILE` or `parquet:FILE` with a row an interaction and the columns `user` and `item`; with `rating` only
    rows of `at_least` so much count. A user's last interaction by `time` is for test and the one before for validation,
    both drawn at random without it. Each interaction is learned beside `negatives` items that the user has not in the
    training split; a held-out item is ranked among `candidates` that the user has in no row, and what counts are the
    first `k`. model is called with `users` and `items`, how many there are; it takes their codes (N,) and (N,) and
    gives a score a row (N,).
    """

    networks: ClassVar[Mapping[str, type]] = {"mlp": NeuralMF}
    preparation: ClassVar[type[PairPreparation]] = PairPreparation
    kind: Literal["recommendation"]
    data: str = Field(pattern=r"^(csv|parquet):.+$")
    user: str = "user"
    item: str = "item"
    rating: str | None = None
    at_least: float | None = Field(None, allow_inf_nan=False)
    time: str | None = None
    negatives: int = Field(4, ge=1, le=100)
    candidates: int = Field(100, ge=1, le=10_000)
    k: int = Field(10, ge=1)
    seed: int = Field(0, ge=0)
    model: str = Field("mlp", pattern=r"^(mlp|.+:.+)$")
    baseline: Training | None = None

    @model_validator(mode="after")
    def _belongs_together(self) -> "RecommendationConfig":
        if (self.rating is None) != (self.at_least is None):
            raise ValueError("`rating` and `at_least` go together: the column, and from what value on an item is liked")
        if self.k > self.candidates:
            raise ValueError(f"k is {self.k} but candidates {self.candidates}: nearly every rank would be a hit")
        named = [name for name in (self.user, self.item, self.rating, self.time) if name is not None]
        if len(set(named)) < len(named):
            raise ValueError("user, item, rating and time are four columns: two of them have one name")
        return self

    def build(self, root: Path, load: Load) -> "Ranking":
        """The task; relative paths start at root. Raises TaskError."""
        path, remarks = root / self.places()[0], Remarks()
        taken = _interactions(self, read_table(path, self.data.partition(":")[0]), path, remarks)
        splits, counts = _splits(self, taken, path, remarks)
        make, users, items = load(self.code, root), len(taken.users), len(taken.items)
        inputs = (f"users (N,): {_listed(taken.users)}", f"items (N,): {_listed(taken.items)}; a score a row")
        kept = PairPreparation(kind=self.kind, columns=(self.user, self.item), users=tuple(taken.users.tolist()),
                               items=tuple(taken.items.tolist()))  # fmt: skip
        ranking = Ranking(
            lambda: make(users=users, items=items),
            **splits,
            baseline=self.baseline or USUAL,
            k=self.k,
            inputs=inputs,
            preparation=kept,
        )
        popular = ranking.metrics(*_by_count(counts, splits["validation"]))["ndcg"]
        said = [
            *remarks.lines(),
            *(() if self.time else ("which interactions are held out is drawn at random; `time` holds out the last",)),
            f"ndcg and hit_rate are those of the first {self.k} among the held-out item and {self.candidates} others "
            f"drawn at random, not among all {items:,}",
            f"to rank items by how many users have them comes to an ndcg of {popular:.4g} on validation",
        ]
        return replace(ranking, notes=tuple(f"task.data: {text}" for text in said))


@dataclass(frozen=True)
class Ranking(Supervised):
    """A task of scoring pairs of users and items, so that what a user takes stands before what it does not.

    Outputs are scores (N,), targets (N, 2): whether the user took the item, and the number of the list that the pair
    is ranked in, which holds one item that was taken. notes: what is said of the data before a search.
    """

    quality: str = "ndcg"
    k: int = 10
    notes: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy of each pair."""
        return nn.functional.binary_cross_entropy_with_logits(output.reshape(len(target)), target[:, 0].float())

    def metrics(self, output: Array, target: Array) -> dict[str, float]:
        """Hit rate and NDCG of the first k of each list, the mean over all orders of what has equal scores."""
        scores = output.reshape(len(target)).astype(np.float64)
        taken = target[:, 0] == 1
        if not taken.any() or np.isnan(scores).any():
            return {"ndcg": float("nan"), "hit_rate": float("nan")}
        lists, member = np.unique(target[:, 1], return_inverse=True)
        held = np.full(len(lists), np.nan)
        held[member[taken]] = scores[taken]
        before = np.bincount(member, scores > held[member])
        alike = np.bincount(member, scores == held[member])
        first, end = (np.minimum(place, self.k).astype(int) for place in (before, before + alike))
        gains = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, self.k + 2)))])
        whole = ~np.isnan(held)
        return {
            "ndcg": float(((gains[end] - gains[first]) / np.maximum(alike, 1))[whole].mean()),
            "hit_rate": float(((end - first) / np.maximum(alike, 1))[whole].mean()),
        }


@dataclass(frozen=True)
class _Interactions:
    """What kept users took, by user and then in the order in which it is split; touched: all pairs in the table.

    users and items are the values that codes stand for; codes (N,) each, every user with FEWEST or more.
    """

    users: NDArray[Any]
    items: NDArray[Any]
    taken: tuple[Codes, Codes]
    touched: tuple[Codes, Codes]


def _interactions(config: RecommendationConfig, table: "pd.DataFrame", path: Path, remarks: Remarks) -> _Interactions:
    """What is learned from or held out. Raises TaskError for columns that are not there or cannot be read."""
    for key in ("user", "item", "rating", "time"):
        name = getattr(config, key)
        if name is None:
            continue
        if name not in table:
            raise TaskError(f"task.{key}: {path} has no column {name!r}: {suggest(name, table.columns)}")
        check_filled(table[name], path)
    user, item = plain(table[config.user]), plain(table[config.item])
    if config.time is None:
        when: NDArray[Any] = np.random.default_rng(config.seed).permutation(len(table))
    else:
        when = moments(table[config.time], path)
    rows = np.argsort(when, kind="stable")
    rows = _once(user, item, rows[_liked(config, table, path)[rows]], remarks)
    rows = _often(user, rows, remarks, path)
    rows = rows[np.argsort(user[rows], kind="stable")]
    if config.time is not None:
        _say_ties(user[rows], when[rows], remarks)
    users, items = np.unique(user[rows]), np.unique(item[rows])
    known = np.isin(user, users) & np.isin(item, items)
    taken, touched = (
        (np.searchsorted(users, user[part]), np.searchsorted(items, item[part])) for part in (rows, known)
    )
    return _Interactions(users, items, taken, touched)


def _liked(config: RecommendationConfig, table: "pd.DataFrame", path: Path) -> NDArray[np.bool_]:
    """Which rows count. Raises TaskError where none does, or ratings are no numbers."""
    if config.rating is None or config.at_least is None:
        return np.ones(len(table), bool)
    values = table[config.rating].to_numpy()
    numbers(values, config.rating, path)
    ratings = values.astype(np.float64)
    liked: NDArray[np.bool_] = ratings >= config.at_least
    if not liked.any():
        raise TaskError(
            f"task.at_least: {path}: no row has a {config.rating!r} of {config.at_least:g} or more, the largest is "
            f"{ratings.max():g}: lower it"
        )
    return liked


def _once(user: NDArray[Any], item: NDArray[Any], rows: Codes, remarks: Remarks) -> Codes:
    """The first row of each pair: one that came again would be in two splits."""
    users, items = (np.unique(part[rows], return_inverse=True)[1] for part in (user, item))
    _, first = np.unique(_pairs(users, items), return_index=True)
    again = np.ones(len(rows), bool)
    again[first] = False
    for row in rows[again]:
        remarks.add("a user and an item that come again are taken once", f"row {row + 1}")
    return rows[~again]


def _pairs(users: Codes, items: Codes) -> Codes:
    """One number for each pair of codes (N,)."""
    return users * (1 + int(items.max())) + items


def _often(user: NDArray[Any], rows: Codes, remarks: Remarks, path: Path) -> Codes:
    """The rows of users with enough interactions. Raises TaskError where nobody has."""
    names, member, counts = np.unique(user[rows], return_inverse=True, return_counts=True)
    enough = counts >= FEWEST
    if not enough.any():
        raise TaskError(
            f"task.data: {path}: no user has {FEWEST} different items, one for each split: the most are {counts.max()}"
        )
    for name in names[~enough].tolist():
        remarks.add(f"users with fewer than {FEWEST} different items are left out", repr(name))
    return rows[enough[member]]


def _say_ties(user: NDArray[Any], when: NDArray[Any], remarks: Remarks) -> None:
    """Note users whose held-out items are such by their rows alone; both (N,) by user and time."""
    last = np.flatnonzero(np.append(user[1:] != user[:-1], True))
    tied = (when[last] == when[last - 1]) | (when[last - 1] == when[last - 2])
    for name in user[last[tied]].tolist():
        remarks.add("what a user took at one time is held out in the order of rows", repr(name))


def _splits(
    config: RecommendationConfig, taken: _Interactions, path: Path, remarks: Remarks
) -> tuple[dict[str, Any], Codes]:
    """The splits as lists of one taken item and others, and how many users have each item in the training split."""
    users, items = taken.taken
    count = len(taken.items)
    last = np.flatnonzero(np.append(users[1:] != users[:-1], True))
    held = {"validation": items[last - 1], "test": items[last]}
    train = np.ones(len(users), bool)
    train[last] = train[last - 1] = False
    _check_room(config, taken, path)
    _check_size(int(train.sum()) * (1 + config.negatives), path)
    chance = np.random.default_rng(config.seed)
    wanted = np.bincount(users[train]) * config.negatives
    # Held-out items may be among them: that they never were would tell of them.
    others = _drawn(chance, users[train], items[train], count, wanted, replace=True).reshape(-1, config.negatives)
    splits: dict[str, Any] = {"train": _lists(users[train], items[train], others)}
    counts = np.bincount(items[train], minlength=count)
    for name, positives in held.items():
        drawn = _drawn(chance, *taken.touched, count, np.full(len(last), config.candidates), replace=False)
        part = _ranked(chance, len(last), name, remarks)
        lists = drawn.reshape(-1, config.candidates)[part]
        splits[name] = _lists(users[last[part]], positives[part], lists)
        for item in taken.items[positives[part][counts[positives[part]] == 0]].tolist():
            remarks.add("held-out items that nobody has in the training split are ranked untrained", repr(item))
    return splits, counts


def _check_room(config: RecommendationConfig, taken: _Interactions, path: Path) -> None:
    """Raise TaskError where a user leaves too few items to rank among."""
    _, first = np.unique(_pairs(*taken.touched), return_index=True)
    left = len(taken.items) - np.bincount(taken.touched[0][first], minlength=len(taken.users))
    worst = int(left.argmin())
    if left[worst] < config.candidates:
        fix = f"lower task.candidates to {left[worst]}" if left[worst] else "leave that user out"
        raise TaskError(
            f"task.candidates: {path}: user {taken.users[worst].item()!r} has no row with {left[worst]} of "
            f"{len(taken.items)} items, and {config.candidates} are to be ranked: {fix}"
        )


def _check_size(rows: int, path: Path) -> None:
    if rows * ROW_BYTES > MOST_BYTES:
        raise TaskError(
            f"task.data: {path}: makes {rows:,} training examples, at most {MOST_BYTES // ROW_BYTES:,} are held: lower "
            "task.negatives, or take a part of the users"
        )


def _ranked(chance: np.random.Generator, users: int, name: str, remarks: Remarks) -> Codes:
    """The users whose held-out items are ranked."""
    if users <= MOST_RANKED:
        return np.arange(users)
    remarks.add(f"the items of {MOST_RANKED:,} of {users:,} users, drawn at random, are ranked", name)
    return np.sort(chance.choice(users, MOST_RANKED, replace=False))


def _drawn(chance: np.random.Generator, users: Codes, items: Codes, count: int, wanted: Codes, replace: bool) -> Codes:
    """For each user as many items as are wanted of those that it has no pair with, one user after the other."""
    order = np.argsort(users, kind="stable")
    pairs = np.split(items[order], np.cumsum(np.bincount(users, minlength=len(wanted)))[:-1])
    found = []
    for own, number in zip(pairs, wanted, strict=True):
        free = np.ones(count, bool)
        free[own] = False
        found.append(chance.choice(np.flatnonzero(free), number, replace=replace))
    return np.concatenate(found)


def _lists(users: Codes, items: Codes, others: Codes) -> TensorDataset:
    """Pairs of lists, the taken item (N,) first in each, then the others (N, n)."""
    each = np.concatenate([items[:, None], others], axis=1)
    target = np.zeros((*each.shape, 2), np.int64)
    target[:, 0, 0] = 1
    target[:, :, 1] = np.arange(len(each))[:, None]
    columns = np.repeat(users, each.shape[1]), each.ravel(), target.reshape(-1, 2)
    return TensorDataset(*map(torch.from_numpy, columns))


def _by_count(counts: Codes, split: TensorDataset) -> tuple[Array, Array]:
    """What scores by popularity would be, and their targets."""
    _, items, target = (tensor.numpy() for tensor in split.tensors)
    return counts[items], target


def _listed(values: NDArray[Any]) -> str:
    """What codes stand for; of very many, how they are found."""
    if len(values) > MOST_LISTED:
        return f"from 0 for {values[0].item()!r} to {len(values) - 1} for {values[-1].item()!r}, sorted"
    return ", ".join(f"{code} for {value!r}" for code, value in enumerate(values.tolist()))
