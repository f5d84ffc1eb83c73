"""What a config might say of data or weights that somebody points at: found by looking, said where it is a guess."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import TaskError
from .folders import SPLIT_WORDS
from .npz import read_arrays
from .remarks import Remarks
from .tables import check_category, check_filled, plain, predicted, read_table
from .weights import read_weights

TARGETS = ("target", "label", "class", "y", "outcome")
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")
MODEL = "torchvision:mobilenet_v3_small"


@dataclass(frozen=True)
class Draft:
    """The `task:` mapping of a config, what is to be said beside its keys, and what its quality is."""

    task: Mapping[str, Any]
    said: Mapping[str, str] = field(default_factory=dict)
    quality: str = "accuracy"


def draft(path: Path, place: str) -> Draft:
    """What a config in some folder would say of a path, which it calls `place`. Raises TaskError."""
    if not path.exists():
        raise TaskError(f"{path}: no such file or folder: name a folder of images, a table, windows or weights")
    if path.is_dir():
        return _of_folder(path, place)
    kinds = {".csv": _of_table, ".parquet": _of_table, ".npz": _of_npz, **dict.fromkeys(WEIGHTS, _of_weights)}
    if path.suffix.lower() not in kinds:
        raise TaskError(
            f"{path}: is none of {', '.join(sorted(kinds))}, nor a folder of images: write a task of your own"
        )
    return kinds[path.suffix.lower()](path, place)


def _of_folder(path: Path, place: str) -> Draft:
    folders = sorted(found.name for found in path.iterdir() if found.is_dir() and not found.name.startswith("."))
    if not folders:
        raise TaskError(f"{path}: has no folders in it: images are in one for each class, or in train/, val/ and test/")
    split = {name.lower() for name in folders} <= SPLIT_WORDS
    shown = ", ".join(folders[:5]) + (", ..." if len(folders) > 5 else "")
    task = {"kind": "image_classification", "model": MODEL, "data": f"folder:{place}", "input_size": 64}
    return Draft(task, {"data": f"{'splits' if split else f'{len(folders)} classes'}: {shown}",
                        "model": "or timm:NAME, file.py:callable; weights: FILE where it is trained"})  # fmt: skip


def _of_table(path: Path, place: str) -> Draft:
    form = path.suffix.lower().removeprefix(".")
    table = read_table(path, form)
    target = next((name for name in table.columns if name.lower() in TARGETS), str(table.columns[-1]))
    check_filled(table[target], path)
    _, names = predicted(plain(table[target]), target, "auto", path, Remarks())
    dropped, why = [], []
    for name in table.columns:
        try:
            if name != target:
                check_filled(table[name], path)
                if table[name].dtype.kind not in "iuf":
                    check_category(name, plain(table[name]), path)
        except TaskError as error:
            dropped.append(name)
            why.append(str(error).removeprefix(f"task.data: {path}: column {name!r} ").partition(":")[0])
    task: dict[str, Any] = {"kind": "tabular", "data": f"{form}:{place}", "target": target}
    told = f"{len(names)} classes" if names else "a number (predicts: classes would take its values as classes)"
    said = {"target": f"by its {'name' if target.lower() in TARGETS else 'place, the last column'}: {told}",
            "kind": "or time_series, with `time`, `window` and `horizon`, where rows follow each other"}  # fmt: skip
    if dropped:
        task["drop"], said["drop"] = dropped, "; ".join(dict.fromkeys(why))
    return Draft(task, said, "accuracy" if names else "r2")


def _of_npz(path: Path, place: str) -> Draft:
    pairs, arrays = read_arrays(path, (), Remarks())
    x, y = next(iter(pairs.values()))
    given, target = arrays[x], arrays[y]
    said = f"{x} has shape {given.shape}, {given.dtype}"
    if given.dtype.kind == "f" and given.ndim in (2, 3):
        several = target.ndim == 2 and target.shape[1] > 1
        names = () if several else predicted(target.reshape(-1), y, "auto", path, Remarks())[1]
        return Draft({"kind": "time_series", "data": f"npz:{place}"}, {"data": said}, "accuracy" if names else "r2")
    task = {"kind": "image_classification", "model": MODEL, "data": f"npz:{place}", "input_size": int(given.shape[2])}
    return Draft(task, {"data": said, "model": "takes three channels; `channels: 1` for one that takes gray images"})


def _of_weights(path: Path, place: str) -> Draft:
    tensors = read_weights(path)
    name = _torchvision(tensors)
    model = f"torchvision:{name}" if name else "model.py:network"
    task = {"kind": "image_classification", "model": model, "weights": place, "data": "folder:./images",
            "input_size": 224}  # fmt: skip
    told = (
        "its weights have these names and shapes" if name else f"no torchvision model has these {len(tensors)} weights"
    )
    return Draft(task, {"model": told, "data": "a folder for each class, named as the model was trained",
                        "input_size": "as the model was trained"})  # fmt: skip


def _torchvision(tensors: Mapping[str, Tensor]) -> str | None:
    """The classifier of torchvision that has these weights, whatever its number of classes."""
    from torchvision import models

    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    for name in models.list_models(module=models):
        state: Mapping[str, Tensor] = {}
        extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        with contextlib.suppress(NotImplementedError), torch.device("meta"):  # some compute widths by tensors
            state = models.get_model(name, weights=None, **extra).state_dict()
        own = {key: tuple(tensor.shape) for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
        if own.keys() == shapes.keys() and sum(own[key] != shapes[key] for key in own) <= 2:
            return str(name)
    return None
