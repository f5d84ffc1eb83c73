"""Running files: inputs in their order, one thread, and clear errors."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from autocompress.artifacts.runtime import Model
from autocompress.errors import ArtifactError

FLOAT = onnx.TensorProto.FLOAT


def difference() -> bytes:
    """A file that computes first - second, and as a second output first + second."""
    graph = helper.make_graph(
        [helper.make_node("Sub", ["first", "second"], ["out"]), helper.make_node("Add", ["first", "second"], ["sum"])],
        "g",
        [helper.make_tensor_value_info(name, FLOAT, ["batch", 2]) for name in ("first", "second")],
        [helper.make_tensor_value_info(name, FLOAT, ["batch", 2]) for name in ("out", "sum")],
    )
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()
    return data


FIRST = np.array([[5.0, 7.0]], np.float32)
SECOND = np.array([[1.0, 2.0]], np.float32)


def test_inputs_are_taken_in_the_order_of_the_file() -> None:
    model = Model(difference())
    assert model.inputs == ["first", "second"]
    assert model(FIRST, SECOND).tolist() == [[4.0, 5.0]]
    assert model(SECOND, FIRST).tolist() == [[-4.0, -5.0]]


def test_any_batch_size_is_taken() -> None:
    assert Model(difference())(np.repeat(FIRST, 5, 0), np.repeat(SECOND, 5, 0)).shape == (5, 2)


def test_a_missing_input_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Model(difference())(FIRST)


def test_a_file_runs_like_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(difference())
    assert Model(path)(FIRST, SECOND).tolist() == [[4.0, 5.0]]


def test_a_runner_runs_its_inputs_again_and_again() -> None:
    first = FIRST.copy()
    run = Model(difference()).runner((first, SECOND))
    for _ in range(3):
        assert run() is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"gone\.onnx: no such file"):
        Model(tmp_path / "gone.onnx")


@pytest.mark.parametrize("data", [b"", b"no model at all", difference()[:60]])
def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"model\.onnx cannot be loaded by ONNX Runtime") as caught:
        Model(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ArtifactError, match=r"^the exported model cannot be loaded"):
        Model(data)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        Model(tmp_path)
