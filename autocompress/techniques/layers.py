"""What factorizations share: ranks, what another layer costs, and several layers in a row for one."""

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

LARGE = 2048  # rows and columns from which a few singular vectors are found without the others
SWEEPS = 8
LAYER_BYTES = 75  # what one more convolution adds to a file besides its weights: node, names and shapes; rarely more


class Sealed(nn.Module):
    """A layer of several operations that stays whole: neither what it reads nor what it gives is cut by channels."""

    inputs: int
    outputs: int


def rank_by_energy(singular_values: Tensor, energy: float) -> int:
    """The smallest rank that keeps a share `energy` of the squared singular values, and at least 1."""
    squares = singular_values.double() ** 2
    return min(int((squares.cumsum(0) < energy * squares.sum()).sum()) + 1, len(squares))


def singular_values(matrix: Tensor) -> Tensor:
    """All min(rows, columns) singular values in double precision, largest first.

    They come from the Gram matrix of the short side, many times faster than from the matrix of a wide layer.
    """
    short = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().T
    squares: Tensor = torch.linalg.eigvalsh(short @ short.T)
    return squares.flip(0).clamp_min(0).sqrt()


def truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best factors (rows, rank) and (rank, columns) of a matrix, of like size (Eckart and Young, 1936)."""
    if matrix.shape[0] > matrix.shape[1]:
        right, left = truncated(matrix.T, rank)
        return left.T, right.T
    wide = matrix.double()
    if matrix.shape[0] >= LARGE and 8 * rank <= matrix.shape[0]:
        squares, vectors = _leading(wide, rank)
    else:
        squares, vectors = torch.linalg.eigh(wide @ wide.T)
    vectors = vectors.flip(1)[:, :rank]
    root = squares.flip(0)[:rank].clamp_min(1e-30).sqrt().sqrt()
    return (vectors * root).to(matrix.dtype), (vectors.T @ wide / root[:, None]).to(matrix.dtype)


def _leading(wide: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The largest squared singular values, in rising order, and their vectors, by iterated subspaces (Halko, 2011)."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn((wide.shape[0], rank + 16), generator=generator, dtype=wide.dtype)
    for _ in range(SWEEPS):
        basis = torch.linalg.qr(wide @ (wide.T @ basis))[0]
    inner = basis.T @ wide
    squares, vectors = torch.linalg.eigh(inner @ inner.T)
    return squares, basis @ vectors


def balanced(size: int, parts: int) -> tuple[int, ...]:
    """A size as a product of that many whole numbers, each as near as a divisor can be to the root of what is left."""
    found, left = [], size
    for more in range(parts, 1, -1):
        root = left ** (1 / more)
        divisors = [number for number in range(1, left + 1) if left % number == 0]
        found.append(min(divisors, key=lambda number: max(number / root, root / number)))
        left //= found[-1]
    return (*found, left)


def shrinks(before: int, after: int, layers: int) -> bool:
    """Whether `layers` layers with `after` weights together take less of a float file than one with `before`."""
    return 4 * after + LAYER_BYTES * (layers - 1) < 4 * before


def window(module: nn.Conv2d) -> dict[str, Any]:
    """How a convolution's window moves, as keywords for one that is to move alike."""
    return {key: getattr(module, key) for key in ("stride", "padding", "dilation", "padding_mode")}


def split_window(module: nn.Conv2d) -> tuple[dict[str, Any], dict[str, Any]]:
    """A convolution's window as keywords for one that moves over the height alone and one over the width alone."""
    kept = {"padding_mode": module.padding_mode}
    parts: tuple[dict[str, Any], dict[str, Any]] = (dict(kept), dict(kept))
    for key, idle in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
        value = getattr(module, key)
        down, across = (value, value) if isinstance(value, str) else ((value[0], idle), (idle, value[1]))
        parts[0][key], parts[1][key] = down, across
    return parts


def has_window(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a layer is a convolution over more than a point, and over all of its inputs; a 1x1 is but a matrix."""
    return isinstance(module, nn.Conv2d) and module.groups == 1 and max(module.kernel_size) > 1


def chain(module: nn.Module, layers: list[Any], weights: list[Tensor]) -> nn.Sequential:
    """Layers in a row with these weights, the last of them with the bias of the one that they stand for."""
    with torch.no_grad():
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.copy_(weight.reshape(layer.weight.shape))
        if isinstance(module.bias, Tensor):
            layers[-1].bias.copy_(module.bias)
    return nn.Sequential(*layers).train(module.training)
