"""What the layers of a network put out while it runs, so that one network can learn from the inside of another."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import NothingToDo
from .base import Context
from .outputs import output_layers

Read = Callable[[Tensor], Tensor]


class Feature(NamedTuple):
    """What a layer puts out: its shape for the examples that were shown, and whether its channels are the last axis."""

    shape: torch.Size
    last: bool

    @property
    def channels(self) -> int:
        """How many channels it has."""
        return self.shape[-1] if self.last else self.shape[1]

    @property
    def positions(self) -> tuple[int, ...]:
        """How many positions it has along each axis: none of a vector."""
        return tuple(self.shape[1:-1]) if self.last else tuple(self.shape[2:])


@contextlib.contextmanager
def watched(model: nn.Module, layers: Mapping[str, Feature], read: Read) -> Iterator[dict[str, Tensor]]:
    """What `read` makes of the output of each of these layers, at each run of the model: (N, channels, ...).

    Of a layer that is called twice it is the later. A copy of the model that is run meanwhile is watched too.
    """
    seen: dict[str, Tensor] = {}

    def noting(name: str, last: bool) -> Callable[..., None]:
        """A hook as a plain function, which copies of a model share, whatever it has seen."""

        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            """Read what one layer puts out, before the layer after it may work on it in place."""
            found = tensor_of(output)
            assert found is not None
            seen[name] = read((found.movedim(-1, 1) if last else found).float())

        return note

    handles = [
        model.get_submodule(name).register_forward_hook(noting(name, feature.last)) for name, feature in layers.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def tensor_of(output: Any) -> Tensor | None:
    """The tensor that a layer puts out, the first of several; None where there is none."""
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return next((found for part in parts if (found := tensor_of(part)) is not None), None)


def features(model: nn.Module, example: tuple[Tensor, ...], heads: tuple[str, ...] = ()) -> dict[str, Feature]:
    """What each layer puts out for an example, in the order in which layers finish, until the first of `heads` begins.

    Layers without a tensor of floats, with the batch first, are left out.
    """
    found: dict[str, Feature] = {}
    done: list[str] = []
    size = len(example[0])

    def noting(name: str) -> Callable[..., None]:
        """A hook for one layer."""

        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            """Note the shape of what it puts out; of several calls the last counts."""
            tensor = tensor_of(output)
            if done or tensor is None or not tensor.is_floating_point() or tensor.dim() < 2 or len(tensor) != size:
                return
            before = next(reversed(found.values()), None)
            found.pop(name, None)
            found[name] = Feature(tensor.shape, _channels_last(module, tensor.shape, before))

        return note

    handles = [module.register_forward_hook(noting(name)) for name, module in model.named_modules() if name]
    handles += [
        model.get_submodule(name).register_forward_pre_hook(lambda module, inputs: done.append("head"))
        for name in heads
    ]
    try:
        with torch.no_grad():
            model(*(tensor.clone() for tensor in example))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _channels_last(module: nn.Module, shape: torch.Size, before: Feature | None) -> bool:
    """Which axis has the channels: the one that is as long as the layer's own weights are wide.

    Where both are, or it has none, it is as in the layer before it, and else as images and sequences have it.
    """
    if len(shape) == 2:
        return False
    widths = {size for parameter in module.parameters() for size in parameter.shape[:2]}
    second, last = shape[1] in widths, shape[-1] in widths
    if second != last:
        return last
    if before is not None and len(before.shape) == len(shape):
        return before.last
    return len(shape) == 3


def before_head(model: nn.Module, context: Context) -> dict[str, Feature]:
    """What the layers put out that run before the output layers, in the order in which they finish."""
    return features(model, context.example, head_names(model, context))


def head_names(model: nn.Module, context: Context) -> tuple[str, ...]:
    """The output layers of a model: as the uncompressed one's are called, where it has such around its own.

    Raises NothingToDo where no layer with weights makes the outputs.
    """
    whole = context.cached("output layers", lambda: _ends(context.teacher, context.example))
    own = _ends(model, context.example)
    if not own:
        raise NothingToDo("no layer with weights makes the outputs of this model: use distill")
    # A factorized output layer is several, of which the first takes the features.
    known = {name for name, _ in model.named_modules()}
    same = set(whole) <= known and all(any(f"{name}.".startswith(f"{head}.") for head in whole) for name in own)
    return whole if whole and same else own


def _ends(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[str, ...]:
    work = copy.deepcopy(model).eval()
    ends = {id(layer) for layer in output_layers(work, tuple(tensor.clone() for tensor in example))}
    return tuple(name for name, module in work.named_modules() if id(module) in ends)
