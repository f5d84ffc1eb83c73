"""Weights that torchvision and timm publish, by their names, from the caches on this machine: nothing is downloaded."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TaskError, suggest
from .weights import read_weights

TRANSFORMING = ("googlenet", "inception_v3")  # whose weights are for inputs that the model itself shifts
AUXILIARY = ("aux", "AuxLogits")  # classifiers that only training has
DIGEST = 64  # figures of a SHA-256
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Published:
    """Weights that somebody publishes: how they are written in a config, and where they are cached.

    digest: how their SHA-256 begins. classes: the names of theirs, where they are told. statistics: mean and deviation
    of the channels that they were made for. make: the model for so many classes.
    """

    name: str
    path: Path
    digest: str
    classes: tuple[str, ...]
    statistics: Statistics
    make: Callable[[int], nn.Module]


def check_model(source: str, name: str) -> None:
    """Raise TaskError, with the nearest name, for a model that torchvision or timm has not."""
    if source == "torchvision":
        from torchvision import models

        known = models.list_models()
    else:
        try:
            import timm
        except ImportError:
            raise TaskError("task.model: timm is not installed: pip install 'autocompress[timm]'") from None
        known = [name] if timm.is_model(name) else timm.list_models()
    if name not in known:
        near = suggest(name, known)
        hint = near if near.startswith("did") else "see the library's list of models"
        raise TaskError(f"task.model: {source} has no model {name!r}: {hint}")


def is_published(weights: str | None) -> bool:
    """Whether weights are named that are published, and no file."""
    return weights is not None and weights.partition(":")[0] in SOURCES and ":" in weights


def find_published(model: str, weights: str) -> Published:
    """The weights of a model, both as a config names them. Raises TaskError where there are none, or not here."""
    source, _, name = weights.partition(":")
    return SOURCES[source](model.partition(":")[2], name)


class Pretrained:
    """Published weights as a start for data of other classes.

    Raises TaskError for a file that is not what was published, by the digest in its name.
    """

    def __init__(self, published: Published) -> None:
        path = published.path
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(published.digest):
            raise TaskError(
                f"task.weights: {path}: is damaged, its SHA-256 is no {published.digest[:8]}...: remove and fetch it"
            )
        self.state = {key: value for key, value in read_weights(path).items() if not key.startswith(AUXILIARY)}
        self.classes, self.name, self.statistics = published.classes, published.name, published.statistics
        with torch.device("meta"):
            two, three = (published.make(count).state_dict() for count in (2, 3))
        self.head = {key for key, tensor in two.items() if tensor.shape != three[key].shape}

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
        odd = next((key for key in given if key not in own), None)
        if odd is not None:
            raise TaskError(f"task.weights: {self.name}: has {odd!r}, which the model has not: name its own weights")
        model.load_state_dict({**own, **given})


def _of_torchvision(model: str, name: str) -> Published:
    from torchvision import models

    check_model("torchvision", model)
    known = {each.name: each for each in models.get_model_weights(model)}
    if name not in known:
        raise TaskError(f"task.weights: torchvision has no weights {name!r} of {model}: {suggest(name, known)}")
    path = Path(torch.hub.get_dir(), "checkpoints", known[name].url.rpartition("/")[2])
    if not path.is_file():
        raise TaskError(
            f"task.weights: {path}: is not there, and nothing is downloaded in a search: fetch it once by\n"
            f"  python -c \"from torchvision.models import get_weight; get_weight('{known[name]}').get_state_dict()\""
        )
    extra = {"aux_logits": False, "init_weights": False} if model in TRANSFORMING else {}
    made_for = known[name].transforms()
    return Published(
        f"torchvision:{name}",
        path,
        path.stem.rpartition("-")[2],
        tuple(known[name].meta.get("categories", ())),
        (tuple(made_for.mean), tuple(made_for.std)),
        lambda count: models.get_model(model, weights=None, num_classes=count, **extra),
    )


def _of_timm(model: str, name: str) -> Published:
    check_model("timm", model)
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{model}.*")]
    if name not in tags:
        raise TaskError(f"task.weights: timm has no weights {name!r} of {model}: {suggest(name, tags)}")
    config: Any = timm.get_pretrained_cfg(f"{model}.{name}")
    file = config.hf_hub_filename or "model.safetensors"
    path = (
        try_to_load_from_cache(config.hf_hub_id, file, cache_dir=constants.HF_HUB_CACHE) if config.hf_hub_id else None
    )
    if not isinstance(path, str):
        raise TaskError(
            f"task.weights: {file} of {config.hf_hub_id} is not in {constants.HF_HUB_CACHE}, and nothing is downloaded "
            f"in a search: fetch it once by\n  python -c \"import timm; timm.create_model('{model}.{name}', "
            'pretrained=True)"'
        )
    blob = Path(path).resolve().name  # the cache calls a file by its SHA-256
    return Published(
        f"timm:{name}",
        Path(path),
        blob if len(blob) == DIGEST else "",
        tuple(config.label_names or ()),
        (tuple(config.mean), tuple(config.std)),
        lambda count: timm.create_model(model, pretrained=False, num_classes=count),
    )


SOURCES: Mapping[str, Callable[[str, str], Published]] = {"torchvision": _of_torchvision, "timm": _of_timm}
