"""N:M sparsity counted in every group of m, and against numpy."""

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import plain_baseline, trial_spec
from torch import Tensor, nn

from autocompress.errors import ConfigError, TechniqueError
from autocompress.outcome import Candidate
from autocompress.techniques import Context, Decision, expanded, recipe_from_data, recipe_from_yaml
from autocompress.techniques.masks import unpack_mask
from autocompress.techniques.pruning.nm_pruning import NmPruning, largest
from autocompress.testing.models import Plain, make_task, seeded
from autocompress.testing.work import context_of, teacher_of
from autocompress.trial.stages import rebuild
from autocompress.trial.trial import prepare

PATTERNS = [(2, 4), (4, 8), (1, 4), (3, 4), (1, 2), (5, 16)]


def done(step: NmPruning, model: nn.Module) -> tuple[nn.Module, Decision]:
    """A copy of a model after the step, and the decision."""
    decision = step.decide(model, Context(make_task(Plain), model, 0))
    return step.apply(copy.deepcopy(model), decision), decision


def left(weight: Tensor, m: int) -> set[int]:
    """How many weights are left in each whole group of m along the inputs."""
    rows = weight.detach().flatten(1)
    groups = rows[:, : rows.shape[1] // m * m].reshape(-1, m)
    return set((groups != 0).sum(1).tolist())


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_every_group_of_m_keeps_n(n: int, m: int) -> None:
    model = teacher_of("plain")
    after, decision = done(NmPruning(n=n, m=m), copy.deepcopy(model))
    for layer in ("conv1", "conv2", "fc1", "fc2"):
        weight, before = after.get_parameter(f"{layer}.weight"), model.get_parameter(f"{layer}.weight")
        assert left(weight, m) == {n}
        assert torch.equal(weight[weight != 0], before[weight != 0])
        rest = weight[0].numel() % m
        if rest:  # conv1 has rows of 3 * 3 * 3 = 27
            assert torch.equal(weight.flatten(1)[:, -rest:], before.flatten(1)[:, -rest:])
            assert decision["left alone"][layer] == f"the last {rest} of {weight[0].numel()} in each row"
        else:
            assert layer not in decision["left alone"]
    assert decision["pattern"] == f"{n}:{m}"
    assert decision["skipped"] == {}


@given(
    rows=st.lists(st.lists(st.floats(-4, 4, width=32), min_size=11, max_size=11), min_size=1, max_size=4),
    pattern=st.sampled_from(PATTERNS[:5]),
)
def test_the_n_largest_stay_as_numpy_sorts_them(rows: list[list[float]], pattern: tuple[int, int]) -> None:
    n, m = pattern
    expected = np.ones((len(rows), 11), dtype=bool)
    for row, start in itertools.product(range(len(rows)), range(0, 11 - m + 1, m)):
        order = np.argsort(-np.abs(np.float32(rows[row][start : start + m])), kind="stable")
        expected[row, start + order[n:]] = False
    assert largest(torch.tensor(rows), n, m).tolist() == expected.tolist()


def test_two_of_four_by_hand() -> None:
    row = torch.tensor([[0.1, -3.0, 2.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.2]])
    assert largest(row, 2, 4).tolist() == [[False, True, True, False, True, True, False, False, True]]


def test_groups_of_transposed_convolutions_run_along_their_inputs_too() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(8, 6, 1))
    after, _ = done(NmPruning(), model)
    weight = after[0].weight.detach()[:, :, 0, 0]  # inputs first
    assert left(weight.T.contiguous(), 4) == {2}
    outputs = set((weight.reshape(8, 6) != 0).sum(1).tolist())
    assert outputs != {3}  # along the outputs nothing is regular


def test_gates_of_recurrent_layers_and_embeddings_are_pruned_along_their_rows() -> None:
    model = nn.ModuleDict({"gru": nn.GRU(8, 12), "words": nn.Embedding(10, 16), "norm": nn.LayerNorm((4, 8))})
    after, decision = done(NmPruning(), model)
    assert list(decision["masks"]) == ["gru.weight_ih_l0", "gru.weight_hh_l0", "words.weight"]
    assert all(left(after.get_parameter(name), 4) == {2} for name in decision["masks"])
    assert bool((after.get_parameter("norm.weight") == 1).all())


def test_zeros_that_were_there_stay_and_fill_the_pattern() -> None:
    model = nn.Sequential(nn.Linear(8, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, -0.0, -0.0, 5.0, 1.0, -2.0, 3.0, -4.0]]))
    after, decision = done(NmPruning(), model)
    assert decision["layers"] == {"0": "5 of 8 weights are zero (62%)"}
    assert after[0].weight.tolist() == [[0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 3.0, -4.0]]
    assert not bool(torch.signbit(after[0].weight[0, :3]).any())


def test_layers_with_short_rows_are_skipped_and_listed() -> None:
    model = nn.Sequential(nn.Linear(3, 16), nn.Linear(16, 4))
    after, decision = done(NmPruning(), model)
    assert decision["skipped"] == {"0": "rows of 3 are shorter than 4"}
    assert torch.equal(after[0].weight, model[0].weight)
    assert left(after[1].weight, 4) == {2}


def test_layers_to_keep_are_left_alone() -> None:
    _, decision = done(NmPruning(keep=["conv1", "fc2"]), seeded(Plain))
    assert list(decision["masks"]) == ["conv2.weight", "fc1.weight"]
    with pytest.raises(TechniqueError, match=r"nm_pruning: keep: 'conv3' is no layer .*; did you mean 'conv"):
        done(NmPruning(keep=["conv3"]), seeded(Plain))


def test_the_pattern_outlives_training_and_makes_the_file_smaller() -> None:
    steps = [{"technique": "nm_pruning", "n": 1}, {"technique": "finetune", "epochs": 2, "batch_size": 16}]
    candidate = prepare(trial_spec(*steps), plain_baseline())
    assert isinstance(candidate, Candidate)
    recipe = expanded(recipe_from_data({"version": 1, "steps": steps}))
    model = rebuild(seeded(Plain, 9), recipe, candidate.decisions, candidate.weights)
    for layer in (model.conv1, model.conv2, model.fc1, model.fc2):
        assert left(layer.weight, 4) == {1}
    # Three of four weights go, but for the last 3 of 27 in the 16 rows of conv1.
    weights, gone = 432 + 3456 + 3072 + 128, (16 * 24 + 3456 + 3072 + 128) * 3 // 4
    dense = len(plain_baseline().onnx)
    assert dense - 4 * gone < len(candidate.onnx) < dense - 4 * gone + weights / 8 + 2_500
    assert candidate.metrics["accuracy"] > 0.5


def test_the_decision_does_not_depend_on_the_seed() -> None:
    model = teacher_of("plain")
    first, second = (NmPruning().decide(model, context_of("plain", seed)) for seed in (1, 2))
    assert first == second
    mask = unpack_mask(first["masks"]["fc1.weight"], (32, 96))
    assert int(mask.sum()) == 32 * 96 // 2


@pytest.mark.parametrize(("settings", "told"), [("n: 4, m: 4", "4 of every 4"), ("n: 6", "6 of every 4")])
def test_n_must_be_less_than_m(settings: str, told: str) -> None:
    with pytest.raises(ConfigError, match=rf"steps\.0\.m: {told} weights cannot stay .*: n must be less than m"):
        recipe_from_yaml(f"version: 1\nsteps:\n  - {{technique: nm_pruning, {settings}}}\n")


@pytest.mark.parametrize("settings", ["n: 0", "m: 1", "m: 2.5"])
def test_numbers_that_make_no_pattern_are_refused(settings: str) -> None:
    with pytest.raises(ConfigError, match=r"steps\.0\.[nm]"):
        recipe_from_yaml(f"version: 1\nsteps:\n  - {{technique: nm_pruning, {settings}}}\n")


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (nn.Sequential(nn.Linear(7, 9)), "no layer has rows of 8 weights; lower m"),
        (nn.BatchNorm2d(3), "the model has no weight matrix"),
    ],
)
def test_nothing_to_prune_is_said(model: Any, told: str) -> None:
    with pytest.raises(TechniqueError, match=f"nm_pruning finds nothing to prune: {told}"):
        done(NmPruning(m=8), model)
