"""Whether a file computes what the module computes that it was made of."""

import contextlib
import copy
from collections.abc import Callable

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from ..data import UNNAMED, Signature, copied
from ..errors import ArtifactError
from .runtime import Model
from .sessions import Array

TOLERANCE = 1e-3
ROUNDING = 10.0  # how many times a module's own rounding errors those of a file may be, which fuses operators


def check_parity(
    model: nn.Module,
    exported: onnx.ModelProto,
    example: tuple[Tensor, ...],
    tolerance: float = TOLERANCE,
    signature: Signature = UNNAMED,
) -> float:
    """The largest difference between a module and its export, relative to the largest output.

    Raises ArtifactError beyond the tolerance.
    """
    return check_outputs(
        model, Model(exported.SerializeToString()), example, tolerance, "the exported model", signature
    )


def check_outputs(
    model: nn.Module,
    run: Callable[..., Array],
    example: tuple[Tensor, ...],
    tolerance: float,
    name: str,
    signature: Signature = UNNAMED,
) -> float:
    """The largest difference between a module and what was made of it, relative to the largest output.

    Runs one example and the whole batch, and where sizes vary the smallest and the largest example, so that a size
    frozen by the exporter is found. Raises ArtifactError, with the name of what was made, beyond the tolerance: for
    modules that multiply rounding errors, beyond some times what double precision shows theirs to be.
    """
    differences = []
    tried = [tuple(tensor[:count] for tensor in example) for count in (1, len(example[0]))]
    for inputs in [*tried, *signature.sizes]:
        with torch.no_grad():
            expected = model.eval()(*copied(inputs)).numpy()
        try:
            actual = run(*(tensor.numpy() for tensor in inputs))
        except Exception as error:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
            raise ArtifactError(f"{name} fails at batch size {len(inputs[0])}, inputs {shapes}: {error}") from error
        if actual.shape != expected.shape:
            raise ArtifactError(f"{name} gives shape {actual.shape} where the model gives {expected.shape}")
        differences.append(_difference(actual, expected))
        # NaN is within nothing. What is off by more than the tolerance itself does not multiply rounding errors alone.
        if not differences[-1] <= tolerance and not differences[-1] <= ROUNDING * min(
            tolerance, _rounding(model, inputs, expected)
        ):
            raise ArtifactError(f"{name} differs from the model by {differences[-1]:.2g}, more than {tolerance:g}")
    return max(differences)


def _difference(actual: Array, expected: Array) -> float:
    """The largest difference, relative to the largest value expected."""
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-6))


def _rounding(model: nn.Module, inputs: tuple[Tensor, ...], found: Array) -> float:
    """How far a module's outputs are from those in double precision; 0 where it cannot compute in it."""
    wide = (tensor.double() if tensor.is_floating_point() else tensor for tensor in copied(inputs))
    with contextlib.suppress(Exception), torch.no_grad():
        return _difference(found, copy.deepcopy(model).double()(*wide).numpy())
    return 0.0
