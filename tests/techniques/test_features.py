"""What layers put out: found in the order of a run, watched while it runs, and what the teacher's say is kept once."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.data import batches
from autocompress.techniques import Context, teacher
from autocompress.techniques.features import Feature, before_head, features, head_names, tensor_of, watched
from autocompress.techniques.teacher import Teacher
from autocompress.techniques.training.attention_distill import energy
from autocompress.testing.work import context_of, damaged, example_of, task_of, teacher_of
from autocompress.trial.stages import pack_weights

MAP = Feature(torch.Size((2, 16, 12, 12)), last=False)


def before(model: str) -> dict[str, Feature]:
    return before_head(teacher_of(model), context_of(model))


def test_layers_come_in_the_order_in_which_they_finish_and_end_before_the_output_layer() -> None:
    """By hand: the plain model's convolutions see 12x12 and 5x5 points without padding."""
    found = before("plain")
    assert {name: tuple(feature.shape) for name, feature in found.items()} == {
        "conv1": (2, 16, 10, 10),
        "conv2": (2, 24, 3, 3),
        "fc1": (2, 32),
    }
    assert list(before("residual"))[-2:] == ["inner2.2", "inner2"]
    assert "head" in features(teacher_of("residual"), example_of("residual", 2))


@pytest.mark.parametrize(
    ("model", "layer", "shape", "channels", "positions", "last"),
    [
        ("sentences", "embedding", (2, 9, 16), 16, (9,), True),
        ("sentences", "encoder.layers.1", (2, 9, 16), 16, (9,), True),
        ("recurrent", "memory", (2, 10, 24), 24, (10,), True),
        ("signals", "layers.3", (2, 24, 8), 24, (8,), False),
        ("signals", "layers.5", (2, 24, 8), 24, (8,), False),  # an activation, as the layer before it
        ("residual", "stem.2", (2, 16, 12, 12), 16, (12, 12), False),
    ],
)
def test_channels_are_found_by_the_width_of_weights(
    model: str, layer: str, shape: tuple[int, ...], channels: int, positions: tuple[int, ...], last: bool
) -> None:
    found = before(model)[layer]
    length = found.shape[1] if model == "sentences" else shape[1]
    assert tuple(found.shape) == (2, length, *shape[2:])
    assert (found.channels, found.last) == (channels, last)
    assert found.positions == ((length,) if model == "sentences" else positions)


class Last(nn.Module):
    """Maps whose channels come last, as some transformers of images have them."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.norm, self.act, self.head = nn.Linear(3, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.wide(x.movedim(1, -1))))
        output: Tensor = self.head(x.mean((1, 2)))
        return output


def test_channels_of_maps_may_come_last() -> None:
    found = features(Last().eval(), (torch.randn(2, 3, 5, 6),), ("head",))
    assert list(found) == ["wide", "norm", "act"]
    assert all(each.last and each.channels == 8 and each.positions == (5, 6) for each in found.values())


def test_what_is_watched_is_what_the_layer_put_out_even_if_the_next_works_in_place() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(inplace=True)).eval()
    x = torch.randn(2, 3, 12, 12)
    with watched(model, {"0": MAP}, torch.clone) as seen, torch.no_grad():
        model(x)
        torch.testing.assert_close(seen["0"], model[0](x))
    assert not model[0]._forward_hooks, "hooks stay no longer than they are needed"


def test_channels_that_come_last_are_read_as_the_second_axis() -> None:
    model, x = Last().eval(), torch.randn(2, 3, 5, 6)
    with watched(model, features(model, (x,)), torch.clone) as seen, torch.no_grad():
        model(x)
        torch.testing.assert_close(seen["wide"], model.wide(x.movedim(1, -1)).movedim(-1, 1))
    assert seen["act"].shape == (2, 8, 5, 6)


def test_of_a_layer_that_is_called_twice_the_later_output_counts() -> None:
    model: Any = copy.deepcopy(teacher_of("called_twice"))
    (x,) = example_of("called_twice", 2)
    known = before("called_twice")
    with watched(model, {"again": known["again"]}, torch.clone) as seen, torch.no_grad():
        model(x)
        found = seen["again"]
        once = torch.relu(model.again(torch.relu(model.stem(x))))
        torch.testing.assert_close(found, model.again(once))


def test_a_copy_of_a_watched_model_can_be_made_after_a_run_with_gradients() -> None:
    """As rungs do after each epoch."""
    model = damaged("plain")
    with watched(model, before("plain"), torch.clone) as seen:
        model(*example_of("plain", 2))
        assert seen["fc1"].requires_grad
        copy.deepcopy(model)


def test_the_tensor_of_an_output_is_the_first() -> None:
    one, other = torch.ones(1), torch.zeros(1)
    assert tensor_of(one) is tensor_of((one, other)) is tensor_of([None, one]) is tensor_of({"a": one}) is one
    assert tensor_of(((None, (one,)), other)) is one
    assert tensor_of("no tensor") is None


def test_a_factorized_output_layer_is_still_the_head() -> None:
    """Its first part takes the features; without the names of the uncompressed model it would be taken for one."""
    model: Any = copy.deepcopy(teacher_of("plain"))
    model.fc2 = nn.Sequential(nn.Linear(32, 2, bias=False), nn.Linear(2, 4))
    assert head_names(model, context_of("plain")) == ("fc2",)
    assert list(before_head(model, context_of("plain"))) == ["conv1", "conv2", "fc1"]


def test_another_network_has_its_own_head() -> None:
    assert head_names(teacher_of("residual"), context_of("plain")) == ("head",)


@pytest.mark.parametrize("read", [torch.clone, energy])
def test_what_the_teacher_says_is_the_same_kept_and_computed_anew(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    context, layers = context_of("residual"), before("residual")
    kept = Teacher(context, layers, read)
    assert kept.stored is not None
    batch = next(batches(task_of("residual").split("train"), 9, torch.Generator().manual_seed(0)))
    monkeypatch.setattr(teacher, "MOST_BYTES", sum(part.nbytes for part in kept.stored.values()) - 1)
    without = Teacher(context_of("residual"), layers, read)
    assert without.stored is None
    found, again = kept.shown(batch), without.shown(batch)
    assert found.keys() == again.keys() == {"", *layers}
    for name, value in found.items():
        torch.testing.assert_close(value, again[name], rtol=1e-4, atol=1e-5)


def test_features_of_sentences_are_computed_anew_as_their_length_is_that_of_a_batch() -> None:
    """Their logits are kept all the same."""
    context = context_of("plain")
    context.cache["signature"] = type("Signature", (), {"varying": ({1},)})()
    assert Teacher(context, before("plain")).stored is None
    assert Teacher(context).stored is not None


def test_the_features_that_were_asked_for_last_are_kept_and_no_others() -> None:
    context, layers = context_of("plain"), before("plain")
    first = Teacher(context, {"conv1": layers["conv1"]})
    again = Teacher(context, {"conv1": layers["conv1"]})
    assert first.stored is not None
    assert again.stored is not None
    assert again.stored["conv1"] is first.stored["conv1"]
    Teacher(context, {"conv2": layers["conv2"]})
    assert context.cache["features"][1].keys() == {"conv2", ""}


def test_the_teacher_is_left_as_it_is() -> None:
    context = context_of("residual")
    before_it = pack_weights(context.teacher)
    Teacher(context, before("residual")).shown(next(batches(task_of("residual").split("train"), 4)))
    assert pack_weights(context.teacher) == before_it
    assert not any(module._forward_hooks for module in context.teacher.modules())
    assert isinstance(context, Context)
