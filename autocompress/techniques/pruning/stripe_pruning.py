"""Stripe pruning: filters lose the positions of their window that count least."""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from ...errors import NothingToDo
from ...recipe import Choice, Kind, Range
from ..base import Context, Decision, Technique
from ..masks import keep_only, masks_of_best, packed, shares, unpack_mask, with_zeros_lowest


class StripePruning(Technique):
    """Set whole stripes of filters to zero: one filter's weights at one position of its window (Meng et al., 2020).

    Stripes rank by their L1 norm, per weight where layers are compared. ratio is the share of stripes that is zero
    afterwards, those that were before included; no layer loses more than max_ratio.
    """

    technique: ClassVar[str] = "stripe_pruning"
    needs: ClassVar[str] = "a convolution with a window of more than one position"
    family: ClassVar[str] = "pruning"
    kind: ClassVar[Kind] = "structure"
    by_layer: ClassVar[bool] = True

    ratio: Annotated[float, Range(0.3, 0.9, step=0.05)] = Field(0.5, gt=0, lt=1)
    scope: Annotated[Literal["global", "layer"], Choice("global", "layer")] = "global"
    max_ratio: float = Field(0.95, gt=0, lt=1)

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The masks of the stripes that stay, and how many of each layer went."""
        convolutions = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and math.prod(module.kernel_size) > 1
        }
        if not convolutions:
            raise NothingToDo(
                "stripe_pruning finds no convolution with a window of more than one position: leave the step out"
            )
        norms = {n: convolutions[n].weight.detach().abs().mean(1) for n in self.within(convolutions, context)}
        scores = {name: with_zeros_lowest(norm, norm == 0) for name, norm in norms.items()}
        # The cap keeps a global ranking from emptying a layer; it never lowers what the user asked for.
        cap = max(self.max_ratio, self.ratio)
        if self.scope == "global":
            masks = masks_of_best(scores, self.ratio, cap)
        else:
            masks = {name: masks_of_best({name: row}, self.ratio, cap)[name] for name, row in scores.items()}
        return {"layers": shares(masks, "stripes"), "masks": packed(masks)}

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Set the recorded stripes to zero."""
        for name, text in decision["masks"].items():
            weight = model.get_submodule(name).get_parameter("weight")
            filters, _, *window = weight.shape
            keep_only(weight, unpack_mask(text, torch.Size([filters, *window]), name).unsqueeze(1))
        return model
