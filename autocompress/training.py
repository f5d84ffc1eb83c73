"""The one training loop: baselines, fine-tuning and distillation differ in their loss alone."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from .data import Batch, batches, seed_all
from .errors import TaskError
from .turns import pause

Loss = Callable[[Tensor, Batch], Tensor]
Look = Callable[[nn.Module, float, float], None]
STATISTICS_EXAMPLES = 2048
VALUES, SHARED = 257, 4  # as many values as 8 bits and zero give, each for four weights or more on average
SAMPLED = 4096


_look: ContextVar[Look | None] = ContextVar("look", default=None)


@contextlib.contextmanager
def examined(look: Look) -> Iterator[None]:
    """Show the model to `look` after each epoch of a fit, with the shares of it that were done before and are done now.

    It must leave the model's tensors and all random numbers as they are; what it raises ends the training.
    """
    token = _look.set(look)
    try:
        yield
    finally:
        _look.reset(token)


def show(model: nn.Module, before: float, now: float) -> None:
    """Let whoever examines this training look at it; the mode of the model stays as it is."""
    look = _look.get()
    if look is not None:
        look(model, before, now)


class Training(BaseModel):
    """How long and how fast a model is trained: AdamW, a short linear warm-up, then a cosine to zero.

    sharpness is the radius of a sharpness-aware step, which takes two passes a batch (Foret et al., 2021); 0 for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(10, ge=1)
    learning_rate: float = Field(1e-3, gt=0, lt=10)
    batch_size: int = Field(64, ge=1)
    weight_decay: float = Field(1e-2, ge=0)
    sharpness: float = Field(0.0, ge=0)


def schedule(progress: float, warmup: float = 0.1) -> float:
    """The factor on the learning rate after a share `progress` in [0, 1] of the training."""
    if progress < warmup:
        return (progress + 0.01) / (warmup + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def fit(
    model: nn.Module,
    dataset: Dataset[Any],
    loss: Loss,
    settings: Training,
    seed: int,
    after_step: Callable[[float], None] | None = None,
) -> list[float]:
    """Train a model in place and leave it in evaluation mode; returns the mean loss of each epoch.

    after_step is told after each optimizer step which share of the training is done; unless it is given, pruned
    weights are held at zero, and those that share a value share it still. Raises TaskError when the loss stops being
    a number.
    """
    seed_all(seed)
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
    after_step = after_step or Held(parameters).restore
    steps = settings.epochs * math.ceil(len(dataset) / settings.batch_size)  # type: ignore[arg-type]
    history, step = [], 0
    model.train()
    for epoch in range(settings.epochs):
        total = torch.zeros(())
        count = 0
        for batch in batches(dataset, settings.batch_size, generator):
            if len(batch.index) == 1 < settings.batch_size and count:
                continue  # batch normalization has nothing to normalize by in a last batch of one
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * schedule(step / steps)
            value = loss(model(*batch.inputs), batch)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            if settings.sharpness:
                with ascended(parameters, settings.sharpness):
                    optimizer.zero_grad(set_to_none=True)
                    loss(model(*batch.inputs), batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += value.detach()
            step, count = step + 1, count + 1
            after_step(step / steps)
            pause()
        history.append(float(total) / count)
        if not math.isfinite(history[-1]):
            raise TaskError(
                f"the loss became {history[-1]} in epoch {epoch + 1} at learning rate {settings.learning_rate:g}: "
                "lower the learning rate"
            )
        if epoch + 1 < settings.epochs:
            show(model, epoch / settings.epochs, (epoch + 1) / settings.epochs)
    model.eval()
    renew_statistics(model, dataset, settings.batch_size)
    return history


@contextlib.contextmanager
def ascended(parameters: Iterable[Tensor], radius: float) -> Iterator[None]:
    """Weights moved up their gradients for a while, by a step of that length over all of them together.

    The gradient there leads to minima that are flat (Foret et al., 2021: sharpness-aware minimization, equation 2).
    Biases and scales, which have one dimension, stay where they are.
    """
    moved = [(weight, weight.detach().clone()) for weight in parameters if weight.dim() > 1 and weight.grad is not None]
    slopes = [weight.grad for weight, _ in moved if weight.grad is not None]
    length = torch.stack([slope.norm() for slope in slopes]).norm() if slopes else torch.ones(())
    with torch.no_grad():
        for (weight, _), slope in zip(moved, slopes, strict=True):
            weight.add_(slope, alpha=radius / max(float(length), 1e-12))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in moved:
                weight.copy_(before)


class Zeros:
    """Weights that were pruned: held at zero through training (Han et al., 2015, section 3.1).

    They need no masks beside the model, so that they outlive whatever else is done to it: a weight is taken for
    pruned when it is exactly zero in a tensor that holds other numbers too.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        weights = [(parameter, parameter == 0) for parameter in parameters if parameter.dim() > 1]
        self._held = [(parameter, zero) for parameter, zero in weights if bool(zero.any()) and not bool(zero.all())]

    def restore(self, progress: float = 1.0) -> None:
        """Set them to zero again, whatever share of the training is done."""
        with torch.no_grad():
            for parameter, zero in self._held:
                parameter.masked_fill_(zero, 0.0)


class Held:
    """Weights that were pruned, and weights that share values: each value is trained as one number.

    A tensor is taken for one of shared values when it holds few for its size: then all weights of a value move by
    their mean step, as their gradients would be summed (Han et al., 2016, section 3.3).
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        given = list(parameters)
        self._zeros = Zeros(given)
        found = ((weight, shared_values(weight)) for weight in given)
        self._shared = [(weight, groups, torch.bincount(groups)) for weight, groups in found if groups is not None]

    def restore(self, progress: float = 1.0) -> None:
        """Bring them together again, whatever share of the training is done."""
        with torch.no_grad():
            for weight, groups, counts in self._shared:
                total = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, groups, weight.flatten().double())
                mean = (total / counts).to(weight.dtype)
                weight.copy_(mean[groups].view_as(weight))
        self._zeros.restore(progress)


def shared_values(weight: Tensor) -> Tensor | None:
    """For each number of a tensor, which of its values it has; None where values are not shared by SHARED each."""
    flat = weight.detach().flatten()
    if weight.dim() < 2 or flat.numel() < SHARED:
        return None
    if torch.unique(flat[:: flat.numel() // SAMPLED + 1]).numel() > VALUES:
        return None
    values, groups = torch.unique(flat, return_inverse=True)
    few = 1 < values.numel() <= min(VALUES, flat.numel() // SHARED)
    return groups if few else None


def renew_statistics(model: nn.Module, dataset: Dataset[Any], batch_size: int) -> None:
    """Give batch normalization the plain mean of its statistics over the data (Wu and Johnson, 2021: PreciseBN).

    model: in evaluation mode, and left in it.

    The running mean of a short training still remembers the weights of its first steps, or of the unpruned network.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative mean
        layer.train()
    seen = 0
    with torch.no_grad():
        for batch in batches(dataset, max(batch_size, 2), torch.Generator().manual_seed(0)):
            if seen and (seen >= STATISTICS_EXAMPLES or len(batch.index) < 2):
                break
            model(*batch.inputs)
            seen += len(batch.index)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
