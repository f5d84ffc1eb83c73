"""What every technique must hold, whatever it does, on every odd model."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from ..artifacts.parity import check_parity
from ..artifacts.runtime import Model
from ..errors import NothingToDo, TechniqueError
from ..recipe import Choice, Kind, Range, Recipe, matches
from ..techniques import GROUP, Technique, recipe_from_yaml, registry
from ..trial.stages import pack_weights, rebuild
from .models import CLASSES, MODELS, seeded
from .work import (
    Work,
    carry_out,
    changed_weights,
    contents,
    context_of,
    example_of,
    given,
    json_copy,
    layers_of,
    plain_bytes,
    quick,
    relative_rms,
    restricted,
    teacher_of,
    training_loss,
    untrained_file,
    work,
)

# Below this many bytes of weights, what an encoding adds to a file may outweigh what it takes away.
ENOUGH_BYTES = 20_000

every_model = pytest.mark.parametrize("model", list(MODELS))


class TechniqueContract:
    """What every technique must hold; a subclass gives it by the fixture `technique`.

    That is a step with its settings, or a class of steps, whose defaults are then used with few epochs and examples.
    The models are small and odd: residual blocks, concatenations, groups, a layer that is called twice, one with two
    names. A technique may refuse a model by a TechniqueError that says what to do, but not the plain ones.
    """

    @pytest.fixture
    def technique(self) -> Technique | type[Technique]:
        """The technique that is held to the contract."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a fixture `technique` that returns a step, or its class"
        )

    @pytest.fixture
    def step(self, technique: Technique | type[Technique]) -> Technique:
        """The step that the contract is about."""
        return quick(technique) if isinstance(technique, type) else technique

    def test_a_step_survives_yaml_with_every_setting_that_a_search_gives_it(self, step: Technique) -> None:
        """Recipes are files: settings must be plain values, and their ranges must hold values that are valid."""
        for settings in _settings_of(step):
            recipe = Recipe((type(step).model_validate(settings),))
            again = recipe_from_yaml(recipe.to_yaml())
            assert again == recipe, "a setting is another one after YAML: use numbers, strings, lists and dictionaries"
            assert again.fingerprint == recipe.fingerprint

    def test_a_technique_describes_itself(self, step: Technique) -> None:
        """Lists, recipes and checks of order know a technique by what its class says."""
        kind = type(step)
        assert registry().get(kind.technique) is kind, (
            f"{kind.technique!r} is not registered as {kind.__name__}: name the class in pyproject.toml under "
            f'[project.entry-points."{GROUP}"] and install the package'
        )
        assert kind.kind in get_args(Kind), f"kind is {kind.kind!r}: it is one of {', '.join(get_args(Kind))}"
        assert kind.family, "family is empty: say what the technique belongs to, such as low-rank"
        assert kind.__doc__, f"{kind.__name__} has no docstring: its first line is shown by `autocompress techniques`"

    def test_a_technique_works_on_plain_models(self, step: Technique) -> None:
        """Refusing is for models without what a technique needs; the plain ones have convolutions and linear layers."""
        # In the plain model no layer's output has the shape of its input, so that none can be passed over.
        # Nor are there blocks of a transformer in it.
        plain = work(step, "plain")
        others = ("residual", "sentences") if "no block" in str(plain) else ()
        passed_over = any(isinstance(work(step, other), Work) for other in others)
        assert isinstance(plain, Work) or passed_over, f"convolutions and linear layers were refused: {plain}"
        linear = work(
            step, "mlp"
        )  # which has no convolution, the one thing that a technique may need and not find here
        missing = "no convolution" in str(linear) or "no block" in str(linear)
        assert isinstance(linear, Work) or missing, (
            f"linear layers were refused: {linear}; a technique for other layers says which it finds none of, "
            "such as `no convolution`"
        )

    @every_model
    def test_a_decision_survives_json_unchanged(self, step: Technique, model: str) -> None:
        """Decisions are kept in files, so that a model can be rebuilt."""
        found = _done(step, model)
        if found is not None:
            assert json_copy(found.decision) == found.decision, (
                "the decision is another one after JSON: use dictionaries with keys of text, lists, numbers and text"
            )

    def test_a_step_that_cannot_be_restricted_to_layers_refuses(self, step: Technique) -> None:
        """What the technique does not look at must not be promised; `by_layer` of the class says whether it does."""
        if not step.by_layer:
            with pytest.raises(ValidationError, match=f"{step.technique} works on the whole model"):
                type(step).model_validate({**step.model_dump(), "layers": ["fc1"]})

    @pytest.mark.parametrize("model", ["plain", "residual", "mlp"])
    def test_restricted_to_one_layer_a_step_decides_on_it_alone(self, step: Technique, model: str) -> None:
        """Recipes say `only: {layers: [...], step: ...}`: the technique asks `self.within` for its layers."""
        if not step.by_layer or _done(step, model) is None:
            return
        taken = 0
        for layer in layers_of(model):
            before, after, decision = restricted(step, model, layer)
            if decision is None:
                continue
            taken += 1
            if step.kind == "train":
                assert [*decision["layers"]] == [layer], "decide names the layers that are trained for in `layers`"
            else:
                others = [name for name in changed_weights(before, after) if not matches(name, [layer])]
                assert others == [], f"{others} were changed too: ask self.within(names, context) for the layers"
        assert taken, "every layer was refused alone: give within the names of modules, such as fc1"

    def test_a_layer_that_is_not_there_is_refused_with_the_nearest(self, step: Technique) -> None:
        """A name that no layer has is a mistake, not a model on which there is nothing to do."""
        if step.by_layer and _done(step, "plain") is not None:
            with pytest.raises(TechniqueError, match=f"{step.technique}: layers: 'fc1x' is no layer.*'fc1'") as caught:
                restricted(step, "plain", "fc1x")
            assert not isinstance(caught.value, NothingToDo)

    @every_model
    def test_deciding_leaves_the_model_as_it_is(self, step: Technique, model: str) -> None:
        """A decision may be thrown away; apply alone may change what it is given."""
        subject = given(step.kind, model)
        before = contents(subject)
        try:
            step.decide(subject, context_of(model))
        except TechniqueError:
            assert _done(step, model) is None
        assert contents(subject) == before, "decide changed the weights: let it work on copy.deepcopy(model)"
        if isinstance(subject, nn.Module):
            assert not subject.training, "decide left the model in training mode: let it work on copy.deepcopy(model)"
            grads = [name for name, parameter in subject.named_parameters() if parameter.grad is not None]
            assert not grads, "decide left gradients: let it work on copy.deepcopy(model)"

    @every_model
    def test_the_same_seed_gives_the_same_decision_and_weights(self, step: Technique, model: str) -> None:
        """Trials are repeated after a crash and by `apply`; chance comes from context.seed alone."""
        found = _done(step, model)
        if found is None:
            with pytest.raises(TechniqueError):
                carry_out(step, model)
            return
        decision, after = carry_out(step, model)
        assert decision == found.decision, "a second decision differs: draw random numbers from context.seed alone"
        assert contents(after) == contents(found.after), (
            "a second run gives other weights: apply must be pure, and train draw from context.seed alone"
        )

    @every_model
    def test_the_recorded_decision_rebuilds_the_model_to_the_last_bit(self, step: Technique, model: str) -> None:
        """A stage is kept as decision and weights: apply, on weights of any value, must give modules they fit into."""
        found = _done(step, model)
        if found is None:
            return
        decision = json_copy(found.decision)
        if step.kind == "encode":
            again = step.apply(given(step.kind, model), decision)
            assert contents(again) == contents(found.after), "apply gives another file: let it read the decision alone"
            return
        architecture = seeded(MODELS[model], seed=99)  # other weights: all numbers must come from the saved ones
        rebuilt = rebuild(architecture, Recipe((step,)), [decision], pack_weights(found.after))
        example = example_of(model)
        with torch.no_grad():
            assert torch.equal(rebuilt(*example), found.after(*example)), (
                "the rebuilt model computes something else: what a module needs beside the decision must be in its "
                "state_dict, as a parameter or buffer"
            )

    @every_model
    def test_the_result_runs_in_torch_and_as_a_file_at_any_batch_size(self, step: Technique, model: str) -> None:
        """What is delivered takes batches of any size and returns finite floats."""
        found = _done(step, model)
        if found is None:
            return
        run = Model(found.file)
        for count in (1, 3):
            inputs = example_of(model, count)
            output = run(*(tensor.numpy() for tensor in inputs))
            assert output.shape == (count, CLASSES), "the batch comes first, and the classes stay"
            assert output.dtype == np.float32, "the file's output is of 32 bits, whatever is computed within"
            assert np.isfinite(output).all(), "the file's output is no number: see what the smallest weights become"
            if isinstance(found.after, nn.Module):
                with torch.no_grad():
                    assert found.after(*inputs).shape == (count, CLASSES)

    @every_model
    def test_the_file_computes_what_the_model_computes(self, step: Technique, model: str) -> None:
        """The file is what is measured and delivered; `parity` of the class says how near it must be."""
        found = _done(step, model)
        if found is None:
            return
        inputs = example_of(model)
        actual = Model(found.file)(*(tensor.numpy() for tensor in inputs))
        with torch.no_grad():
            if isinstance(found.after, nn.Module):
                allowed = type(step).parity
                assert check_parity(found.after, found.exported, inputs, allowed) <= allowed
                expected = found.after(*inputs).numpy()
                assert np.abs(actual - expected).max() <= allowed * np.abs(expected).max(), (
                    f"the packed file is further than parity, {allowed:g}, from the module"
                )
            else:
                error = relative_rms(actual, teacher_of(model)(*inputs).numpy())
                assert error < 0.5, "an encoding rounds, but its error must stay well below the signal"

    @every_model
    def test_the_technique_does_what_it_promises_in_the_delivered_file(self, step: Technique, model: str) -> None:
        """Structure and quantization make the file smaller, training lowers the loss: by default settings too."""
        found = _done(step, model)
        if found is None:
            return
        smaller = len(found.file) < plain_bytes(model)
        advice = "the file is not smaller: leave layers alone that would grow, and refuse where none is left"
        weights = sum(parameter.numel() for parameter in teacher_of(model).parameters() if parameter.dim() > 1)
        if "encode" in (step.kind, step.leaves):
            smaller = smaller or 4 * weights < ENOUGH_BYTES
        if isinstance(found.after, nn.Module):
            after = training_loss(found.after, model)
            assert np.isfinite(after), "the loss is no number"
            if (step.kind == "structure" and not step.fresh) or step.family == "quantization":
                assert smaller, advice
            elif step.kind == "train" and not step.fresh:
                before = step.apply(given(step.kind, model), found.decision)
                assert after < training_loss(before, model), "training did not lower the loss on what it saw"
            assert smaller or step.leaves != "encode", advice
            return
        assert smaller, advice

    @pytest.mark.parametrize("model", ["plain", "residual", "mlp"])
    def test_the_size_of_the_file_is_known_before_training(self, step: Technique, model: str) -> None:
        """Candidates are rejected by the size of their untrained structure."""
        found = _done(step, model)
        if found is None or step.kind != "train":
            return
        size, before = len(found.file), len(untrained_file(step, model))
        assert 0.8 < size / before < 1.25, (
            f"the file has {before} bytes before training, from `untrained`, and {size} after it: let untrained do to "
            "weights what the end of training does"
        )


def _done(step: Technique, model: str) -> Work | None:
    """The step's work on the model; None when it refused, after a look at what it said."""
    found = work(step, model)
    if isinstance(found, Work):
        return found
    text = str(found)
    assert step.technique in text, "a refusal names the technique"
    assert ":" in text or ";" in text, "a refusal says what to do, after a colon"
    assert "Traceback" not in text, "a refusal is one sentence for users"
    return None


def _settings_of(step: Technique) -> list[dict[str, Any]]:
    """The step's own, the defaults, and every end and choice of the ranges that a search uses, one at a time."""
    found: list[dict[str, Any]] = [step.model_dump(mode="json"), {}]
    for key, field in type(step).model_fields.items():
        for extra in field.metadata:
            if isinstance(extra, Range):
                found += [{key: extra.low}, {key: extra.high}]
            elif isinstance(extra, Choice):
                found += [{key: value} for value in extra.values]
    return found
