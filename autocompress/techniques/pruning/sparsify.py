"""Training that makes a model sparse, for pruning to cut."""

import copy
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ...held import Zeros
from ...recipe import Choice, Kind, Range
from ...training import fit, schedule
from ..base import Context, Decision, Technique
from ..outputs import output_layers
from ..teacher import TEMPERATURE, blended

FILTERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class Sparsify(Technique):
    """Train with a penalty that drives what the task does not need to zero (Wen et al., 2016: group lasso).

    l1 pulls on each weight, group_lasso on each filter or neuron as a whole but not on the output layer's; what has
    come to zero stays there. l2 makes weights small and none zero. strength is the pull as a share of the learning
    rate, which is about what AdamW moves a weight by against it: near 1 little is left. alpha is the share of
    distillation in the loss.
    """

    technique: ClassVar[str] = "sparsify"
    family: ClassVar[str] = "pruning"
    kind: ClassVar[Kind] = "train"
    by_layer: ClassVar[bool] = True

    penalty: Annotated[Literal["l1", "l2", "group_lasso"], Choice("l1", "l2", "group_lasso")] = "group_lasso"
    strength: Annotated[float, Range(0.05, 0.5, log=True)] = Field(0.2, gt=0, le=1)
    epochs: Annotated[int, Range(4, 24, step=4)] = Field(3, ge=1, le=10_000)
    learning_rate: Annotated[float, Range(1e-3, 2e-2, log=True)] = Field(2e-3, gt=0, lt=10)
    alpha: float = Field(0.0, ge=0, le=1)
    batch_size: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.layers and self.penalty == "l2":
            raise ValueError("penalty l2 makes all weights small: do not restrict it to layers, or take l1")
        return self

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The layers that are pulled on, where a recipe names them."""
        if not self.layers:
            return {}
        pulled = {id(weight) for weight in self._proximal(model, context)[1]}
        return {"layers": [name.rpartition(".")[0] for name, p in model.named_parameters() if id(p) in pulled]}

    def train(self, model: nn.Module, context: Context) -> None:
        """Run the epochs on the training split; after each optimizer step, a proximal step of the penalty."""
        settings = context.training(self)
        if self.penalty == "l2":
            settings = settings.model_copy(update={"weight_decay": self.strength})
        shrink, weights = self._proximal(model, context)
        pruned = Zeros(model.parameters())
        # Without it, the noise of the gradients would lift weights off zero as often as the penalty brings them there.
        held = [torch.zeros_like(weight, dtype=torch.bool) for weight in weights]

        def after_step(progress: float) -> None:
            """The proximal step, which also holds what is zero already."""
            pruned.restore(progress)
            amount = self.learning_rate * self.strength * schedule(progress)
            with torch.no_grad():
                for index, weight in enumerate(weights):
                    weight.copy_(shrink(weight.masked_fill(held[index].to(weight.device), 0.0), amount))
                    held[index] = weight == 0

        fit(model, context.train, blended(context, self.alpha, TEMPERATURE), settings, context.seed, after_step)

    def _proximal(self, model: nn.Module, context: Context) -> tuple[Callable[[Tensor, float], Tensor], list[Tensor]]:
        if self.penalty == "l2":
            return (lambda weight, amount: weight), []
        if self.penalty == "l1":
            return soft_threshold, self._inside(model, penalized(model), context)
        return group_soft_threshold, self._inside(model, filters(model, context.example), context)

    def _inside(self, model: nn.Module, weights: list[Tensor], context: Context) -> list[Tensor]:
        owners = {id(parameter): name.rpartition(".")[0] for name, parameter in model.named_parameters()}
        inside = set(self.within((owners[id(weight)] for weight in weights), context))
        return [weight for weight in weights if owners[id(weight)] in inside]


def soft_threshold(weight: Tensor, amount: float) -> Tensor:
    """The proximal operator of the l1 norm: every weight moves to zero by `amount`, and not past it.

    The largest keeps its value where all would be zero.
    """
    size = weight.abs()
    kept = size > amount
    if not bool(kept.any()):
        return torch.where(size == size.max(), weight, 0.0)
    return torch.where(kept, weight - amount * weight.sign(), 0.0)


def group_soft_threshold(weight: Tensor, amount: float) -> Tensor:
    """The proximal operator of the group lasso over filters (Yuan and Lin, 2006): the first dimension counts them.

    Every filter becomes shorter by `amount` times the root of its size, so that its weights lose `amount` on average,
    and is zero where it is no longer than that. The longest keeps its values where all would be zero.
    """
    rows = weight.flatten(1)
    length = rows.norm(dim=1, keepdim=True)
    least = amount * rows.shape[1] ** 0.5
    kept = length > least
    if not bool(kept.any()):
        return torch.where(length == length.max(), rows, 0.0).view_as(weight)
    return torch.where(kept, rows * (1 - least / length), 0.0).view_as(weight)


def penalized(model: nn.Module) -> list[Tensor]:
    """The weights that l1 pulls on: tensors of two and more dimensions that train, but for those of normalizations."""
    return [
        parameter
        for module in model.modules()
        if not isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
        if parameter.dim() > 1 and parameter.requires_grad
    ]


def filters(model: nn.Module, example: tuple[Tensor, ...]) -> list[Tensor]:
    """The weights whose rows group_lasso pulls on: those of convolutions and linear layers but for the output's."""
    # Found on a copy, as frozen parameters would hide layers from the autograd graph.
    work = copy.deepcopy(model).eval().requires_grad_(True)
    kept = {name for name, module in work.named_modules() if module in set(output_layers(work, example))}
    return [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, FILTERS) and name not in kept and module.weight.requires_grad
    ]
