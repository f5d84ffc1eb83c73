"""What a technique is restricted to: layers by their names, whatever became of them before."""

from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from autocompress.artifacts.export import export_onnx
from autocompress.errors import NothingToDo, TechniqueError
from autocompress.techniques import Technique
from autocompress.techniques.factorization.svd import Svd
from autocompress.techniques.pruning.channel_pruning import ChannelPruning
from autocompress.techniques.pruning.weight_pruning import WeightPruning
from autocompress.techniques.quantization.float16 import Float16
from autocompress.techniques.quantization.int8_static import Int8Static
from autocompress.techniques.quantization.low_bit import LowBit
from autocompress.testing.work import context_of, example_of, given, teacher_of


def within(step: Technique, *names: str) -> list[str]:
    return step.within(names, context_of("plain"))


def test_without_layers_a_step_works_on_all() -> None:
    assert within(Svd(), "fc2", "conv1", "fc2") == ["fc2", "conv1"]


def test_layers_are_taken_in_the_order_of_the_model() -> None:
    assert within(Svd(layers=("fc*", "conv1")), "conv1", "conv2", "fc1", "fc2") == ["conv1", "fc1", "fc2"]
    assert within(Svd(layers=("fc1",)), "fc1.0", "fc1.1", "fc2") == ["fc1.0", "fc1.1"]  # what became of it


def test_a_pattern_that_no_layer_has_is_a_mistake_and_one_of_other_layers_is_nothing_to_do() -> None:
    with pytest.raises(TechniqueError, match=r"svd: layers: 'cnv1' is no layer of this model: take 'conv1'") as caught:
        within(Svd(layers=("fc1", "cnv1")), "conv1", "fc1")
    assert not isinstance(caught.value, NothingToDo)
    with pytest.raises(NothingToDo, match=r"svd finds nothing to do in the layers fc\*: of this model it works on 'c"):
        within(Svd(layers=("fc*",)), "conv1", "conv2")  # as where fc1 and fc2 were taken out before
    assert within(Svd(layers=("fc*",))) == []  # a technique says itself what it finds none of


def test_channel_pruning_of_one_layer_cuts_the_inputs_of_the_layer_behind_it() -> None:
    model, step = given("structure", "plain"), ChannelPruning(ratio=0.5, importance="l1", layers=("conv1",))
    decision = step.decide(model, context_of("plain"))
    assert decision["layers"] == {"conv1.weight": "16 -> 8"}
    after = step.apply(model, decision)
    assert [tuple(layer.weight.shape) for layer in (after.conv1, after.conv2)] == [(8, 3, 3, 3), (24, 8, 3, 3)]
    assert after.fc1.weight.shape == teacher_of("plain").fc1.weight.shape  # type: ignore[union-attr]


def test_channels_that_another_layer_makes_too_stay() -> None:
    """The outputs of a block and of the shortcut around it are added: neither loses any alone."""
    step = ChannelPruning(ratio=0.5, importance="l1", layers=("stem",))
    with pytest.raises(NothingToDo):
        step.decide(given("structure", "residual"), context_of("residual"))


def test_a_share_is_one_of_the_layers_that_are_meant() -> None:
    step = WeightPruning(ratio=0.5, scope="global", layers=("fc*",))
    decision = step.decide(given("structure", "plain"), context_of("plain"))
    after = step.apply(given("structure", "plain"), decision)
    gone = {name: int((weight == 0).sum()) for name, weight in after.named_parameters() if weight.dim() > 1}
    assert gone["conv1.weight"] == gone["conv2.weight"] == 0
    assert gone["fc1.weight"] + gone["fc2.weight"] == round(0.5 * (32 * 96 + 4 * 32))


def test_a_file_of_factors_still_knows_the_layer_that_they_stand_for() -> None:
    model = given("structure", "plain")
    svd = Svd(energy=0.5, layers=("fc1",))
    model = svd.apply(model, svd.decide(model, context_of("plain")))
    file = export_onnx(model.eval(), example_of("plain"))
    found = LowBit(bits=4, layers=("fc1",)).decide(file, context_of("plain"))["grids"]
    assert found.keys() == {"fc1.0.weight", "fc1.1.weight"}
    with pytest.raises(NothingToDo, match="low_bit finds no weight to quantize"):
        LowBit(bits=4, layers=("fc2",)).decide(file, context_of("plain"))  # it has 128 weights


@pytest.mark.parametrize("layer", ["conv1", "fc1"])
def test_in_a_file_other_layers_stay_in_float(layer: str) -> None:
    step = Int8Static(layers=(layer,))
    file = step.apply(given("encode", "plain"), step.decide(given("encode", "plain"), context_of("plain")))
    kinds = {tensor.name: tensor.data_type for tensor in file.graph.initializer}
    left = {f"{name}.weight" for name in ("conv1", "conv2", "fc1", "fc2")} & kinds.keys()
    assert left == {f"{name}.weight" for name in ("conv1", "conv2", "fc1", "fc2")} - {f"{layer}.weight"}
    quantized = [node for node in file.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantized) == 2, "what the layer reads and makes, and nothing else"


def test_embeddings_are_layers_of_a_file() -> None:
    for step in (Int8Static(layers=("embedding",)), Float16(layers=("embedding",))):
        decision = step.decide(given("encode", "sentences"), context_of("sentences"))
        file = step.apply(given("encode", "sentences"), decision)
        before = {tensor.name for tensor in given("encode", "sentences").graph.initializer if len(tensor.dims) > 1}
        assert before - {tensor.name for tensor in file.graph.initializer} == {"embedding.weight"}


def test_a_model_that_is_a_layer_has_no_name_and_matches_what_matches_all() -> None:
    context: Any = replace(context_of("mlp"), teacher=nn.Linear(3 * 12 * 12, 4))
    assert Svd(layers=("*",)).within([""], context) == [""]
