"""Norms that stay out of shared weights in the file, and are folded once it is loaded."""

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.norms import Affine, kept_apart
from autocompress.artifacts.packing import pack
from autocompress.artifacts.parity import check_parity
from autocompress.techniques.quantization.weight_clustering import WeightClustering
from autocompress.testing.work import context_of, teacher_of


@pytest.mark.parametrize(("norm", "shape"), [
    (nn.BatchNorm1d(6), (4, 6)),
    (nn.BatchNorm1d(6), (4, 6, 5)),
    (nn.BatchNorm2d(6, affine=False), (4, 6, 5, 5)),
    (nn.BatchNorm2d(6, eps=0.1), (4, 6, 5, 5)),
])  # fmt: skip
def test_a_product_and_a_sum_are_what_a_norm_computes(norm: nn.Module, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    x = torch.randn(shape, generator=generator)
    made = Affine(norm.eval(), len(shape))  # type: ignore[arg-type]
    torch.testing.assert_close(made(x), norm(x))


def test_a_file_holds_shared_weights_though_norms_follow_and_runs_convolutions_alone(tmp_path: Path) -> None:
    context, step = context_of("residual"), WeightClustering(bits=2)
    model = copy.deepcopy(teacher_of("residual"))
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    model = step.apply(model, step.decide(model, context))
    exported = export_onnx(model, context.example)
    assert check_parity(model, exported, context.example) < 1e-5
    shared = [numpy_helper.to_array(t) for t in exported.graph.initializer if len(t.dims) == 4]
    assert shared
    assert all(len(np.unique(values)) <= 4 for values in shared if values.size >= 256)
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "loaded.onnx"), 3
    ort.InferenceSession(strip(pack(exported)).SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node}
    assert not operators & {"BatchNormalization", "Mul", "Gather", "Cast"}


def test_a_model_that_shares_nothing_is_exported_as_it_is() -> None:
    model = teacher_of("residual").eval()
    assert kept_apart(model, context_of("residual").example) is model
