"""The one training loop: baselines, fine-tuning and distillation differ in their loss alone."""

import contextlib
import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import Dataset

from .blocks import SHARE, freeze, with_rates
from .config import Train
from .data import Batch, batches, seed_all
from .errors import TaskError
from .held import Held
from .turns import pause

Loss = Callable[[Tensor, Batch], Tensor]
Look = Callable[[nn.Module, float, float], None]
STATISTICS_EXAMPLES = 2048
PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

_look: ContextVar[Look | None] = ContextVar("look", default=None)
_hardware: ContextVar[Train | None] = ContextVar("hardware", default=None)
ON_CPU = Train(device="cpu")


@contextlib.contextmanager
def training_on(how: Train) -> Iterator[None]:
    """Let every fit in here train on that device, in that way. Raises TaskError where this machine has none such."""
    device_of(how)
    token = _hardware.set(how)
    try:
        yield
    finally:
        _hardware.reset(token)


def device_of(how: Train) -> torch.device:
    """The device that `auto` or a name stands for on this machine. Raises TaskError where there is none such."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if how.device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if there[name]))
    if not there[how.device]:
        raise TaskError(
            f"train.device: {how.device}: torch finds none on this machine: install torch for it, or write "
            f"`device: {'cpu' if how.device != 'cuda' or not there['mps'] else 'mps'}`"
        )
    return torch.device(how.device)


def training_device() -> torch.device:
    """Where `training_on` says that models train."""
    return device_of(_hardware.get() or ON_CPU)


def placed(model: nn.Module) -> nn.Module:
    """A model where `training_on` says that models train, to pass data through it: itself on the CPU, a copy there."""
    place = training_device()
    return model if place.type == "cpu" else copy.deepcopy(model).to(place)


def place_of(model: nn.Module) -> torch.device:
    """Where a model is."""
    tensors = (*model.parameters(), *model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


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
    accumulate: batches a step. clip_norm bounds the norm of all gradients together, 0 for none. ema is the decay of a
    moving average of the weights that is what is left in the end, 0 for none. patience: after how many epochs without
    a lower loss on the validation split a baseline's training ends, with the best weights; 0 trains to the end.
    label_smoothing is the share of each target that goes to all classes alike (Szegedy et al., 2016, section 7).
    only: patterns of the layers or parameters that are trained, where the others stay as they are, statistics of batch
    normalization too. block_decay: the learning rate of each block of the network as a share of that of the block
    after it (Howard and Ruder, 2018, section 3.2); `blocks.py` says what a block is.

    What a task's baseline says of clip_norm and label_smoothing holds for all later trainings of its model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(10, ge=1)
    learning_rate: float = Field(1e-3, gt=0, lt=10)
    batch_size: int = Field(64, ge=1)
    weight_decay: float = Field(1e-2, ge=0)
    sharpness: float = Field(0.0, ge=0)
    accumulate: int = Field(1, ge=1)
    clip_norm: float = Field(0.0, ge=0)
    ema: float = Field(0.0, ge=0, lt=1)
    patience: int = Field(0, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    only: tuple[str, ...] = ()
    block_decay: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _goes_together(self) -> "Training":
        if self.sharpness and self.accumulate > 1:
            raise ValueError("sharpness takes its step from one batch: leave out accumulate")
        if self.ema and self.patience:
            raise ValueError("ema leaves an average of weights, patience those of one epoch: give one of them")
        return self


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
    validation: Dataset[Any] | None = None,
) -> list[float]:
    """Train a model in place and leave it in evaluation mode, on the CPU; returns the mean loss of each epoch.

    It trains where `training_on` says. A loss that is a module has weights of its own, which are trained with the
    model's and are no part of it. after_step is told after each optimizer step which share of the training is
    done; unless it is given, pruned weights are held at zero, and those that share a value share it still. validation:
    where patience looks. Raises TaskError when the loss stops being a number.
    """
    seed_all(seed)
    generator = torch.Generator().manual_seed(seed)
    how = _hardware.get() or ON_CPU
    steps = Steps(model, loss, settings, how)
    after_step = after_step or Held(steps.parameters).restore
    ema, best = _averaged(model, settings.ema), Best(settings.patience)
    whole, left = divmod(len(dataset), settings.batch_size)  # type: ignore[arg-type]
    # Batch normalization has nothing to normalize by in a last batch of one.
    batch_count = whole + (left > 1 or (left == 1 and not whole))
    history, done = [], 0
    steps.begin()
    for epoch in range(settings.epochs):
        total = torch.zeros((), device=steps.device)
        count = 0
        for batch in itertools.islice(
            batches(dataset, settings.batch_size, generator, how.loader_workers, transform=True), batch_count
        ):
            progress = done / (settings.epochs * batch_count)
            value, stepped = steps.take(batch, settings.learning_rate * schedule(progress), count + 1 == batch_count)
            total += value
            done, count = done + 1, count + 1
            if stepped:
                after_step(done / (settings.epochs * batch_count))
                if ema is not None:
                    ema.update_parameters(model)
            pause()
        history.append(float(total) / count)
        if not math.isfinite(history[-1]):
            raise TaskError(
                f"the loss became {history[-1]} in epoch {epoch + 1} at learning rate {settings.learning_rate:g}: "
                "lower the learning rate"
            )
        if validation is not None and best.past(model, steps.mean_loss(validation)):
            break
        if epoch + 1 < settings.epochs:
            show(model, epoch / settings.epochs, (epoch + 1) / settings.epochs)
    if ema is not None:
        model.load_state_dict(ema.module.state_dict())
    best.restore(model)
    model.eval()
    renew_statistics(model, dataset, settings.batch_size, steps.still)
    steps.end()
    model.cpu()
    return history


class Steps:
    """Optimizer steps of one training, on the device that it runs on; moves the model there."""

    def __init__(self, model: nn.Module, loss: Loss, settings: Training, how: Train) -> None:
        self.device = device_of(how)
        self._form = {"memory_format": torch.channels_last} if how.channels_last else {}
        self._model = model.to(self.device)
        if how.channels_last:
            self._model.to(memory_format=torch.channels_last)
        self._run: Callable[..., Tensor] = torch.compile(model) if how.compile else model
        self._loss, self._settings = loss, settings
        self._precision = PRECISIONS[how.precision]
        self._frozen, self.still = freeze(model, settings.only)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        beside = list(loss.to(self.device).parameters()) if isinstance(loss, nn.Module) else []
        self._learned = [*self.parameters, *beside]
        groups = [*with_rates(model, self.parameters, settings.block_decay), {"params": beside, SHARE: 1.0}]
        rate, decay = settings.learning_rate, settings.weight_decay
        self._optimizer = torch.optim.AdamW([group for group in groups if group["params"]], rate, weight_decay=decay)
        self._scaler = GradScaler(self.device.type, enabled=how.precision == "fp16")
        self._parts, self._gathered = 1, 0

    def begin(self) -> None:
        """Put the model in training mode, but for statistics that stay."""
        self._model.train()
        for layer in self.still:
            layer.eval()

    def end(self) -> None:
        """Let all of the model be trained again that was before, and lie in memory as it did."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        if self._form:
            self._model.to(memory_format=torch.contiguous_format)

    def take(self, batch: Batch, rate: float, last: bool) -> tuple[Tensor, bool]:
        """Learn from a batch; its loss, and whether the weights moved, which they do every `accumulate` and at last."""
        batch = batch.to(self.device, **self._form)
        if not self._gathered:
            self._optimizer.zero_grad(set_to_none=True)
        value = self._gradients(batch)
        if self._settings.sharpness:
            with ascended(self.parameters, self._settings.sharpness):
                self._optimizer.zero_grad(set_to_none=True)
                self._gradients(batch)
        self._gathered += 1
        if self._gathered < self._settings.accumulate and not last:
            return value, False
        self._move(rate)
        self._gathered = 0
        return value, True

    def mean_loss(self, dataset: Dataset[Any]) -> float:
        """The mean loss over a split, in evaluation mode."""
        self._model.eval()
        total, count = 0.0, 0
        with torch.no_grad():
            for batch in batches(dataset, self._settings.batch_size):
                total += float(self._loss_of(batch.to(self.device, **self._form))) * len(batch.index)
                count += len(batch.index)
        self.begin()
        return total / count

    def _move(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group[SHARE]
        if self._settings.clip_norm:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._learned, self._settings.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def _gradients(self, batch: Batch) -> Tensor:
        """Add the gradients of a batch's loss; in two parts from the first one on that was too large for the device."""
        try:
            return self._backward(batch)
        except torch.OutOfMemoryError:
            if self._parts > 1 or len(batch.index) < 2:
                raise
        self._parts = 2
        self._optimizer.zero_grad(set_to_none=True)  # it was cut off half-way
        return self._backward(batch)

    def _backward(self, batch: Batch) -> Tensor:
        size, whole = math.ceil(len(batch.index) / self._parts), torch.zeros((), device=self.device)
        for start in range(0, len(batch.index), size):
            part = batch if self._parts == 1 else batch.part(slice(start, start + size))
            share = len(part.index) / len(batch.index)
            value = self._loss_of(part)
            scaled = self._scaler.scale(value * (share / self._settings.accumulate))
            scaled.backward()  # type: ignore[no-untyped-call]
            whole += value.detach() * share
        return whole

    def _loss_of(self, batch: Batch) -> Tensor:
        if self._precision is None:
            return self._loss(self._run(*batch.inputs), batch)
        with torch.autocast(self.device.type, self._precision):
            output = self._run(*batch.inputs)
        return self._loss(output.float(), batch)


class Best:
    """The weights of the lowest loss so far, where a training has patience."""

    def __init__(self, patience: int) -> None:
        self._patience, self._waited, self._lowest = patience, 0, math.inf
        self._weights: dict[str, Tensor] = {}

    def past(self, model: nn.Module, loss: float) -> bool:
        """Whether so many epochs in a row, this one too, were no better than an earlier one."""
        if not self._patience:
            return False
        if loss < self._lowest:
            self._lowest, self._waited = loss, 0
            self._weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        else:
            self._waited += 1
        return self._waited >= self._patience

    def restore(self, model: nn.Module) -> None:
        """Give a model the best weights, where any were kept."""
        if self._weights:
            model.load_state_dict(self._weights)


def _averaged(model: nn.Module, decay: float) -> AveragedModel | None:
    """A moving average of a model's weights (Polyak and Juditsky, 1992), and its buffers as they are."""
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def ascended(parameters: Iterable[Tensor], radius: float) -> Iterator[None]:
    """Weights moved up their gradients for a while, by a step of that length over all of them together.

    The gradient there leads to minima that are flat (Foret et al., 2021: sharpness-aware minimization, equation 2).
    Biases and scales, which have one dimension, stay where they are.
    """
    moved = [(weight, weight.detach().clone()) for weight in parameters if weight.dim() > 1 and weight.grad is not None]
    slopes = [weight.grad for weight, _ in moved if weight.grad is not None]
    length = torch.stack([slope.norm() for slope in slopes]).norm() if slopes else 1.0
    with torch.no_grad():
        for (weight, _), slope in zip(moved, slopes, strict=True):
            weight.add_(slope, alpha=radius / max(float(length), 1e-12))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in moved:
                weight.copy_(before)


def renew_statistics(
    model: nn.Module,
    dataset: Dataset[Any],
    batch_size: int,
    still: Sequence[nn.Module] = (),
    examples: int = STATISTICS_EXAMPLES,
) -> None:
    """Give batch normalization the plain mean of its statistics over the data (Wu and Johnson, 2021: PreciseBN).

    model: in evaluation mode, and left in it. still: layers whose statistics stay. examples: so many are enough.

    The running mean of a short training still remembers the weights of its first steps, or of the unpruned network.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    layers = [layer for layer in layers if layer not in still]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative mean
        layer.train()
    seen, place = 0, place_of(model)
    with torch.no_grad():
        for batch in batches(dataset, max(batch_size, 2), torch.Generator().manual_seed(0)):
            if seen and (seen >= examples or len(batch.index) < 2):
                break
            model(*batch.to(place).inputs)
            seen += len(batch.index)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
