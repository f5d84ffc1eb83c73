"""Which weights can be pruned, choosing the lowest scores, and masks as text that a decision can hold."""

import base64
import re
import zlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..errors import NothingToDo, TechniqueError, suggest
from .base import Context, Technique

Array = NDArray[Any]
_POSITIONAL = re.compile(r"(^|[._])(pos|positions?|positional|wpe)([._]|$)")


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that can be pruned, by name: those with more than one dimension, but for norms and positions.

    A weight that several layers share stands here once, under its first name.
    """
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if _is_weight(module, name, parameter) and id(parameter) not in seen:
                seen.add(id(parameter))
                found[name] = parameter
    return found


def _is_weight(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    last = name.rpartition(".")[2]
    # weight_g is the scale of each output under weight normalization, whatever its number of dimensions.
    if parameter.dim() < 2 or not parameter.is_floating_point() or "weight" not in last or last.endswith("_g"):
        return False
    if "norm" in type(module).__name__.lower():
        return False
    return isinstance(module, nn.Linear | _ConvNd) or _POSITIONAL.search(name) is None


def weights_to_prune(model: nn.Module, keep: Collection[str] | None, technique: str) -> dict[str, nn.Parameter]:
    """The prunable weights without those of the layers in `keep`, which may name any module, or a weight itself.

    Raises TechniqueError for a name that no prunable weight has, and where no weight is left.
    """
    weights = prunable(model)
    chosen = {id(parameter) for parameter in weights.values()}
    known: dict[str, set[int]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            if id(parameter) in chosen:
                known.setdefault(".".join(parts[:length]), set()).add(id(parameter))
    if not known:
        raise NothingToDo(f"{technique} finds nothing to prune: the model has no weight matrix; leave the step out")
    for word in keep or ():
        if word not in known:
            raise TechniqueError(f"{technique}: keep: {word!r} is no layer that can be pruned; {suggest(word, known)}")
        chosen -= known[word]
    if not chosen:
        raise TechniqueError(f"{technique} finds nothing to prune: every layer is in keep; leave some out of it")
    return {name: parameter for name, parameter in weights.items() if id(parameter) in chosen}


def within(step: Technique, weights: Mapping[str, nn.Parameter], context: Context) -> dict[str, nn.Parameter]:
    """The weights of the layers that a recipe restricts a step to."""
    owners = {name: name.rpartition(".")[0] for name in weights}
    inside = set(step.within(owners.values(), context))
    return {name: weight for name, weight in weights.items() if owners[name] in inside}


def with_zeros_lowest(scores: Tensor, zero: Tensor) -> Tensor:
    """The scores, those of what is zero already set to minus infinity: it goes first, and counts as gone."""
    return torch.where(zero, -torch.inf, scores.detach().float())


def masks_of_best(scores: dict[str, Tensor], ratio: float, cap: float) -> dict[str, Tensor]:
    """Where the scores are that stay (True) when a share `ratio` of all goes, lowest first, of equals the first.

    No tensor loses more than a share `cap`, unless more of it is gone already: scores of minus infinity always go.
    """
    flat = {name: score.detach().cpu().numpy().ravel() for name, score in scores.items()}
    held = [np.where(_lowest(score, int(cap * score.size + 1e-9)), score, np.inf) for score in flat.values()]
    joined = np.concatenate(held)
    stays = ~(_lowest(joined, round(ratio * joined.size)) & (joined < np.inf))
    parts = np.split(stays, np.cumsum([score.size for score in flat.values()])[:-1])
    return {name: torch.from_numpy(part).reshape(scores[name].shape) for name, part in zip(flat, parts, strict=True)}


def _lowest(scores: Array, count: int) -> Array:
    """True at the `count` lowest scores, and at every minus infinity."""
    gone: Array = scores == -np.inf
    if count > 0:
        threshold = np.partition(scores, count - 1)[count - 1]
        gone |= scores < threshold
        ties = np.flatnonzero((scores == threshold) & ~gone)
        gone[ties[: max(0, count - int(gone.sum()))]] = True
    return gone


def pack_mask(mask: Tensor) -> str:
    """A boolean tensor as text: its bits, deflated, in base 64."""
    return deflated(np.packbits(mask.cpu().numpy()).tobytes())


def unpack_mask(text: str, shape: torch.Size | tuple[int, ...], name: str = "weight") -> Tensor:
    """The boolean tensor of that shape that a text holds. Raises TechniqueError when it is one of another size."""
    count = int(np.prod(shape))
    try:
        data = np.frombuffer(inflated(text, -(-count // 8)), np.uint8)
    except ValueError:
        raise TechniqueError(
            f"the mask of {name} was made for another number of weights than {count:,}: decide anew for this model"
        ) from None
    return torch.from_numpy(np.unpackbits(data, count=count).astype(bool)).reshape(tuple(shape))


def deflated(data: bytes, level: int = 9) -> str:
    """Bytes as text: deflated, in base 64."""
    return base64.b64encode(zlib.compress(data, level)).decode()


def inflated(text: str, size: int) -> bytes:
    """The bytes that `deflated` made text of. Raises ValueError where they are not that many, and makes no more."""
    reader = zlib.decompressobj()
    try:
        data = reader.decompress(base64.b64decode(text), size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(data) != size or not reader.eof:
        raise ValueError(f"not {size:,} bytes")
    return data


def keep_only(parameter: Tensor, mask: Tensor) -> None:
    """Set the weights outside a mask to zero, in place; a product would leave the sign of negative ones on it."""
    with torch.no_grad():
        parameter.copy_(torch.where(mask.to(parameter.device), parameter, 0.0))


def apply_masks(model: nn.Module, masks: dict[str, str]) -> nn.Module:
    """The model, in place, with zeros where its masks have them."""
    for name, text in masks.items():
        parameter = model.get_parameter(name)
        keep_only(parameter, unpack_mask(text, parameter.shape, name))
    return model


def packed(masks: dict[str, Tensor]) -> dict[str, str]:
    """The masks as text, without those that take nothing away."""
    return {name: pack_mask(mask) for name, mask in masks.items() if not bool(mask.all())}


def shares(masks: dict[str, Tensor], what: str = "weights") -> dict[str, str]:
    """How much of each layer is zero, to read."""
    return {layer_of(name): _share(mask, what) for name, mask in masks.items()}


def _share(mask: Tensor, what: str) -> str:
    gone, count = int((~mask).sum()), mask.numel()
    return f"{gone:,} of {count:,} {what} are zero ({gone / count:.0%})"


def layer_of(name: str) -> str:
    """The layer whose weight has this name; weights that are one of several in a layer keep their own."""
    return name.removesuffix(".weight")
