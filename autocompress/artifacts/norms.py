"""Batch normalization as a product and a sum, which ONNX Runtime folds at load and the exporter does not before."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..held import shared_values


class Affine(nn.Module):
    """What batch normalization computes once it is trained: a scale and a shift for each channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: _BatchNorm, dims: int) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale: Tensor = (norm.running_var + norm.eps).rsqrt()
        if isinstance(norm.weight, Tensor):
            scale = scale * norm.weight
        shift: Tensor = -norm.running_mean * scale
        if isinstance(norm.bias, Tensor):
            shift = shift + norm.bias
        form = (-1, *[1] * (dims - 2))
        self.register_buffer("scale", scale.detach().reshape(form))
        self.register_buffer("shift", shift.detach().reshape(form))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, ...) to the same."""
        y: Tensor = x * self.scale + self.shift
        return y


def kept_apart(model: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
    """The model with norms that the exporter does not fold into weights which share values: they would share none.

    Itself where no weights do. model: in evaluation mode.
    """
    if all(shared_values(parameter) is None for parameter in model.parameters()):
        return model
    made = copy.deepcopy(model)
    dims: dict[nn.Module, int] = {}
    norms = [module for module in made.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    hooks = [norm.register_forward_pre_hook(lambda norm, x: dims.__setitem__(norm, x[0].dim())) for norm in norms]
    with torch.no_grad():
        made(*example)
    for hook in hooks:
        hook.remove()
    for parent in list(made.modules()):
        for name, child in list(parent.named_children()):
            if child in dims:
                setattr(parent, name, Affine(child, dims[child]))  # type: ignore[arg-type]
    return made.eval()
