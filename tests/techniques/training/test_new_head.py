"""A new head: fresh weights that learn, on features of which no number moves."""

from typing import Any

import pytest
import torch
from torch import nn

from autocompress.errors import NothingToDo
from autocompress.techniques.training.new_head import NewHead
from autocompress.testing.models import MODELS
from autocompress.testing.work import context_of, damaged, task_of, teacher_of, training_loss
from autocompress.trial.stages import pack_weights

QUICK: dict[str, Any] = {"epochs": 4, "learning_rate": 1e-2, "batch_size": 16}
HEADS = {"plain": "fc2", "mlp": "layers.5", "residual": "head", "sentences": "head", "recurrent": "head"}


@pytest.mark.parametrize("model", list(HEADS))
def test_the_output_layer_alone_changes_and_statistics_stay(model: str) -> None:
    found, before = damaged(model), damaged(model).state_dict()
    step = NewHead(**QUICK)
    assert step.decide(found, context_of(model)) == {"heads": [HEADS[model]]}
    step.train(found, context_of(model))
    changed = {name for name, value in found.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{HEADS[model]}.weight", f"{HEADS[model]}.bias"}
    assert all(parameter.requires_grad for parameter in found.parameters()), "what comes after trains all of it"
    assert not found.training


def test_it_does_not_go_on_from_the_old_weights() -> None:
    """Whatever they were, the same comes of it."""
    one, other = damaged("plain"), damaged("plain")
    other.fc2.weight.data.mul_(-3.0)  # type: ignore[operator, union-attr]
    for model in (one, other):
        NewHead(**QUICK).train(model, context_of("plain"))
    assert pack_weights(one) == pack_weights(other)


def test_it_learns_the_task_on_good_features() -> None:
    found: Any = MODELS["plain"]()
    found.load_state_dict(teacher_of("plain").state_dict())
    nn.init.zeros_(found.fc2.weight)
    before = training_loss(found, "plain")
    NewHead(epochs=8, learning_rate=3e-2, batch_size=16).train(found, context_of("plain"))
    assert training_loss(found, "plain") < 0.5 * before


def test_zeros_of_a_pruned_head_stay() -> None:
    found: Any = damaged("plain")
    found.fc2.weight.data[:, ::2] = 0
    NewHead(**QUICK).train(found, context_of("plain"))
    assert not found.fc2.weight[:, ::2].any()
    assert bool(found.fc2.weight[:, 1::2].all())


def test_a_factorized_head_begins_anew_as_a_whole() -> None:
    found: Any = damaged("plain")
    found.fc2 = nn.Sequential(nn.Linear(32, 2, bias=False), nn.Linear(2, 4))
    before = [value.clone() for value in found.fc2.state_dict().values()]
    NewHead(**QUICK).train(found, context_of("plain"))
    assert not any(torch.equal(old, new) for old, new in zip(before, found.fc2.state_dict().values(), strict=True))


def test_a_head_that_cannot_begin_anew_is_refused() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 3 * 12 * 12))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) @ self.weight.T

    model = nn.Sequential(Own())
    with pytest.raises(NothingToDo, match="new_head finds no output layer that could begin anew: use finetune"):
        NewHead().decide(model, context_of("plain"))
    assert len(task_of("plain").train[1]) == 64
