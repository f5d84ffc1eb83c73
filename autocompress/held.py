"""What training keeps of a compressed model: weights that are zero, and weights that share values."""

from collections.abc import Iterable

import torch
from torch import Tensor

VALUES, SHARED = 257, 4  # as many values as 8 bits and zero give, each for four weights or more on average
BLOCKS = range(2, 9)
SAMPLED = 4096


class Zeros:
    """Weights that were pruned: held at zero through training (Han et al., 2015, section 3.1).

    They need no masks beside the model, so that they outlive whatever else is done to it: a weight is taken for
    pruned when it is exactly zero in a tensor that holds other numbers too.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        weights = [(parameter, parameter == 0) for parameter in parameters if parameter.dim() > 1]
        self._held = [(parameter, zero) for parameter, zero in weights if bool(zero.any()) and not bool(zero.all())]

    def restore(self, progress: float = 1.0) -> None:
        """Set them to zero again, whatever share of the training is done."""
        with torch.no_grad():
            for parameter, zero in self._held:
                parameter.masked_fill_(zero.to(parameter.device), 0.0)


class Held:
    """Weights that were pruned, and weights that share values: each value is trained as one number.

    A tensor is taken for one of shared values when it holds few for its size, or few blocks of them: then all weights
    of a value move by their mean step, as their gradients would be summed (Han et al., 2016, section 3.3).
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        given = list(parameters)
        self._zeros = Zeros(given)
        found = ((weight, shared_values(weight)) for weight in given)
        self._shared = [(weight, groups, torch.bincount(groups)) for weight, groups in found if groups is not None]

    def restore(self, progress: float = 1.0) -> None:
        """Bring them together again, whatever share of the training is done."""
        with torch.no_grad():
            for weight, groups, counts in self._shared:
                wide = torch.float32 if weight.device.type == "mps" else torch.float64  # which mps has not
                total = torch.zeros(len(counts), dtype=wide, device=weight.device)
                total.index_add_(0, groups, weight.flatten().to(wide))
                mean = (total / counts).to(weight.dtype)
                weight.copy_(mean[groups].view_as(weight))
        self._zeros.restore(progress)


def shared_values(weight: Tensor) -> Tensor | None:
    """For each number of a tensor, which of its values it has; None where values are not shared by SHARED each.

    Where whole blocks of numbers in a row are shared, each place of each of these blocks is a value of its own.
    """
    found = _single(weight)
    if found is not None or weight.dim() < 2:
        return found
    flat = weight.detach().flatten()
    if torch.unique(flat[:: flat.numel() // SAMPLED + 1]).numel() > VALUES * max(BLOCKS):
        return None  # as in most tensors: more numbers than blocks could have
    for length in BLOCKS:
        if flat.numel() % length or flat.numel() < length * SHARED:
            continue
        rows = flat.view(-1, length)
        if torch.unique(rows[:: len(rows) // SAMPLED + 1], dim=0).shape[0] > VALUES:
            continue
        known, which = torch.unique(rows, dim=0, return_inverse=True)
        if 1 < len(known) <= min(VALUES, len(rows) // SHARED):
            places: Tensor = which[:, None] * length + torch.arange(length, device=flat.device)
            return places.flatten()
    return None


def _single(weight: Tensor) -> Tensor | None:
    flat = weight.detach().flatten()
    if weight.dim() < 2 or flat.numel() < SHARED:
        return None
    if torch.unique(flat[:: flat.numel() // SAMPLED + 1]).numel() > VALUES:
        return None
    values, groups = torch.unique(flat, return_inverse=True)
    few = 1 < values.numel() <= min(VALUES, flat.numel() // SHARED)
    return groups if few else None
