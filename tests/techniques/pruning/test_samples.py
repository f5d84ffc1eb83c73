"""How much of the data decisions look at: all that is asked for of small models, what is affordable of large ones."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import Classification
from autocompress.techniques import base
from autocompress.techniques.base import Context
from autocompress.techniques.pruning import _channel_scores
from autocompress.techniques.pruning._channel_scores import gradients


class Counted(nn.Module):
    """A network that says how often it was called, and with how many examples."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.seen = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))  # type: ignore[operator]
        found: Tensor = self.body(x)
        return found


def context_of_rows(count: int = 300) -> Context:
    rows = TensorDataset(torch.randn(count, 6), torch.arange(count) % 3)
    task = Classification(Counted, rows, rows, rows)
    return Context(task, task.model().eval(), 7)


def test_a_sample_of_a_small_model_is_as_it_was_asked_for() -> None:
    context = context_of_rows()
    assert context.affordable(512) == 512
    assert context.products == 83  # a weight each, as biases are added: torch counts 6 * 8 + 8 * 3
    assert [len(batch.index) for batch in context.sample(100)] == [64, 64]
    assert [len(batch.index) for batch in context.sample(10)] == [64]


def test_another_network_in_the_models_place_counts_by_itself() -> None:
    context = context_of_rows()
    assert context.products == 83
    assert replace(context, student=nn.Linear(6, 3)).products == 6 * 3 + 3


def test_a_recurrent_layer_counts_for_its_weights_and_a_convolution_for_every_place() -> None:
    rows = TensorDataset(torch.randn(8, 5, 6), torch.arange(8) % 3)
    context = Context(Classification(nn.Identity, rows, rows, rows), nn.LSTM(6, 4, batch_first=True), 0)
    assert context.products == 4 * 4 * (6 + 4) + 2 * 4 * 4
    images = TensorDataset(torch.randn(8, 3, 10, 12), torch.arange(8) % 3)
    layer = nn.Conv2d(3, 16, 3, padding=1)
    assert Context(Classification(nn.Identity, images, images, images), layer, 0).products == 16 * 3 * 9 * 10 * 12
    wrong = Context(Classification(nn.Identity, rows, rows, rows), layer, 0)
    assert wrong.products == 16 * 3 * 9 + 16, "it does not run, which whoever uses it says"


def test_a_sample_of_a_large_model_is_smaller_and_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MOST_PRODUCTS", 83 * 40.0)
    context = context_of_rows()
    assert context.affordable(512) == 40
    assert context.affordable(30) == 30
    first, again = (list(context.sample(512)) for _ in range(2))
    assert [len(batch.index) for batch in first] == [5] * 8
    assert [batch.index.tolist() for batch in first] == [batch.index.tolist() for batch in again]
    monkeypatch.setattr(base, "MOST_PRODUCTS", 1.0)
    assert context.affordable(512) == base.FEWEST
    assert context.affordable(5) == 5


def test_gradients_of_a_large_model_are_found_once_whatever_the_seed_and_anew_for_other_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "MOST_PRODUCTS", 83 * 40.0)
    monkeypatch.setattr(_channel_scores, "KEPT", 83 * 40.0)
    context = context_of_rows()
    model = copy.deepcopy(context.teacher)
    assert isinstance(model, Counted)

    def called(seed: int, model: Counted) -> tuple[list[int], list[Tensor]]:
        model.seen.clear()
        found = gradients(model, replace(context, seed=seed), 512)
        return list(model.seen), [found[id(weight)] for weight in model.parameters()]

    first = called(1, model)
    assert first[0] == [5] * 8
    again = called(2, model)
    assert again[0] == [], "it is known"
    assert all(torch.equal(one, other) for one, other in zip(first[1], again[1], strict=True))
    other = copy.deepcopy(model)
    assert called(3, other)[0] == [], "the same weights in another module"
    with torch.no_grad():
        other.body[0].weight[0, 0] += 1
    assert called(3, other)[0] == [5] * 8
    assert called(1, model)[0] == [5] * 8, "one is kept"
