"""How much each weight counts: scores for pruning single weights, the larger the better."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ...errors import TechniqueError
from ...training import place_of, placed
from ..base import Context

BATCH = 16
ATTRIBUTED, STEPS = 32, 16  # examples and points of the path of integrated gradients: each layer pays for both
_ATTRIBUTION = "weight_pruning with importance integrated_gradients"


def magnitude(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """The absolute value of each weight (Han et al., 2015)."""
    return {name: model.get_parameter(name).detach().abs() for name in names}


def random(model: nn.Module, names: list[str], seed: int) -> dict[str, Tensor]:
    """Numbers that know nothing: what other scores must beat (Gale et al., 2019)."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(model.get_parameter(name).shape, generator=generator) for name in names}


def taylor(model: nn.Module, names: list[str], context: Context, examples: int) -> dict[str, Tensor]:
    """The first-order change of the loss when a weight becomes zero, |w dL/dw| (Molchanov et al., 2019, equation 8).

    It is averaged over small batches of training data: over many examples, the gradients of a trained model cancel.
    """
    work = placed(_copy(model))
    weights = [work.get_parameter(name) for name in names]
    scores = [torch.zeros_like(weight) for weight in weights]
    for batch in context.sample(examples, BATCH):
        given = batch.to(place_of(work))
        loss = context.task.loss(work(*given.inputs), given.targets)
        if not bool(torch.isfinite(loss)):
            raise TechniqueError(
                f"weight_pruning with importance gradient needs a loss that is a number, not {loss.item()}: "
                "take importance magnitude"
            )
        slopes = torch.autograd.grad(loss, weights, allow_unused=True)
        for score, weight, slope in zip(scores, weights, slopes, strict=True):
            score += 0 if slope is None else (weight.detach() * slope).abs()
    return {name: score.cpu() for name, score in zip(names, scores, strict=True)}


def attributed(model: nn.Module, names: list[str], context: Context) -> tuple[dict[str, Tensor], list[str]]:
    """The absolute value of each weight, times how much the output unit that it feeds counts in its layer.

    Units count by integrated gradients of the layer's outputs along the direction that lowers each example's loss
    (Sundararajan et al., 2017), relative to the layer's mean. Returns the names of weights without it as well:
    their layers are called several times, not as modules, or have no output unit to each row.
    Raises TechniqueError where captum is missing or cannot follow the model.
    """
    work = placed(_copy(model))
    batch = next(context.sample(ATTRIBUTED, ATTRIBUTED)).to(place_of(work))
    layers = _attributable(work, names, batch.inputs)
    if not layers:
        raise TechniqueError(
            f"{_ATTRIBUTION} finds no layer whose output units it can follow: take importance gradient"
        )
    scores = magnitude(model, names)
    try:
        direction = _towards_lower_loss(work, context, batch)
        for name, (layer, axis) in layers.items():
            counts = _unit_attribution(work, layer, batch.inputs, direction).cpu()
            shape = [-1 if dim == axis else 1 for dim in range(scores[name].dim())]
            scores[name] = scores[name] * (counts / counts.mean().clamp_min(1e-30)).reshape(shape)
    except (RuntimeError, AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise TechniqueError(
            f"{_ATTRIBUTION} cannot follow this model ({type(error).__name__}: {error}): take importance gradient"
        ) from error
    return scores, [name for name in names if name not in layers]


def _copy(model: nn.Module) -> nn.Module:
    """A copy that gradients can be taken of, whatever of the model is frozen or works in place."""
    work = copy.deepcopy(model).eval().requires_grad_(True)
    for module in work.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return work


def _attributable(model: nn.Module, names: list[str], inputs: tuple[Tensor, ...]) -> dict[str, tuple[nn.Module, int]]:
    """The layers with one output unit for each entry of one axis of their weight, with that axis."""
    layers = {name: model.get_submodule(name.rpartition(".")[0]) for name in names if name.endswith("weight")}
    outputs: dict[int, list[Any]] = {id(layer): [] for layer in layers.values()}
    hooks = [
        layer.register_forward_hook(lambda module, _, output: outputs[id(module)].append(output))
        for layer in {id(layer): layer for layer in layers.values()}.values()
    ]
    model(*inputs)  # with gradients, as captum does: without them, transformers call other code than their layers
    for hook in hooks:
        hook.remove()
    found: dict[str, tuple[nn.Module, int]] = {}
    for name, layer in layers.items():
        axis = 1 if isinstance(layer, nn.Embedding | _ConvTransposeNd) else 0
        if isinstance(layer, nn.Linear | nn.Embedding | _ConvNd) and len(outputs[id(layer)]) == 1:
            units = outputs[id(layer)][0].shape[_unit_axis(layer)]
            if units == model.get_parameter(name).shape[axis]:
                found[name] = (layer, axis)
    return found


def _unit_axis(layer: nn.Module) -> int:
    return 1 if isinstance(layer, _ConvNd) else -1


def _towards_lower_loss(model: nn.Module, context: Context, batch: Any) -> Tensor:
    """The direction of the outputs that lowers each example's loss, of length 1."""
    outputs = model(*batch.inputs).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(context.task.loss(outputs, batch.targets), outputs)
    length = slope.flatten(1).norm(dim=1).clamp_min(1e-30)
    direction: Tensor = -slope / length.reshape(-1, *[1] * (slope.dim() - 1))
    return direction


def _unit_attribution(model: nn.Module, layer: nn.Module, inputs: tuple[Tensor, ...], direction: Tensor) -> Tensor:
    """The mean absolute attribution of each output unit of a layer, against inputs of zero."""
    try:
        from captum.attr import LayerIntegratedGradients
    except ImportError as error:
        raise TechniqueError(
            "weight_pruning with importance integrated_gradients needs captum: pip install 'autocompress[attribution]'"
        ) from error

    def along(*arguments: Tensor) -> Tensor:
        """The outputs along a direction, one number an example; the direction is the last argument."""
        output: Tensor = model(*arguments[:-1]) * arguments[-1]
        return output.flatten(1).sum(1)

    nothing = tuple(torch.zeros_like(tensor) for tensor in inputs)
    found: Tensor = LayerIntegratedGradients(along, layer).attribute(
        inputs, nothing, additional_forward_args=direction, n_steps=STEPS
    )
    axis = _unit_axis(layer) % found.dim()
    return found.detach().abs().float().mean([dim for dim in range(found.dim()) if dim != axis])
