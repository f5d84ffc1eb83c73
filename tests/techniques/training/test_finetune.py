"""Fine-tuning: the task's loss, the user's frozen parameters, and nothing else."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from plain import plain_baseline, trial_spec
from pydantic import ValidationError
from safetensors.torch import load
from torch import nn

from autocompress.errors import TechniqueError
from autocompress.outcome import Candidate, Failed
from autocompress.recipe import Recipe
from autocompress.techniques import recipe_from_data
from autocompress.techniques.training.finetune import Finetune
from autocompress.testing.models import MODELS, Plain, seeded
from autocompress.testing.work import context_of, damaged, teacher_of, training_loss
from autocompress.training import Training, fit
from autocompress.trial.stages import pack_weights, rebuild, replay
from autocompress.trial.trial import prepare


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


def early_of(model: str) -> nn.Module:
    """Weights unlike those of the trained model."""
    return seeded(MODELS[model], seed=42)


def test_rewinding_starts_from_the_early_weights() -> None:
    """At a tiny learning rate the result is where the training started."""
    model, context = copy.deepcopy(teacher_of("plain")), context_of("plain")
    context.early = lambda: early_of("plain")
    Finetune(epochs=1, learning_rate=1e-9, batch_size=16, rewind=True).train(model, context)
    for name, parameter in early_of("plain").named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, atol=1e-6, rtol=0)
        assert not torch.allclose(model.get_parameter(name), teacher_of("plain").get_parameter(name), atol=1e-3)


def test_rewinding_keeps_what_the_decisions_pruned() -> None:
    """Lottery tickets: early weights under the mask that was found late."""

    def early() -> nn.Module:
        found: Any = early_of("plain")
        with torch.no_grad():
            found.conv1.weight[::2] = 0
        return found

    model: Any = copy.deepcopy(teacher_of("plain"))
    context = context_of("plain")
    context.early = early
    Finetune(epochs=2, batch_size=16, rewind=True).train(model, context)
    assert not model.conv1.weight[::2].any()
    assert bool(model.conv1.weight[1::2].flatten(1).any(1).all())


def test_without_rewind_early_weights_are_not_asked_for() -> None:
    context = context_of("plain")
    context.early = lambda: pytest.fail("asked for")
    model = copy.deepcopy(teacher_of("plain"))
    Finetune(epochs=1, batch_size=16).train(model, context)
    assert pack_weights(model) != pack_weights(teacher_of("plain"))


def test_rewinding_a_model_that_came_trained_is_refused() -> None:
    with pytest.raises(
        TechniqueError,
        match=r"finetune with rewind needs the weights of early .* leave rewind out, or let the task train",
    ):
        Finetune(rewind=True).train(copy.deepcopy(teacher_of("plain")), context_of("plain"))


def test_a_trial_rewinds_to_the_baselines_early_weights() -> None:
    """The early weights are those after a tenth of the baseline's training; compressed by the decisions so far."""
    prune = {"technique": "channel_pruning", "ratio": 0.5, "importance": "l1", "scope": "layer"}
    rewind = {"technique": "finetune", "epochs": 1, "learning_rate": 1e-9, "rewind": True}
    baseline = plain_baseline()
    candidate = prepare(trial_spec(prune, rewind), baseline)
    assert isinstance(candidate, Candidate), candidate
    step = recipe_from_data({"version": 1, "steps": [prune]})
    early = rebuild(Plain(), Recipe(()), [], baseline.early)
    expected = pack_weights(replay(early, step, candidate.decisions[:1]))
    found, wanted = load(candidate.weights), load(expected)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0)


def test_a_trial_of_a_model_that_came_trained_is_refused_with_the_reason() -> None:
    outcome = prepare(trial_spec({"technique": "finetune", "rewind": True}), replace(plain_baseline(), early=b""))
    assert isinstance(outcome, Failed)
    assert outcome.refused
    assert "finetune with rewind needs the weights of early in the training" in outcome.reason


def test_the_last_blocks_alone_are_trained() -> None:
    model, before = damaged("plain"), damaged("plain").state_dict()
    Finetune(epochs=1, batch_size=16, last=2).train(model, context_of("plain"))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}


def test_as_many_blocks_as_there_are_is_all_of_them() -> None:
    models = [damaged("plain") for _ in range(3)]
    for model, last in zip(models, (0, 4, 100), strict=True):
        Finetune(epochs=1, batch_size=16, last=last).train(model, context_of("plain"))
    assert pack_weights(models[0]) == pack_weights(models[1]) == pack_weights(models[2])


def test_a_small_decay_leaves_the_first_blocks_nearly_alone() -> None:
    model, before = damaged("plain"), damaged("plain").state_dict()
    Finetune(epochs=1, batch_size=16, block_decay=0.01).train(model, context_of("plain"))
    moved = {name: float((value - before[name]).abs().max()) for name, value in model.state_dict().items()}
    assert moved["conv1.weight"] < 1e-3 * moved["fc2.weight"]
