"""Other runtimes than ONNX Runtime's on the processor: the same outputs for every form of file, and what is missing."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from tiny import configure, make_project, run
from torch import nn

from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.packing import pack
from autocompress.artifacts.runtime import Model
from autocompress.artifacts.sessions import RUNTIMES
from autocompress.config import Target
from autocompress.errors import ArtifactError
from autocompress.search.card import SESSIONS
from autocompress.techniques import registry
from autocompress.testing.work import Work, example_of, quick, work

from .test_runtime import FIRST, SECOND, difference

OPENVINO = Target(runtime="openvino")
CHANCE = np.random.default_rng(0)
Change = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


class Small(nn.Module):
    """Two convolutions, one of them strided and normalized, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.body(x).mean((2, 3)))
        return found


@pytest.fixture(scope="module")
def exported() -> onnx.ModelProto:
    torch.manual_seed(0)
    return export_onnx(Small().eval(), (torch.randn(2, 1, 12, 12),))


def with_weights(model: onnx.ModelProto, change: Change) -> onnx.ModelProto:
    """A copy whose large weights are changed."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for tensor in found.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.size > 100:
            tensor.CopyFrom(numpy_helper.from_array(change(values).astype(values.dtype), tensor.name))
    return found


def sparse(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.where(np.abs(values) > np.quantile(np.abs(values), 0.8), values, 0)


def shared(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.round(values / np.abs(values).max() * 3) / 3


def skewed(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Few values, one of them far more frequent than the others: what prefix codes are for."""
    return np.where(CHANCE.random(values.shape) < 0.85, 0.0, np.sign(values) * 0.1)


CHANGES: list[Change] = [np.asarray, sparse, shared, skewed, lambda values: skewed(sparse(values))]


def test_inputs_are_taken_in_the_order_of_the_file() -> None:
    model = Model(difference(), OPENVINO)
    assert model.inputs == ["first", "second"]
    assert model(FIRST, SECOND).tolist() == [[4.0, 5.0]]
    assert model(np.repeat(SECOND, 3, 0), np.repeat(FIRST, 3, 0)).tolist() == [[-4.0, -5.0]] * 3
    first = FIRST.copy()
    call = model.runner((first, SECOND))
    call()
    assert first.tolist() == FIRST.tolist()


def test_what_is_returned_is_not_written_over_by_the_next_call() -> None:
    model = Model(difference(), OPENVINO)
    before = model(FIRST, SECOND)
    model(SECOND, FIRST)
    assert before.tolist() == [[4.0, 5.0]]


@pytest.mark.parametrize("change", CHANGES)
def test_packed_weights_are_decoded_to_the_same_numbers(change: Change, exported: onnx.ModelProto) -> None:
    data = strip(pack(with_weights(exported, change))).SerializeToString()
    if change is not np.asarray:
        assert onnx.load_from_string(data).functions, "it was packed"
    pixels = CHANCE.normal(size=(5, 1, 12, 12)).astype(np.float32)
    np.testing.assert_allclose(Model(data, OPENVINO)(pixels), Model(data)(pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["plain", "recurrent", "sentences"])
@pytest.mark.parametrize("name", [name for name, kind in registry().items() if kind.kind == "encode"])
def test_every_encoding_comes_to_the_same_answers(name: str, model: str) -> None:
    found = work(quick(registry()[name]), model)
    if not isinstance(found, Work):
        pytest.skip(f"{name} is not for this model: {found}")
    inputs = [tensor.numpy() for tensor in example_of(model)]
    expected = Model(found.file)(*inputs)
    # Integers of 8 bits are added up in another order, and rounded where they are between two.
    np.testing.assert_allclose(Model(found.file, OPENVINO)(*inputs), expected, atol=0.02 * np.abs(expected).max())


def test_a_runtime_that_is_not_there_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ArtifactError, match=r"OpenVINO is not installed here: pip install 'autocompress\[openvino\]'"):
        Model(difference(), OPENVINO)
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("has CUDA")
    with pytest.raises(ArtifactError, match=r"has no CUDAExecutionProvider here, only .*: install onnxruntime-gpu"):
        Model(difference(), Target(runtime="onnxruntime-cuda"))


def test_what_openvino_cannot_load_is_said_in_its_words() -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Det", ["x"], ["y"])], "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", 2, 2])], [onnx.helper.make_tensor_value_info("y", 1, ["n"])],
    )  # fmt: skip
    data = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    with pytest.raises(ArtifactError, match=r"the exported model cannot be loaded by OpenVINO: .*operations: Det"):
        Model(data.SerializeToString(), OPENVINO)


def test_every_runtime_of_a_config_has_a_session_and_a_text_in_the_card() -> None:
    known = set(get_args(Target.model_fields["runtime"].annotation))
    assert known == RUNTIMES.keys() == SESSIONS.keys()


def test_a_search_for_openvino_measures_there_and_is_verified_there(tmp_path: Path) -> None:
    make_project(tmp_path, target={"runtime": "openvino"}, search={"trials": 2, "workers": 1})
    ran = run(tmp_path, "search", "search.yaml", "--executor", "inline")
    assert ran.code == 0, ran.err
    assert run(tmp_path, "export", "tiny", "--out", "chosen").code == 0
    held = json.loads((tmp_path / "chosen" / "measurement.json").read_text())
    assert held["target"]["runtime"] == "openvino"
    card = (tmp_path / "chosen" / "MODEL_CARD.md").read_text()
    assert "inline_local_functions" in card
    assert "by OpenVINO" in card
    checked = run(tmp_path, "verify", "chosen", "--json")
    assert checked.code == 0, checked.err
    configure(tmp_path / "search.yaml", study="other", search={"trials": 1, "workers": 1})
    assert run(tmp_path, "search", "search.yaml", "--executor", "inline").code in (0, 3)
    other = run(tmp_path, "verify", "chosen", "--config", "search.yaml")
    assert "measured by openvino with 1 threads and batch size 1" in other.out + other.err
