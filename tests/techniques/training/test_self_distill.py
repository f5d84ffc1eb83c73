"""Self-distillation: generations written out by hand, and what the epochs are shared out to."""

import copy
from typing import Any

from torch import nn
from torch.nn.functional import cross_entropy

from autocompress.data import Batch
from autocompress.techniques.teacher import distillation_loss
from autocompress.techniques.training.self_distill import SelfDistill
from autocompress.testing.work import context_of, damaged, training_loss
from autocompress.training import Training, fit
from autocompress.trial.stages import pack_weights

QUICK: dict[str, Any] = {"epochs": 3, "learning_rate": 3e-3, "batch_size": 16}


def trained(**settings: Any) -> nn.Module:
    model = damaged("plain")
    SelfDistill(**{**QUICK, **settings}).train(model, context_of("plain"))
    return model


def test_a_generation_learns_from_the_model_that_the_one_before_it_left() -> None:
    """Two generations by hand: one epoch on the labels, then two in which the model of the first is the teacher."""
    context, model = context_of("plain"), damaged("plain")
    settings = Training(epochs=1, learning_rate=3e-3, batch_size=16)
    fit(model, context.train, lambda o, b: cross_entropy(o, b.targets), settings, context.seed)
    earlier = copy.deepcopy(model).requires_grad_(False)

    def loss(output: Any, batch: Batch) -> Any:
        soft = distillation_loss(output, logits[batch.index], 2.0, True)
        return 0.5 * soft + 0.5 * cross_entropy(output, batch.targets)

    whole = context.task.train[0]  # type: ignore[attr-defined]
    logits = earlier(whole)
    fit(model, context.train, loss, settings.model_copy(update={"epochs": 2}), context.seed + 1)
    found = trained().state_dict()
    for name, value in model.state_dict().items():
        assert (found[name] - value).abs().max() < 1e-5


def test_no_other_network_is_asked() -> None:
    context, one, other = context_of("plain"), damaged("plain"), damaged("plain")
    SelfDistill(**QUICK).train(one, context)
    context.teacher = nn.Identity()
    SelfDistill(**QUICK).train(other, context)
    assert pack_weights(one) == pack_weights(other)
    assert "logits" not in context.cache, "what the model says is kept for nobody else"


def test_there_are_no_more_generations_than_epochs() -> None:
    assert pack_weights(trained(epochs=1, generations=5)) == pack_weights(trained(epochs=1, generations=1))
    assert pack_weights(trained(generations=3)) != pack_weights(trained(generations=1))


def test_it_repairs_a_damaged_model() -> None:
    assert training_loss(trained(epochs=6), "plain") < 0.5 * training_loss(damaged("plain"), "plain")
