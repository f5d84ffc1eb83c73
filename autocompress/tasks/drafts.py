"""What a config might say of data or weights that somebody points at: found by looking, said where it is a guess."""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import TaskError
from .audio_classification import SOUNDS
from .folders import SPLIT_WORDS, hidden
from .mask_files import HOMES, MASKS, read_mask
from .npz import read_arrays
from .remarks import Remarks
from .sound_files import read_header
from .tables import check_category, check_filled, plain, predicted, read_table
from .weights import read_weights

TARGETS = ("target", "label", "class", "y", "outcome")
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")
MODEL = "torchvision:mobilenet_v3_small"
LOOKED_AT = 50  # files of a folder
WORDS = 4  # that a text has on average, at least
BORDER = 255  # what masks often hold where nobody says the class
SPEAKER = re.compile("^(.+)_nohash_")  # as in names of the Speech Commands data


@dataclass(frozen=True)
class Draft:
    """The `task:` mapping of a config, what is to be said beside its keys, and what its quality is."""

    task: Mapping[str, Any]
    said: Mapping[str, str] = field(default_factory=dict)
    quality: str = "accuracy"


def draft(path: Path, place: str) -> Draft:
    """What a config in some folder would say of a path, which it calls `place`. Raises TaskError."""
    if not path.exists():
        raise TaskError(
            f"{path}: no such file or folder: name a folder of images or sounds, a table, windows or weights"
        )
    if path.is_dir():
        return _of_folder(path, place)
    kinds = {".csv": _of_table, ".parquet": _of_table, ".npz": _of_npz, **dict.fromkeys(WEIGHTS, _of_weights)}
    if path.suffix.lower() not in kinds:
        raise TaskError(
            f"{path}: is none of {', '.join(sorted(kinds))}, nor a folder of images or sounds: write a task of your own"
        )
    return kinds[path.suffix.lower()](path, place)


def _of_folder(path: Path, place: str) -> Draft:
    inside = sorted(found for found in path.iterdir() if found.is_dir() and not hidden(found.name))
    folders = [found.name for found in inside]
    if (path / "config.json").is_file():
        read = {"kind": "text_classification", "model": f"transformers:{place}", "data": "csv:./texts.csv"}
        return Draft(read, {"data": "columns `text` and `label`, or as `text:` and `label:` say"})
    if not folders:
        raise TaskError(f"{path}: has no folders in it: images are in one for each class, or in train/, val/ and test/")
    split = {name.lower() for name in folders} <= SPLIT_WORDS
    parts = inside if split else [path]
    if all((part / home).is_dir() for part in parts for home in HOMES):
        return _of_masks(parts, place)
    shown = ", ".join(folders[:5]) + (", ..." if len(folders) > 5 else "")
    said = {"data": f"{'splits' if split else f'{len(folders)} classes'}: {shown}"}
    sounds = [file for file in _some_files(path) if file.suffix.lower() in SOUNDS.suffixes]
    if sounds:
        return _of_sounds(sounds, place, said)
    task = {"kind": "image_classification", "model": MODEL, "data": f"folder:{place}", "input_size": 64}
    return Draft(task, {**said, "model": "or timm:NAME, file.py:callable; weights: FILE where it is trained"})


def _some_files(path: Path) -> list[Path]:
    """Files that are data or stand for it, the first LOOKED_AT of every folder."""
    found: list[Path] = []
    for here, inside, files in os.walk(path):
        inside[:] = sorted(name for name in inside if not hidden(name))
        found += [Path(here) / name for name in sorted(files)[:LOOKED_AT] if not hidden(name)]
    return found


def _of_masks(parts: Sequence[Path], place: str) -> Draft:
    masks = [file for part in parts for file in _some_files(part / HOMES[1]) if file.suffix.lower() in MASKS.suffixes]
    values = set(np.unique(np.concatenate([np.unique(read_mask(file)) for file in masks])).tolist() if masks else ())
    task: dict[str, Any] = {"kind": "image_segmentation", "data": f"folder:{place}", "input_size": 64}
    said = {"data": f"the {len(masks)} masks looked at hold indices {min(values)} to {max(values)}; `classes: "
            "[...]` may name them" if values else "images/ and masks/",
            "kind": "model: unet unless given, or file.py:network"}  # fmt: skip
    if BORDER in values and values - {BORDER} == set(range(len(values) - 1)) and len(values) > 2:
        task["ignore"], said["ignore"] = BORDER, "a guess: pixels of this index are of no class"
    return Draft(task, said, "mean_iou")


def _of_sounds(files: Sequence[Path], place: str, said: Mapping[str, str]) -> Draft:
    headers = [read_header(file) for file in files]
    rates = [header.rate for header in headers]
    rate = max(set(rates), key=rates.count)
    seconds = max(0.1, round(float(np.median([header.length / header.rate for header in headers])), 1))
    task: dict[str, Any] = {"kind": "audio_classification", "data": f"folder:{place}", "sample_rate": rate}
    told = {**said, "seconds": "half of the sounds are shorter, and filled with zeros; the others are cut"}
    task["seconds"] = seconds
    if len(set(rates)) > 1:
        task["resample"], told["resample"] = True, f"as there are rates from {min(rates)} to {max(rates)} Hz"
    if all(SPEAKER.search(file.name) for file in files):
        task["group"], told["group"] = SPEAKER.pattern, "who speaks, by the looks of file names: in one split each"
    else:
        told["kind"] = "`group: ^(.+?)_` keeps files whose names begin alike, such as a speaker's, in one split"
    return Draft(task, told)


def _of_table(path: Path, place: str) -> Draft:
    form = path.suffix.lower().removeprefix(".")
    table = read_table(path, form)
    target = next((name for name in table.columns if name.lower() in TARGETS), str(table.columns[-1]))
    check_filled(table[target], path)
    _, names = predicted(plain(table[target]), target, "auto", path, Remarks())
    task: dict[str, Any]
    text = next((name for name in table.columns if name != target and _of_words(table[name])), None)
    if text is not None and names:
        task = {"kind": "text_classification", "data": f"{form}:{place}", "text": text, "label": target}
        task["model"] = "transformers:./model"
        return Draft(task, {"text": "by its words", "label": f"{len(names)} classes",
                            "model": "a folder that save_pretrained wrote, its tokenizer in it"})  # fmt: skip
    dropped, why = list[str](), list[str]()
    for name in table.columns:
        try:
            if name != target:
                check_filled(table[name], path)
                if table[name].dtype.kind not in "iuf":
                    check_category(name, plain(table[name]), path)
        except TaskError as error:
            dropped.append(name)
            why.append(str(error).removeprefix(f"task.data: {path}: column {name!r} ").partition(":")[0])
    task = {"kind": "tabular", "data": f"{form}:{place}", "target": target}
    told = f"{len(names)} classes" if names else "a number (predicts: classes would take its values as classes)"
    said = {"target": f"by its {'name' if target.lower() in TARGETS else 'place, the last column'}: {told}",
            "kind": "or time_series, with `time`, `window` and `horizon`, where rows follow each other"}  # fmt: skip
    if dropped:
        task["drop"], said["drop"] = dropped, "; ".join(dict.fromkeys(why))
    return Draft(task, said, "accuracy" if names else "r2")


def _of_words(column: Any) -> bool:
    """Whether a column holds sentences: of several words, and seldom the same."""
    if column.dtype.kind in "iufbM" or column.isna().any():
        return False
    values = column.astype(str)
    return bool(values.str.split().str.len().mean() >= WORDS and values.nunique() * 2 > len(values))


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
