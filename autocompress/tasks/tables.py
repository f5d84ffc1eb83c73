"""What kinds of tasks over tables and series share: reading, what is predicted, and who is in which split."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..data import SPLITS, grouped_split
from ..errors import TaskError, suggest
from .bounds import check_file
from .image_data import SplitShares
from .labels import read_labels
from .preparation import is_path, several
from .remarks import Remarks

if TYPE_CHECKING:
    import pandas as pd

FEW = 20  # different whole numbers, up to which a target is taken for classes
Predicts = Literal["auto", "classes", "numbers"]


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


def table_of(raw: Any, columns: Sequence[str]) -> "pd.DataFrame":
    """Those columns of a DataFrame, the path of a CSV or parquet file, or one or several mappings. Raises TaskError."""
    import pandas as pd

    if is_path(raw):
        raw = read_table(Path(raw), "parquet" if Path(raw).suffix == ".parquet" else "csv")
    elif not isinstance(raw, pd.DataFrame):
        given = several(raw)
        odd = next((each for each in given if not isinstance(each, Mapping)), None)
        if odd is not None:
            raise TaskError(f"{odd!r} is no row: give a mapping of columns to values, a DataFrame or a path")
        raw = pd.DataFrame(list(given))
    missing = next((name for name in columns if name not in raw), None)
    if missing is not None:
        raise TaskError(f"there is no column {missing!r}: {suggest(missing, [str(name) for name in raw.columns])}")
    table: pd.DataFrame = raw[list(columns)]
    for name in columns:
        if table[name].isna().any():
            raise TaskError(f"column {name!r} has empty cells: fill them")
    return table


def check_filled(column: "pd.Series[Any]", path: Path) -> None:
    """Raise TaskError for a column with empty cells."""
    empty = np.flatnonzero(column.isna())
    if len(empty):
        raise TaskError(
            f"task.data: {path}: column {column.name!r} has {len(empty)} empty or NA cells, first in row "
            f"{empty[0] + 1}: fill them, or name the column in task.drop"
        )


def check_category(name: str, values: NDArray[np.str_], path: Path) -> None:
    """Raise TaskError for a column of text that is no category by its looks: numbers with a slip, or names of rows."""
    different = np.unique(values)
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


def predicted(
    target: NDArray[Any], name: str, predicts: Predicts, path: Path, remarks: Remarks
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Classes from 0 (N,) and their names; or numbers (N,) and none. Raises TaskError.

    What is predicted follows from the values where nobody says it, which is said where it is a guess.
    """
    if predicts == "classes" or (predicts == "auto" and _of_classes(target, name, remarks)):
        found, names = read_labels({name: target}, None, path, remarks)
        return found[name], names
    return numbers(target, name, path), ()


def _of_classes(target: NDArray[Any], name: str, remarks: Remarks) -> bool:
    if target.dtype.kind not in "iu":
        return target.dtype.kind != "f"
    different = len(np.unique(target))
    few = different <= FEW
    remarks.add(
        f"a target of {different} different whole numbers is taken as {'classes' if few else 'numbers'}; "
        f"`predicts: {'numbers' if few else 'classes'}` says otherwise",
        name,
    )
    return few


def category(column: "pd.Series[Any]") -> NDArray[np.str_]:
    """Values as names of categories: a whole number by its figures alone, whether it is read as 3, 3.0 or "3"."""
    values = plain(column)
    if values.dtype.kind != "f":
        return values.astype(np.str_)
    different, place = np.unique(values, return_inverse=True)
    return np.array([f"{value:.0f}" if value.is_integer() else str(value) for value in different.tolist()])[place]


def plain(column: "pd.Series[Any]") -> NDArray[Any]:
    """Values as numpy has them: whole numbers, floats, or text."""
    return column.to_numpy() if column.dtype.kind in "iuf" else column.astype(str).to_numpy(dtype=np.str_)


def numbers(values: NDArray[Any], name: str, path: Path) -> NDArray[np.float32]:
    """Values as finite numbers. Raises TaskError."""
    if values.dtype.kind not in "iufb":
        raise TaskError(f"task.data: {path}: column {name!r} holds text, such as {str(values.flat[0])!r}, no numbers")
    found = values.astype(np.float32)
    odd = np.argwhere(~np.isfinite(found))
    if len(odd):
        raise TaskError(f"task.data: {path}: column {name!r} has {found[tuple(odd[0])]} in row {odd[0][0] + 1}")
    if 2 * len(np.unique(found)) < len(np.unique(values)):
        raise TaskError(
            f"task.data: {path}: column {name!r} has values that are one and the same as 32-bit floats, such as near "
            f"{values.flat[0]}: take a constant off them, or drop it"
        )
    return found


def moments(column: "pd.Series[Any]", path: Path) -> NDArray[Any]:
    """Times (N,) that can be ordered: numbers as they are, dates by ISO 8601. Raises TaskError for others."""
    import pandas as pd

    if column.dtype.kind in "iuf":
        numbers_of: NDArray[Any] = column.to_numpy()
        return numbers_of
    try:
        found = pd.to_datetime(column, format="ISO8601", utc=True)
    except (ValueError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise TaskError(
            f"task.time: {path}: column {column.name!r} holds no times: {first}: write numbers, or dates as 2020-01-31 "
            "or 2020-01-31 18:30"
        ) from None
    dates: NDArray[Any] = found.to_numpy()
    return dates


def divided(
    shares: SplitShares, labels: NDArray[Any], groups: NDArray[Any] | None = None
) -> dict[str, NDArray[np.int64]]:
    """Positions by split: with their shares of every class, or whole groups. Raises TaskError for an empty split."""
    if groups is None:
        parts = shares.parts(labels)
    else:
        wanted = (1 - shares.validation - shares.test, shares.validation, shares.test)
        _, member = np.unique(groups, return_inverse=True)
        parts = {
            name: part.numpy() for name, part in zip(SPLITS, grouped_split(member, wanted, shares.seed), strict=True)
        }
    empty = next((name for name in SPLITS if not len(parts[name])), None)
    if empty is not None:
        raise TaskError(f"task.split: no example is in the split {empty!r}: give it more, or add rows or groups")
    return parts
