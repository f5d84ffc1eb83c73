"""Attention loses whole heads, or as much of each, by what its code counts on; never parts of one to another."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import Classification
from autocompress.artifacts.export import export_onnx
from autocompress.artifacts.parity import check_parity
from autocompress.errors import NothingToDo
from autocompress.techniques.base import Context
from autocompress.techniques.pruning._attention import open_attention, opened
from autocompress.techniques.pruning.channel_pruning import ChannelPruning

HEADS, WIDTH, FEATURES = 4, 6, 10
FORMS = {"heads": (-1, WIDTH), "widths": (HEADS, -1), "neither": (HEADS, WIDTH)}


class Attention(nn.Module):
    """Self-attention by linear layers, whose views fix the width of heads, their number, or both."""

    def __init__(self, form: str) -> None:
        super().__init__()
        inner = HEADS * WIDTH
        self.query, self.key, self.value = (nn.Linear(FEATURES, inner) for _ in range(3))
        self.out, self.head, self.form = nn.Linear(inner, FEATURES), nn.Linear(FEATURES, 3), FORMS[form]

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).view(*x.shape[:2], *self.form).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        looked = (query @ key.transpose(2, 3) / WIDTH**0.5).softmax(3) @ value
        return self.head((x + self.out(looked.transpose(1, 2).flatten(2))).mean(1))


def task(form: str) -> Classification:
    parts = [TensorDataset(torch.randn(16, 5, FEATURES), torch.arange(16) % 3) for _ in range(3)]
    return Classification(lambda: Attention(form), *parts)


def pruned(form: str, **settings: Any) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    torch.manual_seed(1)
    data = task(form)
    model = data.model().eval()
    step = ChannelPruning(ratio=0.5, scope="layer", importance="l1", keep=("out", "head"), **settings)
    decision = step.decide(model, Context(data, model, 0))
    return model, step.apply(copy.deepcopy(model), decision), decision


def outputs_gone(decision: dict[str, Any]) -> dict[str, list[int]]:
    return {name: where for name, outputs, where in decision["history"] if outputs}


@pytest.mark.parametrize("form", ["heads", "widths"])
def test_what_is_left_is_attention_as_it_was(form: str) -> None:
    model, smaller, decision = pruned(form)
    gone = outputs_gone(decision)
    assert gone.keys() == {"query", "key", "value"}
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for name, where in gone.items():
            layer = masked.get_submodule(name)
            layer.weight[where], layer.bias[where] = 0, 0
    x = torch.randn(7, 9, FEATURES)
    with torch.no_grad():
        torch.testing.assert_close(smaller(x), masked(x))
        assert (masked(x) - model(x)).abs().max() > 1e-3
    assert smaller.value.out_features == HEADS * WIDTH // 2
    check_parity(smaller, export_onnx(smaller, (x,)), (x,))


def test_whole_heads_go_where_their_width_is_fixed() -> None:
    gone = outputs_gone(pruned("heads")[2])
    heads = {position // WIDTH for position in gone["value"]}
    assert len(heads) == HEADS // 2
    expected = [head * WIDTH + place for head in sorted(heads) for place in range(WIDTH)]
    assert gone == dict.fromkeys(("query", "key", "value"), expected)


def test_the_least_important_heads_go() -> None:
    model, _, decision = pruned("heads")
    layers = (model.query, model.key, model.value)
    size = sum(layer.weight.abs().sum(1).view(HEADS, -1).sum(1) for layer in layers)
    size += model.out.weight.abs().sum(0).view(HEADS, -1).sum(1)
    least = set(size.argsort()[: HEADS // 2].tolist())
    assert {position // WIDTH for position in outputs_gone(decision)["value"]} == least


def test_every_head_loses_the_same_where_their_number_is_fixed() -> None:
    gone = outputs_gone(pruned("widths")[2])["value"]
    lost = [{position % WIDTH for position in gone if position // WIDTH == head} for head in range(HEADS)]
    assert lost == [lost[0]] * HEADS
    assert len(lost[0]) == WIDTH // 2


def test_attention_whose_views_fix_both_is_left_alone_and_said() -> None:
    with pytest.raises(NothingToDo, match="does not run without them"):
        pruned("neither")


def test_heads_are_rounded_as_channels_are() -> None:
    _, smaller, _ = pruned("heads", round_to=4)
    assert smaller.value.out_features % 4 == 0


class Torchs(nn.Module):
    """torch's own attention, with a mask of what is padding."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(HEADS * WIDTH, HEADS, dropout=0.1, batch_first=True, **settings)
        self.before, self.head = nn.Linear(FEATURES, HEADS * WIDTH), nn.Linear(HEADS * WIDTH, 3)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        seen = self.before(x)
        mixed, _ = self.attention(seen, seen, seen, key_padding_mask=padding)
        found: Tensor = self.head((seen + mixed)[:, 0])
        return found


def of_torchs(**settings: Any) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    torch.manual_seed(2)
    parts = [TensorDataset(torch.randn(16, 5, FEATURES), torch.arange(16) % 3) for _ in range(3)]
    data = Classification(lambda: Torchs(**settings), *parts)
    model = data.model().eval()
    step = ChannelPruning(ratio=0.5, scope="layer", importance="l1", keep=("before", "head", "attention.out_proj"))
    decision = step.decide(model, Context(data, model, 0))
    return model, step.apply(copy.deepcopy(model), decision), decision


def test_torchs_attention_without_heads_is_what_it_was_with_them_silenced() -> None:
    model, smaller, decision = of_torchs()
    assert decision["opened"] == ["attention"]
    assert isinstance(model.attention, nn.MultiheadAttention), "the model that was given stays as it is"
    gone = outputs_gone(decision)
    heads = sorted({position // WIDTH for position in gone["attention.value"]})
    whole = [head * WIDTH + place for head in heads for place in range(WIDTH)]
    assert gone == {f"attention.{part}": whole for part in ("query", "key", "value")}
    assert len(heads) == HEADS // 2
    silenced: Any = copy.deepcopy(model)
    x, padding = torch.randn(7, 9, FEATURES), torch.arange(9)[None] >= torch.arange(3, 10)[:, None]
    with torch.no_grad():
        silenced.attention.out_proj.weight[:, gone["attention.value"]] = 0
        torch.testing.assert_close(smaller(x, padding), silenced(x, padding))
        assert (silenced(x, padding) - model(x, padding)).abs().max() > 1e-3
    check_parity(smaller, export_onnx(smaller, (x,)), (x,))


def test_attention_that_adds_to_its_keys_stays_in_one_piece() -> None:
    parts = [TensorDataset(torch.randn(16, 5, FEATURES), torch.arange(16) % 3) for _ in range(3)]
    data = Classification(lambda: Torchs(add_zero_attn=True), *parts)
    model = data.model().eval()
    with torch.no_grad():
        assert opened(model, (torch.randn(2, 5, FEATURES),)) == (model, [])
    decision = ChannelPruning(ratio=0.5, scope="layer").decide(model, Context(data, model, 0))
    assert "opened" not in decision


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("widths", [{}, {"kdim": 10, "vdim": 14}, {"bias": False}])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("mask", [None, "boolean", "numbers"])
@pytest.mark.parametrize("padded", [True, False])
def test_open_attention_is_torchs(
    batch_first: bool, widths: dict[str, Any], need_weights: bool, mask: str | None, padded: bool
) -> None:
    torch.manual_seed(0)
    own = nn.MultiheadAttention(24, 4, batch_first=batch_first, dropout=0.3, **widths).eval()
    other = open_attention(nn.Sequential(copy.deepcopy(own)), ["0"])[0]
    query = torch.randn(3, 5, 24)
    key, value = (torch.randn(3, 7, layer.in_features) for layer in (other.key, other.value))
    if not batch_first:
        query, key, value = (part.transpose(0, 1) for part in (query, key, value))
    later = torch.triu(torch.ones(5, 7), 1).bool()
    pads = torch.arange(7)[None] >= torch.tensor([4, 7, 6])[:, None]
    masks: dict[str | None, Any] = {None: None, "boolean": later, "numbers": later.float() * -1e4}
    numbers = pads.float() * -1e4 if mask == "numbers" else pads  # torch wants both alike
    given = {"attn_mask": masks[mask], "key_padding_mask": numbers if padded else None, "need_weights": need_weights}
    for expected, found in zip(own(query, key, value, **given), other(query, key, value, **given), strict=True):
        assert (expected is None) is (found is None)
        if expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_open_attention_takes_one_sequence_and_refuses_masks_of_single_heads() -> None:
    own = nn.MultiheadAttention(24, 4).eval()
    other = open_attention(nn.Sequential(copy.deepcopy(own)), ["0"])[0]
    query, key, padding = torch.randn(5, 24), torch.randn(7, 24), torch.arange(7) > 5
    for expected, found in zip(own(query, key, key, padding), other(query, key, key, padding), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no mask for each head"):
        other(query[:, None], key[:, None], key[:, None], attn_mask=torch.zeros(4, 5, 7))


class Fused(nn.Module):
    """Attention whose queries, keys and values come from one layer, told apart by the last of three views or so."""

    def __init__(self, scale: float = WIDTH**-0.5, more: bool = False) -> None:
        super().__init__()
        inner = HEADS * WIDTH
        self.num_heads, self.scale = HEADS, scale
        self.qkv, self.proj = nn.Linear(FEATURES, 3 * inner), nn.Linear(inner, FEATURES)
        if more:
            self.bias = nn.Parameter(torch.randn(HEADS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
        looked = ((q @ k.transpose(2, 3)) * self.scale).softmax(3) @ v
        return self.proj(looked.transpose(1, 2).flatten(2))


def test_attention_with_one_layer_for_all_three_is_opened_where_it_computes_the_same_open() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Fused(), Fused(scale=1.0), Fused(more=True)).eval()
    x = torch.randn(2, 5, FEATURES)
    other, names = opened(model, (x,))
    assert names == ["0"]
    assert isinstance(model[0], Fused), "the model that was given stays as it is"
    with torch.no_grad():
        torch.testing.assert_close(other(x), model(x))


def test_vision_transformers_of_timm_lose_whole_heads() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 4, "num_classes": 3}
    parts = [TensorDataset(torch.randn(16, 3, 8, 8), torch.arange(16) % 3) for _ in range(3)]
    data = Classification(lambda: timm.models.VisionTransformer(**sizes), *parts)
    model: Any = data.model().eval()
    attention = [f"blocks.{index}.attn" for index in range(2)]
    step = ChannelPruning(ratio=0.5, scope="layer", importance="l1", layers=tuple(f"{name}.*" for name in attention))
    decision = step.decide(model, Context(data, model, 0))
    assert decision["opened"] == attention
    smaller: Any = step.apply(copy.deepcopy(model), decision)
    gone, silenced = outputs_gone(decision), copy.deepcopy(model)
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        for index, name in enumerate(attention):
            assert len(gone[f"{name}.value"]) == 8, "two of four heads, four wide"
            assert {position // 4 for position in gone[f"{name}.query"]} == {p // 4 for p in gone[f"{name}.value"]}
            silenced.blocks[index].attn.proj.weight[:, gone[f"{name}.value"]] = 0
        torch.testing.assert_close(smaller(x), silenced(x), rtol=1e-4, atol=1e-5)
    check_parity(smaller, export_onnx(smaller, (x,)), (x,))
