"""Exports compute what the module computes, and hold little besides its weights."""

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch._export import utils
from torch.export import exported_program
from torch.nn.functional import max_pool2d

from autocompress.artifacts.export import _cached, cast_weights, dynamic_shapes, export_onnx, flattened, strip
from autocompress.artifacts.parity import check_outputs, check_parity
from autocompress.artifacts.program import export_program
from autocompress.artifacts.runtime import Model
from autocompress.errors import ArtifactError
from autocompress.testing.models import Plain, Residual, seeded


class LeNet5(nn.Module):
    """20 and 50 filters of 5 x 5, then 500 neurons, for images of 28 x 28."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool2d(torch.relu(self.conv1(x)), 2)
        x = max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class Branching(nn.Module):
    """Another linear layer for batches of positive sum than for others."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.cond(x.sum() > 0, lambda y: self.up(y) * 2, lambda y: self.down(y) - 1, (x,))
        return found


class TwoInputs(nn.Module):
    """An image's mean and a vector, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 2)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        found: Tensor = self.head(torch.cat([image.mean((2, 3)), vector], 1))
        return found


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


CASES: dict[str, tuple[type[nn.Module], tuple[Tensor, ...]]] = {
    "plain": (Plain, (noise(4, 3, 12, 12),)),
    "lenet5": (LeNet5, (noise(4, 1, 28, 28),)),
    "branching": (Branching, (noise(4, 4),)),
    "two inputs": (TwoInputs, (noise(4, 3, 6, 6), noise(4, 5, seed=1))),
}
EXPORTED: dict[str, onnx.ModelProto] = {}


def module(name: str) -> nn.Module:
    return seeded(CASES[name][0])


def exported(name: str) -> onnx.ModelProto:
    """The export of a case, made once."""
    if name not in EXPORTED:
        EXPORTED[name] = export_onnx(module(name), CASES[name][1])
    return EXPORTED[name]


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph with all graphs inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from graphs(inner)


def arrays(inputs: tuple[Tensor, ...]) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in inputs]


@pytest.mark.parametrize("name", CASES)
def test_an_export_computes_what_the_module_computes_for_any_batch(name: str) -> None:
    run, network = Model(exported(name).SerializeToString()), module(name)
    for count in (1, 2, 7):
        inputs = tuple(noise(count, *tensor.shape[1:], seed=count) for tensor in CASES[name][1])
        with torch.no_grad():
            expected = network(*inputs).numpy()
        np.testing.assert_allclose(run(*arrays(inputs)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_inputs_are_named_and_their_batch_is_dynamic(name: str) -> None:
    model = strip(exported(name))
    names = [value.name for value in model.graph.input]
    assert names == (["input_0", "input_1"] if name == "two inputs" else ["input"])
    assert [value.name for value in model.graph.output] == ["output"]
    for value in (*model.graph.input, *model.graph.output):
        first, *rest = value.type.tensor_type.shape.dim
        assert first.dim_param
        assert not first.HasField("dim_value")
        assert all(dimension.dim_value > 0 for dimension in rest)


@pytest.mark.parametrize("name", CASES)
def test_strip_keeps_outputs_equal_to_the_bit(name: str) -> None:
    small = Model(strip(exported(name)).SerializeToString())
    full = Model(exported(name).SerializeToString())
    for sign in (1, -1):  # both branches
        inputs = [sign * np.abs(array) for array in arrays(CASES[name][1])]
        assert small(*inputs).tobytes() == full(*inputs).tobytes()


def test_the_case_with_a_branch_has_graphs_inside_its_graph() -> None:
    assert len(list(graphs(exported("branching").graph))) == 3


@pytest.mark.parametrize("name", CASES)
def test_strip_removes_what_only_people_read(name: str) -> None:
    model = strip(exported(name))
    assert (model.producer_name, model.producer_version, model.doc_string) == ("", "", "")
    assert not model.metadata_props
    for graph in graphs(model.graph):
        assert (graph.name, graph.doc_string) == ("g", "")
        assert not graph.value_info
        assert not graph.metadata_props
        assert all(not node.name and not node.doc_string and not node.metadata_props for node in graph.node)
        assert all(not tensor.doc_string for tensor in graph.initializer)


def test_strip_keeps_the_attributes_that_differ_from_what_holds_without_them() -> None:
    """By the operators' documents: strides, dilations and group are 1, pads 0, alpha and beta 1, transB 0."""
    layers = [
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 4, (2, 3), dilation=2, groups=2),
        nn.Conv2d(4, 4, 2),
    ]
    layers += [nn.MaxPool2d(2, 1), nn.AvgPool2d(2, 2, padding=1), nn.AvgPool2d(2, ceil_mode=True)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 3)).eval()
    images = noise(2, 4, 28, 28)
    whole = export_onnx(model, (images,))
    small = strip(whole)
    given = [{attribute.name for attribute in node.attribute} for node in small.graph.node]
    assert given[:4] == [{"strides", "pads"}, {"dilations", "group"}, set(), {"kernel_shape"}]
    assert given[4] == {"kernel_shape", "strides", "pads", "count_include_pad"}
    assert given[5] >= {"kernel_shape", "strides", "ceil_mode"}
    assert given[-1] == {"transB"}
    expected = Model(whole.SerializeToString())(images.numpy())
    np.testing.assert_array_equal(Model(small.SerializeToString())(images.numpy()), expected)


def test_strip_gives_every_tensor_a_name_of_one_letter_where_there_are_few() -> None:
    model = strip(exported("plain"))
    fixed = {"input", "output"}
    used = {tensor.name for tensor in model.graph.initializer}
    used |= {name for node in model.graph.node for name in (*node.input, *node.output)} - fixed
    assert len(used) <= 52
    assert {len(name) for name in used} == {1}


def test_strip_leaves_the_model_it_is_given_alone() -> None:
    before = exported("branching").SerializeToString(deterministic=True)
    strip(exported("branching"))
    assert exported("branching").SerializeToString(deterministic=True) == before


def test_strip_of_a_stripped_model_changes_nothing() -> None:
    once = strip(exported("branching"))
    assert strip(once).SerializeToString() == once.SerializeToString()


def branch(name: str, factor: str, comment: str) -> onnx.GraphProto:
    """A branch that multiplies the outer graph's input with a constant of its own."""
    value = helper.make_tensor_value_info("inner_result", onnx.TensorProto.FLOAT, [1])
    value.doc_string = comment
    constant = numpy_helper.from_array(np.array([float(factor)], np.float32), "factor")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["inner_result"])], name, [], [value], [constant]
    )
    graph.doc_string = comment
    return graph


def test_strip_handles_branches_that_use_the_same_names_and_an_input_called_like_a_short_name() -> None:
    condition = helper.make_node("Greater", ["a", "threshold"], ["is_large"])
    choose = helper.make_node(
        "If", ["is_large"], ["out"], then_branch=branch("then", "2", "twice"), else_branch=branch("other", "-3", "not")
    )
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [condition, helper.make_node("Add", ["b", "b"], ["x"]), choose],
        "outer",
        # Inputs keep their names, which are the first that strip would hand out.
        [value("b", onnx.TensorProto.FLOAT, [1]), value("a", onnx.TensorProto.FLOAT, [1])],
        [value("out", onnx.TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.array([0.0], np.float32), "threshold")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    small = strip(model)
    assert [found.name for found in small.graph.input] == ["b", "a"]
    assert all(not found.doc_string for inner in graphs(small.graph) for found in inner.output)
    run = Model(small.SerializeToString())
    four, one = np.array([4.0], np.float32), np.array([1.0], np.float32)
    assert run(four, one).tolist() == [2 * (4 + 4)]
    assert run(four, -one).tolist() == [-3 * (4 + 4)]


def test_lenet5_holds_at_most_1500_bytes_besides_its_weights() -> None:
    # 20 (25 + 1) + 50 (500 + 1) + 500 (800 + 1) + 10 (500 + 1) numbers of 4 bytes.
    weights = 4 * (520 + 25_050 + 400_500 + 5_010)
    assert weights == 4 * 431_080
    assert len(strip(exported("lenet5")).SerializeToString()) - weights <= 1500


def test_two_exports_of_one_model_are_the_same_file() -> None:
    again = export_onnx(module("plain"), CASES["plain"][1])
    assert strip(again).SerializeToString() == strip(exported("plain")).SerializeToString()


def test_the_exporters_operators_are_read_again_when_torch_knows_of_more_and_each_export_has_its_own() -> None:
    read = []

    def reader(opset_version: int) -> Any:
        read.append(opset_version)
        return SimpleNamespace(functions={"aten::relu": ["relu"]})

    registry = _cached(reader)
    first, second = registry(opset_version=18), registry(opset_version=18)
    assert read == [18]
    first.functions["aten::relu"].append("another")
    assert second.functions == registry(opset_version=18).functions == {"aten::relu": ["relu"]}
    library = torch.library.Library("autocompress_test", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    registry(opset_version=18)
    assert read == [18, 18]


def test_torchs_operators_are_listed_once_and_are_those_that_torch_lists() -> None:
    exported("plain")
    listed = exported_program._collect_all_valid_cia_ops
    assert listed() is listed()
    every = set()
    for name in torch.ops._dir:
        if isinstance(namespace := getattr(torch.ops, name), torch._ops._OpNamespace):
            every |= utils._collect_all_valid_cia_ops_for_namespace(namespace)
    assert listed() == every != set()


def test_export_leaves_a_model_in_evaluation_mode_with_its_weights() -> None:
    network = seeded(Residual).train()
    before = copy.deepcopy(network.state_dict())
    example = (noise(3, 3, 12, 12),)
    model = export_onnx(network, example)
    assert not network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert check_parity(network, model, example) <= 1e-4


def test_weights_that_nothing_takes_in_as_integers_are_cast_instead_of_dequantized() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[n, 2] input) => (float[n, 3] output)
        <int8[3, 2] codes = {-7, 2, 0, 1, 127, 5}, float[3] scale = {0.5, 2.0, 0.25}, int8[3] zero = {0, 0, 0},
         int8[2] short = {3, 4}, float step = {0.1}, int8 shift = {1}>
        {
            first = DequantizeLinear <axis = 0> (codes, scale, zero)
            second = DequantizeLinear (short, step, shift)
            moved = Add (input, second)
            output = Gemm <transB = 1> (moved, first)
        }""")
    made = cast_weights(model)
    assert [node.op_type for node in made.graph.node] == ["Cast", "Mul", "DequantizeLinear", "Add", "Gemm"]
    assert "zero" not in {tensor.name for tensor in made.graph.initializer}
    inputs = np.array([[1, -2], [0.5, 3]], np.float32)
    weight = np.array([[-7, 2], [0, 1], [127, 5]]) * np.array([[0.5], [2.0], [0.25]])
    expected = (inputs + np.array([0.2, 0.3])) @ weight.T
    np.testing.assert_allclose(Model(made.SerializeToString())(inputs), expected, rtol=1e-6)


def test_parity_of_a_good_export_is_a_small_difference() -> None:
    assert 0 <= check_parity(module("plain"), exported("plain"), CASES["plain"][1]) < 1e-5


def altered(name: str, change: Any) -> onnx.ModelProto:
    """An export whose last bias was changed."""
    model = onnx.ModelProto()
    model.CopyFrom(exported(name))
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "fc2.bias")
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), tensor.name))
    return model


def test_parity_finds_one_altered_weight() -> None:
    def nudge(values: np.ndarray) -> np.ndarray:
        values[1] += 0.1
        return values

    with pytest.raises(ArtifactError, match=r"differs from the model by 0\.\d+, more than 0\.001"):
        check_parity(module("plain"), altered("plain", nudge), CASES["plain"][1])


def test_parity_leaves_a_file_of_integers_as_much_room_as_it_is_told() -> None:
    model = altered("plain", lambda values: values + 0.01)
    found = check_parity(module("plain"), model, CASES["plain"][1], tolerance=0.1)
    assert 1e-3 < found < 0.1
    with pytest.raises(ArtifactError, match=r"differs from the model by \S+, more than 0\.0001"):
        check_parity(module("plain"), model, CASES["plain"][1], tolerance=1e-4)


def test_parity_says_by_how_much_of_the_largest_output_a_model_differs() -> None:
    network, example = module("plain"), CASES["plain"][1]
    with torch.no_grad():
        largest = float(network(*example).abs().max())
        first = float(network(example[0][:1]).abs().max())
    model = altered("plain", lambda values: values + np.float32(5e-4) * min(largest, first))
    # The one example and the whole batch are each held against their own largest output.
    expected = 5e-4 * min(largest, first) / min(largest, first)
    assert check_parity(network, model, example) == pytest.approx(expected, rel=0.02)


class Masked(nn.Module):
    """Transformers that are given a mask, without being told that it is causal, beside what is padding."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.words, self.causal = nn.Embedding(9, 8), causal
        given = {"dim_feedforward": 16, "batch_first": True}
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, **given), 1, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, **given), 1)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        seen = torch.arange(length)
        hidden = seen[None] > seen[:, None] if self.causal else (seen[None] - seen[:, None]).abs() > 1
        mask = torch.zeros(length, length).masked_fill(hidden, -torch.inf)
        wide = self.encoder(self.words(x), mask, torch.zeros(x.shape).masked_fill(x == 0, -torch.inf))
        output: Tensor = self.decoder(wide, wide, mask, mask)
        return output


@pytest.mark.parametrize("causal", [True, False])
def test_masks_are_exported_as_they_are_given(causal: bool) -> None:
    model = seeded(lambda: Masked(causal)).eval()
    example = (torch.randint(1, 9, (4, 6), generator=torch.Generator().manual_seed(0)),)
    example[0][0, 5] = 0
    assert check_parity(model, export_onnx(model, example), example) < 1e-5
    export_program(model, example)  # which is compared too
    assert not any(layer._forward_pre_hooks for layer in model.modules())
    # The last word is seen by none before it, or only by neighbours, three times in a row.
    later = example[0].clone()
    later[:, 5] = 8 - later[:, 5]
    with torch.no_grad():
        moved = (model(later) - model(example[0])).abs().amax((0, 2))
    assert bool((moved[: 5 if causal else 2] < 1e-6).all())
    assert moved[5] > 1e-3


class Cancels(nn.Module):
    """What it adds and takes away again costs its outputs all digits but the first few."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 3e4) - 3e4


def test_parity_leaves_a_module_that_multiplies_rounding_errors_room_for_other_ones() -> None:
    example = (torch.linspace(-1, 1, 64).reshape(8, 8),)

    def other(far: float, error: float = 0.0) -> Any:
        return lambda x: (x + np.float32(far)) - np.float32(far) + np.float32(error)

    assert check_outputs(Cancels(), other(3e4), example, 1e-3, "it") == 0.0
    # Floats there are 0.002 apart, and so the module is off by up to 0.001; at twice as many they are 0.004 apart.
    assert 1e-3 < check_outputs(Cancels(), other(6e4), example, 1e-3, "it") < 3e-3
    with pytest.raises(ArtifactError, match=r"it differs from the model by 0\.0\d+, more than 0\.001"):
        check_outputs(Cancels(), other(3e4, 0.05), example, 1e-3, "it")
    exact = Cancels()
    exact.forward = lambda x: x  # type: ignore[method-assign]
    with pytest.raises(ArtifactError, match="it differs"):
        check_outputs(exact, other(6e4), example, 1e-3, "it")
    drawn = Cancels()
    drawn.forward = lambda x: x + torch.rand_like(x)  # type: ignore[method-assign]
    with pytest.raises(ArtifactError, match="it differs"):  # also from itself, which is no rounding
        check_outputs(drawn, other(3e4), example, 1e-3, "it")


def test_parity_refuses_an_export_that_computes_nan() -> None:
    model = altered("plain", lambda values: values * np.float32(np.nan))
    with pytest.raises(ArtifactError, match="differs from the model by nan"):
        check_parity(module("plain"), model, CASES["plain"][1])


def resized(name: str, change: Any) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(exported(name))
    change(model.graph)
    return model


def test_parity_finds_a_frozen_batch_size() -> None:
    def freeze(graph: onnx.GraphProto) -> None:
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4

    with pytest.raises(ArtifactError, match="the exported model fails at batch size 1"):
        check_parity(module("plain"), resized("plain", freeze), CASES["plain"][1])


def test_parity_finds_a_shape_that_the_exporter_froze_inside() -> None:
    def reshape(graph: onnx.GraphProto) -> None:
        last = graph.node[-1]
        last.output[0] = "before"
        graph.initializer.append(numpy_helper.from_array(np.array([4, -1], np.int64), "frozen"))
        graph.node.append(helper.make_node("Reshape", ["before", "frozen"], ["output"]))

    with pytest.raises(ArtifactError, match=r"gives shape \(4, 1\) where the model gives \(1, 4\)"):
        check_parity(module("plain"), resized("plain", reshape), CASES["plain"][1])


class DataDependent(nn.Module):
    """Decides in Python, by the values it gets, what to compute: no graph says that."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if bool((x.sum() > 0).item()) else x.flip(0)


def test_a_model_that_torch_cannot_export_is_a_clear_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ArtifactError, match=r"^torch cannot export this model to ONNX: ") as caught:
        export_onnx(DataDependent(), (noise(2, 3),))
    assert "\n" not in str(caught.value)
    with pytest.raises(ArtifactError, match="ONNX: a and b must have same reduction dim"):
        export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (noise(2, 3),))
    assert capfd.readouterr().out == ""


class Rest(nn.Module):
    """Takes one input by name and any number of others."""

    def forward(self, first: Tensor, *rest: Tensor) -> Tensor:
        return first + sum(2 * part for part in rest)


@pytest.mark.parametrize(("count", "shapes"), [(1, (0,)), (2, (0, (1,))), (3, (0, (1, 2)))])
def test_inputs_that_a_model_takes_as_the_rest_are_exported(count: int, shapes: tuple[object, ...]) -> None:
    given = dynamic_shapes(Rest(), count, "batch")
    assert [type(part) for part in given] == [tuple if isinstance(part, tuple) else dict for part in shapes]
    inputs = tuple(torch.arange(6.0).reshape(2, 3) + index for index in range(count))
    model = Model(export_onnx(Rest(), inputs).SerializeToString())
    more = tuple(np.ones((5, 3), np.float32) for _ in range(count))
    assert np.array_equal(model(*more), np.full((5, 3), 1.0 + 2 * (count - 1), np.float32))


class Joined(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.softmax(x.flatten(1), 1)
        halves = torch.softmax(rows.view(2 * rows.shape[0], -1), 1)
        return halves.view(rows.shape[0], 2, -1).sum(1)


def test_joining_all_axes_but_the_first_takes_no_tensor_and_other_shapes_keep_theirs() -> None:
    exported = export_onnx(Joined(), (torch.randn(2, 3, 4, 4),))
    operators = [node.op_type for node in exported.graph.node]
    assert operators.count("Flatten") == 1
    assert operators.count("Reshape") == 2
    used = {name for node in exported.graph.node for name in node.input}
    assert {tensor.name for tensor in exported.graph.initializer} <= used
    check_parity(Joined(), exported, (torch.randn(5, 3, 4, 4),))


def test_a_shape_that_a_branch_reads_as_well_stays_in_the_file() -> None:
    info, kind = helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Reshape", ["x", "shape"], [name])], name, [], [info(name, kind, ["n", 12])]
        )
        for name in ("then", "else")
    }
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["rows"]),
        helper.make_node("If", ["yes"], ["other"], **branches),
        helper.make_node("Add", ["rows", "other"], ["y"]),
    ]
    stored = [numpy_helper.from_array(np.array([-1, 12]), "shape"), numpy_helper.from_array(np.array(True), "yes")]
    inputs, outputs = [info("x", kind, ["n", 3, 4])], [info("y", kind, ["n", 12])]
    known = [info("rows", kind, ["n", 12])]
    graph = helper.make_graph(nodes, "branching", inputs, outputs, stored, value_info=known)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    changed = flattened(model)
    assert changed.graph.node[0].op_type == "Flatten"
    np.testing.assert_array_equal(Model(changed.SerializeToString())(x), 2 * x.reshape(2, 12))
