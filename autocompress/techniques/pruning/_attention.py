"""Attention as layers that can lose heads, where queries, keys and values are kept in one weight, of fixed width."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...data import copied
from ..replacing import replace_layers

LARGER = 30.0  # inputs on which attention is compared too


class HeadedAttention(nn.Module):
    """What an nn.MultiheadAttention computes, by a linear layer each for queries, keys, values and outputs.

    Heads keep their width, whatever their number; masks for single heads are refused, as heads may be gone.
    """

    in_proj_bias, _qkv_same_embed_dim = None, False  # which torch's encoder asks for, and leaves its fused path

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.query, self.key, self.value = map(_layer, _weights(attention), _biases(attention))
        self.out_proj: nn.Module = attention.out_proj
        self.width, self.batch_first, self.dropout = attention.head_dim, attention.batch_first, attention.dropout
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention's; is_causal is a hint beside a mask, which is what counts."""
        alone = query.dim() == 2
        turned = not self.batch_first and not alone
        given = [part[None] if alone else part.transpose(0, 1) if turned else part for part in (query, key, value)]
        layers = (self.query, self.key, self.value)
        q, k, v = (_by_head(layer(part), self.width) for layer, part in zip(layers, given, strict=True))
        mask = _joined(attn_mask, key_padding_mask if not alone or key_padding_mask is None else key_padding_mask[None])
        weights = None
        if need_weights:
            scores = q @ k.transpose(2, 3) / self.width**0.5
            weights = (scores if mask is None else scores + mask).softmax(3)
            mixed = functional.dropout(weights, self.dropout, self.training) @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights[0] if alone else weights
        else:
            share = self.dropout if self.training else 0.0
            mixed = functional.scaled_dot_product_attention(q, k, v, mask, share)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (output[0] if alone else output.transpose(0, 1) if turned else output), weights


class HeadedSelfAttention(nn.Module):
    """What attention of timm's kind computes, whose layer `qkv` is for all three, by a linear layer each."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        qkv, heads = attention.qkv, attention.num_heads
        self.query, self.key, self.value = map(_layer, qkv.weight.chunk(3), _thirds(qkv.bias))
        self.proj: Any = attention.proj
        self.width: int = qkv.out_features // 3 // heads
        self.dropout, self.proj_drop = (
            float(getattr(getattr(attention, name, None), "p", 0.0)) for name in ("attn_drop", "proj_drop")
        )
        self.train(attention.training)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """As of timm's Attention: (N, L, features) to (N, L, features)."""
        q, k, v = (_by_head(layer(x), self.width) for layer in (self.query, self.key, self.value))
        share = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask, share, is_causal)
        return functional.dropout(self.proj(mixed.transpose(1, 2).flatten(2)), self.proj_drop, self.training)


def open_attention(model: nn.Module, names: list[str]) -> nn.Module:
    """The model with these attention layers as ones that can lose heads; the model is changed."""
    layers = [model.get_submodule(name) for name in names]
    return replace_layers(model, {layer: _open(layer) for layer in layers})


def opened(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[nn.Module, list[str]]:
    """A copy in which all attention that can be is open, and its names; the model itself where there is none.

    example: inputs of the model, on which attention that is not torch's has to give the same open.
    """
    names = [name for name, module in model.named_modules() if name and _can_open(module)]
    others = _others(model, names, example)
    names = [name for name in names if name not in others]
    return (open_attention(copy.deepcopy(model), names), names) if names else (model, [])


def _open(layer: nn.Module) -> nn.Module:
    return HeadedAttention(layer) if isinstance(layer, nn.MultiheadAttention) else HeadedSelfAttention(layer)


def _others(model: nn.Module, names: list[str], example: tuple[Tensor, ...]) -> set[str]:
    """Those of these layers that only look like attention as it is known here: open, they compute something else."""
    found: set[str] = set()
    layers = {name: model.get_submodule(name) for name in names}

    def compare(name: str) -> Any:
        def hook(layer: nn.Module, given: Any, named: Any, output: Any) -> None:
            try:
                x, *more = given
                for times in (1, LARGER):  # where scores are small, all that is made of them is alike
                    expected = layer.forward(x * times, *more, **named)
                    found_open = _open(layer)(x * times, *more, **named)
                    torch.testing.assert_close(found_open, expected, rtol=1e-4, atol=1e-5)
            except Exception:  # whatever it takes or returns, it is another layer
                found.add(name)

        return hook

    unknown = {name: layer for name, layer in layers.items() if not isinstance(layer, nn.MultiheadAttention)}
    hooks = [layer.register_forward_hook(compare(name), with_kwargs=True) for name, layer in unknown.items()]
    try:
        if hooks:
            with torch.no_grad():
                model(*copied(example))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _can_open(module: nn.Module) -> bool:
    """Whether a layer is torch's own and adds nothing to keys and values, or has the parts of timm's and no others."""
    if type(module) is nn.MultiheadAttention:
        return module.bias_k is None and not module.add_zero_attn
    qkv, proj, heads = (getattr(module, name, None) for name in ("qkv", "proj", "num_heads"))
    if not (isinstance(qkv, nn.Linear) and isinstance(proj, nn.Linear) and isinstance(heads, int)):
        return False
    parts = [*qkv.parameters(), *proj.parameters()]
    return (
        qkv.out_features == 3 * proj.in_features
        and proj.in_features % heads == 0
        and len(parts) == len(list(module.parameters()))
    )


def _by_head(features: Tensor, width: int) -> Tensor:
    """(N, L, features) as (N, heads, L, width)."""
    return features.view(*features.shape[:2], -1, width).transpose(1, 2)


def _weights(attention: nn.MultiheadAttention) -> list[Tensor]:
    if attention.in_proj_weight is not None:
        return list(attention.in_proj_weight.chunk(3))
    return [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]


def _biases(attention: nn.MultiheadAttention) -> list[Tensor | None]:
    return _thirds(attention.in_proj_bias)


def _thirds(bias: Tensor | None) -> list[Tensor | None]:
    return [None] * 3 if bias is None else list(bias.chunk(3))


def _layer(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    with torch.device("meta"):  # so that no random numbers are drawn
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return layer


def _joined(attention: Tensor | None, padding: Tensor | None) -> Tensor | None:
    """Both masks as numbers that are added to scores (N, heads, L, S); where booleans are True nothing is looked at."""
    if attention is not None and attention.dim() == 3:
        raise ValueError("attention that lost heads takes no mask for each head: give one (L, S) for all")
    parts: list[Any] = [attention, None if padding is None else padding[:, None, None]]
    found = None
    for part in parts:
        if part is None:
            continue
        if part.dtype == torch.bool:
            part = torch.zeros_like(part, dtype=torch.float32).masked_fill(part, -torch.inf)
        found = part if found is None else found + part
    return found
