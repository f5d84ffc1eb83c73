"""From a torch module to a torch.export program (`model.pt2`) that computes the same."""

import copy
import io

import numpy as np
import torch
from torch import Tensor, fx, nn

from ..data import UNNAMED, Signature
from ..errors import ArtifactError
from .export import dynamic_shapes, masks_as_given, quietly
from .parity import check_outputs
from .sessions import Array

TOLERANCE = 1e-4  # the program runs torch's own operators, so that only rounding may differ


def export_program(model: nn.Module, example: tuple[Tensor, ...], signature: Signature = UNNAMED) -> bytes:
    """The file of a module's program, batch dynamic; it holds neither data nor paths of this machine.

    example: inputs of two or more examples; signature: which of their axes are dynamic too. Raises ArtifactError when
    torch cannot save the model, or what it saved differs from the model once it is loaded.
    """
    batch = torch.export.Dim("batch")
    try:
        with quietly(), torch.no_grad():
            # A copy, as tracing may assign attributes of layers; zeros, as a program keeps the inputs it was traced on.
            module = copy.deepcopy(model).eval()
            with masks_as_given(module):
                program = torch.export.export(
                    module,
                    tuple(torch.zeros_like(tensor) for tensor in example),
                    dynamic_shapes=dynamic_shapes(module, len(example), batch, signature),
                )
            for graph in (part.graph for part in program.graph_module.modules() if isinstance(part, fx.GraphModule)):
                for node in graph.nodes:
                    node.meta.pop("stack_trace", None)  # lines and paths of the user's source
            file = io.BytesIO()
            torch.export.save(program, file)
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise ArtifactError(f"torch.export cannot save this model: {first}: leave out --pt2") from error
    check_program(model, file.getvalue(), example, signature)
    return file.getvalue()


def check_program(model: nn.Module, data: bytes, example: tuple[Tensor, ...], signature: Signature = UNNAMED) -> None:
    """Load a program from bytes and compare it with a module. Raises ArtifactError when they differ."""
    try:
        with quietly():
            loaded = torch.export.load(io.BytesIO(data)).module()
    except Exception as error:
        raise ArtifactError(f"model.pt2 cannot be loaded again: {str(error).strip()[:300]}: leave out --pt2") from error

    def run(*arrays: Array) -> Array:
        """The loaded program over arrays."""
        with torch.no_grad():
            return np.asarray(loaded(*(torch.from_numpy(array) for array in arrays)))

    check_outputs(model, run, example, TOLERANCE, "model.pt2", signature)
