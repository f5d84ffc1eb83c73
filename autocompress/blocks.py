"""Which parts of a network are trained, and how fast: its blocks in their order, from the input to the output."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.modules.batchnorm import _BatchNorm

from .errors import TaskError
from .recipe import matches

LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
SHARE = "share"  # of the learning rate, in a group of parameters


def blocks(model: nn.Module) -> list[list[Parameter]]:
    """The parameters of a network, block by block, in the order in which its modules are registered.

    A network is taken apart into its modules, and so are in turn lists of modules, and any that holds more than half
    of all weights, embeddings not counted: as a transformer's encoder does. What is left is a block each: a layer, a
    residual block, a layer of a transformer. What has no matrix, such as a normalization, belongs to the block before;
    what is shared, to the first that has it.
    """
    found: list[list[Parameter]] = []
    for part in _parts(model, _weights(model) / 2):
        if found and not any(parameter.dim() > 1 for parameter in part):
            found[-1] += part
        elif part:
            found.append(part)
    shared: set[Parameter] = set()
    for block in found:
        block[:] = [parameter for parameter in block if parameter not in shared]
        shared.update(block)
    return [block for block in found if block]


def _parts(module: nn.Module, half: float) -> list[list[Parameter]]:
    apart = isinstance(module, LISTS) or _weights(module) > half
    if not apart or next(module.children(), None) is None:
        return [list(module.parameters())]
    own = list(module.parameters(recurse=False))
    return [own, *(part for child in module.children() for part in _parts(child, half))]


def _weights(module: nn.Module) -> int:
    parts = (part for part in module.modules() if not isinstance(part, nn.Embedding))
    return sum(parameter.numel() for part in parts for parameter in part.parameters(recurse=False))


def freeze(model: nn.Module, only: Sequence[str]) -> tuple[list[Tensor], list[nn.Module]]:
    """Let nothing else of a model be trained; what was frozen, and the batch normalizations whose statistics stay.

    Raises TaskError where nothing is left.
    """
    if not only:
        return [], []
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad and matches(name, only)}
    if not trained:
        raise TaskError(f"only: {', '.join(only)}: the model has no such layer to train: see model.named_parameters()")
    frozen: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in trained:
            frozen.append(parameter.requires_grad_(False))
    layers = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, _BatchNorm))
    return frozen, [layer for name, layer in layers if not any(f"{name}.{key}" in trained for key in layer._parameters)]


def with_rates(model: nn.Module, parameters: list[Parameter], decay: float) -> list[dict[str, Any]]:
    """Parameters as groups of an optimizer, each with its share of the learning rate."""
    if decay == 1:
        return [{"params": parameters, SHARE: 1.0}]
    known = set(parameters)
    return [
        {"params": [parameter for parameter in block if parameter in known], SHARE: decay**back}
        for back, block in enumerate(reversed(blocks(model)))
    ]
