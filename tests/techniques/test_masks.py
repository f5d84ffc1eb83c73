"""Masks: which weights they may cover, which scores go, and how they are written down."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from autocompress.errors import TechniqueError
from autocompress.techniques.masks import (
    apply_masks,
    deflated,
    inflated,
    keep_only,
    masks_of_best,
    pack_mask,
    packed,
    prunable,
    shares,
    unpack_mask,
    weights_to_prune,
    with_zeros_lowest,
)
from autocompress.testing.models import TwoNames, seeded


class Everything(nn.Module):
    """One of every layer with weights; only the names of its parameters matter."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(9, 4)
        self.position_embeddings = nn.Embedding(5, 4)
        self.pos_weight = nn.Parameter(torch.zeros(1, 5, 4))
        self.position_head = nn.Linear(4, 2)  # predicts positions: a layer like others
        self.scale = nn.Parameter(torch.ones(4, 4))
        self.norm = nn.LayerNorm((5, 4))
        self.batch_norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.up = nn.ConvTranspose2d(4, 3, 2)
        self.recurrent = nn.LSTM(4, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.normalized = weight_norm(nn.Linear(4, 4))
        self.tied = nn.Linear(4, 9, bias=False)
        self.tied.weight = self.tokens.weight


def test_weights_of_layers_can_be_pruned_but_not_norms_biases_positions_or_a_weight_twice() -> None:
    assert list(prunable(Everything())) == [
        "tokens.weight",
        "position_head.weight",
        "conv.weight",
        "up.weight",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    ]


def test_the_scale_of_a_normalized_weight_is_not_pruned() -> None:
    layer = nn.Module()
    layer.weight_g, layer.weight_v = nn.Parameter(torch.ones(4, 1)), nn.Parameter(torch.ones(4, 4))
    assert list(prunable(layer)) == ["weight_v"]


def test_keep_takes_layers_modules_and_weights_by_any_of_their_names() -> None:
    model = seeded(TwoNames)
    assert list(weights_to_prune(model, ("second",), "x")) == ["stem.weight", "head.weight"]  # another name of first
    assert list(weights_to_prune(model, ("stem.weight", "head"), "x")) == ["first.weight"]
    nested = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), nn.Linear(3, 3))
    assert list(weights_to_prune(nested, ("0",), "x")) == ["1.weight"]
    assert list(weights_to_prune(nested, None, "x")) == ["0.0.weight", "0.1.weight", "1.weight"]


def test_a_layer_that_does_not_exist_is_answered_with_the_nearest() -> None:
    with pytest.raises(TechniqueError, match=r"x: keep: 'steam' is no layer that can be pruned; did you mean 'stem'\?"):
        weights_to_prune(seeded(TwoNames), ("steam",), "x")


def test_nothing_to_prune_is_said() -> None:
    with pytest.raises(TechniqueError, match="x finds nothing to prune: the model has no weight matrix"):
        weights_to_prune(nn.BatchNorm2d(3), None, "x")
    with pytest.raises(TechniqueError, match="x finds nothing to prune: every layer is in keep"):
        weights_to_prune(seeded(TwoNames), ("stem", "first", "head"), "x")


values = st.lists(st.sampled_from([0.0, 0.5, 0.5, 1.0, 2.0, 3.0]) | st.floats(0, 4, width=32), min_size=1, max_size=40)


@given(
    scores=st.lists(values, min_size=1, max_size=4),
    ratio=st.floats(0.01, 0.99),
    cap=st.floats(0.05, 0.99),
)
def test_the_lowest_go_as_a_sort_says_and_no_tensor_loses_more_than_its_cap(
    scores: list[list[float]], ratio: float, cap: float
) -> None:
    masks = masks_of_best({str(i): torch.tensor(row) for i, row in enumerate(scores)}, ratio, cap)
    # By hand: walk through all scores from the lowest on, of equals the first, and pass over full tensors.
    budget = round(ratio * sum(len(row) for row in scores))
    left = [int(cap * len(row) + 1e-9) for row in scores]
    expected = [np.ones(len(row), dtype=bool) for row in scores]
    places = [(value, i, j) for i, row in enumerate(scores) for j, value in enumerate(row)]
    for _, i, j in sorted(places, key=lambda place: np.float32(place[0])):
        if budget and left[i]:
            expected[i][j] = False
            budget, left[i] = budget - 1, left[i] - 1
    for i, row in enumerate(expected):
        assert masks[str(i)].numpy().tolist() == row.tolist()


@given(zeros=st.integers(0, 50), ratio=st.floats(0.02, 0.98))
def test_what_is_zero_already_counts_as_gone(zeros: int, ratio: float) -> None:
    weight = torch.arange(1.0, 51.0)
    weight[:zeros] = 0
    masks = masks_of_best({"w": with_zeros_lowest(weight.abs(), weight == 0)}, ratio, 0.98)
    gone = max(zeros, min(round(ratio * 50), 49))
    assert (~masks["w"]).tolist() == [True] * gone + [False] * (50 - gone)


def test_a_score_that_is_no_number_stays() -> None:
    masks = masks_of_best({"w": torch.tensor([torch.nan, 1.0, 2.0, 3.0])}, 0.5, 0.98)
    assert masks["w"].tolist() == [True, False, False, True]


@given(shape=st.lists(st.integers(1, 7), min_size=2, max_size=4), seed=st.integers(0, 1000), share=st.floats(0, 1))
def test_a_mask_comes_back_from_its_text(shape: list[int], seed: int, share: float) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share
    assert torch.equal(unpack_mask(pack_mask(mask), tuple(shape)), mask)


def test_a_mask_takes_about_a_bit_a_weight_or_less() -> None:
    random = torch.rand(100, 800, generator=torch.Generator().manual_seed(0)) < 0.5
    assert len(pack_mask(random)) < 80_000 / 8 * 4 / 3 * 1.01  # base 64 writes three bytes as four letters
    assert len(pack_mask(torch.rand(100, 800, generator=torch.Generator().manual_seed(0)) < 0.02)) < 80_000 / 8 * 0.5
    assert len(pack_mask(torch.ones(100, 800, dtype=torch.bool))) < 100


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(TechniqueError, match="mask of layer was made for another number of weights than 900: decide"):
        unpack_mask(pack_mask(torch.ones(10, 10, dtype=torch.bool)), (30, 30), "layer")


@pytest.mark.parametrize("text", ["no text of ours", "AAAA", deflated(b"1234")[:-8], deflated(b"12345"), deflated(b"")])
def test_text_of_other_bytes_is_refused(text: str) -> None:
    assert inflated(deflated(b"1234"), 4) == b"1234"
    with pytest.raises(ValueError, match=r"."):
        inflated(text, 4)
    with pytest.raises(TechniqueError, match="made for another number of weights"):
        unpack_mask(text, (32,))


def test_text_of_far_more_bytes_is_refused_before_they_are_made() -> None:
    text = deflated(bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(ValueError, match="not 4 bytes"):
        inflated(text, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_zeros_have_no_sign_and_the_rest_stays_to_the_bit(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.tensor([[-1.5, 2.0], [-3.0, -0.0]], dtype=dtype))
    keep_only(weight, torch.tensor([[True, False], [False, False]]))
    assert weight.dtype == dtype
    assert weight.tolist() == [[-1.5, 0.0], [0.0, 0.0]]
    assert torch.signbit(weight).tolist() == [[True, False], [False, False]]


def test_masks_apply_in_place_to_frozen_weights_too() -> None:
    model = nn.Sequential(nn.Linear(2, 2)).requires_grad_(False)
    weight: Tensor = model[0].weight
    assert apply_masks(model, packed({"0.weight": torch.eye(2, dtype=torch.bool)})) is model
    assert model[0].weight is weight
    assert torch.count_nonzero(weight) == 2


def test_masks_that_take_nothing_are_not_kept_but_told() -> None:
    masks = {"a.weight": torch.ones(2, 3, dtype=torch.bool), "b.weight_ih_l0": torch.eye(4, dtype=torch.bool)}
    assert list(packed(masks)) == ["b.weight_ih_l0"]
    assert shares(masks) == {"a": "0 of 6 weights are zero (0%)", "b.weight_ih_l0": "12 of 16 weights are zero (75%)"}
