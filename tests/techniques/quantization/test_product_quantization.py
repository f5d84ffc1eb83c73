"""Blocks of weights that share codes: found as scikit-learn finds them, trained as one, and few in the file."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.vq import vq
from torch import nn

from autocompress.errors import NothingToDo, TechniqueError
from autocompress.held import Held, shared_values
from autocompress.techniques.pruning.weight_pruning import WeightPruning
from autocompress.techniques.quantization.product_quantization import ProductQuantization, codes_of, nearest
from autocompress.techniques.training.finetune import Finetune
from autocompress.testing.work import context_of, teacher_of


def quantized(model: nn.Module, **settings: Any) -> tuple[nn.Module, dict[str, Any]]:
    step, made = ProductQuantization(**settings), copy.deepcopy(model)
    decision = step.decide(made, context_of("plain"))
    return step.apply(made, decision), decision


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(2, 8), st.integers(0, 5))
def test_every_block_gets_the_nearest_code(count: int, codes: int, length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks, book = rng.normal(size=(count, length)), rng.normal(size=(codes, length))
    numbers, distances = vq(blocks, book)
    found = np.linalg.norm(blocks - book[nearest(blocks, book)], axis=1)
    np.testing.assert_allclose(found, distances, atol=1e-6)
    assert np.array_equal(nearest(blocks, book), numbers)


def test_codes_that_are_there_are_found_and_the_same_seed_finds_the_same() -> None:
    rng = np.random.default_rng(0)
    book = rng.normal(size=(16, 2)).astype(np.float32)
    blocks = book[rng.integers(0, 16, 500)]
    found = codes_of(blocks, 16, 0)
    np.testing.assert_array_equal(found, np.unique(book, axis=0))
    noisy = blocks + rng.normal(scale=1e-3, size=blocks.shape).astype(np.float32)
    ours = codes_of(noisy, 16, 3)
    np.testing.assert_allclose(ours[np.lexsort(ours.T[::-1])], np.unique(book, axis=0), atol=1e-3)
    np.testing.assert_array_equal(ours, codes_of(noisy, 16, 3))


@pytest.mark.parametrize(("bits", "block"), [(3, 2), (4, 2), (2, 4)])
def test_a_layer_has_as_many_blocks_as_its_bits_give(bits: int, block: int) -> None:
    model, decision = quantized(teacher_of("plain"), bits=bits, block=block)
    assert decision["books"]
    for name, book in decision["books"].items():
        rows = model.get_parameter(name).detach().reshape(-1, block)
        assert 1 < len(rows.unique(dim=0)) <= 2**bits
        assert np.shape(book)[1] == block


def test_codes_are_nearer_than_values_of_as_many_bits() -> None:
    """The gain of blocks: of numbers that are normal, 2 bits in pairs leave less error than 2 bits each (Gersho, 1979).

    The best 4 levels for the normal distribution leave 0.1175 of its variance (Max, 1960).
    """
    values = np.random.default_rng(0).normal(size=(20_000, 2)).astype(np.float32)
    book = codes_of(values, 16, 0)
    error = float(np.square(values - book[nearest(values, book)]).mean())
    assert error < 0.11


def test_training_moves_each_number_of_a_code_as_one() -> None:
    model, decision = quantized(teacher_of("plain"), bits=4, block=2)
    before = copy.deepcopy(model.state_dict())
    Finetune(epochs=2, learning_rate=5e-3, batch_size=16).train(model, context_of("plain"))
    for name in decision["books"]:
        rows, after = (state[name].reshape(-1, 2) for state in (before, model.state_dict()))
        both = torch.cat([rows, after], 1).unique(dim=0)
        assert len(both) == len(rows.unique(dim=0)), "blocks that shared a code share one still"
        assert not torch.equal(rows, after)


def test_blocks_of_more_numbers_than_single_values_could_be_are_held() -> None:
    """256 codes of 4 numbers are 1,024 values: each place of each code is one."""
    rng = np.random.default_rng(0)
    book, which = rng.normal(size=(256, 4)).astype(np.float32), rng.integers(0, 256, 4096)
    weight = nn.Parameter(torch.from_numpy(book[which].reshape(64, 256)))
    groups = shared_values(weight)
    assert groups is not None
    assert len(groups.unique()) == 4 * len(np.unique(which))
    held, moves = Held([weight]), rng.normal(size=(4096, 4)).astype(np.float32)
    with torch.no_grad():
        weight += torch.from_numpy(moves.reshape(64, 256))
    held.restore()
    expected = np.stack([book[code] + moves[which == code].mean(0) for code in which])
    np.testing.assert_allclose(weight.detach().numpy().reshape(-1, 4), expected, atol=1e-5)
    assert shared_values(nn.Parameter(torch.randn(64, 256))) is None


def test_a_layer_that_was_pruned_takes_codes_as_any_other() -> None:
    model, context = copy.deepcopy(teacher_of("plain")), context_of("plain")
    pruned = WeightPruning(ratio=0.8)
    model = pruned.apply(model, pruned.decide(model, context))
    found, decision = quantized(model)
    for name in decision["books"]:
        weight = found.get_parameter(name).detach()
        assert len(weight.reshape(-1, 2).unique(dim=0)) <= 16
        mean = float(model.get_parameter(name).detach().square().mean())
        assert float((weight - model.get_parameter(name).detach()).square().mean()) < 0.3 * mean


def test_layers_that_do_not_fit_say_why() -> None:
    _, decision = quantized(teacher_of("plain"), bits=4, block=2, keep=("fc1",))
    assert decision["skipped"]["fc1.weight"] == "kept in float by the recipe"
    with pytest.raises(NothingToDo, match="its 432 weights are no multiple of 7"):
        ProductQuantization(block=7).decide(teacher_of("plain"), context_of("plain"))
    few = nn.Sequential(nn.Linear(7, 2))
    with pytest.raises(NothingToDo, match=r"take another block or leave the step out .*only 7 blocks of 2 weights"):
        ProductQuantization(bits=8).decide(few, context_of("plain"))
    model = copy.deepcopy(teacher_of("plain"))
    with torch.no_grad():
        model.get_parameter("fc1.weight")[0, 0] = torch.nan
    with pytest.raises(TechniqueError, match="not finite"):
        ProductQuantization().decide(model, context_of("plain"))


def test_a_layer_of_few_blocks_has_a_code_for_each_four_of_them() -> None:
    _, decision = quantized(teacher_of("plain"), bits=8, block=2)
    sizes = {name: teacher_of("plain").get_parameter(name).numel() // 2 for name in decision["books"]}
    assert any(blocks < 4 * 256 for blocks in sizes.values())
    for name, blocks in sizes.items():
        assert len(decision["books"][name]) <= min(256, blocks // 4)
