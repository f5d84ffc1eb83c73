"""What a factorization adds to a file besides weights, against the files themselves."""

from typing import Any

import pytest
import torch
from torch import nn

from autocompress.artifacts.export import export_onnx, strip
from autocompress.techniques import registry
from autocompress.techniques.factorization import svd, tucker
from autocompress.techniques.layers import LAYER_BYTES, shrinks, truncated

LINEAR, POINTWISE, WINDOW = nn.Linear(24, 20), nn.Conv2d(24, 20, 1), nn.Conv2d(24, 20, 3, padding=1)


def bytes_and_weights(layer: nn.Module) -> tuple[int, int]:
    """The size of the file of a network with this layer, and how many of its numbers are weights."""
    shape = (2, 24) if "Linear" in str(layer) else (2, 24, 7, 7)
    exported = export_onnx(nn.Sequential(layer, nn.ReLU()), (torch.randn(shape),))
    return len(strip(exported).SerializeToString()), sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize(
    ("layer", "factors"),
    [
        (LINEAR, svd.factorize(LINEAR, 5)),
        (POINTWISE, svd.factorize(POINTWISE, 5)),
        (WINDOW, svd.factorize(WINDOW, 5)),
        (WINDOW, tucker.factorize(WINDOW, [5, 6])),
    ],
    ids=["linear", "pointwise", "window", "tucker"],
)
def test_another_layer_adds_no_more_than_is_reckoned_with(layer: nn.Module, factors: nn.Sequential) -> None:
    (one, weights), (many, fewer) = bytes_and_weights(layer), bytes_and_weights(factors)
    added = many - one - 4 * (fewer - weights)
    assert LAYER_BYTES / 2 <= added / (len(factors) - 1) <= LAYER_BYTES


TABLE = nn.Embedding(60, 24)


@pytest.mark.parametrize(
    ("name", "settings", "layer", "shape", "ranks"),
    [
        ("svd", {"variant": "spatial"}, WINDOW, (2, 24, 7, 7), [5]),
        ("cp", {}, WINDOW, (2, 24, 7, 7), [5]),
        ("kronecker", {}, LINEAR, (2, 24), [2]),
        ("kronecker", {}, LINEAR, (2, 5, 24), [2]),
        ("kronecker", {}, WINDOW, (2, 24, 7, 7), [2]),
        ("tensor_train", {"order": 2}, LINEAR, (2, 5, 24), [3]),
        ("tensor_train", {"order": 3}, LINEAR, (2, 5, 24), [3, 3]),
        ("tensor_train", {"order": 2}, TABLE, (2, 7), [3]),
        ("tensor_train", {"order": 3}, TABLE, (2, 7), [3, 3]),
    ],
)
def test_factors_take_the_room_that_their_technique_reckons_with(
    name: str, settings: dict[str, Any], layer: nn.Module, shape: tuple[int, ...], ranks: list[int]
) -> None:
    step: Any = registry()[name](**settings)
    x = torch.zeros(shape, dtype=torch.long) if layer is TABLE else torch.randn(shape)
    sizes, weights = [], []
    for each in (layer, step.factorize(layer, ranks)):
        exported = export_onnx(nn.Sequential(each, nn.ReLU()), (x,))
        sizes.append(len(strip(exported).SerializeToString()))
        weights.append(sum(p.numel() for p in each.parameters()))
    biases = weights[0] - layer.weight.numel()
    assert step.unfold(layer).held(ranks) == weights[1] - biases
    added = sizes[1] - sizes[0] - 4 * (weights[1] - weights[0])
    assert 0.4 <= added / LAYER_BYTES / (step.unfold(layer).layers - 1) <= 1


def test_a_factorization_that_saves_less_than_its_layers_take_does_not_shrink() -> None:
    assert not shrinks(1000, 1000, layers=2)
    assert not shrinks(1000, 1000 - LAYER_BYTES // 4, layers=2)
    assert shrinks(1000, 999 - LAYER_BYTES // 4, layers=2)
    assert not shrinks(1000, 999 - LAYER_BYTES // 4, layers=3)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_a_few_singular_vectors_of_a_large_matrix_are_those_of_the_whole_decomposition(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.techniques.layers.LARGE", 48)
    generator = torch.Generator().manual_seed(0)
    u, s, v = torch.linalg.svd(torch.randn((60, 48), generator=generator), full_matrices=False)
    matrix = (u * (s * 0.8 ** torch.arange(48))) @ v
    left, right = truncated(matrix, rank)
    tail = float((s * 0.8 ** torch.arange(48))[rank:].square().sum())
    assert float((left @ right - matrix).square().sum()) == pytest.approx(tail, rel=1e-4)
