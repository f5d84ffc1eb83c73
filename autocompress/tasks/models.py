"""Making a task's model: the same one at every call, as training, exporting and rebuilding need it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..data import seed_all
from ..errors import TaskError
from ..training import place_of
from ._plain import computed_weights, with_plain_weights
from .calling import called
from .examples import example_inputs
from .protocol import Array, Run, Task

TOLERANCE = 1e-4  # of the largest output


def build_model(task: Task, seed: int) -> nn.Module:
    """The task's model, with every random number that its code may draw from a seed; in 32 bits, lazy layers made.

    It takes tensors by position and returns one, whatever names inputs and outputs have.

    Weights that torch computes from others before each call, as weight normalization has them, become plain ones. A
    model that came with all of its parameters frozen is thawed, since compressing trains them. Raises TaskError where
    model() returns something else.
    """
    plain_attention()
    seed_all(seed)
    model = task.model()
    if not isinstance(model, nn.Module):
        raise TaskError(f"task.model() returned a {type(model).__name__}: return a torch.nn.Module")
    model = called(task, model)
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        with torch.no_grad():
            model.eval()(*example_inputs(task))
    if any(tensor.dtype == torch.float64 for tensor in (*model.parameters(), *model.buffers())):
        model.float()
    with_plain_weights(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        model.requires_grad_(True)
    return model


def as_function(model: nn.Module) -> Run:
    """A module as a function of arrays, as its exported file is, that computes where the module is."""
    place = place_of(model)

    def outputs(*inputs: Array) -> Array:
        with torch.no_grad():
            found: Array = model(*(torch.from_numpy(array).to(place) for array in inputs)).cpu().numpy()
        return found

    return outputs


def plain_attention() -> None:
    """Keep torch's attention in this process to the layers that a model has, in training and out of it alike.

    Its fast path reads the weights of layers that may have been replaced and calls none of them, and makes nested
    tensors of a padded batch, which neither the exporter nor hooks can follow.
    """
    torch.backends.mha.set_fastpath_enabled(False)


def model_notes(task: Task) -> list[str]:
    """What build_model changes of a task's model, each in a sentence."""
    model = task.model()
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if not is_lazy(tensor)]
    notes = []
    computed = computed_weights(model)
    if computed:
        shown = ", ".join(computed[:3]) + (", ..." if len(computed) > 3 else "")
        notes.append(f"weights that are computed from others ({shown}) are taken as plain ones, and trained as such")
    if any(tensor.dtype == torch.float64 for tensor in tensors):
        notes.append("the model's weights are 64-bit floats: they are taken as 32-bit ones")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        notes.append("the model came frozen: its parameters are trained all the same")
    return notes


def check_repeatable(task: Task, seed: int = 0) -> None:
    """Raise TaskError, naming the culprit, unless model() makes the same network twice, given the same weights.

    Weights travel between workers and into the file; what a model keeps elsewhere must be the same at each call.
    """
    first, second = build_model(task, seed).eval(), build_model(task, seed).eval()
    try:
        second.load_state_dict(first.state_dict())
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise TaskError(f"task.model() makes another network at each call: {lines[0]}") from None
    example = example_inputs(task)
    with torch.no_grad():
        outputs = [model(*(tensor.clone() for tensor in example)) for model in (first, second)]
    if not all(isinstance(output, Tensor) for output in outputs) or alike(*outputs):
        return
    places = [name for name, value in kept_apart(first) if not _equal(value, dict(kept_apart(second)).get(name))]
    where = f"{places[0]!r} is drawn anew each time" if places else "it draws random numbers of its own"
    raise TaskError(
        f"task.model() makes another network at each call, also with the same weights: {where}; register it as a "
        "persistent buffer, or make it from a fixed seed"
    )


def add_weights(found: Any, model: nn.Module) -> None:
    """Add a model's weights, by their names, to a digest."""
    for name, tensor in model.state_dict().items():
        found.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def alike(output: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether two outputs are the same up to rounding, as a share of the largest number; NaN is like NaN."""
    if output.shape != expected.shape:
        return False
    finite = expected[expected.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return bool(torch.allclose(output, expected, rtol=tolerance, atol=tolerance * max(largest, 1e-6), equal_nan=True))


def kept_apart(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a model that its state_dict leaves out, by name: non-persistent buffers, and plain attributes."""
    kept = {id(tensor) for tensor in (*model.parameters(), *model.state_dict(keep_vars=True).values())}
    for prefix, module in model.named_modules():
        values = {**{name: value for name, value in vars(module).items() if isinstance(value, Tensor)},
                  **{name: value for name, value in module._buffers.items() if value is not None}}  # fmt: skip
        for name, value in values.items():
            if id(value) not in kept:
                yield f"{prefix}.{name}".lstrip("."), value


def _equal(value: Tensor, other: Tensor | None) -> bool:
    return other is not None and value.shape == other.shape and bool(torch.equal(value, other))
