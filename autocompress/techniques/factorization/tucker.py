"""Tucker factorization of convolutions."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..layers import chain, has_window, window
from ._ranks import Factorization, Ranks, Unfolded

SWEEPS = 3  # the error settles after two or three


class Tucker(Factorization):
    """Replace a convolution by a 1x1, a small core and a 1x1 (Tucker-2; Kim et al., 2016).

    Ranks are chosen for output and input channels.
    """

    technique: ClassVar[str] = "tucker"
    needs: ClassVar[str] = "a convolution with a window over all of its inputs that is smaller as three"
    target: ClassVar[str] = "convolution"

    def unfold(self, module: nn.Module) -> Unfolded | None:
        """The unfoldings along output and input channels."""
        if not has_window(module):
            return None
        shape = module.weight.shape
        matrices = tuple(module.weight.movedim(mode, 0).flatten(1) for mode in (0, 1))
        limits = tuple(min(matrix.shape) for matrix in matrices)
        return Unfolded(matrices, limits, lambda ranks: numbers_held(shape, ranks), layers=3)

    def factorize(self, module: Any, ranks: Ranks) -> nn.Sequential:
        """Three convolutions with these channels between them."""
        return factorize(module, ranks)


def numbers_held(shape: torch.Size, ranks: Ranks) -> int:
    """How many weights the three layers hold together: inputs * r1 + r1 * r0 * kh * kw + r0 * outputs."""
    outputs, inputs, height, width = shape
    return inputs * ranks[1] + ranks[0] * ranks[1] * height * width + ranks[0] * outputs


def hooi(weight: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of output and input channels and the core, by higher-order orthogonal iteration (De Lathauwer, 2000).

    weight: (out, in, kh, kw). Returns (out, r0), (in, r1) and (r0, r1, kh, kw) in double precision.
    """
    kernel = weight.double()
    left = leading(kernel.flatten(1), ranks[0])
    for _ in range(SWEEPS):
        right = leading(torch.einsum("or,oihw->irhw", left, kernel).flatten(1), ranks[1])
        left = leading(torch.einsum("ir,oihw->orhw", right, kernel).flatten(1), ranks[0])
    return left, right, torch.einsum("oihw,or,is->rshw", kernel, left, right)


def leading(matrix: Tensor, rank: int) -> Tensor:
    """The first left singular vectors of a matrix, from its Gram matrix."""
    vectors: Tensor = torch.linalg.eigh(matrix @ matrix.T)[1]
    return vectors.flip(1)[:, :rank]


def factorize(module: Any, ranks: Ranks) -> nn.Sequential:
    """Three convolutions with the given channels between them."""
    outputs, inputs = ranks
    left, right, core = hooi(module.weight.detach(), ranks)
    layers = [
        nn.Conv2d(module.in_channels, inputs, 1, bias=False),
        nn.Conv2d(inputs, outputs, module.kernel_size, bias=False, **window(module)),
        nn.Conv2d(outputs, module.out_channels, 1, bias=module.bias is not None),
    ]
    return chain(module, layers, [right.T, core, left])
