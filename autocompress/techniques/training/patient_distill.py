"""Distillation of the hidden states of a transformer."""

from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ...errors import NothingToDo
from ...recipe import Choice
from ..base import Context
from ..features import Feature
from ._guided import Adapter, Features, Guided, Pairs, inside


class PatientDistill(Guided):
    """Train the hidden states of all blocks of a transformer but the last to be the teacher's (Sun et al., 2019: PKD).

    Where the teacher has more blocks, take says which of them are learned from: every few, or the last. States are
    divided by their length, and looked at in all positions; where widths differ, a linear adapter learns with the
    model and is thrown away. Logits are distilled beside it.
    """

    technique: ClassVar[str] = "patient_distill"
    needs: ClassVar[str] = "a list of blocks that pass on hidden states, as transformers have"

    take: Annotated[Literal["every", "last"], Choice("every", "last")] = "every"

    def pairs(self, student: nn.Module, context: Context) -> tuple[Pairs, Features, Features]:
        """The blocks of the student but the last, each with one of the teacher's."""
        own, others = inside(self, student, context)
        lists = blocks(context.teacher, others)
        there = max(lists.values(), key=len, default=[])
        where = next((name for name, names in lists.items() if names == there), "")
        known = blocks(student, own)
        at = known.get(where) or max(known.values(), key=len, default=[])
        if len(there) < 2 or not at:
            raise NothingToDo(
                "patient_distill finds no blocks that pass on hidden states in a list, as transformers do: use "
                "distill, hint_distill or attention_distill"
            )
        learned = matched(len(at), len(there), self.take)
        return {at[i]: there[j] for i, j in learned.items()}, own, others

    def distance(self, own: Feature, other: Feature) -> nn.Module:
        """The squared distance of the normalized states."""
        return States(own.channels, other.channels)


def blocks(model: nn.Module, layers: Features) -> dict[str, list[str]]:
    """By the name of each list of modules, the blocks in it that put out hidden states (N, positions, width)."""
    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        parts = [f"{name}.{part}" if name else part for part, child in module.named_children() if _is_block(child)]
        states = [part for part in parts if part in layers and layers[part].last and len(layers[part].shape) == 3]
        alike = [part for part in states if layers[part].shape == layers[states[0]].shape]
        if alike:
            found[name] = alike
    return found


def _is_block(module: nn.Module) -> bool:
    """Whether a module has parts, and so is a block rather than a layer."""
    return next(module.children(), None) is not None


def matched(own: int, others: int, take: str) -> dict[int, int]:
    """Of which of the teacher's blocks each of the student's learns, both counted from 0 (Sun et al., 2019, 3.2).

    The last block is left out, whose state makes the outputs; a single one learns from the last.
    """
    if own == 1:
        return {0: others - 1}
    if take == "last" and others >= own:
        return {at: others - own + at for at in range(own - 1)}
    return {at: max((at + 1) * others // own - 1, 0) for at in range(own - 1)}


class States(nn.Module):
    """The squared distance of hidden states of unit length, averaged over examples and positions."""

    def __init__(self, width: int, other: int) -> None:
        super().__init__()
        self.adapter = Adapter(width, other) if width != other else nn.Identity()

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """(N, width, positions) and (N, other width, positions) -> one number."""
        apart: Tensor = normalize(self.adapter(own), dim=1) - normalize(other, dim=1)
        return torch.mean(apart.square().sum(1))
