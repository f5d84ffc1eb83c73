"""Tensor-train factorization of linear layers and embeddings."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from ...recipe import Choice
from ..layers import balanced
from ._cores import CoreLinear, Modes
from ._ranks import Factorization, Ranks, Unfolded


class TensorTrain(Factorization):
    """Replace a matrix by a chain of small cores (Novikov et al., 2015: tensorizing neural networks).

    order is the number of cores. Rows and columns are cut into as many factors, as nearly alike as their divisors
    allow; ranks are chosen for each place between two cores. What runs are the cores, never the whole weight.
    """

    technique: ClassVar[str] = "tensor_train"
    needs: ClassVar[str] = "a linear layer or embedding that is smaller as a chain of cores"

    order: Annotated[Literal[2, 3], Choice(2, 3)] = 2

    def unfold(self, module: nn.Module) -> Unfolded | None:
        """The unfoldings of the tensor at each place where it is cut."""
        if not can_factorize(module):
            return None
        tensor = tensorized(module.weight, self.order)
        sizes = tuple(tensor.shape)
        matrices = tuple(tensor.reshape(math.prod(sizes[:cut]), -1) for cut in range(1, self.order))
        limits = tuple(min(matrix.shape) for matrix in matrices)
        layers = 2 * self.order + 1 if isinstance(module, nn.Linear) else 6 * self.order - 1
        return Unfolded(matrices, limits, lambda ranks: numbers_held(sizes, ranks), layers)

    def factorize(self, module: Any, ranks: Ranks) -> nn.Module:
        """The cores at these ranks."""
        return factorize(module, ranks)


def can_factorize(module: nn.Module) -> TypeGuard[nn.Linear | nn.Embedding]:
    """Whether a layer is a matrix that is applied to vectors or looked up by rows."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Embedding) and module.max_norm is None)


def tensorized(weight: Tensor, order: int) -> Tensor:
    """A matrix as the tensor whose k-th mode counts the k-th digits of row and column: (m1 * n1, m2 * n2, ...)."""
    rows, columns = (balanced(size, order) for size in weight.shape)
    pairs = [axis for k in range(order) for axis in (k, order + k)]
    return weight.reshape(*rows, *columns).permute(pairs).reshape([m * n for m, n in zip(rows, columns, strict=True)])


def bonds(sizes: Sequence[int], ranks: Ranks) -> list[int]:
    """The ranks from before the first core to behind the last, each no larger than the cores before it can fill."""
    found = [1]
    for size, rank in zip(sizes, ranks, strict=False):
        found.append(min(rank, found[-1] * size))
    return [*found, 1]


def numbers_held(sizes: Sequence[int], ranks: Ranks) -> int:
    """How many numbers the cores hold together: the sum of r(k-1) * m(k) * n(k) * r(k)."""
    around = bonds(sizes, ranks)
    return sum(around[k] * size * around[k + 1] for k, size in enumerate(sizes))


class TTEmbedding(nn.Module):
    """A table of vectors whose rows are products of slices of cores, one for each digit of the row's number.

    cores: (m(k), r(k-1) * n(k) * r(k)), a slice a row.
    """

    def __init__(self, rows: Modes, columns: Modes, around: Sequence[int]) -> None:
        super().__init__()
        self.rows, self.columns, self.around = rows, columns, tuple(around)
        steps = zip(rows, columns, around[:-1], around[1:], strict=True)
        self.cores = nn.ParameterList(torch.zeros(m, before * n * after) for m, n, before, after in steps)

    def forward(self, index: Tensor) -> Tensor:
        """Whole numbers of any shape to (..., columns)."""
        rest, below = index.reshape(-1), math.prod(self.rows)
        z: Tensor = self.cores[0].new_ones((1, 1, 1))
        for k, m in enumerate(self.rows):
            below //= m
            digit, rest = (rest // below, rest % below) if below > 1 else (rest, rest)
            piece = embedding(digit, self.cores[k]).reshape(-1, self.around[k], self.columns[k] * self.around[k + 1])
            z = (z @ piece).reshape(-1, math.prod(self.columns[: k + 1]), self.around[k + 1])
        return z.reshape(*index.shape, math.prod(self.columns))


def factorize(module: Any, ranks: Ranks) -> nn.Module:
    """The cores of a layer at given ranks, by successive truncated decompositions (Oseledets, 2011: TT-SVD)."""
    from tensorly.decomposition import tensor_train

    order = len(ranks) + 1
    tensor = tensorized(module.weight.detach(), order)
    around = bonds(tensor.shape, ranks)
    found = [torch.from_numpy(core.copy()) for core in tensor_train(tensor.double().numpy(), around)]
    rows, columns = (balanced(size, order) for size in module.weight.shape)
    cores = [core.reshape(core.shape[0], m, n, -1) for core, m, n in zip(found, rows, columns, strict=True)]
    around = [1, *(core.shape[-1] for core in cores)]
    if isinstance(module, nn.Linear):
        linear = CoreLinear(columns, rows, around, module.bias is not None)
        linear.fill(cores, module.bias)
        return linear.train(module.training)
    table = TTEmbedding(rows, columns, around)
    with torch.no_grad():
        for parameter, core in zip(table.cores, cores, strict=True):
            parameter.copy_(core.transpose(0, 1).reshape(parameter.shape))
    return table.train(module.training)
