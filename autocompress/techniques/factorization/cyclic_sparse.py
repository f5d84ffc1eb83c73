"""Weights as products of cyclic sparse matrices."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, TypeGuard

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from ...errors import NothingToDo
from ...recipe import Kind, Range
from ..base import Context, Decision, Technique
from ..layers import Sealed, shrinks
from ..replacing import replace_layers, unreplaceable

# What one factor adds to a file besides its weights, in layers: it is so many operators, or about.
FACTOR, KERNEL_FACTOR = 6, 10


class CyclicSparse(Technique):
    """Replace a layer by sparse ones in a row whose pattern follows from its shape (Hosseini et al., 2021: CSC).

    Each factor passes an input i on to F outputs, i + jD for j < F, counted around the circle of the layer's outputs,
    and D is F times as large from one factor to the next. So there are as many factors as it takes until every output
    hears of every input, O(N log N) connections together. fan_out is F; the last factor takes fewer where fewer do.
    No positions are stored. In the place of a linear layer run the factors, never the whole weight; a convolution,
    whose kernel stands in the first factor, runs as it did, and only its file is smaller. Layers that would grow are
    left alone.
    """

    technique: ClassVar[str] = "cyclic_sparse"
    needs: ClassVar[str] = "a linear layer or convolution that is smaller as a product of sparse factors"
    family: ClassVar[str] = "sparse factors"
    kind: ClassVar[Kind] = "structure"
    by_layer: ClassVar[bool] = True

    fan_out: Annotated[int, Range(3, 24, log=True)] = Field(8, ge=2, le=1024)

    def decide(self, model: nn.Module, context: Context) -> Decision:
        """The fan-outs of the factors of each layer that shrinks, and why the others stay."""
        found = {name: module for name, module in model.named_modules() if can_factorize(module)}
        names = self.within(found, context)
        skipped = unreplaceable(model, names, context.example)
        fans: dict[str, list[int]] = {}
        for name in (name for name in names if name not in skipped):
            module = found[name]
            chosen = fan_outs(module.weight.shape[0], self.fan_out)
            reason = _obstacle(module, chosen)
            if reason is None:
                fans[name] = chosen
            else:
                skipped[name] = reason
        if not fans:
            seen = next((f" ({name}: {reason})" for name, reason in skipped.items()), "")
            raise NothingToDo(
                f"cyclic_sparse with fan_out {self.fan_out} finds no layer that would shrink: lower fan_out or leave "
                f"the step out{seen}"
            )
        return {"fans": fans, "skipped": skipped}

    def apply(self, model: nn.Module, decision: Decision) -> nn.Module:
        """Put the recorded factors in the place of their layers; a layer with several names stays shared."""
        made: dict[nn.Module, nn.Module] = {}
        for name, module in list(model.named_modules(remove_duplicate=False)):
            fans = decision["fans"].get(name)
            if fans is not None and module not in made:
                made[module] = factorize(module, fans)
        return replace_layers(model, made)


def can_factorize(module: nn.Module) -> TypeGuard[nn.Linear | nn.Conv2d]:
    """Whether every output of a layer is a weighted sum over all of its inputs."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def fan_outs(outputs: int, fan_out: int) -> list[int]:
    """The fan-outs F(1) to F(L), whose product is the first to reach the number of outputs."""
    found: list[int] = []
    while (reached := math.prod(found)) < outputs:
        found.append(min(fan_out, -(-outputs // reached)))
    return found


def distances(fans: Sequence[int]) -> list[int]:
    """How far apart the outputs of an input lie in each factor: D(l) is the product of the fan-outs before it."""
    return [math.prod(fans[:index]) for index in range(len(fans))]


def connections(weight: Sequence[int], fans: Sequence[int]) -> int:
    """How many weights the factors hold: n * F(1) kernels and m * (F(2) + ... + F(L)) numbers.

    weight: the shape of the layer's, (m, n, ...).
    """
    outputs, inputs, *kernel = weight
    return inputs * fans[0] * math.prod(kernel) + outputs * sum(fans[1:])


def _obstacle(module: nn.Linear | nn.Conv2d, fans: list[int]) -> str | None:
    shape = module.weight.shape
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"it is padded by {module.padding_mode}"
    if len(fans) < 2:
        return f"each input of {shape[0]} outputs would reach them all at once"
    held = connections(shape, fans)
    layers = len(fans) * (FACTOR if isinstance(module, nn.Linear) else KERNEL_FACTOR)
    if shrinks(module.weight.numel(), held, 1 + layers):
        return None
    return f"{len(fans)} factors with {held:,} of {module.weight.numel():,} weights would take no less of the file"


def gathered(products: Tensor, outputs: int, distance: int) -> Tensor:
    """The sums over all inputs i and j with i + j * distance = o, counted around the circle, for each output o.

    products: (N, fan, inputs). Returns (N, outputs). Rows are padded to a length that is `distance` more than whole
    turns of the circle, so that row after row, read in turns, each product lies over its own output.
    """
    _, fan, inputs = products.shape
    length = inputs + (distance - inputs) % outputs
    turns = -(-fan * length // outputs)
    rows = pad(products, [0, length - inputs]).reshape(-1, fan * length)
    return pad(rows, [0, turns * outputs - fan * length]).reshape(-1, turns, outputs).sum(1)


class CyclicLinear(Sealed):
    """A linear layer as sparse factors; inputs may have any number of leading dimensions.

    factors: (F(1), inputs), then (F(l), outputs): entry (j, i) weighs what input i gives to output i + j * D(l).
    """

    def __init__(self, inputs: int, outputs: int, fans: Sequence[int], bias: bool) -> None:
        super().__init__()
        self.inputs, self.outputs, self.distances = inputs, outputs, distances(fans)
        widths = [inputs, *[outputs] * (len(fans) - 1)]
        self.factors = nn.ParameterList(torch.zeros(fan, width) for fan, width in zip(fans, widths, strict=True))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        y = x.reshape(-1, x.shape[-1])
        for factor, distance in zip(self.factors, self.distances, strict=True):
            y = gathered(y.unsqueeze(1) * factor, self.outputs, distance)
        y = y.reshape(*x.shape[:-1], self.outputs)
        return y if self.bias is None else y + self.bias


class CyclicConv2d(Sealed):
    """A convolution whose kernel is made of sparse factors: where a file is loaded, and at each step of a training.

    On whole images sparse factors one after the other would take several times as long as their product.

    first: (kernel, inputs, F(1)); factors: (outputs, F(l)) for l > 1.
    """

    def __init__(self, layer: nn.Conv2d, fans: Sequence[int]) -> None:
        super().__init__()
        self.inputs, self.outputs = layer.in_channels, layer.out_channels
        self.shape, self.distances = layer.weight.shape, distances(fans)
        self.window: dict[str, Any] = {key: getattr(layer, key) for key in ("stride", "padding", "dilation")}
        self.first = nn.Parameter(torch.zeros(math.prod(layer.kernel_size), layer.in_channels, fans[0]))
        self.factors = nn.ParameterList(torch.zeros(layer.out_channels, fan) for fan in fans[1:])
        self.bias = nn.Parameter(torch.zeros(layer.out_channels)) if layer.bias is not None else None

    def kernel(self) -> Tensor:
        """The product of the factors, as a convolution takes it: (outputs, inputs, height, width)."""
        found = dense(self.first, self.outputs, 1)  # (kernel, inputs, outputs)
        for factor, distance in zip(self.factors, self.distances[1:], strict=True):
            found = found @ dense(factor.unsqueeze(0), self.outputs, distance)[0]
        return found.permute(2, 1, 0).reshape(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, outputs, height, width)."""
        return conv2d(x, self.kernel(), self.bias, **self.window)


def dense(factor: Tensor, outputs: int, distance: int) -> Tensor:
    """A sparse factor (kernel, inputs, fan) as matrices (kernel, inputs, outputs), by shapes alone.

    Rows are written twice around the circle; read again in rows that are one shorter, each begins one place later.
    """
    kernel, inputs, fan = factor.shape
    turns = -(-inputs // outputs)
    rows = factor
    if distance > 1:
        rows = with_zeros(factor.unsqueeze(3), 3, distance - 1).reshape(kernel, inputs, fan * distance)[:, :, :outputs]
    rows = with_zeros(with_zeros(rows, 2, outputs - rows.shape[2]), 1, turns * outputs - inputs)
    rows = torch.cat([rows, rows], 2).reshape(kernel * turns, 2 * outputs**2)[:, outputs:]
    rows = rows.reshape(kernel * turns, outputs, 2 * outputs - 1)[:, :, :outputs]
    return rows.reshape(kernel, turns * outputs, outputs)[:, :inputs]


def with_zeros(values: Tensor, axis: int, count: int) -> Tensor:
    """A tensor that is longer along an axis, in zeros that the exporter leaves to be made where a file is loaded."""
    if not count:
        return values
    shape = [count if index == axis else size for index, size in enumerate(values.shape)]
    if not torch.onnx.is_in_onnx_export():
        return torch.cat([values, values.new_zeros(shape)], axis)
    size = torch.tensor(shape, device=values.device)
    # What the exporter computes from a pad it stores: a kernel of zeros where ten numbers would do.
    zeros = torch.onnx.ops.symbolic("ConstantOfShape", [size], dtype=values.dtype, shape=shape)
    return torch.cat([values, zeros], axis)


def factorize(module: Any, fans: Sequence[int]) -> nn.Module:
    """The factors of a layer, near its weight."""
    weight = module.weight.detach()
    first, *others = fitted(weight.flatten(2) if weight.dim() > 2 else weight.unsqueeze(2), fans)
    made: CyclicLinear | CyclicConv2d
    with torch.no_grad():
        if isinstance(module, nn.Linear):
            made = CyclicLinear(module.in_features, module.out_features, fans, module.bias is not None)
            made.factors[0].copy_(first.squeeze(2))
        else:
            made = CyclicConv2d(module, fans)
            made.first.copy_(first.permute(2, 1, 0))
        for factor, values in zip(list(made.factors)[-len(others) :], others, strict=True):
            factor.copy_(values if isinstance(made, CyclicLinear) else values.T)
        if made.bias is not None:
            made.bias.copy_(module.bias)
    return made.train(module.training)


def fitted(weight: Tensor, fans: Sequence[int]) -> list[Tensor]:
    """Factors whose product is near a weight: the last first, each against all before it.

    weight: (outputs, inputs, kernel). Returns (F(1), inputs, kernel) and (F(l), outputs) for l > 1. Where each output
    hears of each input by one path, the connections through one node of two factors are a matrix of their own, and the
    best two factors are its best of rank 1 (as for butterflies in Zheng et al., 2023: hierarchical factorization).
    A weight of two paths is shared between them.
    """
    outputs, inputs, kernel = weight.shape
    turns = -(-inputs // outputs)
    reached = math.prod(fans)
    step, column = torch.arange(reached).unsqueeze(1), torch.arange(inputs)
    paths = 1 + ((step + outputs < reached) | (step >= outputs)).unsqueeze(2)
    spread = pad(weight[(column + step) % outputs, column] / paths, [0, 0, 0, turns * outputs - inputs])
    factors: list[Tensor] = []
    for fan in reversed(fans[1:]):
        spread, factor = _peeled(spread.reshape(fan, -1, turns, outputs, kernel))
        factors.insert(0, factor)
    return [spread.reshape(fans[0], turns * outputs, kernel)[:, :inputs], *factors]


def _peeled(spread: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of a weight without its last factor (distance, turns, outputs, kernel), and the factor (fan, nodes).

    spread: (fan, distance, turns, outputs, kernel), by how far an output lies from its input, and the input. The node
    between lies `distance` steps at most from the input, and a multiple of it from the output.
    """
    fan, distance, turns, nodes, kernel = spread.shape
    step, node = torch.arange(distance), torch.arange(nodes)
    blocks = spread[:, step, :, (node.unsqueeze(1) - step) % nodes]  # (nodes, distance, fan, turns, kernel)
    blocks = blocks.transpose(1, 2).reshape(nodes, fan, -1)
    vector = torch.linalg.eigh((blocks @ blocks.mT).double())[1][:, :, -1:].to(spread.dtype)
    before = vector.mT @ blocks
    root = before.norm(dim=2, keepdim=True).clamp_min(1e-30).sqrt()
    rest = (before / root).reshape(nodes, distance, turns, kernel)
    left = rest[(node + step.unsqueeze(1)) % nodes, step.unsqueeze(1)]  # (distance, nodes, turns, kernel)
    return left.transpose(1, 2), (vector * root).squeeze(2).T
