"""Ternary weights."""

from typing import ClassVar

import torch
from torch import Tensor

from ._few_values import FewValues


class Ternary(FewValues):
    """Train with weights of three values a layer: zero, and one size with either sign (Li et al., 2016: TWN).

    What is smaller than 0.7 times the mean size is zero; the others get their mean size. Zeros are packed to positions
    where they are many, else a weight takes two bits or fewer. alpha is the share of distillation in the loss. keep
    names layers that stay in float: names, patterns such as `head.*`, `first` or `last`.
    """

    technique: ClassVar[str] = "ternary"
    needs: ClassVar[str] = "a linear layer or convolution"

    @staticmethod
    def rounded(weight: Tensor) -> Tensor:
        """The ternary weight nearest to a weight, as far as the mean tells (Li et al., 2016, equations 5 and 6)."""
        size = weight.abs()
        large = size > 0.7 * size.mean()
        scale = (size * large).sum() / large.sum().clamp_min(1)
        return torch.where(large, weight.sign() * scale, torch.zeros_like(weight))
