"""Lightweight networks in the model's place: what they are made for, how they are rebuilt, what is refused."""

import copy
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from large import Large, large_baseline, trial_spec
from pydantic import ValidationError
from spaces import refused
from torch import Tensor, nn

from autocompress import Classification
from autocompress.errors import ConfigError, NothingToDo, TechniqueError
from autocompress.outcome import Candidate, Completed, Failed
from autocompress.recipe import Recipe, recipe_line
from autocompress.tasks import load_task
from autocompress.tasks.models import build_model
from autocompress.techniques import Context, recipe_from_data
from autocompress.techniques.students._networks import NETWORKS
from autocompress.techniques.students.architecture import Architecture, Network
from autocompress.testing import own_models
from autocompress.testing.models import make_task, seeded
from autocompress.testing.work import context_of, teacher_of
from autocompress.trial import trial
from autocompress.trial.run import Run
from autocompress.trial.stages import pack_weights, rebuild
from autocompress.trial.worker import Clock

STUDENT = {"technique": "architecture", "network": "squeezenet", "width": 0.1}
TRAINED = {"technique": "distill", "epochs": 2, "learning_rate": 0.005, "batch_size": 16}


def context_for(model: nn.Module, shape: tuple[int, ...], seed: int = 0) -> Context:
    data = (torch.randn((8, *shape), generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4)
    return Context(Classification(lambda: model, data, data, data, None), model.eval(), seed)


def decided(step: Architecture, shape: tuple[int, ...] = (3, 12, 12), **more: Any) -> tuple[dict[str, Any], nn.Module]:
    """The decision on a large model of such images, and the network that comes of it."""
    model = Large(shape, **more)
    decision = step.decide(model, context_for(model, shape))
    return decision, step.apply(copy.deepcopy(model), json.loads(json.dumps(decision)))


def test_the_same_seed_makes_the_same_weights_and_another_one_others() -> None:
    step, model = Architecture(network="squeezenext", width=0.25), Large()
    decisions = [step.decide(model, context_for(model, (3, 12, 12), seed)) for seed in (1, 1, 2)]
    first, second, third = (pack_weights(step.apply(model, decision)) for decision in decisions)
    assert decisions[0] == decisions[1]
    assert first == second
    assert first != third


@pytest.mark.parametrize("step", [Architecture(), Architecture(network="shufflenet_v2", width=0.1)])
def test_random_numbers_elsewhere_go_on_as_if_nothing_had_been_made(step: Architecture) -> None:
    model = Large()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    step.apply(model, step.decide(model, context_for(model, (3, 12, 12))))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(("flat", "outputs", "shape"), [(False, 1, (2, 1)), (False, 3, (2, 3)), (True, 1, (2,))])
def test_outputs_have_the_shape_of_the_models(flat: bool, outputs: int, shape: tuple[int, ...]) -> None:
    _, network = decided(Architecture(network="mobilenet_v1", width=0.05), flat=flat, outputs=outputs)
    with torch.no_grad():
        assert network(torch.randn(2, 3, 12, 12)).shape == shape
    assert not network.training


def test_a_resolution_below_one_makes_the_network_see_smaller_images() -> None:
    step = Architecture(network="mobilenet_v1", width=0.1, resolution=0.5)
    decision, network = decided(step, (1, 40, 60))
    seen = []
    network.network.features[0].register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))  # type: ignore[union-attr]
    with torch.no_grad():
        images = torch.randn(2, 1, 40, 60)
        network(images)
        # Between four pixels in the middle, each counts as much.
        assert torch.allclose(network.resized(images), nn.functional.avg_pool2d(images, 2), atol=1e-6)
    assert decision["side"] == 20
    assert seen == [(2, 1, 20, 30)]


def test_a_trial_with_a_student_runs_from_end_to_end_and_repeats() -> None:
    spec = trial_spec(STUDENT, TRAINED, {"technique": "low_bit", "bits": 6})
    candidate = trial.prepare(spec, large_baseline())
    assert isinstance(candidate, Candidate), candidate
    result = trial.measure(candidate, spec, large_baseline())
    assert isinstance(result, Completed)
    assert result.metrics["size_bytes"] < large_baseline().metrics["size_bytes"]
    again = trial.prepare(spec, large_baseline())
    assert isinstance(again, Candidate)
    assert again.onnx == candidate.onnx
    module = rebuild(_model(), Recipe(recipe_from_data(spec.recipe).steps), candidate.decisions, candidate.weights)
    assert pack_weights(module) == candidate.weights


def _model() -> nn.Module:
    """The task's model, with other weights than the baseline's."""
    return build_model(load_task(trial_spec().task), 5)


@pytest.mark.parametrize("student", [STUDENT, {"technique": "architecture", "width": 0.5}])
def test_a_trained_student_is_rebuilt_from_the_cache_to_the_last_bit(student: dict[str, Any], tmp_path: Any) -> None:
    spec = trial_spec(student, TRAINED, cache=str(tmp_path))
    made = Run.start(spec, large_baseline())
    while (index := made.next_step()) is not None:
        made.step(index, Clock())
    restored = Run.start(spec, large_baseline())
    assert len(restored.decisions) == 2
    assert pack_weights(restored.model) == pack_weights(made.model)
    example = next(iter(load_task(spec.task).split("validation")))[0][None]
    with torch.no_grad():
        assert torch.equal(restored.model(example), made.model(example))


def test_an_untrained_student_is_not_screened_for_collapse_and_a_pruned_one_is_not_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("autocompress.trial.run.find_collapse", lambda *_: "collapsed")
    pruned = {"technique": "channel_pruning", "ratio": 0.3, "importance": "l1", "scope": "layer"}
    kept = [trial_spec(STUDENT, TRAINED), trial_spec(STUDENT, pruned, TRAINED)]
    screened = [trial_spec(pruned, TRAINED), trial_spec(STUDENT, TRAINED, pruned, TRAINED)]
    for spec in (*kept, *screened):
        run, collapses = Run.start(spec, large_baseline()), []
        while (index := run.next_step()) is not None:
            collapses.append(run.screen(index, Clock()) is not None)
            run.step(index, Clock(), train=False)
        assert any(collapses) == (spec in screened)


def test_rewinding_is_refused_after_another_architecture() -> None:
    found = trial.prepare(trial_spec(STUDENT, {"technique": "finetune", "rewind": True, "epochs": 1}), large_baseline())
    assert isinstance(found, Failed)
    assert "finetune with rewind" in found.reason
    assert "put another network in the model's place" in found.reason


def test_layers_of_later_steps_are_those_of_the_student() -> None:
    def pruned(layer: str) -> Any:
        step = {"technique": "weight_pruning", "ratio": 0.5, "layers": [layer]}
        return trial.prepare(trial_spec(STUDENT, step), large_baseline())

    found = pruned("features.0")
    assert isinstance(found, Candidate), found
    assert list(found.decisions[1]["layers"]) == ["features.0"]
    old = pruned("hidden")
    assert isinstance(old, Failed)
    assert "layers: 'hidden' is no layer of this model" in old.reason


@pytest.mark.parametrize("step", [
    {"technique": "channel_pruning", "ratio": "auto", "tolerance": 0.3},
    {"technique": "weight_pruning", "ratio": "auto", "tolerance": 0.3},
])  # fmt: skip
def test_a_scan_of_sensitivity_is_of_the_student(step: dict[str, Any]) -> None:
    found = trial.prepare(trial_spec(STUDENT, TRAINED, step), large_baseline())
    assert isinstance(found, Candidate), found
    assert any("features" in name for name in found.decisions[2]["layers"])


@pytest.mark.parametrize(("settings", "says"), [
    ({"network": "mobilenet_v22"}, r"no network 'mobilenet_v22'; did you mean 'mobilenet_v2'\?"),
    ({"network": "resnet50"}, "no network 'resnet50'"),
    ({"network": "mobilenet_v2", "depth": 0.5}, "mobilenet_v2 has no depth: leave it out, or take squeezenext"),
    ({"width": 0}, "greater than 0"),
])  # fmt: skip
def test_settings_that_no_network_has_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Architecture(**settings)
    with pytest.raises(ConfigError, match=f"architecture|{says}"):
        recipe_from_data({"version": 1, "steps": [{"technique": "architecture", **settings}]})


def test_a_search_space_with_a_network_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    steps = "[{technique: architecture, network: [squeezenet, shufflenet_v3]}]"
    message = refused(tmp_path, f"version: 1\nsteps: {steps}\n")
    assert "no network 'shufflenet_v3'; did you mean 'shufflenet_v" in message


def test_a_line_says_which_network_and_how_wide() -> None:
    rows = [{"network": "squeezenext", "depth": 0.5}, {"width": 0.25}]
    recipe = recipe_from_data({"version": 1, "steps": [{"technique": "architecture", **row} for row in rows]})
    shown = "architecture(squeezenext, width 0.5, depth 0.5) > architecture(smaller, width 0.25)"
    assert recipe_line(recipe.to_data()) == shown


@pytest.mark.parametrize("settings", [{"width": 1.5}, {"depth": 2}, {"resolution": 0.5}])
def test_a_smaller_network_is_no_larger_and_sees_what_the_model_sees(settings: dict[str, float]) -> None:
    with pytest.raises(TechniqueError, match="smaller takes a width and a depth of at most 1, and no resolution"):
        Architecture(**settings).decide(teacher_of("plain"), context_of("plain"))


def test_every_network_can_be_named() -> None:
    assert set(get_args(Network)) == {*NETWORKS, "smaller"}


LIGHT = Architecture(network="mobilenet_v2", width=0.1)


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(TechniqueError, match=r"mobilenet_v2 needs images of 8x8 pixels or more.* 7 of 7x9"):
        decided(LIGHT, (1, 7, 9))
    with pytest.raises(TechniqueError, match=r"shorter side of 6 of 12x12.*higher resolution"):
        decided(Architecture(network="mobilenet_v2", width=0.1, resolution=0.5))


def test_models_of_other_inputs_or_outputs_are_refused() -> None:
    with pytest.raises(TechniqueError, match="takes 2 inputs, and lightweight networks one"):
        LIGHT.decide(teacher_of("sentences"), context_of("sentences"))
    with pytest.raises(TechniqueError, match=r"inputs have the shape \(2, 10, 6\): take network: smaller"):
        LIGHT.decide(teacher_of("recurrent"), context_of("recurrent"))
    pixels = nn.Conv2d(3, 4, 3, padding=1)
    with pytest.raises(TechniqueError, match=r"this model's have the shape \(2, 4, 12, 12\)"):
        LIGHT.decide(pixels, context_for(pixels, (3, 12, 12)))


def test_a_network_that_is_no_smaller_than_the_model_is_left_out() -> None:
    with pytest.raises(NothingToDo, match="mobilenet_v2 at width 1 has 2,228,996 parameters, no fewer"):
        Architecture(network="mobilenet_v2", width=1).decide(teacher_of("plain"), context_of("plain"))


def test_a_smaller_recurrent_network_has_fewer_units_and_layers_that_fit_them() -> None:
    step = Architecture(width=0.25)
    decision = step.decide(teacher_of("recurrent"), context_of("recurrent"))
    assert decision["layers"] == {"memory": [6, 6], "head": [6, 4]}  # of 24 units
    made = step.apply(copy.deepcopy(teacher_of("recurrent")), decision)
    assert isinstance(made.memory, nn.LSTM)
    # Four gates of 6 units, each with 6 inputs, 6 states and two biases; and the layer behind them.
    assert sum(parameter.numel() for parameter in made.parameters()) == 4 * 6 * (6 + 6 + 2) + (6 + 1) * 4


def test_a_smaller_convolutional_network_fits_norms_branches_and_groups() -> None:
    found = {
        name: Architecture().decide(teacher_of(name), context_of(name))["layers"]
        for name in ("concat", "grouped", "signals", "unet")
    }
    assert found["concat"] == {"left": [3, 8], "right": [3, 4], "mix": [12, 12], "head": [24, 4]}
    assert found["grouped"] == {
        "stem": [3, 8], "depthwise": [8, 8], "pointwise": [8, 16], "grouped": [16, 16], "head": [16, 4],
    }  # fmt: skip
    assert found["signals"]["layers.1"] == [8, 8]
    assert found["unet"]["join"] == [12, 8]


class Stack(nn.Module):
    """Six layers of a transformer over a series."""

    def __init__(self, layers: int = 6) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("depth", "kept"), [(0.5, [0, 2, 5]), (0.34, [0, 5]), (0.1, [0]), (0.84, [0, 1, 2, 4, 5])])
def test_a_smaller_transformer_keeps_layers_of_the_model_with_their_weights(depth: float, kept: list[int]) -> None:
    model = seeded(Stack)
    for place, layer in enumerate(model.encoder.layers):  # type: ignore[union-attr, arg-type]
        nn.init.constant_(layer.norm1.weight, place)
    step = Architecture(width=1, depth=depth)
    decision = step.decide(model, context_for(model, (10, 6)))
    assert decision["blocks"] == {"encoder.layers": kept}
    made = step.apply(copy.deepcopy(model), decision)
    assert [int(layer.norm1.weight[0]) for layer in made.encoder.layers] == kept  # type: ignore[union-attr]
    before, after = model.state_dict(), made.state_dict()
    for place, was in enumerate(kept):
        prefix = f"encoder.layers.{place}."
        for name in (name for name in after if name.startswith(prefix)):
            assert torch.equal(after[name], before[name.replace(prefix, f"encoder.layers.{was}.")])


def test_what_of_a_smaller_network_cannot_be_is_said() -> None:
    model = seeded(Stack)
    decision = Architecture(width=0.5, depth=0.5).decide(model, context_for(model, (10, 6)))
    assert decision["blocks"]
    assert "its layers cannot be narrower together" in decision["skipped"]["width"]
    with pytest.raises(NothingToDo, match="the model has no row of alike blocks: set width or depth below 1"):
        Architecture(width=1, depth=0.5).decide(teacher_of("plain"), context_of("plain"))
    with pytest.raises(NothingToDo, match="width and depth leave all as it is"):
        Architecture(width=1).decide(teacher_of("plain"), context_of("plain"))


@pytest.mark.parametrize("name", list(own_models.OWN))
def test_models_as_people_have_them_become_smaller_or_are_refused(name: str) -> None:
    task = make_task(own_models.OWN[name])
    model = build_model(task, 0).eval()
    context, step = Context(task, copy.deepcopy(model), 0), Architecture()
    try:
        made = step.apply(model, step.decide(model, context))
    except TechniqueError:
        assert name in ("sentences", "attending", "tied")
        return
    with torch.no_grad():
        assert made(*context.example).shape == context.teacher(*context.example).shape
