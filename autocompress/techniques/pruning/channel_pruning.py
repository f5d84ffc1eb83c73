"""Channel pruning: filters and neurons leave the network, with everything that depends on them."""

import math
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from ...errors import NothingToDo, TechniqueError, suggest
from ...recipe import Choice, Kind, Range
from .. import sensitivity
from ..base import Context, Decision, Technique
from ..outputs import output_layers
from . import _channel_scores, _cycles
from ._attention import open_attention, opened
from ._dependencies import Group, find_groups
from ._modules import has_channels, is_layer
from ._removal import BROKEN, Chosen, changes, in_heads, merged, possible, remove, widths_of


class ChannelPruning(Technique):
    """Remove channels and everything coupled to them, least important first (Fang et al., 2023: DepGraph).

    ratio is the share that goes, or auto: as much of each layer as it can lose alone in the uncompressed model with a
    share `tolerance` of what that has learned. Layers in `keep`, or inside a module there, keep all their outputs. In
    cycles alpha is the teacher's share of the loss of the training in between.
    """

    technique: ClassVar[str] = "channel_pruning"
    needs: ClassVar[str] = "a layer with channels that the model can do without"
    family: ClassVar[str] = "pruning"
    kind: ClassVar[Kind] = "structure"
    by_layer: ClassVar[bool] = True

    ratio: Annotated[Annotated[float, Field(gt=0, lt=1)] | Literal["auto"], Range(0.1, 0.9, step=0.05)] = 0.5
    importance: Annotated[
        Literal["l1", "l2", "taylor", "fpgm", "bn_scale", "lamp", "hessian", "conductance"],
        Choice("l1", "taylor", "fpgm"),
    ] = "taylor"
    scope: Annotated[Literal["global", "layer"], Choice("global", "layer")] = "global"
    max_ratio: float = Field(0.95, gt=0, lt=1, validate_default=True)
    tolerance: float = Field(0.05, gt=0, lt=1)
    round_to: int = Field(1, ge=1, le=1024)
    examples: int = Field(512, ge=1)
    keep: tuple[str, ...] = ()
    cycles: int = Field(1, ge=1, le=100)
    schedule: _cycles.Schedule = "cubic"
    epochs: int = Field(3, ge=1, le=10_000)
    learning_rate: float = Field(2e-3, gt=0, lt=10)
    rewind: bool = False
    alpha: float = Field(0.0, ge=0, le=1)

    @field_validator("max_ratio")
    @classmethod
    def _at_least_ratio(cls, value: float, info: ValidationInfo) -> float:
        # The cap keeps a global ranking from cutting a layer to nothing; it never lowers what the user asked for.
        ratio = info.data.get("ratio", "auto")
        return value if ratio == "auto" else max(value, float(ratio))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ratio == "auto" and self.cycles > 1:
            raise ValueError("cycles count towards a number: give ratio as one, or leave cycles out")
        _cycles.check_rewind(self.rewind, self.alpha)
        return self

    def expand(self) -> list[dict[str, Any]]:
        """Itself; in cycles, pruning steps up to the ratio with training in between."""
        plain = self.to_data()
        if self.cycles == 1 and not self.rewind:
            return [plain]
        once = {**plain, "rewind": False}
        if self.ratio == "auto":
            ratios: list[Any] = ["auto"]
        else:
            ratios = _cycles.of_the_rest(_cycles.targets(self.ratio, self.cycles, self.schedule))
        return _cycles.expand(once, ratios, self.epochs, self.learning_rate, self.rewind, self.alpha)

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The positions to remove of each layer, its width before and after, and what is left alone and why.

        Attention of torch's or timm's that loses any is `opened` first.
        """
        model, attention = opened(model, context.example)
        kept = [*self._kept(model), *self._outside(model, context)]
        try:
            groups, skipped = find_groups(model, context.example, [*output_layers(model, context.example), *kept])
        except BROKEN as error:
            raise TechniqueError(
                f"channel_pruning cannot follow this network's dependencies ({type(error).__name__}: {error}): "
                "leave it out of the recipe for this model"
            ) from error
        groups = in_heads(model, context.example, groups)
        scored = self._scored(model, context, groups, skipped)
        chosen = self._chosen(scored, self._ratios(context, [group for group, _ in scored], skipped))
        chosen = possible(model, context.example, chosen, skipped)
        if not chosen:
            raise NothingToDo(self._nothing(skipped))
        history = merged([row for group, units in chosen for row in group.without(units)])
        widths = widths_of(model, chosen)
        found = {"layers": changes(model, history), "skipped": skipped, "widths": widths, "history": history}
        touched = [name for name in attention if any(row[0].startswith(f"{name}.") for row in history)]
        return {**found, "opened": touched} if touched else found

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Remove the recorded positions."""
        model = open_attention(model, decision.get("opened", []))
        return remove(model, decision["history"], decision["widths"])

    def _kept(self, model: nn.Module) -> list[nn.Module]:
        known = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
        for name in self.keep:
            if name not in known:
                raise TechniqueError(f"channel_pruning cannot keep {name!r}, which is no layer: {suggest(name, known)}")
        return [layer for name in self.keep for layer in known[name].modules()]

    def _outside(self, model: nn.Module, context: Context) -> list[nn.Module]:
        """The layers that the recipe does not restrict the step to; they still lose inputs."""
        layers = {name: module for name, module in model.named_modules() if has_channels(module)}
        inside = set(self.within((name for name, module in layers.items() if is_layer(module)), context))
        return [module for name, module in layers.items() if self.layers and name not in inside]

    def _scored(
        self, model: nn.Module, context: Context, groups: list[Group], skipped: dict[str, str]
    ) -> list[tuple[Group, Tensor]]:
        score, found = self._score(model, context, groups), []
        for group in groups:
            values = score(group)
            if values is None:
                skipped[group.name] = f"it has nothing that importance {self.importance} looks at"
            else:
                scale = _channel_scores.lamp if self.importance == "lamp" else _channel_scores.relative
                found.append((group, scale(values)))
        if self.importance == "bn_scale" and groups and not found:
            raise TechniqueError(
                "channel_pruning with importance bn_scale ranks channels by batch normalization, and no layer of this "
                "model that can be pruned has any: use another importance"
            )
        return found

    def _score(self, model: nn.Module, context: Context, groups: list[Group]) -> _channel_scores.Score:
        match self.importance:
            case "l1":
                return _channel_scores.by_weights(torch.abs)
            case "l2" | "lamp":
                return _channel_scores.by_weights(torch.square)
            case "fpgm":
                return _channel_scores.geometric_median
            case "bn_scale":
                return _channel_scores.batch_norm_scale
            case "taylor":
                slopes = _channel_scores.gradients(model, context, self.examples)
                return _channel_scores.by_weights(lambda weight: (weight * slopes[id(weight)]).abs())
            case "hessian":
                curves = _channel_scores.fisher(model, context, self.examples)
                return _channel_scores.by_weights(lambda weight: weight**2 * curves[id(weight)])
            case _:
                layers = {part.name for group in groups for part in group.producers}
                return _channel_scores.by_output(_channel_scores.conductance(model, context, self.examples, layers))

    def _ratios(self, context: Context, groups: list[Group], skipped: dict[str, str]) -> list[float]:
        """The share of each group that goes; 0 for one that is left alone."""
        if self.ratio != "auto":
            return [self.ratio] * len(groups)
        ends = {id(layer) for layer in output_layers(context.original, context.example)}
        layers = [name for name, m in context.original.named_modules() if is_layer(m) and id(m) not in ends]
        curves = sensitivity.scan(context, "filters l1", layers, _without_filters)
        found = []
        for group in groups:
            known = [curves[part.name] for part in group.producers if part.name in curves]
            if not known:
                skipped[group.name] = "it is no layer of the uncompressed model, which is what is scanned"
            found.append(min((sensitivity.strongest(curve, self.tolerance) for curve in known), default=0.0))
        return found

    def _chosen(self, scored: list[tuple[Group, Tensor]], ratios: list[float]) -> Chosen:
        """The least important units: of each group alone, or of all together."""
        counts = [
            len(scores) - _share(len(scores), 1 - ratio) for (_, scores), ratio in zip(scored, ratios, strict=True)
        ]
        if self.scope == "global" and self.ratio != "auto" and scored:
            counts = _ranked(scored, self.ratio, self.max_ratio)
        chosen = []
        for (group, scores), count in zip(scored, counts, strict=True):
            left = _rounded(len(scores) - count, group.unit, self.round_to)
            if count and left < len(scores):
                chosen.append((group, sorted(scores.argsort(stable=True)[: len(scores) - left].tolist())))
        return chosen

    def _nothing(self, skipped: dict[str, str]) -> str:
        what = f"ratio {self.ratio}" if self.ratio == "auto" else f"ratio {self.ratio:g}"
        why = "".join(f"; {name} is left alone, as {reason}" for name, reason in list(skipped.items())[:3])
        return (
            f"channel_pruning with {what} finds no channel to remove: the model has too few, or only its output "
            f"layer{why}; raise the ratio or leave the step out"
        )


def _ranked(scored: list[tuple[Group, Tensor]], ratio: float, max_ratio: float) -> list[int]:
    """How many of each group are among the least important of all; the best of each are out of reach."""
    ranks = []
    for _, scores in scored:
        reach = scores.clone()
        reach[scores.topk(max(1, len(scores) - _share(len(scores), max_ratio))).indices] += 1e6
        ranks.append(reach)
    every = torch.cat(ranks)
    count = len(every) - _share(len(every), 1 - ratio)
    # Where scores tie, every group loses the same share.
    share = torch.cat([scores.argsort(stable=True).argsort() / len(scores) for scores in ranks]).argsort(stable=True)
    owners = torch.repeat_interleave(torch.tensor([len(scores) for scores in ranks]))
    gone = owners[share[every[share].argsort(stable=True)[:count]]]
    return torch.bincount(gone, minlength=len(ranks)).tolist()


def _share(count: int, share: float) -> int:
    """That share of a count, rounded down, where a share such as 1 - 0.8 is taken for 0.2."""
    return int(count * share + 1e-6)


def _rounded(left: int, unit: int, multiple: int) -> int:
    """How many units stay, at least 1, so that the width is a multiple; rounded down where that leaves any."""
    step = multiple // math.gcd(multiple, unit)
    return max(left // step * step, step)


def _without_filters(model: nn.Module, name: str, strength: float) -> None:
    """Zero that share of a layer's filters or hidden units, smallest norm first (Li et al., 2017, section 3.2)."""
    module: Any = model.get_submodule(name)
    with torch.no_grad():
        views = [_by_filter(module, parameter) for parameter in module.parameters()]
        norms = torch.stack([view.flatten(1).abs().sum(1) for view in views if view.dim() > 1]).sum(0)
        gone = norms.argsort(stable=True)[: round(strength * len(norms))]
        for view in views:
            view[gone] = 0


def _by_filter(module: nn.Module, parameter: Tensor) -> Tensor:
    """A view of a parameter with the filters, or the hidden units without their gates, first."""
    if isinstance(module, nn.RNNBase):
        return parameter.view(-1, module.hidden_size, *parameter.shape[1:]).transpose(0, 1)
    return parameter.transpose(0, 1) if isinstance(module, _ConvTransposeNd) and parameter.dim() > 1 else parameter
