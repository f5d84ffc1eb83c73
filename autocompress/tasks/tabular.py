"""Tables without code: a CSV or parquet file with a column to predict, classes or numbers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ..data import SPLITS, grouped_split
from ..errors import TaskError, suggest
from ..training import Training
from .bounds import check_file
from .image_data import SplitShares
from .kinds import Load, TaskKind
from .labels import read_labels
from .networks import Scaled, TabularMLP
from .protocol import Classification, Regression, Supervised
from .remarks import Remarks

if TYPE_CHECKING:
    import pandas as pd

FEW = 20  # different whole numbers in a target, up to which they are taken for classes
MOST_CATEGORIES = 10_000
USUAL = Training(epochs=30, learning_rate=3e-3)
BUILT_IN = {"mlp": f"{TabularMLP.__module__}:{TabularMLP.__name__}"}


class TabularConfig(TaskKind):
    """The `task:` mapping of a search config with `kind: tabular`.

    data is `csv:FILE` or `parquet:FILE`, target the column to predict. Columns of text or booleans are categories, as
    are those that `categories` names; all others are numbers. `drop` names columns to leave out; rows that share a
    value of the column `group` stay in one split. model is called with `numbers`, how many there are, `categories`, how
    many values each has, and `outputs`; it takes scaled numbers (N, n), codes (N, c), or both.
    """

    kind: Literal["tabular"]
    data: str = Field(pattern=r"^(csv|parquet):.+$")
    target: str
    predicts: Literal["auto", "classes", "numbers"] = "auto"
    categories: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    group: str | None = None
    model: str = Field("mlp", pattern=r"^(mlp|.+:.+)$")
    split: SplitShares = SplitShares()
    baseline: Training | None = None

    @property
    def code(self) -> str:
        """Where the model's code is."""
        return BUILT_IN.get(self.model, self.model)

    def places(self) -> list[str]:
        """Where the table lies, from the config's folder."""
        return [self.data.partition(":")[2]]

    def build(self, root: Path, load: Load) -> Supervised:
        """The task; relative paths start at root. Raises TaskError."""
        remarks, path = Remarks(), root / self.places()[0]
        table = read_table(path, self.data.partition(":")[0])
        columns = _columns(self, table, path)
        make = load(self.code, root)
        values, names = _target(self, table[self.target], path, remarks)
        parts = _parts(self, table, values if names else np.zeros(len(table)))
        inputs, sizes = _inputs(self, table[columns], parts["train"], path, remarks)
        splits: dict[str, Any] = {name: _split(inputs, values, part, not names) for name, part in parts.items()}
        numbers = inputs[0].shape[1] if inputs[0].is_floating_point() else 0
        scaling = _scaling(inputs[0][parts["train"]]) if numbers else {}
        usual: dict[str, Any] = {
            "baseline": self.baseline or USUAL,
            "notes": tuple(f"task.data: {text}" for text in remarks.lines()),
        }
        if names:
            network = _maker(make, scaling, numbers, sizes, len(names))
            return Classification(network, **splits, classes=names, **usual)
        known = values[parts["train"]]
        scale = float(known.std()) or 1.0
        network = _maker(make, {**scaling, "shift": float(known.mean()), "scale": scale}, numbers, sizes, 1)
        return Regression(network, **splits, scale=scale, **usual)


def read_table(path: Path, form: str) -> "pd.DataFrame":
    """A table of a file in UTF-8 or parquet. Raises TaskError for one that cannot be read, or has empty cells."""
    import pandas as pd

    check_file(path, "task.data")
    try:
        table = pd.read_csv(path, low_memory=False) if form == "csv" else pd.read_parquet(path)
    except UnicodeDecodeError as error:
        raise TaskError(f"task.data: {path}: byte {error.start} is no UTF-8: save it as UTF-8") from None
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise TaskError(f"task.data: {path}: cannot be read as {form}: {str(error).splitlines()[0]}") from None
    if table.columns.duplicated().any():
        raise TaskError(f"task.data: {path}: two columns are named {table.columns[table.columns.duplicated()][0]!r}")
    if not len(table):
        raise TaskError(f"task.data: {path}: has no rows")
    table.columns = [str(name) for name in table.columns]
    return table


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
        empty = np.flatnonzero(table[name].isna())
        if len(empty):
            raise TaskError(
                f"task.data: {path}: column {name!r} has {len(empty)} empty or NA cells, first in row {empty[0] + 1}: "
                "fill them, or name the column in task.drop"
            )
    return columns


def _target(
    config: TabularConfig, target: "pd.Series[Any]", path: Path, remarks: Remarks
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Classes from 0 (N,) and their names, or numbers (N,) and none."""
    if not _of_classes(config, target, remarks):
        return _numbers(target, path), ()
    found, names = read_labels({config.target: _plain(target)}, None, path, remarks)
    return found[config.target], names


def _of_classes(config: TabularConfig, target: "pd.Series[Any]", remarks: Remarks) -> bool:
    """Whether the target is one of classes: as the config says, else by its values, which is said for a guess."""
    if config.predicts != "auto":
        return config.predicts == "classes"
    if target.dtype.kind in "iu":
        few = target.nunique() <= FEW
        other = "numbers" if few else "classes"
        remarks.add(
            f"a target of {target.nunique()} different whole numbers is taken as {'classes' if few else 'numbers'}; "
            f"`predicts: {other}` says otherwise",
            config.target,
        )
        return few
    return target.dtype.kind != "f"


def _plain(column: "pd.Series[Any]") -> NDArray[Any]:
    """Values as numpy has them: whole numbers, floats, or text."""
    return column.to_numpy() if column.dtype.kind in "iuf" else column.astype(str).to_numpy(dtype=np.str_)


def _numbers(column: "pd.Series[Any]", path: Path) -> NDArray[np.float32]:
    """A column as finite numbers. Raises TaskError."""
    if column.dtype.kind not in "iufb":
        raise TaskError(
            f"task.data: {path}: column {column.name!r} holds text, such as {str(column.iloc[0])!r}, no numbers"
        )
    values = column.to_numpy(np.float32)
    odd = np.flatnonzero(~np.isfinite(values))
    if len(odd):
        raise TaskError(f"task.data: {path}: column {column.name!r} has {values[odd[0]]} in row {odd[0] + 1}")
    return values


def _parts(config: TabularConfig, table: "pd.DataFrame", labels: NDArray[Any]) -> dict[str, NDArray[np.int64]]:
    """Positions by split: by class, or whole groups. Raises TaskError for an empty split."""
    if config.group is None:
        parts = config.split.parts(labels)
    else:
        shares = (1 - config.split.validation - config.split.test, config.split.validation, config.split.test)
        _, groups = np.unique(_plain(table[config.group]), return_inverse=True)
        split = grouped_split(groups, shares, config.split.seed)
        parts = {name: part.numpy() for name, part in zip(SPLITS, split, strict=True)}
    empty = next((name for name in SPLITS if not len(parts[name])), None)
    if empty is not None:
        raise TaskError(f"task.split: no row is in the split {empty!r}: give it a larger share, or more rows or groups")
    return parts


def _inputs(
    config: TabularConfig, table: "pd.DataFrame", train: NDArray[np.int64], path: Path, remarks: Remarks
) -> tuple[tuple[Tensor, ...], list[int]]:
    """Numbers (N, n) and codes (N, c), those that there are, and how many codes each category has.

    Codes count the values of the training split from 1; 0 is whatever else comes.
    """
    numbers, codes, sizes = [], [], []
    for name in table.columns:
        column = table[name]
        if name not in config.categories and column.dtype.kind in "iuf":
            numbers.append(_numbers(column, path))
            continue
        values = _plain(column).astype(np.str_)
        _check_category(config, name, values, path)
        known = np.unique(values[train])
        place = np.minimum(np.searchsorted(known, values), len(known) - 1)
        found = known[place] == values
        if not found.all():
            remarks.add("values that the training split lacks are all taken as one more category", name)
        codes.append(np.where(found, place + 1, 0))
        sizes.append(len(known) + 1)
    tensors = [torch.from_numpy(np.stack(part, axis=1)) for part in (numbers, codes) if part]
    return tuple(tensors), sizes


def _check_category(config: TabularConfig, name: str, values: NDArray[np.str_], path: Path) -> None:
    """Raise TaskError for a column that is no category by its looks, unless the config says that it is one."""
    different = np.unique(values)
    if len(different) > MOST_CATEGORIES:
        raise TaskError(f"task.data: {path}: column {name!r} has {len(different):,} different values: task.drop it")
    if name in config.categories:
        return
    figures = [_is_number(value) for value in different]
    if 0 < sum(figures) < len(figures) and sum(figures) * 2 > len(figures):
        odd = str(different[figures.index(False)])
        row = int(np.flatnonzero(values == odd)[0]) + 1
        raise TaskError(
            f"task.data: {path}: column {name!r} holds {odd!r} in row {row} among numbers: correct it, or name the "
            "column in task.categories or task.drop"
        )
    if len(different) > FEW and len(different) * 2 > len(values):
        raise TaskError(
            f"task.data: {path}: column {name!r} has {len(different)} different values in {len(values)} rows: name it "
            "in task.drop, or in task.categories if it is one"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _split(
    inputs: Sequence[Tensor], values: NDArray[Any], part: NDArray[np.int64], numbers: bool
) -> "torch.utils.data.TensorDataset":
    """The rows of a split; a target that is a number is a column of one."""
    targets = torch.from_numpy(values[part])
    return torch.utils.data.TensorDataset(
        *(tensor[part] for tensor in inputs), targets[:, None] if numbers else targets
    )


def _scaling(numbers: Tensor) -> dict[str, Any]:
    std = numbers.std(dim=0, correction=0)
    return {"mean": numbers.mean(dim=0), "std": torch.where(std > 0, std, torch.ones(()))}


def _maker(
    make: Callable[..., nn.Module], scaling: Mapping[str, Any], numbers: int, categories: Sequence[int], outputs: int
) -> Callable[[], nn.Module]:
    def model() -> nn.Module:
        """The network between numbers as they come and numbers as it learns them."""
        return Scaled(make(numbers=numbers, categories=list(categories), outputs=outputs), **scaling)

    return model
