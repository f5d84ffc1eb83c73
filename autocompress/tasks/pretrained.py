"""torchvision's own weights by their name, from its cache on this machine: nothing is downloaded here."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TaskError, suggest
from .weights import read_weights

PREFIX = "torchvision:"
TRANSFORMING = ("googlenet", "inception_v3")  # whose weights are for inputs that the model itself shifts
AUXILIARY = ("aux", "AuxLogits")  # classifiers that only training has


def cached_file(model: str, name: str) -> Path:
    """Where torchvision keeps a model's weights of that name. Raises TaskError where there are none, or not here."""
    known = _known(model)
    if name not in known:
        raise TaskError(f"task.weights: torchvision has no weights {name!r} of {model}: {suggest(name, known)}")
    path = Path(torch.hub.get_dir(), "checkpoints", known[name].url.rpartition("/")[2])
    if not path.is_file():
        raise TaskError(
            f"task.weights: {path}: is not there, and nothing is downloaded in a search: fetch it once by\n"
            f"  python -c \"from torchvision.models import get_weight; get_weight('{known[name]}').get_state_dict()\""
        )
    return path


class Pretrained:
    """Weights that torchvision publishes for a model, as a start for data of other classes.

    Raises TaskError for a file that is not what torchvision published, by the digest in its name.
    """

    def __init__(self, model: str, name: str) -> None:
        path = cached_file(model, name)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        wanted = path.stem.rpartition("-")[2]
        if not found.startswith(wanted):
            raise TaskError(f"task.weights: {path}: is damaged, its SHA-256 is no {wanted}...: remove and fetch it")
        self.state = {key: value for key, value in read_weights(path).items() if not key.startswith(AUXILIARY)}
        self.classes: tuple[str, ...] = tuple(_known(model)[name].meta.get("categories", ()))
        self.head = _head(model)
        self.name = f"{PREFIX}{name}"

    def give(self, model: nn.Module, whole: bool) -> None:
        """Load the weights, without those of the classifier unless it is whole. Raises TaskError where they differ."""
        own = model.state_dict()
        given: dict[str, Tensor] = {key: value for key, value in self.state.items() if whole or key not in self.head}
        for key, tensor in own.items():
            if key not in given and (whole or key not in self.head):
                raise TaskError(f"task.weights: {self.name}: has no {key!r}, which the model has")
            if key in given and given[key].shape != tensor.shape:
                raise TaskError(
                    f"task.weights: {self.name}: {key!r} has shape {tuple(given[key].shape)}, the model's "
                    f"{tuple(tensor.shape)}: take 3 channels, and the settings that the weights were made for"
                )
        model.load_state_dict({**own, **given})


def _known(model: str) -> dict[str, Any]:
    from torchvision import models

    return {each.name: each for each in models.get_model_weights(model)}


def _head(model: str) -> set[str]:
    """The weights whose shapes follow the number of classes."""
    from torchvision import models

    extra = {"aux_logits": False, "init_weights": False} if model in TRANSFORMING else {}
    with torch.device("meta"):
        two, three = (models.get_model(model, weights=None, num_classes=n, **extra).state_dict() for n in (2, 3))
    return {key for key, tensor in two.items() if tensor.shape != three[key].shape}
