"""Low-rank factorization by singular value decomposition."""

from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor, nn

from ...recipe import Choice
from ..layers import chain, split_window, truncated, window
from ._ranks import Factorization, Ranks, Unfolded

Variant = Literal["channel", "spatial"]


class Svd(Factorization):
    """Replace a layer by two thin ones (Denton et al., 2014).

    A linear layer becomes two. A convolution becomes a thin one and a 1x1 (variant channel; Zhang et al., 2015), or
    one over the height and one over the width (variant spatial; Jaderberg et al., 2014, section 2.2).
    """

    technique: ClassVar[str] = "svd"
    needs: ClassVar[str] = "a linear layer or convolution that is smaller as two thinner ones"

    variant: Annotated[Variant, Choice("channel", "spatial")] = "channel"

    def unfold(self, module: nn.Module) -> Unfolded | None:
        """The weight as one matrix."""
        matrix = as_matrix(module, self.variant)
        if matrix is None:
            return None
        rows, columns = matrix.shape
        return Unfolded((matrix,), (min(rows, columns),), lambda ranks: ranks[0] * (rows + columns), layers=2)

    def factorize(self, module: Any, ranks: Ranks) -> nn.Sequential:
        """The best approximation of a layer by two with that many channels between them."""
        return factorize(module, ranks[0], self.variant)


def as_matrix(module: nn.Module, variant: Variant = "channel") -> Tensor | None:
    """The weight that a rank is chosen for; None where there is none.

    (out, in) of a linear layer; (out, in * kh * kw) of a convolution, or (out * kw, in * kh) when it is split between
    its height and width.
    """
    if isinstance(module, nn.Linear):
        return module.weight
    if isinstance(module, nn.Conv2d) and module.groups == 1:
        if variant == "channel":
            return module.weight.flatten(1)
        return module.weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)
    return None


def factorize(module: Any, rank: int, variant: Variant = "channel") -> nn.Sequential:
    """The best approximation of a layer by two layers with `rank` channels between them (Eckart and Young, 1936)."""
    matrix = as_matrix(module, variant)
    assert matrix is not None
    second, first = truncated(matrix.detach(), rank)
    bias = module.bias is not None
    if isinstance(module, nn.Linear):
        pair: list[Any] = [nn.Linear(module.in_features, rank, False), nn.Linear(rank, module.out_features, bias)]
        return chain(module, pair, [first, second])
    if variant == "channel":
        pair = [
            nn.Conv2d(module.in_channels, rank, module.kernel_size, bias=False, **window(module)),
            nn.Conv2d(rank, module.out_channels, 1, bias=bias),
        ]
        return chain(module, pair, [first, second])
    down, across = split_window(module)
    pair = [
        nn.Conv2d(module.in_channels, rank, bias=False, **down),
        nn.Conv2d(rank, module.out_channels, bias=bias, **across),
    ]
    second = second.reshape(module.out_channels, module.kernel_size[1], rank).transpose(1, 2)
    return chain(module, pair, [first, second])
