"""Binary weights."""

from typing import ClassVar

from torch import Tensor

from ._few_values import FewValues


class Binary(FewValues):
    """Train with weights of one size and either sign, a bit each (Rastegari et al., 2016: binary weight networks).

    The size is the mean size of the layer's weights; what is exactly zero stays zero. alpha is the share of
    distillation in the loss. keep names layers that stay in float: names, patterns such as `head.*`, `first` or `last`.
    """

    technique: ClassVar[str] = "binary"
    needs: ClassVar[str] = "a linear layer or convolution"

    @staticmethod
    def rounded(weight: Tensor) -> Tensor:
        """The signs of a weight times its mean size (Rastegari et al., 2016, equation 6)."""
        zero = weight == 0
        scale = weight.abs().sum() / (~zero).sum().clamp_min(1)
        return weight.sign() * scale
