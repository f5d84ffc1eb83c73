"""A state dict from a file that cannot run code."""

import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import TaskError
from .bounds import MOST_BYTES, check_file


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from .pt/.pth that holds tensors only. Raises TaskError for the rest."""
    check_file(path, "weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        _check_unpacked(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of plain pickles before it refuses them
            state = torch.load(path, map_location="cpu", weights_only=True)
    except TaskError:
        raise
    except pickle.UnpicklingError:
        raise TaskError(
            f"weights: {path}: holds pickled objects, which could run code: save model.state_dict() with safetensors"
        ) from None
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TaskError(
            f"weights: {path}: cannot be read ({reason}): save model.state_dict() with safetensors"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TaskError(f"weights: {path}: is no state dict: save model.state_dict() with safetensors")
    return state


def _check_unpacked(path: Path) -> None:
    """Raise TaskError for a file, which torch makes a zip archive, that would take too much memory."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        total = sum(info.file_size for info in archive.infolist())
    if total > MOST_BYTES:
        raise TaskError(f"weights: {path}: unpacks to {total:,} bytes, at most {MOST_BYTES:,} are read: save fewer")


def load_weights(model: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Give a model its weights; name is that of their file. Raises TaskError when they do not fit."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        rows = [row.strip() for row in str(error).splitlines()[1:]]
        raise TaskError(f"weights: {name}: do not fit the model: {rows[0] if rows else error}") from None
