"""Tucker factorization of convolutions."""

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from ..errors import TechniqueError
from ..recipe import Kind, Range
from ._layers import chain, rank_by_energy, replace, shrinks, window
from .base import Context, Decision, Technique


class Tucker(Technique):
    """Replace a convolution by a 1x1, a small core and a 1x1 (Tucker-2; Kim et al., 2016).

    energy is the share of the squared singular values that each of the two channel dimensions keeps. Layers that
    would grow are left alone.
    """

    technique: ClassVar[str] = "tucker"
    family: ClassVar[str] = "low-rank"
    kind: ClassVar[Kind] = "structure"

    energy: Annotated[float, Range(0.5, 0.95, step=0.05)] = Field(0.8, gt=0, lt=1)

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The ranks of the output and input channels of each layer that shrinks, and why the others stay."""
        ranks: dict[str, list[int]] = {}
        skipped: dict[str, str] = {}
        for name, module in model.named_modules():
            if not _can_factorize(module):
                continue
            weight = module.weight.detach()
            values = [torch.linalg.svdvals(weight.movedim(mode, 0).flatten(1)) for mode in (0, 1)]
            found = [rank_by_energy(each, self.energy) for each in values]
            if shrinks(weight.numel(), numbers_held(weight.shape, found), layers=3):
                ranks[name] = found
            else:
                skipped[name] = f"ranks {found[0]} and {found[1]} would take no less of the file"
        if not ranks:
            raise TechniqueError(
                f"tucker with energy {self.energy:g} finds no convolution that would shrink: "
                "lower energy or leave the step out"
            )
        return {"ranks": ranks, "skipped": skipped}

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Factorize the recorded layers to their ranks; a layer with several names stays shared."""
        made: dict[int, nn.Module] = {}
        for name, module in list(model.named_modules(remove_duplicate=False)):
            ranks = decision["ranks"].get(name)
            if ranks is not None:
                made[id(module)] = factorize(module, ranks)
        return replace(model, made)


def _can_factorize(module: nn.Module) -> bool:
    # A 1x1 convolution is a matrix, for which two factors do what three would.
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == 1
        and not isinstance(module.padding, str)
        and max(module.kernel_size) > 1
    )


def numbers_held(shape: torch.Size, ranks: list[int]) -> int:
    """How many weights the three layers hold together: inputs * r1 + r1 * r0 * kh * kw + r0 * outputs."""
    outputs, inputs, height, width = shape
    return inputs * ranks[1] + ranks[0] * ranks[1] * height * width + ranks[0] * outputs


def factorize(module: Any, ranks: list[int]) -> nn.Sequential:
    """Three convolutions with the given channels between them, by higher-order orthogonal iteration."""
    from tensorly.decomposition import partial_tucker

    outputs, inputs = ranks
    (core, (left, right)), _ = partial_tucker(
        module.weight.detach().double().numpy(), rank=[outputs, inputs], modes=[0, 1], init="svd"
    )
    layers = [
        nn.Conv2d(module.in_channels, inputs, 1, bias=False),
        nn.Conv2d(inputs, outputs, module.kernel_size, bias=False, **window(module)),
        nn.Conv2d(outputs, module.out_channels, 1, bias=module.bias is not None),
    ]
    return chain(module, layers, [torch.from_numpy(part.copy()) for part in (right.T, core, left)])
