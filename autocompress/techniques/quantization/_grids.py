"""Grids of integers that are learned: the scale of each is a factor on where it starts, in the log2 domain.

Scales are trained by the gradient of learned step size quantization (Esser et al., 2020) and, being logarithms, move
by shares of themselves (Jain et al., 2020: trained quantization thresholds). In evaluation mode the integers and the
scales are fixed buffers, which a file holds as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import TechniqueError
from ._calls import Calls, is_value, watching

Layer = nn.Conv1d | nn.Conv2d | nn.Linear
OPSET = 21
LEVELS = 255  # of an activation: unsigned 8 bits
PASSING = ("dropout", "dropout1d", "dropout2d", "feature_dropout", "alpha_dropout")  # nothing, outside of training
INPUTS = 4
BIAS_MOST = 2.0**31 - 128  # the largest 32-bit integer that a float is


class _Rounded(torch.autograd.Function):
    """Values on a grid, with the gradients of learned step size quantization (Esser et al., 2020, section 2)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, zero: float, low: float, high: float) -> Tensor:
        """Round to the grid, and keep what the gradients need."""
        ratio = values / scale
        codes = (torch.round(ratio) + zero).clamp(low, high)
        whole = codes - zero
        inside = torch.round(ratio) + zero == codes
        ctx.save_for_backward(inside, whole - torch.where(inside, ratio, 0.0))
        ctx.shape = scale.shape
        return whole * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """The gradients of values inside the grid, and of the scale."""
        inside, slope = ctx.saved_tensors
        scale = (grads[0] * slope).sum_to_size(ctx.shape) if len(ctx.shape) else (grads[0] * slope).sum()
        return grads[0] * inside, scale, None, None, None


def rounded(values: Tensor, scale: Tensor, zero: float, low: float, high: float) -> Tensor:
    """Values on the grid of integers low to high, where `zero` stands for 0; half goes to the even neighbour.

    values: any shape; scale: one number, or one a first index, shaped to broadcast. Gradients reach values inside the
    grid as they are, and scale by the difference that rounding makes.
    """
    result: Tensor = _Rounded.apply(values, scale, zero, low, high)
    return result


class Activation(nn.Module):
    """The grid of one activation: 8 bits without sign over a learned range that holds 0."""

    start: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, name: str, low: float, high: float) -> None:
        super().__init__()
        self.name = name
        step = (max(high, 0.0) - min(low, 0.0)) / LEVELS or 1 / LEVELS
        self.zero_point = min(max(round(-min(low, 0.0) / step), 0), LEVELS)
        self.stretch = nn.Parameter(torch.zeros(()))
        self.register_buffer("start", torch.tensor(step))
        self.register_buffer("scale", torch.tensor(step), persistent=False)
        self.register_buffer("zero", torch.tensor(self.zero_point, dtype=torch.uint8), persistent=False)

    def learned(self) -> Tensor:
        """The scale as it is now."""
        return self.start * torch.exp2(self.stretch) if self.training else self.scale

    def fix(self) -> None:
        """Keep the scale as a buffer."""
        self.scale.copy_(self.start * torch.exp2(self.stretch.detach()))

    def forward(self, values: Tensor) -> Tensor:
        """The values on the grid, of the same shape; a pair of QuantizeLinear and DequantizeLinear in a file."""
        if not torch.onnx.is_in_onnx_export():
            return rounded(values, self.learned(), float(self.zero_point), 0.0, float(LEVELS))
        given = (values, self.scale, self.zero)
        codes = torch.onnx.ops.symbolic(
            "QuantizeLinear", given, dtype=torch.uint8, shape=values.shape, version=OPSET
        )  # fmt: skip
        return dequantized(codes, self.scale, self.zero, None)


def dequantized(codes: Tensor, scale: Tensor, zero: Tensor | None, axis: int | None) -> Tensor:
    """What integers stand for, by the operator of a file."""
    given = (codes, scale) if zero is None else (codes, scale, zero)
    made: Tensor = torch.onnx.ops.symbolic(
        "DequantizeLinear",
        given,
        None if axis is None else {"axis": axis},
        dtype=torch.float32,
        shape=codes.shape,
        version=OPSET,
    )
    return made


class IntegerModel(nn.Module):
    """A model whose layers are `Quantized` and whose values are put on grids as it computes them.

    ranges: where the grid of each value starts, by the names of _calls. moved: values that are others in another shape,
    and so on the same grid: repeated there, the pair of operators lets integers pass through in a file.
    """

    def __init__(self, model: nn.Module, ranges: Mapping[str, Sequence[float]], moved: dict[str, str]) -> None:
        super().__init__()
        self.model = model
        self.grids = nn.ModuleList(Activation(name, low, high) for name, (low, high) in ranges.items())
        self._at = {name: index for index, name in enumerate(ranges)}
        self._at |= {name: self._at[root] for name, root in moved.items()}
        self.train(model.training)

    def train(self, mode: bool = True) -> "IntegerModel":
        """Switch between learning and fixed grids."""
        super().train(mode)
        if not mode:
            for grid in self._grids():
                grid.fix()
            scales = self.scales()
            for module in self.model.modules():
                if isinstance(module, Quantized):
                    module.fix(scales)
        return self

    def scales(self) -> dict[str, Tensor]:
        """The fixed scale of every value that has a grid."""
        return {grid.name: grid.scale for grid in self._grids()}

    def _grids(self) -> list[Activation]:
        return [grid for grid in self.grids if isinstance(grid, Activation)]

    # Named one by one, since torch's exporter takes all inputs behind a star for a single one.
    def forward(self, first: Tensor, second: Any = None, third: Any = None, fourth: Any = None) -> Any:
        """The model's output for its inputs, up to INPUTS of them."""
        calls, inputs = Calls(self._visit), [first, second, third, fourth]
        while inputs[-1] is None:
            inputs.pop()
        placed = [self._place(f"input.{index}", value) for index, value in enumerate(inputs)]
        with watching(self.model, calls):
            return self.model(*placed)

    def _visit(self, key: str, name: str, module: str, given: Any, made: Any) -> Any:
        if isinstance(made, Tensor):
            if name in PASSING and isinstance(given[0][0], Tensor) and hasattr(given[0][0], "grid"):
                made.grid = given[0][0].grid  # type: ignore[attr-defined]
            return self._place(key, made)
        return type(made)(self._place(f"{key}.{index}", part) for index, part in enumerate(made))

    def _place(self, key: str, value: Any) -> Any:
        if key not in self._at or not is_value(value):
            return value
        grid = self.grids[self._at[key]]
        placed = grid(value)
        placed.grid = grid
        return placed


class Quantized(nn.Module):
    """A convolution or linear layer whose weights are on a grid for each output channel.

    inputs: scales of the grids that its inputs are on, by their names; none where activations stay in float. Its bias
    is then on the grid of the products, which integer operators add it on.
    """

    start: Tensor
    scale: Tensor
    codes: Tensor
    zeros: Tensor
    sums: Tensor
    biases: Tensor

    def __init__(self, layer: Layer, bits: int, inputs: dict[str, float]) -> None:
        super().__init__()
        weight, bias = layer.weight, layer.bias
        self.layer, self.most, self.inputs = layer, 2 ** (bits - 1) - 1, list(inputs)
        start = first_scales(weight.detach(), bits)
        if bias is not None and inputs:
            # A dead channel would have a scale so small that its bias had no integer.
            start = torch.maximum(start, bias.detach().abs() / (min(inputs.values()) * 2**30))
        self.stretch = nn.Parameter(torch.zeros_like(start))
        self.register_buffer("start", start)
        self.register_buffer("scale", start.clone(), persistent=False)
        self.register_buffer("zeros", torch.zeros(len(start), dtype=torch.int8), persistent=False)
        self.register_buffer("codes", torch.zeros(weight.shape, dtype=torch.int8), persistent=False)
        shape = (len(self.inputs), len(start))
        self.register_buffer("sums", torch.zeros(shape), persistent=False)
        self.register_buffer("biases", torch.zeros(shape, dtype=torch.int32), persistent=False)

    def fix(self, scales: dict[str, Tensor]) -> None:
        """Keep integers and scales as buffers; scales: those of the inputs' grids."""
        with torch.no_grad():
            self.scale.copy_(self.start * torch.exp2(self.stretch))
            wide = spread(self.scale, self.layer.weight)
            self.codes.copy_(torch.round(self.layer.weight / wide).clamp(-self.most, self.most))
            bias = self.layer.bias
            for row, name in enumerate(self.inputs):
                if bias is None:
                    break
                self.sums[row] = scales[name] * self.scale
                whole = torch.round(bias / self.sums[row]).clamp(-BIAS_MOST, BIAS_MOST)
                self.biases[row] = whole.to(torch.int32)

    def forward(self, values: Tensor) -> Tensor:
        """What the layer makes of values, from weights and bias on their grids."""
        grid: Activation | None = getattr(values, "grid", None)
        if self.training:
            weight, bias = self._learned(grid)
        else:
            weight, bias = self._fixed(self._row(grid))
        if isinstance(self.layer, nn.Linear):
            return nn.functional.linear(values, weight, bias)
        made: Tensor = self.layer._conv_forward(values, weight, bias)
        return made

    def _row(self, grid: "Activation | None") -> int | None:
        if not self.inputs:
            return None
        if grid is None or grid.name not in self.inputs:
            raise TechniqueError(
                f"qat: a layer reads {'nothing on a grid' if grid is None else repr(grid.name)} where it read "
                f"{self.inputs[0]!r} before: the model takes other ways from run to run; leave qat out"
            )
        return self.inputs.index(grid.name)

    def _learned(self, grid: "Activation | None") -> tuple[Tensor, Tensor | None]:
        scale, most = self.start * torch.exp2(self.stretch), float(self.most)
        weight = rounded(self.layer.weight, spread(scale, self.layer.weight), 0.0, -most, most)
        bias = self.layer.bias
        if grid is None or bias is None:
            return weight, bias
        return weight, rounded(bias, (grid.learned() * scale).detach(), 0.0, -BIAS_MOST, BIAS_MOST)

    def _fixed(self, row: int | None) -> tuple[Tensor, Tensor | None]:
        bias = self.layer.bias
        if not torch.onnx.is_in_onnx_export():
            weight = self.codes.to(torch.float32) * spread(self.scale, self.codes)
            return weight, bias if bias is None or row is None else self.biases[row] * self.sums[row]
        weight = dequantized(self.codes, self.scale, self.zeros, 0)
        whole = bias is not None and row is not None
        return weight, dequantized(self.biases[row], self.sums[row], None, 0) if whole else bias


def spread(scale: Tensor, weight: Tensor) -> Tensor:
    """Scales of output channels in a shape that broadcasts over a weight."""
    wide: Tensor = scale.reshape(-1, *(1,) * (weight.dim() - 1))
    return wide


def first_scales(weight: Tensor, bits: int) -> Tensor:
    """The scale of each output channel from which training starts: the best of some by the squared error of rounding.

    weight: output channels first. In 8 bits the largest weight is the largest integer; in fewer, cutting it may be
    better. A channel of zeros takes the largest scale of the others.
    """
    rows, most = weight.flatten(1), 2 ** (bits - 1) - 1
    largest = rows.abs().amax(1)
    whole = float(largest.max()) or 1.0
    largest = torch.where(largest > 0, largest, whole)
    best: Tensor = largest / most
    if bits == 8:
        return best
    error = torch.full_like(largest, torch.inf)
    for share in torch.linspace(0.2, 1.0, 33).tolist():
        scale = largest * share / most
        found = rounded(rows, scale[:, None], 0.0, -most, most).sub_(rows).square_().sum(1)
        best, error = torch.where(found < error, scale, best), torch.minimum(found, error)
    return best
