"""Canonical polyadic factorization of convolutions."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..layers import chain, has_window, split_window
from ._ranks import Candidate, Factorization, Ranks, Unfolded

TRIES = (2, 4)  # of a large layer and of others
WORK = 9e8  # multiplications that all sweeps of one try may take
MOST = 50  # sweeps
CHEAP = 10  # sweeps: where so many may be made, more is tried
RIDGE = 1e-6

Factors = tuple[Tensor, Tensor, Tensor, Tensor]


class Cp(Factorization):
    """Replace a convolution by a 1x1, one over the height, one over the width and a 1x1 (Lebedev et al., 2015).

    The two in the middle treat each channel by itself. Factors start from the singular vectors of the kernel's slices,
    one for each position, whose singular values, taken together, are what ranks are chosen by; alternating least
    squares improve them, in up to 50 sweeps for small layers and in none for 512x512x3x3, where one gains 0.4%. The
    rule `energy` then tries at most four smaller ranks for the same share of the weight, and two for large layers.
    """

    technique: ClassVar[str] = "cp"
    needs: ClassVar[str] = "a convolution with a window over all of its inputs that is smaller as four"
    target: ClassVar[str] = "convolution"

    def unfold(self, module: nn.Module) -> Unfolded | None:
        """The slices of the kernel, one for each position: together their ranks bound that of the kernel."""
        if not has_window(module):
            return None
        weight = module.weight
        matrices = tuple(weight.flatten(2).unbind(2))
        # The largest rank with fewer weights: far larger ones are possible, and of no use.
        limit = max(weight.numel() // sum(weight.shape), 1)
        return Unfolded(matrices, (limit,), lambda ranks: ranks[0] * sum(weight.shape), layers=4)

    def factorize(self, module: Any, ranks: Ranks) -> nn.Sequential:
        """Four convolutions with this many channels between them."""
        return factorize(module, ranks[0])

    def by_energy(self, layer: Candidate) -> Ranks | str:
        """The smallest rank tried that keeps the energy."""
        weight = layer.module.weight.detach()
        enough = layer.by_energy(self.energy)[0]
        low = enough // len(layer.values)
        for _ in range(TRIES[sweeps_of(weight, enough) >= CHEAP]):
            rank = round((max(low, 1) * enough) ** 0.5)
            if not low < rank < enough:
                break
            # A rank that is no smaller needs no factors to be too large.
            if not layer.shrinks([rank]) or error_of(weight, cp_als(weight, rank)) <= 1 - self.energy:
                enough = rank
            else:
                low = rank
        return [enough]


def cp_als(weight: Tensor, rank: int) -> Factors:
    """Factors whose products sum to a kernel, by alternating least squares (Harshman, 1970), with weights shared out.

    weight: (out, in, kh, kw). Returns (out, rank), (in, rank), (kh, rank) and (kw, rank). The better of two starts is
    followed where sweeps are cheap: the slices bound the error, and the unfoldings find kernels of low rank. Factors
    that ended worse than the slices, as degenerate ones do, are not kept.
    """
    sweeps = sweeps_of(weight, rank)
    slices = from_slices(weight, rank)
    if not sweeps:
        return slices
    begun, trial = [slices], 0
    if sweeps >= CHEAP:
        trial = sweeps // CHEAP
        begun = [improved(weight, start, trial) for start in (slices, from_unfoldings(weight, rank))]
    best = min(begun, key=lambda factors: error_of(weight, factors)) if trial else slices
    found = improved(weight, best, sweeps - trial)
    return found if error_of(weight, found) <= tail_of(weight, slices) else slices


def sweeps_of(weight: Tensor, rank: int) -> int:
    """How many sweeps the work allows, which is none for the largest layers: the slices are a good start."""
    return int(min(WORK / (weight.numel() * rank), MOST))


def improved(weight: Tensor, factors: Factors, sweeps: int) -> Factors:
    """Factors after some sweeps, each of which takes two products with the whole kernel and updates all four.

    The window comes first, since outputs and inputs of the start from slices are the best for theirs. A little ridge
    keeps factors that cancel each other from growing without bound.
    """
    outputs, inputs, height, width = weight.shape
    rank = factors[0].shape[1]
    flat = weight.permute(0, 2, 3, 1).reshape(outputs, -1)
    large = weight.new_empty(height * width, inputs, rank)  # written to over and over: such memory is slow to get
    o, i, h, w = factors
    oo, ii = gram(o), gram(i)
    for _ in range(sweeps):
        torch.mm(flat.T, o, out=large.flatten(0, 1))
        over = torch.stack([(part * i).sum(0) for part in large]).reshape(height, width, rank)
        both = oo * ii
        h = solved((over * w).sum(1), both * gram(w))
        w = solved((over * h[:, None]).sum(0), both * gram(h))
        window = (h[:, None] * w).reshape(-1, 1, rank)
        target = torch.zeros_like(i)
        for part, place in zip(large, window, strict=True):
            target.addcmul_(part, place)
        i = solved(target, oo * gram(window[:, 0]))
        o, i, h, w = even(o, i, h, w)
        ii, window = gram(i), (h[:, None] * w).reshape(-1, 1, rank)
        o = solved(flat @ torch.mul(window, i, out=large).flatten(0, 1), ii * gram(window[:, 0]))
        oo = gram(o)
    return even(o, i, h, w)


def from_slices(weight: Tensor, rank: int) -> Factors:
    """The largest singular vectors of the slices, each at its own position of the kernel."""
    outputs, inputs, height, width = weight.shape
    if outputs > inputs:
        i, o, h, w = from_slices(weight.transpose(0, 1), rank)
        return o, i, h, w
    slices = weight.flatten(2).movedim(2, 0)
    u = torch.linalg.eigh(slices @ slices.mT)[1].mT
    v = u @ slices  # as long as its singular value
    first = v.norm(dim=2).flatten().argsort(descending=True, stable=True)[:rank]
    place, which = first // outputs, first % outputs
    down, across = torch.eye(height)[:, place // width], torch.eye(width)[:, place % width]
    return even(u[place, which].T, v[place, which].T, down, across)


def tail_of(weight: Tensor, slices: Factors) -> float:
    """What `error_of` is for the start from slices, whose products are orthogonal to each other."""
    squares = torch.stack([factor.double().square().sum(0) for factor in slices]).prod(0)
    return float(1 - squares.sum() / weight.double().square().sum().clamp_min(1e-30))


def from_unfoldings(weight: Tensor, rank: int) -> Factors:
    """Singular vectors of the unfoldings, filled up with fixed random numbers where a side has fewer than the rank."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for mode, size in enumerate(weight.shape):
        flat = weight.movedim(mode, 0).flatten(1).double()
        vectors = torch.linalg.eigh(flat @ flat.T)[1].flip(1)[:, :rank].to(weight.dtype)
        more = torch.randn((size, rank - vectors.shape[1]), generator=generator) / size**0.5
        found.append(torch.cat([vectors, more], 1))
    o, i, h, w = found
    return o, i, h, w


def gram(factor: Tensor) -> Tensor:
    """The products of a factor's columns with each other."""
    exact = factor.double()
    return exact.T @ exact


def solved(target: Tensor, grams: Tensor) -> Tensor:
    """The factor that is best for given others: target = factor @ (the product of their Gram matrices)."""
    grams.diagonal().add_(RIDGE * grams.diagonal().mean() + 1e-30)
    lower = torch.linalg.cholesky_ex(grams)[0]
    return torch.cholesky_solve(target.double().T, lower).T.to(target.dtype)


def even(*factors: Tensor) -> Factors:
    """The same products with every column's length shared out evenly."""
    lengths = [factor.norm(dim=0).clamp_min(1e-12) for factor in factors]
    common = torch.stack(lengths).log().mean(0).exp()
    o, i, h, w = (factor * (common / length) for factor, length in zip(factors, lengths, strict=True))
    return o, i, h, w


def error_of(weight: Tensor, factors: Factors) -> float:
    """The share of the squared weight that its factors miss; NaN where they are not finite."""
    o, i, h, w = factors
    window = (h[:, None] * w).reshape(-1, 1, o.shape[1])
    product = torch.stack([(o * place) @ i.T for place in window], -1)
    return float(
        (product - weight.flatten(2)).double().square().sum() / weight.double().square().sum().clamp_min(1e-30)
    )


def factorize(module: Any, rank: int) -> nn.Sequential:
    """Four convolutions with `rank` channels between them."""
    down, across = split_window(module)
    o, i, h, w = cp_als(module.weight.detach(), rank)
    layers = [
        nn.Conv2d(module.in_channels, rank, 1, bias=False),
        nn.Conv2d(rank, rank, groups=rank, bias=False, **down),
        nn.Conv2d(rank, rank, groups=rank, bias=False, **across),
        nn.Conv2d(rank, module.out_channels, 1, bias=module.bias is not None),
    ]
    return chain(module, layers, [i.T, h.T, w.T, o])
