"""Pruning of single weights against numpy, torch's own pruning, brute force, and the file that comes of it."""

import copy
import functools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain import plain_baseline, plain_task, trial_spec
from pydantic import ValidationError
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.utils import prune

from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.packing import pack
from autocompress.artifacts.runtime import Model
from autocompress.data import batches
from autocompress.errors import ConfigError, TechniqueError
from autocompress.outcome import Candidate, Failed
from autocompress.tasks import Classification
from autocompress.techniques import Context, Decision, expanded, recipe_from_data, recipe_from_yaml
from autocompress.techniques.factorization.svd import Svd
from autocompress.techniques.masks import prunable, unpack_mask
from autocompress.techniques.pruning import _weight_scores as weight_scores
from autocompress.techniques.pruning.channel_pruning import ChannelPruning
from autocompress.techniques.pruning.weight_pruning import WeightPruning
from autocompress.techniques.sensitivity import strongest
from autocompress.testing.models import Mlp, Plain, make_task, seeded
from autocompress.testing.work import context_of, example_of, exported_of, teacher_of
from autocompress.trial.stages import rebuild
from autocompress.trial.trial import prepare
from autocompress.wording import decision_lines

IMPORTANCES = ("magnitude", "gradient", "random", "integrated_gradients")


def pruned(step: WeightPruning, model: str = "plain", seed: int = 7) -> tuple[nn.Module, Decision]:
    """A trained model after the step, and the decision."""
    found = copy.deepcopy(teacher_of(model))
    decision = step.decide(found, context_of(model, seed))
    return step.apply(found, decision), decision


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in prunable(model).items()}


def zeros(model: nn.Module) -> int:
    return sum(int((weight == 0).sum()) for weight in weights_of(model).values())


# What goes


@pytest.mark.parametrize("model", ["plain", "residual", "two_names"])
@pytest.mark.parametrize("ratio", [0.5, 0.83])
def test_global_magnitude_is_one_threshold_over_all_weights(model: str, ratio: float) -> None:
    after, _ = pruned(WeightPruning(ratio=ratio), model)
    before = weights_of(teacher_of(model))
    everything = np.concatenate([weight.abs().numpy().ravel() for weight in before.values()])
    count = round(ratio * everything.size)
    threshold = np.partition(everything, count)[count]  # the smallest that stays
    assert zeros(after) == count
    for name, weight in weights_of(after).items():
        assert torch.equal(weight, torch.where(before[name].abs() >= threshold, before[name], 0.0))


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_same_weights_go_as_in_torchs_own_pruning(scope: str) -> None:
    after, _ = pruned(WeightPruning(ratio=0.7, scope=scope))
    expected = copy.deepcopy(teacher_of("plain"))
    layers = [(module, "weight") for module in expected.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if scope == "global":
        prune.global_unstructured(layers, prune.L1Unstructured, amount=0.7)
    for module, name in layers:
        if scope == "layer":
            prune.l1_unstructured(module, name, amount=0.7)
        prune.remove(module, name)
    for name, weight in weights_of(after).items():
        assert torch.equal(weight, expected.get_parameter(name))


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_a_pruned_model_computes_what_a_masked_copy_computes(importance: str) -> None:
    after, decision = pruned(WeightPruning(ratio=0.6, importance=importance))
    masked = copy.deepcopy(teacher_of("plain"))
    with torch.no_grad():
        for name, text in decision["masks"].items():
            weight = masked.get_parameter(name)
            weight.masked_fill_(~unpack_mask(text, weight.shape), 0.0)
        assert zeros(masked) == round(0.6 * sum(weight.numel() for weight in weights_of(masked).values()))
        assert torch.equal(after(*example_of("plain")), masked(*example_of("plain")))
    assert not any(bool((torch.signbit(w) & (w == 0)).any()) for w in weights_of(after).values())


def test_biases_and_norms_stay() -> None:
    after, _ = pruned(WeightPruning(ratio=0.9), "residual")
    for name, parameter in teacher_of("residual").named_parameters():
        if parameter.dim() < 2:
            assert torch.equal(after.get_parameter(name), parameter)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_zeros_that_were_there_stay_and_count(importance: str) -> None:
    first, _ = pruned(WeightPruning(ratio=0.5, importance="random"))
    gone = {name: weight == 0 for name, weight in weights_of(first).items()}
    step = WeightPruning(ratio=0.8, importance=importance)
    second = step.apply(copy.deepcopy(first), step.decide(first, context_of("plain", seed=8)))
    assert all(bool((weight[gone[name]] == 0).all()) for name, weight in weights_of(second).items())
    assert zeros(second) == round(0.8 * sum(weight.numel() for weight in gone.values()))


def test_a_ratio_that_is_reached_already_takes_nothing_more() -> None:
    first, _ = pruned(WeightPruning(ratio=0.8))
    step = WeightPruning(ratio=0.6)
    again = step.apply(copy.deepcopy(first), step.decide(first, context_of("plain")))
    assert all(torch.equal(weight, weights_of(first)[name]) for name, weight in weights_of(again).items())


def test_no_layer_loses_more_than_the_floor_allows() -> None:
    model = seeded(Plain)
    with torch.no_grad():
        model.fc1.weight.mul_(1e-4)  # all of it lies below every other weight
    context = Context(make_task(Plain), model, 0)
    sizes = {"conv1": 432, "conv2": 3456, "fc1": 3072, "fc2": 128}
    for floor in (0.98, 0.7):
        step = WeightPruning(ratio=0.6, max_ratio=floor)
        after = step.apply(copy.deepcopy(model), step.decide(model, context))
        assert int((after.fc1.weight == 0).sum()) == int(floor * sizes["fc1"])
        assert zeros(after) == round(0.6 * sum(sizes.values()))
    strict = WeightPruning(ratio=0.99)  # asked for by the user: the floor gives way
    assert zeros(strict.apply(model, strict.decide(model, context))) >= 0.989 * sum(sizes.values())
    assert all(bool((weight != 0).any()) for weight in weights_of(model).values())


def test_layers_to_keep_are_left_alone() -> None:
    after, decision = pruned(WeightPruning(ratio=0.9, keep=["conv1", "fc2.weight"]))
    assert list(decision["masks"]) == ["conv2.weight", "fc1.weight"]
    assert zeros(after) == round(0.9 * (3456 + 3072))
    assert torch.equal(after.conv1.weight, teacher_of("plain").conv1.weight)


def test_a_decision_reads_layer_by_layer() -> None:
    _, decision = pruned(WeightPruning(ratio=0.5, scope="layer"))
    assert decision_lines(decision) == [
        "layers conv1: 216 of 432 weights are zero (50%)",
        "layers conv2: 1,728 of 3,456 weights are zero (50%)",
        "layers fc1: 1,536 of 3,072 weights are zero (50%)",
        "layers fc2: 64 of 128 weights are zero (50%)",
    ]


# What weights are worth


def tiny() -> tuple[nn.Module, Context]:
    """A network of 3 * 6 + 6 * 4 weights and sixteen examples, one batch of gradients."""
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn((16, 3), generator=generator), torch.arange(16) % 4
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).eval()
    split = inputs, targets
    return model, Context(Classification(lambda: copy.deepcopy(model), split, split, split), model, 0)


def test_taylor_ranks_weights_as_removing_each_of_them_does() -> None:
    model, context = tiny()
    inputs, targets = context.task.train  # type: ignore[attr-defined]
    names = list(prunable(model))
    scores = weight_scores.taylor(model, names, context, 16)
    estimated, measured = [], []
    with torch.no_grad():
        whole = context.task.loss(model(inputs), targets)
        for name in names:
            for index, score in enumerate(scores[name].flatten()):
                work = copy.deepcopy(model)
                work.get_parameter(name).view(-1)[index] = 0
                measured.append(abs(float(context.task.loss(work(inputs), targets) - whole)))
                estimated.append(float(score))
    assert spearmanr(estimated, measured).statistic > 0.9
    magnitudes = np.concatenate([s.numpy().ravel() for s in weight_scores.magnitude(model, names).values()])
    assert spearmanr(magnitudes, measured).statistic < spearmanr(estimated, measured).statistic


def test_taylor_is_the_weight_times_its_gradient_by_hand() -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0, -3.0]]))

    class Squares(Classification):
        def loss(self, output: Tensor, target: Tensor) -> Tensor:
            return (output[:, 0] - target).square().mean()

    split = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    context = Context(Squares(lambda: model, split, split, split), model, 0)
    # Errors are 2 and -3; the gradient is the mean of 2 * error * input: (2, -3).
    scores = weight_scores.taylor(model, ["0.weight"], context, 2)
    assert scores["0.weight"].tolist() == [[4.0, 9.0]]


def test_integrated_gradients_of_the_last_layer_by_hand() -> None:
    """Along a straight path a linear function has one gradient: the change of each output times its direction."""
    model, context = tiny()
    scores, plain = weight_scores.attributed(model, list(prunable(model)), context)
    assert plain == []
    inputs, targets = context.task.train  # type: ignore[attr-defined]
    with torch.no_grad():
        outputs, nothing = model(inputs), model(torch.zeros_like(inputs))
        away = nn.functional.one_hot(targets, 4) - outputs.softmax(1)  # the slope of cross-entropy, downwards
        direction = away / away.norm(dim=1, keepdim=True)
        counts = (direction * (outputs - nothing)).abs().mean(0)
        weight = model[2].weight
        expected = weight.abs() * (counts / counts.mean())[:, None]
    torch.testing.assert_close(scores["2.weight"], expected, rtol=1e-3, atol=1e-5)


def test_integrated_gradients_give_nothing_to_units_that_nothing_listens_to() -> None:
    model, context = tiny()
    with torch.no_grad():
        model[2].weight[:, [1, 4]] = 0
        model[0].weight[[1, 4]] *= 100  # however large they are
    scores, _ = weight_scores.attributed(model, ["0.weight"], context)
    assert [unit for unit, row in enumerate(scores["0.weight"]) if float(row.max()) == 0] == [1, 4]


def test_layers_without_output_units_of_their_own_rank_by_magnitude_and_are_named() -> None:
    _, decision = pruned(WeightPruning(importance="integrated_gradients"), "called_twice")
    assert decision["by magnitude alone"] == ["again"]


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_the_same_seed_gives_the_same_masks(importance: str) -> None:
    step = WeightPruning(importance=importance, examples=32)
    first, second, other = (pruned(step, "plain", seed)[1]["masks"] for seed in (3, 3, 4))
    assert first == second
    assert (other == first) == (importance == "magnitude")


def test_every_importance_beats_chance() -> None:
    """Share 0.6 goes from a trained model; the loss afterwards is the least that an importance is good for."""
    model, context = teacher_of("mlp"), context_of("mlp")
    batch = next(batches(context.task.split("validation"), 1000))

    def loss(importance: str, seed: int = 7) -> float:
        step = WeightPruning(ratio=0.85, importance=importance)
        work = step.apply(copy.deepcopy(model), step.decide(model, replace(context, seed=seed)))
        with torch.no_grad():
            return float(context.task.loss(work(*batch.inputs), batch.targets))

    chance = np.mean([loss("random", seed) for seed in range(5)])
    assert all(loss(importance) < chance for importance in ("magnitude", "gradient", "integrated_gradients"))


# Ratios by sensitivity


def test_auto_takes_from_each_layer_what_its_scan_allows() -> None:
    context = context_of("plain")
    step = WeightPruning(ratio="auto", tolerance=0.1)
    decision = step.decide(context.teacher, context)
    (curves,) = (value for value in context.cache.values() if isinstance(value, dict))
    assert list(curves) == ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"]
    after = step.apply(copy.deepcopy(teacher_of("plain")), decision)
    for name, weight in weights_of(after).items():
        assert int((weight == 0).sum()) == round(strongest(curves[name], 0.1) * weight.numel())


def test_a_layer_alone_loses_about_its_tolerance() -> None:
    context = context_of("plain")
    batch = next(replace(context, seed=0).sample(128, 128))
    after, decision = pruned(WeightPruning(ratio="auto", tolerance=0.1))

    def loss(model: nn.Module, roll: int = 0) -> float:
        with torch.no_grad():
            return float(context.task.loss(model(*batch.inputs).roll(roll, 0), batch.targets))

    whole, chance = loss(context.teacher), loss(context.teacher, len(batch.targets) // 2)
    for name in decision["masks"]:
        alone = copy.deepcopy(teacher_of("plain"))
        alone.get_parameter(name).data.copy_(after.get_parameter(name))
        # Between the strengths of the scan the loss is taken for a line, and it bends upwards.
        assert (loss(alone) - whole) / (chance - whole) < 0.13


def test_more_tolerance_takes_more() -> None:
    counts = [zeros(pruned(WeightPruning(ratio="auto", tolerance=tolerance))[0]) for tolerance in (0.02, 0.1, 0.4)]
    assert counts == sorted(counts)
    assert len(set(counts)) == 3


def test_a_scan_is_kept_for_later_trials(tmp_path: Path) -> None:
    step = WeightPruning(ratio="auto", importance="gradient", examples=32)
    first = replace(context_of("plain", seed=1), folder=tmp_path)
    decision = step.decide(teacher_of("plain"), first)
    assert len(list(tmp_path.iterdir())) == 1
    second = replace(context_of("plain", seed=1), folder=tmp_path)
    second.teacher.forward = None  # type: ignore[method-assign,assignment]
    assert step.decide(teacher_of("plain"), second) == decision


def test_a_scan_does_not_depend_on_which_trial_came_first() -> None:
    task = make_task(Plain, examples=512)  # more than a scan looks at, so that a seed chooses
    contexts = [Context(task, teacher_of("plain"), seed) for seed in (1, 2)]
    for context in contexts:
        WeightPruning(ratio="auto").decide(context.teacher, context)
    assert contexts[0].cache == contexts[1].cache != {}


def test_layers_that_the_uncompressed_model_does_not_have_are_scanned_themselves() -> None:
    context, model = context_of("plain"), copy.deepcopy(teacher_of("plain"))
    factorize = Svd(energy=0.7)
    model = factorize.apply(model, factorize.decide(model, context))
    step = WeightPruning(ratio="auto", tolerance=0.1)
    after = step.apply(copy.deepcopy(model), step.decide(model, context))
    assert zeros(after) > 0
    assert context.cache == {}  # the scan belongs to this trial alone


# Cycles


def test_cycles_prune_in_turns_with_training_up_to_the_ratio() -> None:
    step = WeightPruning(ratio=0.8, cycles=4, schedule="linear", epochs=3, learning_rate=0.01)
    rows = step.expand()
    training = {"technique": "finetune", "epochs": 3, "learning_rate": 0.01, "rewind": False}
    assert rows[1::2] == [training] * 3
    assert [row["ratio"] for row in rows[::2]] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert all(row["cycles"] == 1 for row in rows[::2])
    cubic = [row["ratio"] for row in step.model_copy(update={"schedule": "cubic"}).expand()[::2]]
    assert cubic == pytest.approx([0.8 * (1 - 0.75**3), 0.8 * (1 - 0.5**3), 0.8 * (1 - 0.25**3), 0.8])


def test_one_cycle_is_the_step_itself() -> None:
    for step in (WeightPruning(ratio=0.8), WeightPruning(ratio="auto", tolerance=0.2)):
        assert step.expand() == [step.to_data()]


def test_cycles_of_auto_raise_the_tolerance() -> None:
    rows = WeightPruning(ratio="auto", tolerance=0.2, cycles=2, schedule="linear").expand()
    assert [(row["ratio"], row["tolerance"]) for row in rows[::2]] == [("auto", 0.1), ("auto", 0.2)]


def test_steps_in_cycles_stay_as_they_are_when_a_recipe_is_expanded_again() -> None:
    recipe = recipe_from_data({"version": 1, "steps": [WeightPruning(cycles=3, rewind=True).to_data()]})
    once = expanded(recipe)
    assert [step.technique for step in once.steps] == ["weight_pruning", "finetune"] * 3
    assert expanded(once) == once


# Trials


PRUNE = {"technique": "weight_pruning", "ratio": 0.8}
TRAIN = {"technique": "finetune", "epochs": 2, "batch_size": 16}


@functools.cache
def _made(text: str) -> Candidate:
    candidate = prepare(trial_spec(*json.loads(text)), plain_baseline())
    assert isinstance(candidate, Candidate), candidate
    return candidate


def made(*steps: Any) -> Candidate:
    """What comes of a trial, carried out once."""
    return _made(json.dumps(steps))


def rebuilt(candidate: Candidate, *steps: Any) -> nn.Module:
    recipe = expanded(recipe_from_data({"version": 1, "steps": list(steps)}))
    return rebuild(seeded(Plain, 9), recipe, candidate.decisions, candidate.weights)


def outside(model: nn.Module, decision: Decision) -> bool:
    """Whether exactly the weights outside the masks are zero."""
    return all(
        torch.equal(weight != 0, unpack_mask(decision["masks"][name], weight.shape))
        for name, weight in weights_of(model).items()
    )


def test_training_after_pruning_holds_the_zeros() -> None:
    candidate = made(PRUNE, TRAIN)
    model = rebuilt(candidate, PRUNE, TRAIN)
    assert outside(model, candidate.decisions[0])
    before = made(PRUNE)
    assert not torch.equal(model.conv1.weight, rebuilt(before, PRUNE).conv1.weight)  # the others were trained


def test_lottery_tickets_train_early_weights_under_the_masks_of_every_cycle() -> None:
    step = {**PRUNE, "cycles": 2, "rewind": True, "epochs": 2}
    candidate = made(step)
    first, _, last, _ = candidate.decisions
    model = rebuilt(candidate, step)
    assert outside(model, last)
    assert zeros(model) == round(0.8 * (432 + 3456 + 3072 + 128))
    for name, text in first["masks"].items():  # what a cycle takes never comes back
        weight = model.get_parameter(name)
        assert not bool((weight != 0)[~unpack_mask(text, weight.shape)].any())
    assert zeros(model) > sum(
        int((~unpack_mask(t, model.get_parameter(n).shape)).sum()) for n, t in first["masks"].items()
    )
    assert candidate.metrics["accuracy"] > 0.5
    plain = {**PRUNE, "cycles": 2, "epochs": 2}
    assert [len(made(recipe).decisions) for recipe in (step, plain)] == [4, 3]


@pytest.mark.parametrize("ratio", [0.5, 0.8, 0.95])
def test_the_file_shrinks_by_the_zeros_less_a_bit_a_weight(ratio: float) -> None:
    candidate = made({**PRUNE, "ratio": ratio})
    weights = 432 + 3456 + 3072 + 128
    gone = round(ratio * weights)
    # The bound: values and a bit a weight, a kilobyte or two for the decoder, and the rest as it was.
    rest = len(plain_baseline().onnx) - 4 * weights
    assert len(candidate.onnx) < rest + 4 * (weights - gone) + weights / 8 + 2_500
    assert len(candidate.onnx) > rest + 4 * (weights - gone)
    assert candidate.metrics["nonzero_params"] <= plain_baseline().metrics["nonzero_params"] - gone + 50


def test_the_file_computes_what_the_pruned_model_computes() -> None:
    candidate = made(PRUNE, TRAIN, "int8_static")
    inputs, targets = plain_task().validation
    assert np.mean(Model(candidate.onnx)(inputs.numpy()).argmax(1) == targets.numpy()) == candidate.metrics["accuracy"]
    assert len(candidate.onnx) < len(made(TRAIN, "int8_static").onnx)


def test_a_recipe_of_zeros_and_channels_keeps_the_zeros_that_are_left() -> None:
    model, decision = pruned(WeightPruning(ratio=0.6, scope="layer"))
    cut = ChannelPruning(ratio=0.5, importance="l1", scope="layer")
    history = cut.decide(model, context_of("plain"))
    after = cut.apply(copy.deepcopy(model), history)
    gone = {i for name, outputs, where in history["history"] if name == "conv1" and outputs for i in where}
    stay = [i for i in range(16) if i not in gone]
    assert torch.equal(after.conv1.weight, model.conv1.weight[stay])
    assert int((after.conv1.weight == 0).sum()) == int((model.conv1.weight[stay] == 0).sum()) > 0
    assert decision["layers"]


# Odd layers


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(36, 24, batch_first=True)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.gru(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1])
        return output


class Tokens(nn.Module):
    """A transformer over whole numbers, with an embedding that is the output matrix as well."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1, enable_nested_tensor=False
        )
        self.tied = nn.Linear(16, 40, bias=False)
        self.tied.weight = self.embed.weight
        self.head = nn.Linear(40, 4)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.tied(self.encoder(self.embed(x)).mean(1)))
        return output


class InPlace(nn.Module):
    """Activations that overwrite what a layer gave, and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.ConvTranspose2d(8, 6, 3, stride=2), nn.ReLU(inplace=True)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("kind", [Recurrent, Tokens, InPlace])
def test_other_layers_are_pruned_too(kind: type[nn.Module], importance: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((32, 3, 12, 12), generator=generator)
    inputs = torch.randint(0, 40, (32, 10), generator=generator) if kind is Tokens else images
    split, model = (inputs, torch.arange(32) % 4), seeded(kind)
    context = Context(Classification(kind, split, split, split), copy.deepcopy(model).requires_grad_(False), 0)
    step = WeightPruning(ratio=0.7, importance=importance)
    decision = step.decide(model, context)
    after = step.apply(model, decision)
    total = sum(weight.numel() for weight in weights_of(after).values())
    assert zeros(after) == round(0.7 * total)
    if kind is Tokens:
        assert after.tied.weight is after.embed.weight
        assert "encoder.layers.0.self_attn.in_proj_weight" in decision["masks"]
    if kind is Recurrent:
        assert {"gru.weight_ih_l0", "gru.weight_hh_l0"} < decision["masks"].keys()
        dense = len(strip(export_onnx(seeded(kind), (inputs[:2],))).SerializeToString())
        assert len(strip(pack(export_onnx(after, (inputs[:2],)))).SerializeToString()) < dense


def test_no_file_is_larger_for_being_pruned_lightly() -> None:
    after, _ = pruned(WeightPruning(ratio=0.01))
    file = strip(pack(export_onnx(after, example_of("plain")))).SerializeToString()
    assert len(file) <= len(strip(exported_of("plain")).SerializeToString())


# What is refused


@pytest.mark.parametrize("ratio", [0, 1, 1.5, -0.1, "much"])
def test_a_ratio_is_a_share_or_auto(ratio: Any) -> None:
    with pytest.raises(ConfigError, match=r"steps\.0\.ratio: .*(greater than 0|less than 1|valid number)"):
        recipe_from_yaml(f"version: 1\nsteps:\n  - {{technique: weight_pruning, ratio: {ratio}}}\n")


@pytest.mark.parametrize("settings", [{"cycles": 0}, {"max_ratio": 1}, {"tolerance": 0}, {"importance": "size"}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WeightPruning.model_validate(settings)


def test_unknown_layers_are_answered_with_the_nearest() -> None:
    with pytest.raises(TechniqueError, match=r"weight_pruning: keep: 'conv11' is no layer .* did you mean 'conv1'\?"):
        pruned(WeightPruning(keep=("conv11",)))


def test_a_tolerance_that_no_layer_stands_is_said() -> None:
    context = context_of("plain")
    names = prunable(context.teacher)
    context.cache["sensitivity weight_pruning magnitude"] = {name: [[0.25, 1.0]] for name in names}
    with pytest.raises(TechniqueError, match="tolerance 1e-06 finds no layer that can lose weights: raise it"):
        WeightPruning(ratio="auto", tolerance=1e-06).decide(context.teacher, replace(context))


def test_a_loss_that_is_no_number_is_said() -> None:
    model = seeded(Mlp)
    with torch.no_grad():
        model.layers[1].bias.fill_(torch.nan)
    with pytest.raises(TechniqueError, match="gradient needs a loss that is a number, not nan: take importance magn"):
        WeightPruning(importance="gradient").decide(model, Context(make_task(Mlp), model, 0))


def test_attribution_that_no_layer_has_is_refused() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(432, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ self.weight

    model = seeded(Bare)
    with pytest.raises(TechniqueError, match="integrated_gradients finds no layer whose output units"):
        WeightPruning(importance="integrated_gradients").decide(model, Context(make_task(Bare), model, 0))


def test_a_missing_captum_is_said_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(TechniqueError, match=r"integrated_gradients needs captum: pip install 'autocompress\[attribut"):
        pruned(WeightPruning(importance="integrated_gradients"))


def test_a_model_that_captum_cannot_follow_is_refused() -> None:
    class OneByOne(nn.Module):
        """Its outputs do not grow with the batch, which integrated gradients enlarge."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(432, 4)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.layer(x.flatten(1))[:32]
            return output

    model = seeded(OneByOne)
    with pytest.raises(
        TechniqueError, match=r"integrated_gradients cannot follow this model \(.*: take importance grad"
    ):
        WeightPruning(importance="integrated_gradients").decide(model, Context(make_task(OneByOne), model, 0))


def test_a_refusal_fails_a_trial_with_its_reason() -> None:
    outcome = prepare(trial_spec({**PRUNE, "keep": ["conv9"]}), plain_baseline())
    assert isinstance(outcome, Failed)
    assert outcome.refused
    assert "did you mean 'conv" in outcome.reason
