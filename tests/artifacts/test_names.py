"""Parameters and buffers may be called as the exporter calls inputs and outputs."""

import pytest
import torch
from torch import Tensor, nn

from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.packing import pack
from autocompress.artifacts.parity import check_parity


class Scaled(nn.Module):
    """A linear layer times a parameter or buffer of any name."""

    def __init__(self, name: str, trained: bool) -> None:
        super().__init__()
        self.layer, self.called = nn.Linear(4, 4), name
        if trained:
            self.register_parameter(name, nn.Parameter(torch.arange(1.0, 5.0)))
        else:
            self.register_buffer(name, torch.arange(1.0, 5.0))

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        made: Tensor = self.layer(first) * getattr(self, self.called)
        return made if second is None else made + second


@pytest.mark.parametrize(("name", "inputs"), [("output", 1), ("input", 1), ("input_1", 2)])
@pytest.mark.parametrize("trained", [True, False])
def test_a_tensor_may_have_the_name_of_an_input_or_output(name: str, inputs: int, trained: bool) -> None:
    torch.manual_seed(0)
    model, example = Scaled(name, trained).eval(), tuple(torch.randn(3, 4) for _ in range(inputs))
    exported = export_onnx(model, example)
    assert [value.name for value in exported.graph.output] == ["output"]
    assert check_parity(model, exported, example) < 1e-5
    assert check_parity(model, strip(pack(exported)), example) < 1e-5
