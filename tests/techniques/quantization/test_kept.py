"""Names of layers that stay in float: what an entry means, and how a file's nodes get the names of torch's modules."""

import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from autocompress.artifacts.export import export_onnx
from autocompress.errors import TechniqueError
from autocompress.techniques.quantization._constants import with_stored
from autocompress.techniques.quantization._kept import file_layers, kept_layers, layer_name, stored_values
from autocompress.testing.work import exported_of

LAYERS = ("stem", "blocks.0.conv", "blocks.1.conv", "head.0", "head.1", "stem")  # the first is called once more


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ((), []),
        (("blocks.1.conv",), ["blocks.1.conv"]),
        (("head.*",), ["head.0", "head.1"]),
        (("blocks.?.conv", "last"), ["blocks.0.conv", "blocks.1.conv", "head.1"]),
        (("last", "first"), ["stem", "head.1"]),
        (("*",), list(dict.fromkeys(LAYERS))),
    ],
)
def test_an_entry_is_a_name_a_pattern_or_a_place(keep: tuple[str, ...], expected: list[str]) -> None:
    assert kept_layers("qat", keep, LAYERS) == expected


def test_a_layer_that_is_called_first_goes_before_the_word() -> None:
    assert kept_layers("qat", ("first",), ["stem", "first", "second"]) == ["first"]


@pytest.mark.parametrize(
    ("entry", "fix"),
    [
        ("blocks.1.convs", "did you mean 'blocks.1.conv'?"),
        ("lst", "did you mean 'last'?"),
        ("Head.*", "did you mean 'head.1'?"),
        ("zzz", "known: blocks.0.conv, blocks.1.conv, first, head.0, head.1, last, stem"),
    ],
)
def test_an_entry_that_means_no_layer_is_answered_with_the_nearest(entry: str, fix: str) -> None:
    with pytest.raises(TechniqueError) as caught:
        kept_layers("int8_static", ("stem", entry), LAYERS)
    assert str(caught.value).startswith(f"int8_static: keep: {entry!r} is no layer of this model; ")
    assert fix in str(caught.value)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("plain", ["conv1", "conv2", "fc1", "fc2"]),
        ("mlp", ["layers.1", "layers.3", "layers.5"]),
        ("called_twice", ["stem", "again", "again", "head"]),
    ],
)
def test_layers_of_a_file_have_the_names_of_its_modules_in_the_order_of_their_calls(
    model: str, expected: list[str]
) -> None:
    layers = file_layers(exported_of(model))
    assert list(layers.values()) == expected
    assert layers.keys() <= {node.name for node in exported_of(model).graph.node}


def test_without_a_scope_a_node_is_named_after_its_weight() -> None:
    assert layer_name(helper.make_node("Conv", ["x", "features.0.weight"], ["y"], name="n")) == "features.0"
    assert layer_name(helper.make_node("LSTM", ["x", "rnn.weight_ih_l0", "r"], ["y"], name="n")) == "rnn"
    assert layer_name(helper.make_node("MatMul", ["x", "val_3"], ["y"], name="n")) == "n"
    assert layer_name(helper.make_node("Relu", ["x"], ["y"], name="n")) == "n"


class Recurrent(nn.Module):
    """An LSTM, whose gates the exporter puts in another order by operators in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(70, 40, batch_first=True)
        self.head = nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def test_weights_that_the_file_computes_are_stored_as_their_values() -> None:
    torch.manual_seed(0)
    model = Recurrent().eval()
    exported = export_onnx(model, (torch.randn(2, 5, 70),))
    assert list(file_layers(exported).values()) == ["rnn", "head"]
    node = next(node for node in exported.graph.node if node.op_type == "LSTM")
    made = with_stored(exported, node.input[1:3])
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    i, f, g, o = model.rnn.weight_ih_l0.detach().chunk(4)
    assert (stored[node.input[1]] == torch.cat([i, o, f, g])[None].numpy()).all()  # ONNX: input, output, forget, cell
    assert "rnn.weight_ih_l0" not in stored
    onnx.checker.check_model(made)


def test_what_depends_on_inputs_is_not_stored() -> None:
    exported = exported_of("plain")
    assert with_stored(exported, ["input", "conv2d"]).graph.node == exported.graph.node
    assert stored_values(exported) >= {"conv1.weight", "fc2.bias"}
    assert not stored_values(exported) & {"input", "conv2d", "output"}
