"""Every registered technique on every odd model: see contracts.py."""

from typing import Any

import numpy as np
import pytest
import torch
from contracts import (
    Work,
    carry_out,
    contents,
    context_of,
    example_of,
    given,
    json_copy,
    plain_bytes,
    quick,
    relative_rms,
    teacher_of,
    training_loss,
    work,
)
from models import CLASSES, MODELS, seeded
from torch import nn

from autocompress.artifacts.export import check_parity
from autocompress.artifacts.runtime import Model
from autocompress.errors import TechniqueError
from autocompress.recipe import Choice, Range, Recipe
from autocompress.techniques import recipe_from_yaml, registry
from autocompress.trial.screening import bytes_at_least
from autocompress.trial.stages import pack_weights, rebuild

NAMES = list(registry())
# Below this many bytes of weights, what an encoding adds to a file may outweigh what it takes away.
ENOUGH_BYTES = 20_000

every_technique = pytest.mark.parametrize("name", NAMES)
every_model = pytest.mark.parametrize("model", list(MODELS))


def done(name: str, model: str) -> Work | None:
    """The technique's work on the model; None when it refused, after a look at what it said."""
    found = work(name, model)
    if isinstance(found, Work):
        return found
    text = str(found)
    assert name in text, "a refusal names the technique"
    assert ":" in text or ";" in text, "a refusal says what to do"
    assert "Traceback" not in text
    return None


def settings_of(name: str) -> list[dict[str, Any]]:
    """The defaults, and every end and choice of the ranges that a search uses, one at a time."""
    found: list[dict[str, Any]] = [{}]
    for key, field in registry()[name].model_fields.items():
        for extra in field.metadata:
            if isinstance(extra, Range):
                found += [{key: extra.low}, {key: extra.high}]
            elif isinstance(extra, Choice):
                found += [{key: value} for value in extra.values]
    return found


@every_technique
def test_a_step_survives_yaml_with_every_setting_that_a_search_gives_it(name: str) -> None:
    for settings in settings_of(name):
        recipe = Recipe((registry()[name].model_validate(settings),))
        again = recipe_from_yaml(recipe.to_yaml())
        assert again == recipe
        assert again.fingerprint == recipe.fingerprint


@every_technique
def test_a_technique_describes_itself(name: str) -> None:
    kind = registry()[name]
    assert kind.technique == name
    assert kind.kind in ("structure", "train", "encode")
    assert kind.family
    assert kind.__doc__
    assert 0 < kind.weight_bits <= 32


@every_technique
def test_a_technique_works_on_plain_models(name: str) -> None:
    plain = work(name, "plain")  # where no layer's output has the shape of its input, so that none can be passed over
    assert isinstance(plain, Work) or ("no block" in str(plain) and isinstance(work(name, "residual"), Work))
    linear = work(name, "mlp")  # which has no convolution, the one thing that a technique may need and not find here
    assert isinstance(linear, Work) or "no convolution" in str(linear) or "no block" in str(linear)


@every_technique
@every_model
def test_a_decision_survives_json_unchanged(name: str, model: str) -> None:
    found = done(name, model)
    if found is not None:
        assert json_copy(found.decision) == found.decision


@every_technique
@every_model
def test_deciding_leaves_the_model_as_it_is(name: str, model: str) -> None:
    subject = given(name, model)
    before = contents(subject)
    try:
        quick(name).decide(subject, context_of(model))
    except TechniqueError:
        assert done(name, model) is None
    assert contents(subject) == before
    if isinstance(subject, nn.Module):
        assert not subject.training
        assert all(parameter.grad is None for parameter in subject.parameters())


@every_technique
@every_model
def test_the_same_seed_gives_the_same_decision_and_weights(name: str, model: str) -> None:
    found = done(name, model)
    if found is None:
        with pytest.raises(TechniqueError):
            carry_out(name, model)
        return
    decision, after = carry_out(name, model)
    assert decision == found.decision
    assert contents(after) == contents(found.after)


@every_technique
@every_model
def test_the_recorded_decision_rebuilds_the_model_to_the_last_bit(name: str, model: str) -> None:
    found = done(name, model)
    if found is None:
        return
    decision = json_copy(found.decision)
    if quick(name).kind == "encode":
        again = quick(name).apply(given(name, model), decision)
        assert contents(again) == contents(found.after)
        return
    architecture = seeded(MODELS[model], seed=99)  # other weights: all numbers must come from the saved ones
    rebuilt = rebuild(architecture, Recipe((quick(name),)), [decision], pack_weights(found.after))
    example = example_of(model)
    with torch.no_grad():
        assert torch.equal(rebuilt(*example), found.after(*example))


@every_technique
@every_model
def test_the_result_runs_in_torch_and_as_a_file_at_any_batch_size(name: str, model: str) -> None:
    found = done(name, model)
    if found is None:
        return
    run = Model(found.file)
    for count in (1, 3):
        inputs = example_of(model, count)
        output = run(*(tensor.numpy() for tensor in inputs))
        assert output.shape == (count, CLASSES)
        assert output.dtype == np.float32
        assert np.isfinite(output).all()
        if isinstance(found.after, nn.Module):
            with torch.no_grad():
                assert found.after(*inputs).shape == (count, CLASSES)


@every_technique
@every_model
def test_the_file_computes_what_the_model_computes(name: str, model: str) -> None:
    found = done(name, model)
    if found is None:
        return
    inputs = example_of(model)
    actual = Model(found.file)(*(tensor.numpy() for tensor in inputs))
    with torch.no_grad():
        if isinstance(found.after, nn.Module):
            allowed = registry()[name].parity
            assert check_parity(found.after, found.exported, inputs, allowed) <= allowed
            expected = found.after(*inputs).numpy()
            assert np.abs(actual - expected).max() <= allowed * np.abs(expected).max()
        else:
            # Encodings round: the error must stay well below the signal.
            assert relative_rms(actual, teacher_of(model)(*inputs).numpy()) < 0.5


@every_technique
@every_model
def test_the_technique_does_what_it_promises_in_the_delivered_file(name: str, model: str) -> None:
    found = done(name, model)
    if found is None:
        return
    if isinstance(found.after, nn.Module):
        after = training_loss(found.after, model)
        assert np.isfinite(after)
        if quick(name).kind == "structure" or quick(name).family == "quantization":
            assert len(found.file) < plain_bytes(model)
        else:
            assert after < training_loss(found.before, model)
        if registry()[name].leaves == "encode":
            assert len(found.file) < plain_bytes(model)
        return
    weights = sum(parameter.numel() for parameter in teacher_of(model).parameters() if parameter.dim() > 1)
    if 4 * weights >= ENOUGH_BYTES:
        assert len(found.file) < plain_bytes(model)


@every_technique
@every_model
def test_no_file_is_smaller_than_the_bound_that_rejects_candidates_before_training(name: str, model: str) -> None:
    found = done(name, model)
    if found is None:
        return
    module = found.after if isinstance(found.after, nn.Module) else teacher_of(model)
    bits = quick(name).weight_bits
    assert len(found.file) >= sum(bytes_at_least(p, bits) for p in module.parameters() if p.dim() > 1)
