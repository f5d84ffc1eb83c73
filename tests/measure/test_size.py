"""Bytes and numbers of files whose contents are known."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from autocompress.artifacts.export import export_onnx, strip
from autocompress.measure.size import compare_size, measure_size
from autocompress.testing.models import Plain, seeded


def file(nodes: list[onnx.NodeProto], **tensors: np.ndarray) -> bytes:
    """A file with these tensors; sizes are counted without running it."""
    rows = [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    graph = helper.make_graph(nodes, "g", [], [], rows)
    data: bytes = helper.make_model(graph).SerializeToString()
    return data


def test_parameters_are_the_numbers_of_all_weights() -> None:
    weight = np.array([[1.0, 0.0, -2.0], [0.0, 0.0, 3.0]], np.float32)
    data = file([], weight=weight, bias=np.array([0.0, 1e-8], np.float32))
    assert measure_size(data) == {"size_bytes": len(data), "params": 8, "nonzero_params": 4}


def test_a_negative_zero_is_zero() -> None:
    assert measure_size(file([], weight=np.array([-0.0, 1.0], np.float32)))["nonzero_params"] == 1


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.int8, np.uint8, np.int32])
def test_weights_count_in_whatever_type_they_are_stored(kind: type[np.generic]) -> None:
    found = measure_size(file([], weight=np.array([0, 1, 2, 3], kind)))
    assert (found["params"], found["nonzero_params"]) == (4, 3)


def test_shapes_and_axes_are_no_parameters() -> None:
    data = file([], weight=np.ones((2, 3), np.float32), shape=np.array([-1, 6], np.int64))
    assert measure_size(data)["params"] == 6


def test_scales_and_zero_points_are_no_parameters() -> None:
    node = helper.make_node("DequantizeLinear", ["weight", "scale", "zero"], ["dense"], axis=0)
    data = file(
        [node],
        weight=np.array([[1, 0], [0, 4]], np.int8),
        scale=np.ones(2, np.float32),
        zero=np.zeros(2, np.int8),
    )
    found = measure_size(data)
    assert (found["params"], found["nonzero_params"]) == (4, 2)


def test_parameters_of_an_exported_network_are_those_of_the_module() -> None:
    # Two convolutions of 3 x 3 and two linear layers, each with a bias for every output.
    expected = (3 * 9 + 1) * 16 + (16 * 9 + 1) * 24 + (96 + 1) * 32 + (32 + 1) * 4
    exported = export_onnx(seeded(Plain), (torch.zeros(2, 3, 12, 12),))
    assert measure_size(strip(exported).SerializeToString())["params"] == expected


def test_ratio_and_saving_are_counted_from_the_uncompressed_file() -> None:
    found = compare_size({"size_bytes": 25_000.0}, {"size_bytes": 100_000.0})
    assert found == {"compression_ratio": 4.0, "space_saving": 0.75}
    assert compare_size({"size_bytes": 200.0}, {"size_bytes": 100.0}) == {
        "compression_ratio": 0.5,
        "space_saving": -1.0,
    }
    assert compare_size({"size_bytes": 100.0}, {"size_bytes": 100.0}) == {"compression_ratio": 1.0, "space_saving": 0.0}
