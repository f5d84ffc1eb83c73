"""What factorizations share: which layers can be replaced, how their ranks are chosen, and the decision."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ...errors import NothingToDo, TechniqueError, suggest
from ...recipe import Kind, Range
from ..base import Context, Decision, Technique
from ..layers import rank_by_energy, shrinks, singular_values
from ..replacing import replace_layers, unreplaceable
from ..sensitivity import scan, strongest
from ._vbmf import vbmf_rank

LARGEST = 5000  # rows and columns up to which all singular values are found: twice as many take eight times as long
Ranks = list[int]


@dataclass(frozen=True)
class Unfolded:
    """A layer's weight as the matrices whose ranks are to be chosen.

    limits: the largest ranks; a single one where matrices share a rank, which then counts singular values of them all.
    held: how many weights the factors hold. layers: how many layers of a file they are, or take the room of.
    """

    matrices: tuple[Tensor, ...]
    limits: tuple[int, ...]
    held: Callable[[Ranks], int]
    layers: int

    def too_large(self) -> str | None:
        """Why its singular values are not looked for; None where they are."""
        for rows, columns in (matrix.shape for matrix in self.matrices):
            if min(rows, columns) > LARGEST:
                return f"all singular values of {rows}x{columns} numbers would take long: give it a rank by `ranks`"
        return None

    def share(self, kept: float) -> Ranks:
        """The ranks that are this share of the largest ones."""
        return [max(1, round(kept * limit)) for limit in self.limits]


class Candidate:
    """A layer that can be factorized, with the singular values of its matrices."""

    def __init__(self, name: str, module: Any, unfolded: Unfolded) -> None:
        self.name, self.module, self.unfolded = name, module, unfolded
        self.weights: int = module.weight.numel()

    @cached_property
    def values(self) -> list[Tensor]:
        """The singular values of each matrix; found when a rule asks, since those of a large one take minutes."""
        return [singular_values(matrix.detach()) for matrix in self.unfolded.matrices]

    @cached_property
    def pooled(self) -> list[Tensor]:
        """The singular values that each rank counts."""
        if len(self.unfolded.limits) == 1:
            return [torch.cat(self.values).sort(descending=True)[0]]
        return self.values

    def by_energy(self, energy: float) -> Ranks:
        """The smallest ranks that keep a share of the squared singular values."""
        return [rank_by_energy(values, energy) for values in self.pooled]

    def by_vbmf(self) -> Ranks | str:
        """The ranks that stand out of the noise, or the reason why there are none."""
        pairs = zip(self.values, self.unfolded.matrices, strict=True)
        ranks = [vbmf_rank(values.numpy(), *matrix.shape) for values, matrix in pairs]
        ranks = ranks if len(self.unfolded.limits) > 1 else [sum(ranks)]
        return ranks if min(ranks) else "vbmf finds nothing in it that stands out of noise"

    def shrinks(self, ranks: Ranks) -> bool:
        """Whether the factors take less of the file than the layer."""
        return shrinks(self.weights, self.unfolded.held(ranks), self.unfolded.layers)

    def held(self, ranks: Ranks) -> int:
        """The weights that are left at these ranks: all of them where the factors would be no smaller."""
        return self.unfolded.held(ranks) if self.shrinks(ranks) else self.weights

    def too_large(self, ranks: Ranks) -> str:
        """Why a layer is left alone whose factors would be no smaller."""
        if len(ranks) > 1:
            said = f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
        else:
            shape = self.unfolded.matrices[0].shape if len(self.unfolded.matrices) == 1 else None
            said = f"rank {ranks[0]}" + (f" of {shape[0]}x{shape[1]}" if shape else "")
        return f"{said} would take no less of the file"


class Factorization(Technique):
    """A technique that replaces layers by factors of their weights; subclasses say which layers and which factors.

    rank says how ranks are chosen. energy: the smallest that keep a share `energy` of the squared singular values.
    params: those at which all layers that can be factorized together hold a share `keep` of their weights, at one
    energy for all. vbmf: by variational Bayes, without a setting (Kim et al., 2016, section 3.2). sensitivity: the
    smallest at which a layer alone loses at most `tolerance` of what the model has learned. ranks gives those of
    some layers by name instead, and only they are factorized. Layers that would grow are left alone.
    """

    family: ClassVar[str] = "low-rank"
    kind: ClassVar[Kind] = "structure"
    by_layer: ClassVar[bool] = True
    target: ClassVar[str] = "layer"

    energy: Annotated[float, Range(0.5, 0.95, step=0.05)] = Field(0.8, gt=0, lt=1)
    rank: Literal["energy", "params", "vbmf", "sensitivity"] = "energy"
    keep: float = Field(0.5, gt=0, lt=1)
    tolerance: float = Field(0.05, gt=0, lt=1)
    ranks: dict[str, int | list[int]] = Field(default_factory=dict)

    @abstractmethod
    def unfold(self, module: nn.Module) -> Unfolded | None:
        """The matrices of a layer; None for one that this technique does not factorize."""

    @abstractmethod
    def factorize(self, module: Any, ranks: Ranks) -> nn.Module:
        """The factors in the place of a layer."""

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The ranks of each layer that shrinks, and why the others stay."""
        layers, skipped = self._candidates(model, context)
        ranks: dict[str, int | list[int]] = {}
        for name, found in self._choose(layers, context).items():
            if isinstance(found, str):
                skipped[name] = found
            elif not layers[name].shrinks(found):
                skipped[name] = layers[name].too_large(found)
            else:
                ranks[name] = found if len(found) > 1 else found[0]
        if not ranks:
            seen = next((f" ({name}: {reason})" for name, reason in skipped.items()), "")
            said, fix = self._rule()
            # Ranks that a user gave by name are meant; others are looked for.
            raise (TechniqueError if self.ranks else NothingToDo)(
                f"{self.technique} with {said} finds no {self.target} that would shrink: "
                f"{fix} or leave the step out{seen}"
            )
        return {"ranks": ranks, "skipped": skipped}

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Factorize the recorded layers to their ranks; a layer with several names stays shared."""
        made: dict[nn.Module, nn.Module] = {}
        for name, module in list(model.named_modules(remove_duplicate=False)):
            ranks = decision["ranks"].get(name)
            if ranks is not None and module not in made:
                made[module] = self.factorize(module, ranks if isinstance(ranks, list) else [ranks])
        return replace_layers(model, made)

    def by_energy(self, layer: Candidate) -> Ranks | str:
        """The ranks of the rule `energy`, or why there are none."""
        return layer.by_energy(self.energy)

    def _rule(self) -> tuple[str, str]:
        if self.ranks:
            return f"ranks {self.ranks}", "lower them"
        return {
            "energy": (f"energy {self.energy:g}", "lower energy"),
            "params": (f"keep {self.keep:g}", "lower keep"),
            "vbmf": ("rank vbmf", "choose the ranks by energy"),
            "sensitivity": (f"tolerance {self.tolerance:g}", "raise tolerance"),
        }[self.rank]

    def _candidates(self, model: nn.Module, context: Context) -> tuple[dict[str, Candidate], dict[str, str]]:
        every = {name: (m, u) for name, m in model.named_modules() if (u := self.unfold(m)) is not None}
        found = {name: every[name] for name in self.within(every, context)}
        skipped = unreplaceable(model, list(found), context.example)
        if self._decomposes():
            skipped |= {name: why for name, (_, unfolded) in found.items() if (why := unfolded.too_large())}
        return {name: Candidate(name, *pair) for name, pair in found.items() if name not in skipped}, skipped

    def _decomposes(self) -> bool:
        """Whether ranks are chosen by all singular values."""
        return not self.ranks

    def _choose(self, layers: dict[str, Candidate], context: Context) -> dict[str, Any]:
        if self.ranks:
            return {name: self._given(name, layers) for name in self.ranks}
        match self.rank:
            case "energy":
                return {name: self.by_energy(layer) for name, layer in layers.items()}
            case "params":
                return self._by_params(layers)
            case "vbmf":
                return {name: layer.by_vbmf() for name, layer in layers.items()}
            case "sensitivity":
                return self._by_sensitivity(layers, context)

    def _given(self, name: str, layers: dict[str, Candidate]) -> Ranks:
        if name not in layers:
            raise TechniqueError(
                f"{self.technique} cannot factorize {name!r} of `ranks`: {suggest(name, layers) if layers else 'none'}"
            )
        value, limits = self.ranks[name], layers[name].unfolded.limits
        ranks = value if isinstance(value, list) else [value] * len(limits)
        if len(ranks) != len(limits) or not all(1 <= rank <= top for rank, top in zip(ranks, limits, strict=True)):
            tops = " and ".join(f"1 to {top}" for top in limits)
            raise TechniqueError(f"{self.technique} cannot give {name!r} the rank {value}: it takes {tops}")
        return ranks

    def _by_params(self, layers: dict[str, Candidate]) -> dict[str, Ranks]:
        total = sum(layer.weights for layer in layers.values())

        def held(energy: float) -> int:
            """How many weights all layers hold together at that kept energy."""
            return sum(layer.held(layer.by_energy(energy)) for layer in layers.values())

        if layers and held(0.0) > self.keep * total:
            raise TechniqueError(
                f"{self.technique} cannot keep a share of {self.keep:g} of the weights that it can factorize: "
                f"at rank 1 they hold {held(0.0) / total:.3f}; raise keep"
            )
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if held(middle) <= self.keep * total else (low, middle)
        return {name: layer.by_energy(low) for name, layer in layers.items()}

    def _by_sensitivity(self, layers: dict[str, Candidate], context: Context) -> dict[str, Ranks | str]:
        whole = [name for name, module in context.original.named_modules() if self.unfold(module) is not None]
        fixed = unreplaceable(context.original, whole, context.example)
        names = [name for name in whole if name not in fixed]
        own = self.model_dump(mode="json", exclude=set(Factorization.model_fields))
        curves = scan(context, f"{self.technique} {own}", names, self._truncate)
        unknown = "it is not in the uncompressed model, which sensitivity is measured on"
        return {
            name: layer.unfolded.share(1 - strongest(curves[name], self.tolerance)) if name in curves else unknown
            for name, layer in layers.items()
        }

    def _truncate(self, model: nn.Module, name: str, strength: float) -> None:
        module = model.get_submodule(name)
        unfolded = self.unfold(module)
        assert unfolded is not None
        factors = self.factorize(module, unfolded.share(1 - strength))
        if replace_layers(model, {module: factors}) is not model:
            setattr(model, "forward", factors.forward)  # noqa: B010  a model that is a single layer
