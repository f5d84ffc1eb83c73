"""About how many bits weights will take once they are rounded and coded, as a loss that training can lower."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..data import Batch
from ..held import shared_values
from ..training import Loss
from .masks import prunable

STEPS = 2  # of the grid in a standard deviation: about that of 3 bits
FURTHEST = 64  # numbers of the grid on each side of zero


def with_rate(loss: Loss, model: nn.Module, rate: float) -> Loss:
    """The loss plus `rate` for each bit that a weight takes on average (Oktay et al., 2020: entropy penalized).

    Weights that share few values already are left out: training moves them together, and their bits stay.
    """
    weights = [weight for weight in prunable(model).values() if weight.requires_grad and shared_values(weight) is None]
    if not rate or not weights:
        return loss

    def rated(output: Tensor, batch: Batch) -> Tensor:
        """Both for one batch."""
        return loss(output, batch) + rate * bits_a_weight(weights)

    return rated


def bits_a_weight(weights: Iterable[Tensor]) -> Tensor:
    """The mean of their bits over all weights of some tensors."""
    found = [(entropy(weight), weight.numel()) for weight in weights]
    return torch.stack([bits * count for bits, count in found]).sum() / sum(count for _, count in found)


def entropy(weight: Tensor) -> Tensor:
    """The entropy in bits of a tensor's distribution over a grid, each number shared by the two next to it.

    The grid has STEPS numbers in a standard deviation about zero of what is not zero, so that no scale of the tensor
    makes it smaller. The shares make it differentiable: every weight is pulled to the more frequent of its two numbers
    by the difference of their bits.
    """
    flat = weight.flatten()
    deviation = (flat.square().sum() / (flat != 0).sum()).sqrt()
    places = (STEPS * flat / deviation.clamp_min(1e-12)).clamp(-FURTHEST, FURTHEST) + FURTHEST
    low = places.detach().floor().clamp_max(2 * FURTHEST - 1)
    share, index = places - low, low.long()
    counts = torch.zeros(2 * FURTHEST + 1, dtype=flat.dtype, device=flat.device)
    counts.index_add_(0, index, 1 - share.detach())
    counts.index_add_(0, index + 1, share.detach())
    bits = -(counts / flat.numel()).clamp_min(1e-12).log2()
    # The frequencies' own gradient is none, as their sum stays one.
    return ((1 - share) * bits[index] + share * bits[index + 1]).mean()
