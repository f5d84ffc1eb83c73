"""Unstructured pruning: single weights become zero, and the file leaves them out."""

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from ...errors import NothingToDo
from ...recipe import Choice, Kind, Range
from ..base import Context, Decision, Technique
from ..masks import (
    apply_masks,
    keep_only,
    layer_of,
    masks_of_best,
    packed,
    prunable,
    shares,
    weights_to_prune,
    with_zeros_lowest,
    within,
)
from ..sensitivity import scan, strongest
from . import _weight_scores as weight_scores
from ._cycles import Schedule, check_rewind, expand, targets

Share = Annotated[float, Field(gt=0, lt=1)]


class WeightPruning(Technique):
    """Set the weights that count least to zero (Han et al., 2015), at once or in cycles with training in between.

    ratio is the share of weights that is zero afterwards, those that were before included: of all together or of
    each layer. auto takes from each layer what it can lose alone within `tolerance` (Li et al., 2017, section 3.2).
    keep names layers to leave alone; no layer loses more than max_ratio. schedule, epochs and learning_rate are those
    of cycles, alpha the teacher's share of their loss; rewind trains from early weights after each (Frankle and
    Carbin, 2019).
    """

    technique: ClassVar[str] = "weight_pruning"
    needs: ClassVar[str] = "a weight with rows and columns"
    family: ClassVar[str] = "pruning"
    kind: ClassVar[Kind] = "structure"
    by_layer: ClassVar[bool] = True

    ratio: Annotated[Share | Literal["auto"], Range(0.5, 0.95, step=0.05)] = 0.8
    importance: Annotated[
        Literal["magnitude", "gradient", "random", "integrated_gradients"], Choice("magnitude", "gradient")
    ] = "magnitude"
    scope: Annotated[Literal["global", "layer"], Choice("global", "layer")] = "global"
    max_ratio: float = Field(0.98, gt=0, lt=1)
    keep: tuple[str, ...] | None = None
    tolerance: float = Field(0.1, gt=0, lt=1)
    examples: int = Field(512, ge=1)
    cycles: int = Field(1, ge=1, le=100)
    schedule: Schedule = "cubic"
    epochs: int = Field(2, ge=1, le=10_000)
    learning_rate: float = Field(2e-3, gt=0, lt=10)
    rewind: bool = False
    alpha: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_rewind(self.rewind, self.alpha)
        return self

    def expand(self) -> list[dict[str, Any]]:
        """Pruning and training in turns, where there are several cycles or each goes back to early weights."""
        auto = self.ratio == "auto"
        goal = self.tolerance if self.ratio == "auto" else self.ratio
        step = {**self.to_data(), "rewind": False}
        ratios = targets(goal, self.cycles, self.schedule)
        rows = expand(step, ratios, self.epochs, self.learning_rate, self.rewind, self.alpha)
        # With ratio auto it is the tolerance that grows from cycle to cycle.
        return [{**row, "ratio": "auto", "tolerance": row["ratio"]} if auto and "ratio" in row else row for row in rows]

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The masks of the weights that stay, and how much of each layer is zero then."""
        weights = within(self, weights_to_prune(model, self.keep, self.technique), context)
        scores, plain = self._scores(model, list(weights), context)
        ranked = {name: with_zeros_lowest(score, weights[name] == 0) for name, score in scores.items()}
        if self.ratio == "auto" or self.scope == "layer":
            ratios = self._ratios(model, weights, context)
            masks = {
                name: masks_of_best({name: score}, ratios[name], max(self.max_ratio, ratios[name]))[name]
                for name, score in ranked.items()
            }
        else:
            # The cap keeps a global ranking from emptying a layer; it never lowers what the user asked for.
            masks = masks_of_best(ranked, self.ratio, max(self.max_ratio, self.ratio))
        by_magnitude = {"by magnitude alone": [layer_of(name) for name in plain]} if plain else {}
        return {"layers": shares(masks), **by_magnitude, "masks": packed(masks)}

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Set the recorded weights to zero."""
        return apply_masks(model, decision["masks"])

    def _scores(self, model: nn.Module, names: list[str], context: Context) -> tuple[dict[str, Tensor], list[str]]:
        """The score of each weight, and the names of those that the importance cannot say more of than their size."""
        match self.importance:
            case "magnitude":
                return weight_scores.magnitude(model, names), []
            case "gradient":
                return weight_scores.taylor(model, names, context, self.examples), []
            case "random":
                return weight_scores.random(model, names, context.seed), []
            case "integrated_gradients":
                return weight_scores.attributed(model, names, context)

    def _ratios(self, model: nn.Module, weights: Mapping[str, Tensor], context: Context) -> dict[str, float]:
        if self.ratio != "auto":
            return dict.fromkeys(weights, self.ratio)
        curves = self._sensitivity(model, context)
        ratios = {name: min(self.max_ratio, strongest(curves[name], self.tolerance)) for name in weights}
        if not any(round(ratio * weights[name].numel()) for name, ratio in ratios.items()):
            raise NothingToDo(
                f"weight_pruning with tolerance {self.tolerance:g} finds no layer that can lose weights: raise it"
            )
        return ratios

    def _sensitivity(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Scans of the uncompressed model, which all trials share; of this one where its layers are others."""
        known = prunable(context.original)
        same = all(name in known for name in prunable(model))
        # One seed, so that what is kept does not depend on which trial came first.
        fixed = replace(context, seed=0) if same else replace(context, seed=0, student=model, cache={})

        @functools.cache
        def scores() -> dict[str, Tensor]:
            """The scores of the uncompressed model's weights, computed when first needed."""
            return self._scores(fixed.original, list(prunable(fixed.original)), fixed)[0]

        def damage(work: nn.Module, name: str, strength: float) -> None:
            """Prune one weight of a copy by a share."""
            weight = work.get_parameter(name)
            ranked = with_zeros_lowest(scores()[name], weight == 0)
            keep_only(weight, masks_of_best({name: ranked}, strength, 1.0)[name])

        sample = f" {self.examples}" if self.importance == "gradient" else ""
        return scan(fixed, f"{self.technique} {self.importance}{sample}", list(prunable(fixed.original)), damage)
