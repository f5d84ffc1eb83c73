"""Putting a layer in the place of another, and finding those whose place nothing else can take."""

import copy

import pytest
import torch
from torch import Tensor, nn

from autocompress.techniques import replace_layers, unreplaceable
from autocompress.testing.models import Plain, TwoNames, seeded


def test_a_layer_is_replaced_under_all_of_its_names_and_stays_shared() -> None:
    model = seeded(TwoNames)
    made = nn.Identity()
    assert replace_layers(model, {model.first: made}) is model
    assert model.first is made
    assert model.second is made
    x = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        assert torch.equal(model(x), model.head(torch.relu(torch.relu(model.stem(x.flatten(1))))))


def test_a_model_that_is_itself_replaced_is_returned_as_its_replacement() -> None:
    model, made = nn.Linear(3, 2), nn.Linear(3, 2)
    assert replace_layers(model, {model: made}) is made


def test_a_replacement_may_hold_what_it_stands_for() -> None:
    model = seeded(Plain)
    x = torch.randn(2, 3, 12, 12)
    layers = [model.conv1, model.fc2]
    with torch.no_grad():
        before = model(x)
        replace_layers(model, {layer: nn.Sequential(nn.Identity(), layer) for layer in layers})
        assert torch.equal(model(x), before)
    assert [model.conv1[1], model.fc2[1]] == layers


def test_a_layer_of_another_model_is_refused_and_nothing_is_changed() -> None:
    model = seeded(Plain)
    other, kept = copy.deepcopy(model), model.fc1
    with pytest.raises(ValueError, match=r"Linear to be replaced in a model without it: take layers from this very"):
        replace_layers(model, {model.fc1: nn.Identity(), other.fc2: nn.Identity()})
    assert model.fc1 is kept


def test_a_transformer_of_torch_calls_what_stands_in_it() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        # Twice the first linear layer, which a fused path that reads weights would not see.
        double = copy.deepcopy(layer)
        double.linear1.weight *= 2
        double.linear1.bias *= 2
        twice = nn.Sequential(copy.deepcopy(double.linear1), nn.Identity())
        replace_layers(layer, {layer.linear1: twice})
        torch.testing.assert_close(layer(x), double(x))


class Reader(nn.Module):
    """Calls one layer and also reads its weight, ties another's, and leaves a third unused."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(12, 12)
        self.first = nn.Linear(12, 12)
        self.tied = nn.Linear(12, 12)
        self.tied.weight = self.first.weight
        self.unused = nn.Linear(12, 12)
        self.free = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.free(self.tied(self.first(self.read(x) @ self.read.weight)))


def test_layers_that_are_more_than_called_are_told_apart() -> None:
    model = Reader().eval()
    names = [name for name, _ in model.named_children()]
    assert unreplaceable(model, names, (torch.randn(2, 12),)) == {
        "read": "the model reads its weight",
        "first": "its weight is that of another layer too",
        "tied": "its weight is that of another layer too",
        "unused": "the model never calls it",
    }
