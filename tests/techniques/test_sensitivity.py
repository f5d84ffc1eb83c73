"""How much each layer can lose: scans of models whose damage is known, and the strength read off a curve."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress import Classification
from autocompress.techniques import Context
from autocompress.techniques.sensitivity import STRENGTHS, scan, strongest
from autocompress.testing.models import Plain, make_task


class TwoScales(nn.Module):
    """y = a x + b z, of which b is 0, so that nothing of the second layer is missed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            self.first.weight.fill_(1.0)
            self.second.weight.fill_(0.0)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.first(x) + self.second(x)
        return output


class Squares(Classification):
    """The mean squared error."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return ((output - target) ** 2).mean()


def shrink(model: nn.Module, layer: str, strength: float) -> None:
    """Take away a share of a layer's weights, as if by pruning."""
    with torch.no_grad():
        model.get_submodule(layer).weight.mul_(1 - strength)  # type: ignore[union-attr,operator]


def context(folder: Path | None = None) -> Context:
    x = torch.randn((128, 1), generator=torch.Generator().manual_seed(0))
    split = (x, x)
    return Context(Squares(TwoScales, split, split, split), TwoScales(), 0, folder=folder)


def test_a_layer_that_does_not_matter_loses_nothing() -> None:
    found = scan(context(), "shrink", ["first", "second"], shrink)
    assert found["second"] == [[strength, 0.0] for strength in STRENGTHS]


def test_lost_shares_by_hand() -> None:
    """The loss of (1 - s) x against x is s^2 mean(x^2); that of other examples' outputs is the whole distance."""
    given_context = context()
    batch = next(given_context.sample(128, 128))
    x = batch.inputs[0]
    chance = float(((x.roll(64, 0) - x) ** 2).mean())
    found = scan(given_context, "shrink", ["first"], shrink)["first"]
    assert [strength for strength, _ in found] == list(STRENGTHS)
    for strength, lost in found:
        assert lost == pytest.approx(strength**2 * float((x**2).mean()) / chance, rel=1e-4)


def test_strengths_past_chance_are_not_tried_and_no_number_counts_as_all() -> None:
    def ruin(model: nn.Module, layer: str, strength: float) -> None:
        with torch.no_grad():
            value = 100.0 if layer == "first" else float("nan")
            model.get_submodule(layer).weight.fill_(value)  # type: ignore[union-attr,operator]

    found = scan(context(), "ruin", ["first", "second"], ruin)
    assert len(found["first"]) == 1
    assert found["first"][0][1] > 1
    assert found["second"] == [[STRENGTHS[0], 1.0]]


def test_a_scan_leaves_the_uncompressed_model_as_it_is() -> None:
    given_context = context()
    scan(given_context, "shrink", ["first"], shrink)
    assert given_context.teacher.get_parameter("first.weight").tolist() == [[1.0]]


curves = st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 2)), min_size=1, max_size=6).map(
    lambda rows: [
        [strength, lost] for (strength, _), lost in zip(sorted(rows), sorted(lost for _, lost in rows), strict=True)
    ]
)


@given(curve=curves, low=st.floats(0, 2), high=st.floats(0, 2))
def test_more_tolerance_never_allows_less(curve: list[list[float]], low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert 0 <= strongest(curve, low) <= strongest(curve, high) + 1e-12 <= curve[-1][0] + 2e-12


@given(curve=curves, tolerance=st.floats(0, 2))
def test_a_strength_lies_between_those_that_were_scanned_around_the_tolerance(
    curve: list[list[float]], tolerance: float
) -> None:
    found = strongest(curve, tolerance)
    below = max((strength for strength, lost in curve if lost <= tolerance), default=0.0)
    above = min((strength for strength, lost in curve if lost > tolerance), default=curve[-1][0])
    assert below - 1e-12 <= found <= above + 1e-12


def test_strengths_by_hand() -> None:
    curve = [[0.25, 0.0], [0.5, 0.1], [0.75, 0.5]]
    assert strongest(curve, 0.05) == pytest.approx(0.375)  # half way from 0 to 0.1
    assert strongest(curve, 0.3) == pytest.approx(0.625)  # half way from 0.1 to 0.5
    assert strongest(curve, 0.9) == 0.75  # nothing stronger was tried
    assert strongest([[0.5, 1.0]], 0.2) == pytest.approx(0.1)  # from nothing taken, nothing lost
    assert strongest([], 0.2) == 0.0


def counted(calls: list[int], value: Any) -> Any:
    calls.append(1)
    return value


def test_what_is_kept_is_computed_once_a_node(tmp_path: Path) -> None:
    calls: list[int] = []
    value = {"layer": [[0.25, 0.125]], "none": None}
    first, second = context(tmp_path / "scans"), context(tmp_path / "scans")
    assert first.kept("a scan", lambda: counted(calls, value)) == value
    assert first.kept("a scan", lambda: counted(calls, value)) == value
    assert second.kept("a scan", lambda: counted(calls, value)) == value
    assert len(calls) == 1
    assert second.kept("another scan", lambda: counted(calls, 2)) == 2
    assert len(calls) == 2
    assert context().kept("a scan", lambda: counted(calls, 3)) == 3  # without a folder nothing is found


def _elsewhere(folder: Path, answer: Any) -> None:
    answer.send(context(folder).kept("a scan", lambda: "computed anew"))


def test_another_process_finds_what_is_kept(tmp_path: Path) -> None:
    context(tmp_path).kept("a scan", lambda: "computed here")
    mine, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=_elsewhere, args=(tmp_path, theirs))
    process.start()
    assert mine.poll(60)
    assert mine.recv() == "computed here"
    process.join()


@pytest.mark.parametrize("content", [b"", b'{"layer": [[0.2', b"\xff\xfe"])
def test_a_broken_file_is_computed_anew(tmp_path: Path, content: bytes) -> None:
    context(tmp_path).kept("a scan", lambda: 1)
    [path] = tmp_path.iterdir()
    path.write_bytes(content)
    assert context(tmp_path).kept("a scan", lambda: 2) == 2
    assert json.loads(path.read_text()) == 2
    assert list(tmp_path.iterdir()) == [path]  # nothing half written is left


def test_a_scan_that_fails_is_not_kept(tmp_path: Path) -> None:
    def fail() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        context(tmp_path).kept("a scan", fail)
    assert context(tmp_path).kept("a scan", lambda: 4) == 4


def test_scans_of_unlike_criteria_are_kept_apart(tmp_path: Path) -> None:
    def nothing(model: nn.Module, layer: str, strength: float) -> None:
        pass

    shared = context(tmp_path)
    assert scan(shared, "shrink", ["first"], shrink) != scan(shared, "nothing", ["first"], nothing)
    assert scan(context(tmp_path), "shrink", ["first"], nothing) == scan(shared, "shrink", ["first"], shrink)


def test_plain_values_are_cached_in_memory_alone(tmp_path: Path) -> None:
    calls: list[int] = []
    shared = Context(make_task(Plain), Plain(), 0, folder=tmp_path)
    assert shared.cached("x", lambda: counted(calls, object())) is shared.cached("x", lambda: counted(calls, object()))
    assert len(calls) == 1
    assert list(tmp_path.iterdir()) == []
