"""Low-rank factorization by singular value decomposition."""

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..errors import TechniqueError
from ..recipe import Kind, Range
from ._layers import chain, rank_by_energy, replace, shrinks, window
from .base import Context, Decision, Technique


class Svd(Technique):
    """Replace a linear layer by two, a convolution by a thin one and a 1x1 (Denton et al., 2014; Zhang et al., 2015).

    energy is the share of the squared singular values that each layer keeps. Layers that would grow are left alone.
    """

    technique: ClassVar[str] = "svd"
    family: ClassVar[str] = "low-rank"
    kind: ClassVar[Kind] = "structure"

    energy: Annotated[float, Range(0.5, 0.95, step=0.05)] = Field(0.8, gt=0, lt=1)

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The rank of each layer that shrinks, and why the others stay."""
        ranks: dict[str, int] = {}
        skipped: dict[str, str] = {}
        for name, module in model.named_modules():
            matrix = as_matrix(module)
            if matrix is None:
                continue
            rank = rank_by_energy(torch.linalg.svdvals(matrix.detach()), self.energy)
            rows, columns = matrix.shape
            if shrinks(rows * columns, rank * (rows + columns), layers=2):
                ranks[name] = rank
            else:
                skipped[name] = f"rank {rank} of {rows}x{columns} would take no less of the file"
        if not ranks:
            raise TechniqueError(
                f"svd with energy {self.energy:g} finds no layer that would shrink: lower energy or leave the step out"
            )
        return {"ranks": ranks, "skipped": skipped}

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Factorize the recorded layers to their ranks; a layer with several names stays shared."""
        made: dict[int, nn.Module] = {}
        for name, module in list(model.named_modules(remove_duplicate=False)):
            rank = decision["ranks"].get(name)
            if rank is not None:
                made[id(module)] = factorize(module, rank)
        return replace(model, made)


def as_matrix(module: nn.Module) -> Tensor | None:
    """The weight that a rank is chosen for: (out, in) or (out, in * kh * kw); None where there is none."""
    if isinstance(module, nn.Linear):
        return module.weight
    if isinstance(module, nn.Conv2d) and module.groups == 1 and not isinstance(module.padding, str):
        return module.weight.flatten(1)
    return None


def factorize(module: Any, rank: int) -> nn.Sequential:
    """The best approximation of a layer by two layers with `rank` channels between them (Eckart and Young, 1936)."""
    matrix = as_matrix(module)
    assert matrix is not None
    u, s, v = torch.linalg.svd(matrix.detach(), full_matrices=False)
    root = s[:rank].sqrt()
    first, second = root[:, None] * v[:rank], u[:, :rank] * root
    bias = module.bias is not None
    if isinstance(module, nn.Linear):
        pair: list[Any] = [nn.Linear(module.in_features, rank, False), nn.Linear(rank, module.out_features, bias)]
    else:
        pair = [
            nn.Conv2d(module.in_channels, rank, module.kernel_size, bias=False, **window(module)),
            nn.Conv2d(rank, module.out_channels, 1, bias=bias),
        ]
    return chain(module, pair, [first, second])
