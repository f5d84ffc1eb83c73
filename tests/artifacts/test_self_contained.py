"""A model file stands for itself: no other file, and no other library's operators, belong to it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.artifacts.runtime import Model, read_model
from autocompress.errors import ArtifactError

ONES = np.ones(2, np.float32)
Change = Callable[[onnx.ModelProto], None]


def tensor(name: str, external: bool = False) -> onnx.TensorProto:
    """Two ones; external: kept in a file beside."""
    made = numpy_helper.from_array(ONES, name)
    if external:
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "ones.bin"), ("length", "8")):
            made.external_data.add(key=key, value=value)
    return made


def branch(name: str, node: onnx.NodeProto, *held: onnx.TensorProto) -> onnx.GraphProto:
    """A subgraph of one node."""
    output = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
    return helper.make_graph([node], name, [], [output], list(held))


def model(
    *nodes: onnx.NodeProto,
    held: tuple[onnx.TensorProto, ...] = (),
    functions: tuple[onnx.FunctionProto, ...] = (),
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    """A graph from `in` to `out`."""
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2])] for name in ("in", "out")]
    graph = helper.make_graph(list(nodes), "g", *ends, list(held))
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def add(second: str = "ones") -> onnx.NodeProto:
    return helper.make_node("Add", ["in", second], ["out"])


def initializer(external: bool) -> onnx.ModelProto:
    return model(add(), held=(tensor("ones", external),))


def constant(external: bool) -> onnx.ModelProto:
    return model(helper.make_node("Constant", [], ["ones"], value=tensor("ones", external)), add())


def subgraph(external: bool) -> onnx.ModelProto:
    same = helper.make_node("Identity", ["ones"], ["same"])
    parts = [branch(name, same, tensor("ones", external)) for name in ("yes", "no")]
    choice = helper.make_node("If", ["flag"], ["chosen"], then_branch=parts[0], else_branch=parts[1])
    flag = numpy_helper.from_array(np.array(True), "flag")
    return model(choice, add("chosen"), held=(flag,))


def function(external: bool) -> onnx.ModelProto:
    body = [helper.make_node("Constant", [], ["ones"], value=tensor("ones", external)),
            helper.make_node("Add", ["x", "ones"], ["y"])]  # fmt: skip
    made = helper.make_function("mine", "AddOnes", ["x"], ["y"], body, [helper.make_opsetid("", 18)])
    call = helper.make_node("AddOnes", ["in"], ["out"], domain="mine")
    return model(call, functions=(made,), domains=("mine",))


def sparse(external: bool) -> onnx.ModelProto:
    made = model(add(), held=())
    values = tensor("ones", external)
    indices = numpy_helper.from_array(np.array([0, 1]), "at")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2]))
    return made


PLACES = [initializer, constant, subgraph, function, sparse]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the file that external tensors name."""
    (tmp_path / "ones.bin").write_bytes(ONES.tobytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(made: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


@pytest.mark.parametrize("make", PLACES)
def test_a_file_that_holds_its_tensors_runs(here: Path, make: Callable[[bool], onnx.ModelProto]) -> None:
    assert Model(saved(make(False), here))(np.zeros((1, 2), np.float32)).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("make", PLACES)
def test_a_tensor_in_another_file_is_refused_wherever_it_stands(
    here: Path, make: Callable[[bool], onnx.ModelProto]
) -> None:
    with pytest.raises(ArtifactError, match=r"model\.onnx: tensor 'ones' is kept in another file") as caught:
        Model(saved(make(True), here))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("nested", [False, True])
def test_operators_of_other_libraries_are_refused_by_name(here: Path, nested: bool) -> None:
    foreign = helper.make_node("Run", ["in"], ["same"], domain="com.example")
    if nested:
        parts = [branch(name, foreign) for name in ("yes", "no")]
        flag = numpy_helper.from_array(np.array(True), "flag")
        choice = helper.make_node("If", ["flag"], ["out"], then_branch=parts[0], else_branch=parts[1])
        made = model(choice, held=(flag,), domains=("com.example",))
    else:
        made = model(foreign, helper.make_node("Identity", ["same"], ["out"]), domains=("com.example",))
    with pytest.raises(ArtifactError, match=r"operator 'com\.example'\.'Run' is neither ONNX's nor ONNX Runtime's"):
        Model(saved(made, here))


@pytest.mark.parametrize(
    ("kind", "domain"), [("Identity", ""), ("Gelu", "com.microsoft"), ("Normalizer", "ai.onnx.ml")]
)
def test_operators_of_onnx_and_of_onnx_runtime_run(here: Path, kind: str, domain: str) -> None:
    made = model(helper.make_node(kind, ["in"], ["out"], domain=domain), domains=(domain,) if domain else ())
    assert Model(saved(made, here))(np.zeros((1, 2), np.float32)).shape == (1, 2)


def test_functions_that_the_file_brings_are_no_foreign_operators(here: Path) -> None:
    data = function(False).SerializeToString()
    assert read_model(saved(function(False), here)) == data
    other = function(False)
    other.graph.node[0].op_type = "AddTwos"
    with pytest.raises(ArtifactError, match=r"operator 'mine'\.'AddTwos' is neither"):
        read_model(saved(other, here))


def test_a_file_of_onnx_runtime_s_own_format_is_no_model(here: Path) -> None:
    (here / "model.onnx").write_bytes(b"\x20\x00\x00\x00ORTM" + bytes(100))
    with pytest.raises(ArtifactError, match=r"model\.onnx cannot be loaded by ONNX Runtime: it is no ONNX file"):
        Model(here / "model.onnx")
