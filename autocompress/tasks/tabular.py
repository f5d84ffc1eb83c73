"""Tables without code: a CSV or parquet file with a column to predict, classes or numbers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ..errors import TaskError, suggest
from ..training import Training
from .class_weights import Weighted
from .image_data import SplitShares
from .kinds import Load, TaskKind
from .networks import Scaled, TabularMLP, spread
from .preparation import Preparation
from .protocol import Array, Classification, Regression, Supervised
from .remarks import Remarks
from .tables import (
    Predicts,
    category,
    check_category,
    check_filled,
    divided,
    numbers,
    plain,
    predicted,
    read_table,
    table_of,
)

if TYPE_CHECKING:
    import pandas as pd

MOST_CATEGORIES = 10_000
USUAL = Training(epochs=30, learning_rate=3e-3)


class RowPreparation(Preparation):
    """Rows of a table: `numbers` names the columns that are such, `categories` the known values of all others."""

    example: ClassVar[str] = '"rows.csv"'

    numbers: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]

    def arrays(self, raw: Any) -> tuple[Array, ...]:
        """Numbers (N, n) and codes (N, c), those that there are, of a DataFrame, a file, or mappings. Raises TaskError.

        Codes count the known values from 1; 0 is whatever else comes.
        """
        return self.of_table(table_of(raw, (*self.numbers, *self.categories)), Path("the rows"))

    def of_table(self, table: "pd.DataFrame", where: Path) -> tuple[Array, ...]:
        """The same of a table that has all columns. Raises TaskError that names where it is from."""
        floats = [numbers(table[name].to_numpy(), name, where) for name in self.numbers]
        codes = [coded(category(table[name]), known) for name, known in self.categories.items()]
        return tuple(np.stack(part, axis=1) for part in (floats, codes) if part)

    def said(self) -> tuple[str, ...]:
        """How each input is made, in words."""
        named = ", ".join(map(repr, self.numbers))
        said = [f"numbers (N, {len(self.numbers)}) as they come, in this order: {named}"] if named else []
        listed = []
        for name, known in self.categories.items():
            values = ", ".join(f"{index} for {value!r}" for index, value in enumerate(known, 1))
            listed.append(f"{name!r} is {values}, 0 for anything else")
        return tuple([*said, f"codes (N, {len(listed)}): {'; '.join(listed)}"] if listed else said)


def coded(values: NDArray[np.str_], known: Sequence[str]) -> NDArray[np.int64]:
    """The place of each value (N,) among known ones in their order, from 1; 0 for others."""
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found: NDArray[np.int64] = np.where(np.asarray(known)[place] == values, place + 1, 0)
    return found


class TabularConfig(Weighted, TaskKind):
    """The `task:` mapping of a search config with `kind: tabular`.

    data is `csv:FILE` or `parquet:FILE`, target the column to predict. Columns of text or booleans are categories, as
    are those that `categories` names; all others are numbers. `drop` names columns to leave out; rows that share a
    value of the column `group` stay in one split. model is called with `numbers`, how many there are, `categories`, how
    many values each has, and `outputs`; it takes scaled numbers (N, n), codes (N, c), or both.
    """

    networks: ClassVar[Mapping[str, type]] = {"mlp": TabularMLP}
    preparation: ClassVar[type[RowPreparation]] = RowPreparation
    kind: Literal["tabular"]
    data: str = Field(pattern=r"^(csv|parquet):.+$")
    target: str
    predicts: Predicts = "auto"
    categories: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    group: str | None = None
    model: str = Field("mlp", pattern=r"^(mlp|.+:.+)$")
    split: SplitShares = SplitShares()
    baseline: Training | None = None

    def build(self, root: Path, load: Load) -> Supervised:
        """The task; relative paths start at root. Raises TaskError."""
        remarks, path = Remarks(), root / self.places()[0]
        table = read_table(path, self.data.partition(":")[0])
        columns = _columns(self, table, path)
        make = load(self.code, root)
        values, names = predicted(plain(table[self.target]), self.target, self.predicts, path, remarks)
        groups = None if self.group is None else plain(table[self.group])
        parts = divided(self.split, values if names else np.zeros(len(table)), groups)
        inputs, preparation = _inputs(self, table[columns], parts["train"], path, remarks)
        sizes = [len(known) + 1 for known in preparation.categories.values()]
        splits: dict[str, Any] = {name: _split(inputs, values, part, not names) for name, part in parts.items()}
        count = inputs[0].shape[1] if inputs[0].is_floating_point() else 0
        scaling = spread(inputs[0][parts["train"]]) if count else {}
        usual: dict[str, Any] = {
            "baseline": self.baseline or USUAL,
            "notes": tuple(f"task.data: {text}" for text in remarks.lines()),
            "preparation": preparation,
            "inputs": preparation.said(),
        }
        if names:
            network = _maker(make, scaling, count, sizes, len(names))
            weights = self.weights_of(names, values[parts["train"]])
            return Classification(network, **splits, classes=names, class_weights=weights, **usual)
        self.no_weights()
        known = values[parts["train"]]
        scale = float(known.std()) or 1.0
        network = _maker(make, {**scaling, "shift": float(known.mean()), "scale": scale}, count, sizes, 1)
        return Regression(network, **splits, scale=scale, **usual)


def _columns(config: TabularConfig, table: "pd.DataFrame", path: Path) -> list[str]:
    """The columns that are inputs. Raises TaskError for names that are not there, and for empty cells."""
    special = {"target": (config.target,), "group": (config.group,) if config.group else (),
               "drop": config.drop, "categories": config.categories}  # fmt: skip
    for key, names in special.items():
        for name in names:
            if name not in table:
                raise TaskError(f"task.{key}: {path} has no column {name!r}: {suggest(name, table.columns)}")
    left = {*config.drop, config.target, *((config.group,) if config.group else ())}
    columns = [name for name in table.columns if name not in left]
    if not columns:
        raise TaskError(f"task.data: {path}: has no column but {', '.join(sorted(left))}: nothing to predict from")
    for name in (*columns, *left - set(config.drop)):
        check_filled(table[name], path)
    return columns


def _inputs(
    config: TabularConfig, table: "pd.DataFrame", train: NDArray[np.int64], path: Path, remarks: Remarks
) -> tuple[tuple[Tensor, ...], RowPreparation]:
    """Numbers (N, n) and codes (N, c), those that there are, and how both are made."""
    named: list[str] = []
    categories: dict[str, tuple[str, ...]] = {}
    for name in table.columns:
        column = table[name]
        if name not in config.categories and column.dtype.kind in "iuf":
            named.append(name)
            continue
        values = category(column)
        if len(np.unique(values)) > MOST_CATEGORIES:
            raise TaskError(
                f"task.data: {path}: column {name!r} has more than {MOST_CATEGORIES:,} values: task.drop it"
            )
        if name not in config.categories:
            check_category(name, values, path)
        known = np.unique(values[train])
        if not np.isin(values, known).all():
            remarks.add("values that the training split lacks are all taken as one more category", name)
        categories[name] = tuple(known.tolist())
    preparation = RowPreparation(kind=config.kind, numbers=tuple(named), categories=categories)
    return tuple(map(torch.from_numpy, preparation.of_table(table, path))), preparation


def _split(
    inputs: Sequence[Tensor], values: NDArray[Any], part: NDArray[np.int64], numbers: bool
) -> "torch.utils.data.TensorDataset":
    """The rows of a split; a target that is a number is a column of one."""
    targets = torch.from_numpy(values[part])
    return torch.utils.data.TensorDataset(
        *(tensor[part] for tensor in inputs), targets[:, None] if numbers else targets
    )


def _maker(
    make: Callable[..., nn.Module], scaling: Mapping[str, Any], numbers: int, categories: Sequence[int], outputs: int
) -> Callable[[], nn.Module]:
    def model() -> nn.Module:
        """The network between numbers as they come and numbers as it learns them."""
        return Scaled(make(numbers=numbers, categories=list(categories), outputs=outputs), **scaling)

    return model
