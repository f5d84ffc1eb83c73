"""Semi-structured pruning: n weights stay of every m that follow one another."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from ...errors import NothingToDo
from ...recipe import Choice, Kind
from ..base import Context, Decision, Technique
from ..masks import apply_masks, layer_of, packed, shares, weights_to_prune, within


class NmPruning(Technique):
    """Keep the n largest of every m consecutive weights of an output (Mishra et al., 2021; Zhou et al., 2021).

    They are counted along the inputs, for a convolution along in * kh * kw, as sparse tensor cores read them. A rest
    of less than m is left alone. keep names layers to leave out.
    """

    technique: ClassVar[str] = "nm_pruning"
    needs: ClassVar[str] = "a weight with long rows"
    family: ClassVar[str] = "pruning"
    kind: ClassVar[Kind] = "structure"
    by_layer: ClassVar[bool] = True

    n: Annotated[int, Choice(1, 2)] = Field(2, ge=1)
    m: Annotated[int, Choice(4, 8)] = Field(4, ge=2, le=1024, validate_default=True)
    keep: tuple[str, ...] | None = None

    @field_validator("m")
    @classmethod
    def _more_than_n(cls, value: int, info: ValidationInfo) -> int:
        n = info.data.get("n", 0)
        if n >= value:
            raise ValueError(f"{n} of every {value} weights cannot stay when some must go: n must be less than m")
        return value

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The masks of the weights that stay, and which layers have rows too short for the pattern."""
        weights = within(self, weights_to_prune(model, self.keep, self.technique), context)
        masks: dict[str, Tensor] = {}
        rests, skipped = {}, {}
        for name, weight in weights.items():
            rows = rows_of(model, name, weight.detach())
            length = rows.shape[1]
            if length < self.m:
                skipped[layer_of(name)] = f"rows of {length} are shorter than {self.m}"
                continue
            if length % self.m:
                rests[layer_of(name)] = f"the last {length % self.m} of {length} in each row"
            masks[name] = from_rows(model, name, largest(rows, self.n, self.m) & (rows != 0), weight.shape)
        if not masks:
            raise NothingToDo(
                f"nm_pruning finds nothing to prune: no layer has rows of {self.m} weights; lower m or leave it out"
            )
        return {
            "pattern": f"{self.n}:{self.m}",
            "layers": shares(masks),
            "left alone": rests,
            "skipped": skipped,
            "masks": packed(masks),
        }

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Set the recorded weights to zero."""
        return apply_masks(model, decision["masks"])


def largest(rows: Tensor, n: int, m: int) -> Tensor:
    """True at the n largest absolute values of every m in a row, of equals the first, and in a rest of less than m.

    rows: (outputs, inputs).
    """
    count, length = rows.shape
    whole = length - length % m
    groups = rows[:, :whole].abs().reshape(count, -1, m)
    order = groups.sort(dim=-1, descending=True, stable=True).indices
    stays = torch.ones(rows.shape, dtype=torch.bool)
    stays[:, :whole] = torch.zeros_like(groups, dtype=torch.bool).scatter(-1, order[..., :n], True).reshape(count, -1)
    return stays


def rows_of(model: nn.Module, name: str, weight: Tensor) -> Tensor:
    """The weights of each output in a row; transposed convolutions hold them with the inputs first."""
    return (weight.transpose(0, 1) if _inputs_first(model, name) else weight).flatten(1)


def from_rows(model: nn.Module, name: str, rows: Tensor, shape: torch.Size) -> Tensor:
    """Rows put back into the shape of their weight."""
    if _inputs_first(model, name):
        return rows.reshape(shape[1], shape[0], *shape[2:]).transpose(0, 1).contiguous()
    return rows.reshape(shape)


def _inputs_first(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), _ConvTransposeNd)
