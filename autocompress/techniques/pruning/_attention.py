"""torch's attention as layers that can lose heads: it keeps queries, keys and values in one weight, of fixed width."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..replacing import replace_layers


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
        q, k, v = (
            layer(part).view(*part.shape[:2], -1, self.width).transpose(1, 2)
            for layer, part in zip(layers, given, strict=True)
        )
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


def open_attention(model: nn.Module, names: list[str]) -> nn.Module:
    """The model with these attention layers as ones that can lose heads; the model is changed."""
    layers = {name: model.get_submodule(name) for name in names}
    return replace_layers(model, {layer: HeadedAttention(layer) for layer in layers.values()})  # type: ignore[arg-type]


def opened(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy in which all attention that can be is open, and its names; the model itself where there is none."""
    names = [name for name, module in model.named_modules() if name and _can_open(module)]
    return (open_attention(copy.deepcopy(model), names), names) if names else (model, [])


def _can_open(module: nn.Module) -> bool:
    """Whether a layer is torch's own, and adds nothing to keys and values."""
    if type(module) is not nn.MultiheadAttention:
        return False
    return module.bias_k is None and not module.add_zero_attn


def _weights(attention: nn.MultiheadAttention) -> list[Tensor]:
    if attention.in_proj_weight is not None:
        return list(attention.in_proj_weight.chunk(3))
    return [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]


def _biases(attention: nn.MultiheadAttention) -> list[Tensor | None]:
    return [None] * 3 if attention.in_proj_bias is None else list(attention.in_proj_bias.chunk(3))


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
