"""What is spelled out where it stands is, to the last byte, what torch's exporter makes of the whole graph."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.onnx._internal.exporter import _fx_passes
from torch.onnx._internal.fx.passes.type_promotion import InsertTypePromotion

from autocompress.artifacts import lowering
from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.runtime import Model
from autocompress.testing.models import MODELS, seeded
from autocompress.testing.work import example_of

IMAGES = (torch.randn((4, 3, 9, 9), generator=torch.Generator().manual_seed(0)),)


class Many(nn.Module):
    """Layers that the exporter has no function for, in place where they may be, and several results of one."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.pool, self.drop = nn.AdaptiveAvgPool2d(2), nn.Dropout(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.enter(x).chunk(2, 1)
        summed = self.pool(self.up(left)).clone()
        summed += self.pool(right)
        return self.drop(summed.masked_fill_(summed < 0, 0.5)).flatten(1)


class Seen(nn.Module):
    """What is changed in place is seen through a view that was taken before."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        made = self.conv(x)
        view = made[:, :4]
        made.relu_()
        return view


class Through(Seen):
    """A view is changed in place, which what it is a view of shows."""

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.conv(x)
        made[:, :4].relu_()
        return made


class Kept(nn.Module):
    """In place a tensor keeps its kind; out of place the sum would be of 64 bits."""

    def forward(self, x: Tensor) -> Tensor:
        made = x.relu()
        made += x.double()
        return made * 2


class Mixed(nn.Module):
    """Sums, products and comparisons of numbers of unlike kinds."""

    def forward(self, x: Tensor) -> Tensor:
        above = x > 0
        whole = (x * 3).round().long()
        halves = torch.cat([whole, 2 * whole], 1) / 2
        return torch.where(above, 1.5 * x, 1) + halves[:, :3] + above.sum(1, keepdim=True)


def exports(model: Callable[[], nn.Module], example: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file, the file of a graph that was traced as a whole, and how often that was done for the first."""
    export_onnx(nn.ReLU(), IMAGES)  # from now on torch's exporter calls ours
    whole, calls = lowering._whole, []
    with monkeypatch.context() as patch:
        patch.setattr(_fx_passes, "decompose_with_registry", whole)
        patch.setattr(_fx_passes, "insert_type_promotion_nodes", lambda given: InsertTypePromotion(given).run())
        expected = export_onnx(seeded(model), example)
    with monkeypatch.context() as patch:
        patch.setattr(lowering, "_whole", lambda *given: calls.append(1) or whole(*given))
        found = export_onnx(seeded(model), example)
    return strip(found).SerializeToString(), strip(expected).SerializeToString(), len(calls)


@pytest.mark.parametrize("name", ["plain", "residual", "sentences", "recurrent", "signals", "unet"])
def test_the_file_is_that_of_the_whole_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, expected, wholes = exports(MODELS[name], example_of(name), monkeypatch)
    assert found == expected
    assert not wholes


@pytest.mark.parametrize("model", [Many, Mixed])
def test_operators_in_place_of_several_results_and_on_unlike_kinds_are_spelled_out(
    model: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, expected, wholes = exports(model, IMAGES, monkeypatch)
    assert found == expected
    assert not wholes


@pytest.mark.parametrize("model", [Seen, Through, Kept])
def test_the_graph_is_traced_as_a_whole_where_a_change_in_place_shows(
    model: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, expected, wholes = exports(model, IMAGES, monkeypatch)
    assert found == expected
    assert wholes
    with torch.no_grad():
        right = seeded(model)(*IMAGES).numpy()
    assert abs(Model(found)(IMAGES[0].numpy()) - right).max() < 1e-5
