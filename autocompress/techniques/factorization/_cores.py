"""A linear layer whose weight is a chain of cores, as tensor trains and sums of Kronecker products are."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

Modes = tuple[int, ...]


class CoreLinear(nn.Module):
    """A linear layer with cores in the place of its weight; inputs may have any number of leading dimensions.

    inputs, outputs: the factors n(k) and m(k) of the widths; around: the ranks r(0) = 1 to r(d) = 1. Each core is a
    matrix as it is multiplied with: (r(k-1) * m(k), n(k) * r(k)), the last one (n(d), r(d-1) * m(d)).
    """

    def __init__(self, inputs: Modes, outputs: Modes, around: Sequence[int], bias: bool) -> None:
        super().__init__()
        self.inputs, self.outputs, self.around = inputs, outputs, tuple(around)
        steps = list(zip(inputs, outputs, around[:-1], around[1:], strict=True))
        shapes = [(before * m, n * after) for n, m, before, after in steps[:-1]]
        n, m, before, _ = steps[-1]
        self.cores = nn.ParameterList(torch.zeros(shape) for shape in [*shapes, (n, before * m)])
        self.bias = nn.Parameter(torch.zeros(math.prod(outputs))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs): the last digit of the input is used up first, and nothing is transposed."""
        last = len(self.inputs) - 1
        z = x.reshape(-1, self.inputs[last - 1], self.inputs[last]) @ self.cores[last]
        done = self.outputs[last]
        for k in range(last - 1, -1, -1):
            z = self.cores[k] @ z.reshape(-1, self.inputs[k] * self.around[k + 1], done)
            done *= self.outputs[k]
        y: Tensor = z.reshape(*x.shape[:-1], done)
        return y if self.bias is None else y + self.bias

    def fill(self, cores: Sequence[Tensor], bias: Tensor | None) -> None:
        """Take numbers from cores of the shapes (r(k-1), m(k), n(k), r(k))."""
        with torch.no_grad():
            for parameter, core in zip(self.cores[:-1], cores[:-1], strict=True):
                parameter.copy_(core.reshape(parameter.shape))
            self.cores[-1].copy_(cores[-1].permute(2, 0, 1, 3).reshape(self.cores[-1].shape))
            if self.bias is not None and bias is not None:
                self.bias.copy_(bias)
