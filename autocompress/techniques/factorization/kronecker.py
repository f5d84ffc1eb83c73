"""Weights as sums of Kronecker products."""

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ...recipe import Range
from ..base import Context
from ..layers import balanced, truncated, window
from ._cores import CoreLinear
from ._ranks import Candidate, Factorization, Ranks, Unfolded


class Kronecker(Factorization):
    """Replace a weight by a sum of Kronecker products of two small factors (Thakker et al., 2019).

    terms is how many products each layer gets; None leaves their number to `rank`. The kernel of a convolution stands
    in the second factors. The factors are as nearly square as the divisors of the layer's channels allow. What runs
    are two small products, never the whole weight.
    """

    technique: ClassVar[str] = "kronecker"
    needs: ClassVar[str] = "a linear layer or convolution that is smaller as two factors"

    energy: float = Field(0.8, gt=0, lt=1)
    terms: Annotated[int | None, Range(1, 8)] = Field(1, ge=1, le=8)

    def unfold(self, module: nn.Module) -> Unfolded | None:
        """The rearranged weight, whose singular vectors are the factors (Van Loan and Pitsianis, 1993)."""
        if not isinstance(module, nn.Linear) and not (isinstance(module, nn.Conv2d) and module.groups == 1):
            return None
        matrix = rearranged(module.weight)
        rows, columns = matrix.shape
        layers = 5 if isinstance(module, nn.Linear) else 6
        return Unfolded((matrix,), (min(rows, columns),), lambda ranks: ranks[0] * (rows + columns), layers)

    def factorize(self, module: Any, ranks: Ranks) -> nn.Module:
        """The nearest sum of that many products."""
        return factorize(module, ranks[0])

    def _choose(self, layers: dict[str, Candidate], context: Context) -> dict[str, Any]:
        if self.terms is None or self.ranks:
            return super()._choose(layers, context)
        return {name: [min(self.terms, *layer.unfolded.limits)] for name, layer in layers.items()}

    def _decomposes(self) -> bool:
        return super()._decomposes() and self.terms is None

    def _rule(self) -> tuple[str, str]:
        if self.terms is None or self.ranks:
            return super()._rule()
        return f"terms {self.terms}", "lower terms"


def rearranged(weight: Tensor) -> Tensor:
    """The matrix in which a Kronecker product is a product of two vectors: (o1 * i1, o2 * i2 * kh * kw).

    weight: (o1 * o2, i1 * i2, ...).
    """
    (o1, o2), (i1, i2) = balanced(weight.shape[0], 2), balanced(weight.shape[1], 2)
    return weight.reshape(o1, o2, i1, i2, -1).permute(0, 2, 1, 3, 4).reshape(o1 * i1, -1)


class KroneckerConv2d(nn.Module):
    """A convolution with the kernel sum_t kron(A_t, B_t), where A are matrices and B kernels.

    right moves over each of the i1 groups of input channels with the same weights, left is a 1x1 over what it gives.
    """

    def __init__(self, layer: nn.Conv2d, terms: int) -> None:
        super().__init__()
        (o1, self.o2), (self.i1, self.i2) = balanced(layer.out_channels, 2), balanced(layer.in_channels, 2)
        kernel: Any = layer.kernel_size
        self.right = nn.Conv2d(self.i2, terms * self.o2, kernel, bias=False, **window(layer))
        self.left = nn.Conv2d(self.i1 * terms, o1, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(layer.out_channels, 1, 1)) if layer.bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, outputs, height, width)."""
        inner = self.right(x.reshape(-1, self.i2, *x.shape[2:]))
        height, width = inner.shape[2:]
        joined = self.left(inner.reshape(-1, self.left.in_channels, self.o2 * height, width))
        y: Tensor = joined.reshape(-1, self.left.out_channels * self.o2, height, width)
        return y if self.bias is None else y + self.bias


def factorize(module: Any, terms: int) -> nn.Module:
    """The sum of that many Kronecker products that is nearest to a layer's weight (Van Loan and Pitsianis, 1993)."""
    matrix = rearranged(module.weight.detach())
    terms = min(terms, *matrix.shape)
    left, right = truncated(matrix, terms)
    (o1, o2), (i1, i2) = balanced(module.weight.shape[0], 2), balanced(module.weight.shape[1], 2)
    if isinstance(module, nn.Linear):
        linear = CoreLinear((i1, i2), (o1, o2), (1, terms, 1), module.bias is not None)
        linear.fill([left.reshape(1, o1, i1, terms), right.reshape(terms, o2, i2, 1)], module.bias)
        return linear.train(module.training)
    made = KroneckerConv2d(module, terms)
    with torch.no_grad():
        made.left.weight.copy_(left.reshape(made.left.weight.shape))
        made.right.weight.copy_(right.reshape(made.right.weight.shape))
        if made.bias is not None:
            made.bias.copy_(module.bias.reshape(made.bias.shape))
    return made.train(module.training)
