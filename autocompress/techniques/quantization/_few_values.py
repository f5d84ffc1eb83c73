"""Training weights that take few values: float weights learn through their rounding."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...errors import NothingToDo
from ...recipe import Kind, Range
from ...training import fit
from ..base import Context, Decision, Technique
from ..masks import prunable
from ..teacher import blended
from ._kept import REASON, left_alone

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class FewValues(Technique):
    """What ternary and binary weights share."""

    family: ClassVar[str] = "quantization"
    kind: ClassVar[Kind] = "train"
    by_layer: ClassVar[bool] = True

    epochs: Annotated[int, Range(4, 24, step=4)] = Field(8, ge=1, le=10_000)
    learning_rate: Annotated[float, Range(1e-3, 2e-2, log=True)] = Field(2e-3, gt=0, lt=10)
    alpha: Annotated[float, Range(0.0, 0.9, step=0.3)] = Field(0.0, ge=0, le=1)
    temperature: float = Field(4.0, gt=0, le=100)
    batch_size: int = Field(64, ge=1)
    keep: tuple[str, ...] = ()

    @staticmethod
    @abstractmethod
    def rounded(weight: Tensor) -> Tensor:
        """The few values that stand for a weight."""

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The layers whose weights get few values, and why others stay in float."""
        layers = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, LAYERS) and not parametrize.is_parametrized(module)
        }
        kept = left_alone(self, self.keep, layers, context)
        skipped = dict.fromkeys(kept, REASON)
        chosen = [name for name in layers if name not in skipped]
        others = dict.fromkeys(prunable(model), "neither linear nor a convolution")
        others = {name: why for name, why in others.items() if name.rpartition(".")[0] not in layers}
        if not chosen:
            raise NothingToDo(f"{self.technique} finds no linear layer or convolution: leave the step out")
        return {"layers": chosen, "skipped": {**skipped, **others}}

    def train(self, model: nn.Module, context: Context) -> None:
        """Run the epochs with rounded weights, whose gradients pass to the float ones, and leave the rounded ones."""
        layers = self.decide(model, context)["layers"]
        for name in layers:
            parametrize.register_parametrization(model.get_submodule(name), "weight", _Rounded(self.rounded))
        settings = context.training(self)
        fit(model, context.train, blended(context, self.alpha, self.temperature), settings, context.seed)
        for name in layers:
            parametrize.remove_parametrizations(model.get_submodule(name), "weight")

    def untrained(self, model: nn.Module, decision: Decision) -> nn.Module:
        """The module with the few values that stand for its weights as they are."""
        with torch.no_grad():
            for name in decision["layers"]:
                weight: Any = model.get_submodule(name).weight
                weight.copy_(self.rounded(weight))
        return model


class _Rounded(nn.Module):
    """A weight by its few values."""

    def __init__(self, rounded: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._rounded = rounded

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight."""
        few: Tensor = _Through.apply(weight, self._rounded)
        return few


class _Through(torch.autograd.Function):
    """A function whose gradient is taken for that of the identity (Bengio et al., 2013)."""

    @staticmethod
    def forward(context: Any, weight: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The function's values."""
        return function(weight)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient as it comes."""
        return gradient, None
