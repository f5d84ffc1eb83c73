"""Which layers and values of a model can be integers: what quantization-aware training decides before it starts."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from ...data import Batch
from ...training import place_of, placed
from ..replacing import replace_layers, unreplaceable
from ._calls import Call, Calls, Trace, trace, value_names, watching
from ._grids import PASSING
from ._kept import REASON
from ._spans import Span

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear, nn.RNNBase, nn.MultiheadAttention, nn.Embedding, nn.EmbeddingBag)
# Functions by what ONNX Runtime does to them between pairs of quantize and dequantize: computes them in integers,
# moves integers about, or joins them to the layer before.
COMPUTED = {"add", "iadd", "radd", "mul", "imul", "rmul", "cat", "concat", "avg_pool2d", "adaptive_avg_pool2d", "mean"}
COMPUTED |= {"sigmoid", "leaky_relu"}
MOVED = {"max_pool1d", "max_pool2d", "flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze"}
MOVED |= {"getitem", "chunk", "split", "contiguous", "swapaxes", "movedim"}
JOINED = {"relu", "relu6", "hardtanh", "clamp", "clip", "clamp_min"}
PRODUCTS = {"conv1d", "conv2d", "linear"}


def find_layers(
    model: nn.Module, found: Trace, example: tuple[Tensor, ...], kept: Iterable[str]
) -> tuple[list[str], dict[str, str]]:
    """The layers that can be quantized, in the order of their calls, and those that cannot, with the reason."""
    names = {name: module for name, module in model.named_modules() if isinstance(module, WEIGHTED)}
    skipped = dict.fromkeys(kept, REASON)
    skipped |= {name: why for name, module in names.items() if name not in skipped and (why := _obstacle(module))}
    open_names = [name for name in names if name not in skipped]
    skipped |= unreplaceable(model, open_names, example)
    for name in open_names:
        products = [call for call in found.of(name) if call.function in PRODUCTS]
        if name not in skipped and (not products or any(call.first is None for call in products)):
            skipped[name] = "what it reads is not computed by the model"
    order = list(dict.fromkeys(call.module for call in found.calls))
    inside = [name for name in open_names if name not in skipped]
    return sorted(inside, key=order.index), {name: skipped[name] for name in names if name in skipped}


def layer_order(model: nn.Module, found: Trace) -> list[str]:
    """Every module with weights that products are made of, in the order of their first calls, the others after it."""
    names = [name for name, module in model.named_modules() if isinstance(module, WEIGHTED)]
    called = [name for name in dict.fromkeys(call.module for call in found.calls) if name in set(names)]
    return [*called, *(name for name in names if name not in set(called))]


def _obstacle(module: nn.Module) -> str | None:
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention | nn.Embedding | nn.EmbeddingBag):
        return f"there is no training in integers for {type(module).__name__}"
    if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return "there is no training in integers for the attention that it is part of"
    if type(module) not in LAYERS:
        return f"a {type(module).__name__} is no plain convolution or linear layer"
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return f"it pads by {module.padding_mode}, where integer operators pad by zeros"
    return None


def find_norms(model: nn.Module, found: Trace, layers: Sequence[str]) -> dict[str, str]:
    """The batch normalization that follows each layer directly, and nothing else but it."""
    pairs = {}
    for name in layers:
        made = [value for call in found.of(name) if call.function in PRODUCTS for value in call.makes]
        readers = [found.readers(value) for value in made]
        norms = {call.module for calls in readers for call in calls}
        if any(len(calls) != 1 for calls in readers) or len(norms) != 1 or found.outputs.intersection(made):
            continue
        norm = norms.pop()
        own = found.of(norm)
        if isinstance(model.get_submodule(norm), _BatchNorm) and len(own) == len(made) and _foldable(model, norm):
            pairs[name] = norm
    return pairs


def _foldable(model: nn.Module, norm: str) -> bool:
    return model.get_submodule(norm).running_mean is not None


def fold(model: nn.Module, norms: dict[str, str]) -> nn.Module:
    """The model with batch normalizations multiplied into the layers before them (Jacob et al., 2018, section 3.2)."""
    gone: dict[nn.Module, nn.Module] = {}
    for name, other in norms.items():
        layer, norm = model.get_submodule(name), model.get_submodule(other)
        assert isinstance(norm, _BatchNorm)
        fuse: Any = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
        fuse_inputs = (layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        with torch.no_grad():
            weight, bias = fuse(*fuse_inputs)
        trains = any(parameter.requires_grad for parameter in layer.parameters())
        layer.weight, layer.bias = nn.Parameter(weight.detach(), trains), nn.Parameter(bias.detach(), trains)
        gone[norm] = nn.Identity().train(norm.training)
    return replace_layers(model, gone)


def find_values(found: Trace, layers: Iterable[str]) -> tuple[dict[str, list[str]], list[str], dict[str, str]]:
    """Which values are to be integers: what each layer reads, all values with a grid, and those that share it.

    A value has a grid when a quantized layer reads it, when it is what a convolution makes (after what is joined to
    it), or when an operator reads it that computes in integers because its own result has one.
    """
    quantized, needed = set(layers), set[str]()
    reads: dict[str, list[str]] = {name: [] for name in layers}
    for call in reversed(found.calls):
        if call.module in quantized and call.function in PRODUCTS:
            assert call.first is not None
            needed.add(call.first)
            reads[call.module].append(call.first)
            needed.update(_joined(found, value) for value in call.makes if call.function != "linear")
        elif call.function in MOVED or call.function in PASSING:
            needed.update(call.reads if needed.intersection(call.makes) else ())
        elif call.function in COMPUTED and any(_joined(found, value) in needed for value in call.makes):
            needed.update(call.reads)
    roots = _roots(found, needed)
    values = list(dict.fromkeys(root for root in roots.values()))
    inputs = {name: list(dict.fromkeys(roots[value] for value in reversed(read))) for name, read in reads.items()}
    moved = {name: root for name, root in roots.items() if name != root and _makes(found, name).function in MOVED}
    return inputs, values, moved


def _joined(found: Trace, value: str) -> str:
    """The value after the activation function that is joined to what makes it, where nothing else reads it."""
    readers = found.readers(value)
    while len(readers) == 1 and readers[0].function in JOINED and value not in found.outputs:
        value = readers[0].makes[0]
        readers = found.readers(value)
    return value


def _roots(found: Trace, needed: set[str]) -> dict[str, str]:
    """Each value with the one whose grid it is on: that which was moved there."""
    roots = {value: value for value in sorted(needed) if value.startswith("input.")}
    for call in found.calls:
        moves = call.function in MOVED or call.function in PASSING
        for value in call.makes:
            if value in needed:
                roots[value] = roots[call.reads[0]] if moves and len(call.reads) == 1 else value
    return roots


def _makes(found: Trace, value: str) -> Call:
    return next(call for call in found.calls if value in call.makes)


def find_spans(model: nn.Module, values: Sequence[str], sample: Iterable[Batch]) -> dict[str, Span]:
    """What each value holds over batches: its range, whether it is finite, and whether a mask's fill is in it."""
    spans = {value: Span() for value in values}

    def see(name: str, tensor: Tensor) -> None:
        """Widen the range of a value by one tensor."""
        if name in spans:
            spans[name].see(tensor.cpu().numpy())

    def visit(key: str, function: str, module: str, given: Any, made: Any) -> Any:
        """See every value that a call makes."""
        for name, part in value_names(key, made).items():
            see(name, part)
        return made

    model = placed(model)
    with torch.no_grad():
        for batch in sample:
            given = batch.to(place_of(model))
            for index, tensor in enumerate(given.inputs):
                see(f"input.{index}", tensor)
            with watching(model, Calls(visit)):
                model(*given.inputs)
    return spans


def traced(model: nn.Module, example: tuple[Tensor, ...]) -> Trace:
    """The calls of a model in which attention is not in one piece."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return trace(model, example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
