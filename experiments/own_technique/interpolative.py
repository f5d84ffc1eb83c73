"""The interpolative decomposition of linear layers: a matrix from a few of its own columns."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from scipy.linalg.interpolative import interp_decomp
from torch import Tensor, nn

from autocompress.errors import TechniqueError
from autocompress.recipe import Kind, Range
from autocompress.techniques import Context, Decision, Technique, replace_layers, unreplaceable
from autocompress.techniques.layers import chain, shrinks


class Interpolative(Technique):
    """Replace a linear layer by two thinner ones, the second made of columns of its weight (Cheng et al., 2005).

    error is the largest relative error of a weight; it decides how many columns are kept. Layers that would grow are
    left alone.
    """

    technique: ClassVar[str] = "interpolative"
    family: ClassVar[str] = "low-rank"
    kind: ClassVar[Kind] = "structure"

    error: Annotated[float, Range(0.3, 0.7, step=0.1)] = Field(0.5, gt=0, lt=1)

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The columns that each layer keeps, and why the other layers stay."""
        layers = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
        skipped = unreplaceable(model, list(layers), context.example)
        found = {n: skeleton(m.weight.detach(), self.error) for n, m in layers.items() if n not in skipped}
        columns: dict[str, list[int]] = {}
        for name, chosen in found.items():
            weight = layers[name].weight
            if shrinks(weight.numel(), len(chosen) * sum(weight.shape), layers=2):
                columns[name] = chosen
            else:
                skipped[name] = f"{len(chosen)} of its {weight.shape[1]} columns would take no less of the file"
        if not columns:
            seen = next((f" ({name}: {reason})" for name, reason in skipped.items()), "")
            raise TechniqueError(
                f"interpolative with error {self.error:g} finds no linear layer that would shrink: "
                f"raise error or leave the step out{seen}"
            )
        return {"columns": columns, "skipped": skipped}

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Factorize the recorded layers by the recorded columns; a layer with several names stays shared."""
        layers = {name: model.get_submodule(name) for name in decision["columns"]}
        return replace_layers(
            model, {layer: factorize(layer, decision["columns"][name]) for name, layer in layers.items()}
        )


def skeleton(weight: Tensor, error: float) -> list[int]:
    """The fewest columns that span a weight (out, in) to a relative error, by QR with pivoting; at least one."""
    count, order, _ = interp_decomp(weight.double().numpy(), error, rand=False)
    return [int(column) for column in order[: max(count, 1)]]


def factorize(layer: nn.Linear, columns: list[int]) -> nn.Sequential:
    """Two layers in the place of one: W (out, in) is about W[:, columns] @ P, with P (columns, in) by least squares.

    P is found anew from the weight, not recorded: a decision stays a short list, and fits any weight of that shape.
    """
    weight = layer.weight.detach().double()
    kept = weight[:, columns]
    # gelsd takes columns that depend on one another, as those of other weights may.
    mixed = torch.linalg.lstsq(kept, weight, driver="gelsd").solution
    first = nn.Linear(layer.in_features, len(columns), bias=False)
    second = nn.Linear(len(columns), layer.out_features, bias=layer.bias is not None)
    return chain(layer, [first, second], [mixed, kept])
