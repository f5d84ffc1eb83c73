"""Block pruning: whole layers and residual blocks leave the network."""

import contextlib
import copy
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ...data import Batch
from ...errors import NothingToDo
from ...recipe import Kind, Range
from ...tasks import Task
from ...training import place_of, placed
from ..base import Context, Decision, Technique
from ..replacing import replace_layers

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.instancenorm._InstanceNorm)
UNCLEAR = 0.01  # differences below this share of the loss say nothing: parameters decide then
# What a model may raise whose parts reach into a block that is gone.
BROKEN = (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError)


class BlockPruning(Technique):
    """Remove the layers and residual blocks that the model misses least for their size (Veit et al., 2016).

    blocks is how many are removed; fewer where no more can go. One after another, each the one whose absence adds
    least loss per parameter on a sample of training data, without the ones before it. Blocks may stand inside others,
    such as a convolution inside a residual block; a block can go when its output has the shape of its input.
    """

    technique: ClassVar[str] = "block_pruning"
    needs: ClassVar[str] = "a block whose output has the shape of its input, beside another that stays"
    family: ClassVar[str] = "pruning"
    kind: ClassVar[Kind] = "structure"
    by_layer: ClassVar[bool] = True

    blocks: Annotated[int, Range(1, 4, step=1)] = Field(1, ge=1, le=1000)
    examples: int = Field(128, ge=1)

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The blocks to remove in this order, with their parameters and the loss before and after."""
        work = copy.deepcopy(model).eval()
        found, sample = find_blocks(work, context.example), list(context.sample(self.examples))
        if not found:
            raise NothingToDo(
                "block_pruning finds no block whose output has the shape of its input: leave it out for this model, "
                "or use channel_pruning, which makes layers narrower"
            )
        removed = self._choose(work, found, self.within(found, context), context.task, sample)
        if not removed:
            raise NothingToDo(
                f"block_pruning finds no block to remove: of {', '.join(found)} one must stay: leave it out for this "
                "model, or use channel_pruning, which makes layers narrower"
            )
        if len(removed) == self.blocks:
            return {"removed": removed}
        return {"removed": removed, "fewer": f"{len(removed)} of {self.blocks} blocks: no other can go"}

    def _choose(
        self, work: nn.Module, found: dict[str, int], allowed: list[str], task: Task, sample: list[Batch]
    ) -> dict[str, str]:
        work = placed(work)
        sample = [batch.to(place_of(work)) for batch in sample]
        loss = mean_loss(work, task, sample)
        removed: dict[str, str] = {}
        while len(removed) < self.blocks:
            sizes = {name: size for name, size in can_go(found, list(removed)).items() if name in allowed}
            losses = {name: mean_loss(without(copy.deepcopy(work), [*removed, name]), task, sample) for name in sizes}
            best = least_missed(sizes, losses, loss)
            if best is None:
                break
            removed[best] = f"{sizes[best]:,} parameters, loss {loss:.4g} -> {losses[best]:.4g}"
            loss = losses[best]
        return removed

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Put nothing in the place of the recorded blocks."""
        return without(model, decision["removed"])


class Skip(nn.Module):
    """What stands in the place of a removed block: it passes on its first input, whatever else it is given."""

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """A copy, since an activation in place behind it would change what a shortcut around it reads."""
        first: Tensor = next(iter((*inputs, *named.values())))
        return first.clone()


def without(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """The model with blocks passed over; it is changed. Layers of torch's own transformers leave their list."""
    blocks = {model.get_submodule(name) for name in names}
    for module in model.modules():
        # It asks its first layer for its settings, which a Skip does not have.
        if isinstance(module, nn.TransformerEncoder):
            module.layers = nn.ModuleList([layer for layer in module.layers if layer not in blocks])
    left = blocks & set(model.modules())
    return replace_layers(model, {block: Skip().train(block.training) for block in left})


def find_blocks(model: nn.Module, example: tuple[Tensor, ...]) -> dict[str, int]:
    """The modules that could be passed over, by name, with how many parameters each has.

    They hold weights, other than of normalizations, are called once, and return a tensor like their first input.
    """
    calls: dict[nn.Module, list[bool]] = {}

    def record(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        """Note of one call whether it returned a tensor like its first input."""
        ends = [*[*inputs, *named.values()][:1], output]
        alike = {(end.shape, end.dtype) if isinstance(end, Tensor) else None for end in ends}
        calls.setdefault(module, []).append(len(ends) == 2 and len(alike) == 1 and None not in alike)

    inner = [(name, module) for name, module in model.named_modules() if name and _has_weights(module)]
    # With hooks on its parts, a transformer of torch does not take the fast path around them.
    handles = [module.register_forward_hook(record, with_kwargs=True) for _, module in inner]
    try:
        with torch.no_grad():
            model(*example)
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in inner
        if calls.get(module) == [True]
    }


def _has_weights(module: nn.Module) -> bool:
    return any(
        parameter.dim() > 1
        for part in module.modules()
        if not isinstance(part, NORMS)
        for parameter in part.parameters(recurse=False)
    )


def can_go(found: dict[str, int], removed: Sequence[str]) -> dict[str, int]:
    """The blocks that may go after others, with the parameters that go with each: one block always stays whole."""
    there = [name for name in found if not any(_inside(name, other) for other in removed)]
    whole = [name for name in there if not any(_inside(other, name) for other in removed)]
    innermost = [name for name in whole if not any(other != name and _inside(other, name) for other in there)]
    sizes = {
        name: found[name] - sum(found[other] for other in removed if _inside(other, name))
        for name in there
        if any(not _inside(other, name) for other in innermost)
    }
    return {name: size for name, size in sizes.items() if size > 0}


def _inside(name: str, other: str) -> bool:
    return f"{name}.".startswith(f"{other}.")


def least_missed(sizes: dict[str, int], losses: dict[str, float], loss: float) -> str | None:
    """The block that adds least loss per parameter, among equals the largest; None where no loss is a number."""
    known = [name for name in sizes if math.isfinite(losses[name])]
    harm = {name: max(losses[name] - loss, UNCLEAR * abs(loss)) / sizes[name] for name in known}
    return min(known, key=lambda name: (harm[name], -sizes[name]), default=None)


def mean_loss(model: nn.Module, task: Task, sample: Iterable[Batch]) -> float:
    """The task's loss over batches; NaN where the model does not run."""
    total, count = 0.0, 0
    with torch.no_grad(), contextlib.suppress(*BROKEN):
        for batch in sample:
            total += float(task.loss(model(*batch.inputs), batch.targets)) * len(batch.index)
            count += len(batch.index)
        return total / count
    return math.nan
