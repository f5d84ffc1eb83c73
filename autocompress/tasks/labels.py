"""From the labels of a file, of whatever kind, to classes 0 to k - 1 and their names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TaskError
from .bounds import check_classes
from .remarks import Remarks

Labels = NDArray[Any]
SHOWN = 12


def read_labels(
    arrays: Mapping[str, Labels], names: Labels | None, where: Path, remarks: Remarks
) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """The classes of each array, counted from 0, and the names of all classes in the order of outputs.

    arrays: by the name that messages use: whole numbers or text (N,) or (N, 1), or one-hot (N, C). names: text (C,),
    where the file says the classes itself; whole numbers then count from 0. Without it the different labels, sorted,
    are the classes. Raises TaskError for anything else.
    """
    columns = {key: _column(labels, f"{where}: {key}") for key, labels in arrays.items()}
    widths = {key: labels.shape[1] if _wide(labels) else 0 for key, labels in arrays.items()}
    if len(set(widths.values())) > 1 or len({labels.dtype.kind == "U" for labels in columns.values()}) > 1:
        raise TaskError(f"task.data: {where}: {', '.join(columns)} hold labels of different kinds: store them alike")
    width = next(iter(widths.values()))
    if names is not None:
        return _by_names(columns, _names(names, width, where), where)
    if width:
        remarks.add(f"labels are one-hot: column 0 is output 0, to column {width - 1}", where)
        return columns, tuple(map(str, range(width)))
    return _by_values(columns, where, remarks)


def _wide(labels: Labels) -> bool:
    return labels.ndim == 2 and labels.shape[1] > 1


def _column(labels: Labels, where: str) -> NDArray[Any]:
    """Labels as int64 or text (N,)."""
    if labels.dtype.kind == "S":
        try:
            labels = np.char.decode(labels, "utf-8")
        except UnicodeDecodeError:
            raise TaskError(f"task.data: {where} holds bytes that are no text in UTF-8: store text") from None
    if labels.dtype.kind not in "biufU" or labels.ndim not in (1, 2):
        raise TaskError(
            f"task.data: {where} holds {labels.dtype} of shape {labels.shape}: store one class an example, as whole "
            "numbers or text (N,), or one-hot (N, classes)"
        )
    if _wide(labels):
        return _from_one_hot(labels, where)
    flat = labels.reshape(-1)
    if flat.dtype.kind == "U":
        return flat
    if flat.dtype.kind == "f" and not np.all(np.isfinite(flat) & (flat == np.floor(flat)) & (np.abs(flat) < 2**53)):
        odd = next(value for value in flat.tolist() if value != value or value % 1 or abs(value) >= 2**53)
        raise TaskError(
            f"task.data: {where} holds {odd}: classes are whole numbers or text; for regression write your own task"
        )
    if flat.dtype.kind == "u" and flat.size and int(flat.max()) >= 2**63:
        raise TaskError(f"task.data: {where} holds {int(flat.max())}: labels go up to {2**63 - 1}")
    return flat.astype(np.int64)


def _from_one_hot(labels: Labels, where: str) -> NDArray[np.int64]:
    check_classes(labels.shape[1], Path(where))
    whole = labels.dtype.kind != "U" and bool(np.all((labels == 0) | (labels == 1)))
    if not whole or not np.all(np.count_nonzero(labels, axis=1) == 1):
        raise TaskError(
            f"task.data: {where} has shape {labels.shape} but is not one-hot, a single 1 in each row: store one class "
            "an example; for several labels an example, or shares, write a task of your own"
        )
    return np.asarray(labels.argmax(axis=1), np.int64)


def _names(names: Labels, width: int, where: Path) -> tuple[str, ...]:
    found = tuple(str(name) for name in names.tolist()) if names.dtype.kind == "U" and names.ndim == 1 else ()
    if not found or len(set(found)) < len(found) or (width and width != len(found)):
        raise TaskError(
            f"task.data: {where}: classes holds {names.dtype} of shape {names.shape}: store the different names of all "
            "classes as text, in the order of the model's outputs, or leave it out"
        )
    check_classes(len(found), where)
    return found


def _by_names(
    columns: dict[str, NDArray[Any]], names: tuple[str, ...], where: Path
) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    place = {name: index for index, name in enumerate(names)}
    found = {}
    for key, labels in columns.items():
        values = labels.tolist()
        known = place.keys() if labels.dtype.kind == "U" else range(len(names))
        odd = next((value for value in values if value not in known), None)
        if odd is not None:
            raise TaskError(f"task.data: {where}: {key} holds label {odd!r}, which is none of its {len(names)} classes")
        found[key] = np.array([place[value] if labels.dtype.kind == "U" else value for value in values], np.int64)
    return found, names


def _by_values(
    columns: dict[str, NDArray[Any]], where: Path, remarks: Remarks
) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    values = np.unique(np.concatenate(list(columns.values())))
    check_classes(len(values), where)
    if values.dtype.kind == "U" or not np.array_equal(values, np.arange(len(values))):
        shown = ", ".join(map(str, values[:SHOWN].tolist())) + (", ..." if len(values) > SHOWN else "")
        named = "; an array `classes` of names in the file would say another" if where.suffix == ".npz" else ""
        remarks.add(f"labels {shown} are outputs 0 to {len(values) - 1} in this order{named}", where)
    targets = {key: np.searchsorted(values, labels).astype(np.int64) for key, labels in columns.items()}
    return targets, tuple(str(value) for value in values.tolist())
