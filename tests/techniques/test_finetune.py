"""Fine-tuning: the task's loss, the user's frozen parameters, and nothing else."""

import copy

import pytest
import torch
from contracts import context_of, damaged, teacher_of, training_loss
from pydantic import ValidationError

from autocompress.stages import pack_weights
from autocompress.techniques.finetune import Finetune
from autocompress.training import Training, fit


def test_it_repairs_a_damaged_model() -> None:
    model = damaged("plain")
    before = training_loss(model, "plain")
    Finetune(epochs=4, learning_rate=5e-3, batch_size=16).train(model, context_of("plain"))
    assert training_loss(model, "plain") < 0.5 * before
    assert not model.training


def test_it_is_the_training_loop_on_the_tasks_loss() -> None:
    model, expected = damaged("mlp"), damaged("mlp")
    context = context_of("mlp")
    Finetune(epochs=2, learning_rate=3e-3, batch_size=16).train(model, context)
    settings = Training(epochs=2, learning_rate=3e-3, batch_size=16)
    fit(expected, context.train, lambda o, b: torch.nn.functional.cross_entropy(o, b.targets), settings, context.seed)
    assert pack_weights(model) == pack_weights(expected)


def test_frozen_parameters_stay_as_they_are() -> None:
    model = damaged("plain")
    model.conv1.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    Finetune(epochs=1, batch_size=16).train(model, context_of("plain"))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"conv2.weight", "conv2.bias", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}


def test_the_uncompressed_model_stays_as_it_is() -> None:
    context = context_of("plain")
    before = pack_weights(context.teacher)
    Finetune(epochs=1, batch_size=16).train(copy.deepcopy(teacher_of("plain")), context)
    assert pack_weights(context.teacher) == before


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"learning_rate": 0}, {"batch_size": 0}, {"epoch": 3}])
def test_impossible_settings_are_rejected(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Finetune.model_validate(settings)
