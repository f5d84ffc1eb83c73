"""The rules by which all factorizations choose ranks, and which layers they leave whole."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress import Classification
from autocompress.errors import TechniqueError
from autocompress.techniques import Context, registry
from autocompress.techniques.factorization._ranks import Candidate, Factorization
from autocompress.techniques.factorization.svd import Svd
from autocompress.techniques.factorization.tucker import Tucker
from autocompress.techniques.layers import shrinks
from autocompress.techniques.sensitivity import scan, strongest
from autocompress.testing.models import SHAPE, Mlp, Plain, make_task, seeded
from autocompress.testing.work import context_of, teacher_of

ALL = ["svd", "tucker", "cp", "tensor_train", "kronecker"]


def context_for(model: nn.Module) -> Context:
    return Context(make_task(lambda: model), copy.deepcopy(model).requires_grad_(False), 0)


def step_of(name: str, **settings: Any) -> Any:
    """A factorization; the number of Kronecker terms is left to the rule."""
    return registry()[name](**settings, **({"terms": None} if name == "kronecker" else {}))


def candidates(step: Factorization, model: nn.Module) -> dict[str, Candidate]:
    """Every layer that a step can factorize."""
    found = {name: (module, step.unfold(module)) for name, module in model.named_modules()}
    return {name: Candidate(name, module, u) for name, (module, u) in found.items() if u is not None}


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("name", ALL)
def test_params_comes_to_within_one_rank_of_the_share_of_weights(name: str, keep: float) -> None:
    model = seeded(Plain)
    step = step_of(name, rank="params", keep=keep)
    decision = step.decide(model, context_for(model))
    layers = candidates(step, model)
    total = sum(layer.weights for layer in layers.values())
    small = step.apply(copy.deepcopy(model), decision)
    biases = sum(p.numel() for n, p in model.named_parameters() if n.endswith("bias"))
    others = sum(p.numel() for p in model.parameters()) - total - biases
    held = sum(p.numel() for p in small.parameters()) - biases - others
    assert held <= keep * total
    # One rank more in every layer would be past it: of a layer that is left whole, all of it.
    ranks = {n: [r + 1 for r in (v if isinstance(v, list) else [v])] for n, v in decision["ranks"].items()}
    more = sum(
        min(layer.unfolded.held(ranks[n]), layer.weights) if n in ranks else layer.weights
        for n, layer in layers.items()
    )
    assert more > keep * total


def test_params_takes_one_energy_for_all_layers() -> None:
    model = seeded(Mlp)
    decision = Svd(rank="params", keep=0.4).decide(model, context_for(model))
    shares = []
    for name, rank in decision["ranks"].items():
        squares = np.linalg.svd(model.get_submodule(name).weight.detach().numpy(), compute_uv=False) ** 2
        shares.append((squares[: rank - 1].sum() / squares.sum(), squares[:rank].sum() / squares.sum()))
    assert max(low for low, _ in shares) <= min(high for _, high in shares) + 1e-6


@pytest.mark.parametrize("name", ALL)
def test_params_below_what_rank_one_holds_is_refused_with_the_least(name: str) -> None:
    model = seeded(Plain)
    with pytest.raises(TechniqueError, match=rf"{name} cannot keep a share of 0.001 .* they hold 0\.\d+; raise keep"):
        step_of(name, rank="params", keep=0.001).decide(model, context_for(model))


def planted() -> nn.Module:
    """A model whose first linear layer is a matrix of rank 3 and noise, and whose others are noise."""
    model = seeded(Mlp)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for index in (1, 3, 5):
            model.layers[index].weight.normal_(0, 0.1, generator=generator)
        model.layers[1].weight += torch.randn(48, 3, generator=generator) @ torch.randn(3, 432, generator=generator)
    return model


def test_vbmf_finds_the_planted_rank_and_leaves_noise_alone() -> None:
    model = planted()
    decision = Svd(rank="vbmf").decide(model, context_for(model))
    assert decision["ranks"] == {"layers.1": 3}
    assert decision["skipped"]["layers.3"] == "vbmf finds nothing in it that stands out of noise"


def test_vbmf_chooses_both_ranks_of_a_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    left, core, right = (torch.randn(s, generator=generator) for s in ((24, 3), (3, 2, 3, 3), (2, 16)))
    model = seeded(Plain)
    with torch.no_grad():
        model.conv2.weight.copy_(torch.einsum("or,rshw,si->oihw", left, core, right))
        model.conv2.weight += 0.1 * torch.randn((24, 16, 3, 3), generator=generator)
    assert Tucker(rank="vbmf").decide(model, context_for(model))["ranks"]["conv2"] == [3, 2]


@pytest.mark.parametrize("name", ALL)
def test_sensitivity_cuts_each_layer_as_far_as_its_curve_allows(name: str) -> None:
    model = copy.deepcopy(teacher_of("plain"))
    context = context_of("plain")
    step = step_of(name, rank="sensitivity", tolerance=0.4)
    curves: dict[str, Any] = {}
    context.cache = Recording(curves)
    decision = step.decide(model, context)
    for layer, candidate in candidates(step, model).items():
        kept = 1 - strongest(curves[layer], 0.4)
        expected = [max(1, round(kept * limit)) for limit in candidate.unfolded.limits]
        if layer in decision["ranks"]:
            found = decision["ranks"][layer]
            assert (found if isinstance(found, list) else [found]) == expected
        else:
            assert not candidate.shrinks(expected)


class Recording(dict[str, Any]):
    """A cache that copies out the curves of the scan that is stored in it."""

    def __init__(self, curves: dict[str, Any]) -> None:
        super().__init__()
        self.curves = curves

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if isinstance(value, dict):
            self.curves.update(value)


def test_the_scan_of_a_layer_measures_the_model_with_that_layer_cut() -> None:
    model = seeded(Mlp)
    context = context_for(model)
    step = Svd(rank="sensitivity")
    curve = scan(context, "by hand", ["layers.1"], step._truncate)["layers.1"]
    batch = next(context.sample(128, 128))

    def loss_of(module: nn.Module) -> float:
        with torch.no_grad():
            return float(context.task.loss(module(*batch.inputs), batch.targets))

    with torch.no_grad():
        outputs = model(*batch.inputs)
        chance = float(context.task.loss(outputs.roll(len(outputs) // 2, 0), batch.targets))
    for strength, lost in curve:
        small = step.apply(copy.deepcopy(model), {"ranks": {"layers.1": round((1 - strength) * 48)}})
        expected = (loss_of(small) - loss_of(model)) / max(chance - loss_of(model), 1e-6)
        assert lost == pytest.approx(max(expected, 0.0), rel=1e-3, abs=1e-4)


def test_a_model_that_is_a_single_layer_can_be_scanned() -> None:
    layer = nn.Linear(8, 8)
    x = torch.randn(2, 8)
    before = layer(x)
    Svd()._truncate(layer, "", 0.9)
    assert not torch.allclose(layer(x), before)


def test_ranks_by_name_are_taken_and_other_layers_left_out() -> None:
    model = seeded(Plain)
    assert Svd(ranks={"fc1": 5}).decide(model, context_for(model)) == {"ranks": {"fc1": 5}, "skipped": {}}
    assert Tucker(ranks={"conv2": [6, 5]}).decide(model, context_for(model))["ranks"] == {"conv2": [6, 5]}
    assert Tucker(ranks={"conv2": 4}).decide(model, context_for(model))["ranks"] == {"conv2": [4, 4]}


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Svd(ranks={"fc3": 4}), "svd cannot factorize 'fc3' of `ranks`: did you mean 'fc"),
        (Svd(ranks={"fc1": 33}), "svd cannot give 'fc1' the rank 33: it takes 1 to 32"),
        (Svd(ranks={"fc1": 0}), "svd cannot give 'fc1' the rank 0: it takes 1 to 32"),
        (Svd(ranks={"fc1": [3, 4]}), r"svd cannot give 'fc1' the rank \[3, 4\]: it takes 1 to 32"),
        (
            Tucker(ranks={"conv2": [25, 3]}),
            r"cannot give 'conv2' the rank \[25, 3\]: it takes 1 to 24 and 1 to 16",
        ),
        (
            Svd(ranks={"fc1": 31}),
            r"finds no layer that would shrink: lower them .*fc1: rank 31 of 32x96 would",
        ),
    ],
    ids=["name", "too large", "zero", "too many", "one of two too large", "no smaller"],
)
def test_ranks_that_cannot_be_are_refused_with_what_can(step: Any, message: str) -> None:
    model = seeded(Plain)
    with pytest.raises(TechniqueError, match=message):
        step.decide(model, context_for(model))


def test_rules_name_their_own_setting_when_nothing_shrinks() -> None:
    model = seeded(Mlp)
    with torch.no_grad():
        for index in (1, 3, 5):
            model.layers[index].weight.normal_(generator=torch.Generator().manual_seed(index))
    for settings, said in [
        ({"rank": "vbmf"}, "rank vbmf finds no layer that would shrink: choose the ranks by energy"),
        ({"energy": 0.99}, "energy 0.99 finds no layer that would shrink: lower energy"),
        ({"ranks": {"layers.5": 4}}, "finds no layer that would shrink: lower them"),
    ]:
        with pytest.raises(TechniqueError, match=said):
            Svd.model_validate(settings).decide(model, context_for(model))


class Attention(nn.Module):
    """Encoder layers, whose fused path reads the weights of their linear layers, over rows of pixels."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(36, 4, 48, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(36, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x.transpose(1, 2).flatten(2)).mean(1))


def attention() -> tuple[nn.Module, Context, Tensor]:
    """The model, with its warnings of nested tensors, its context and inputs."""
    model = seeded(Attention)
    return model, context_for(model), torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["svd", "tensor_train", "kronecker"])
def test_the_projection_of_attention_stays_whole_and_the_layers_around_it_do_not(name: str) -> None:
    model, context, x = attention()
    step = step_of(name, energy=0.5)
    decision = step.decide(model, context)
    assert {f"encoder.layers.{k}.linear{i}" for k in (0, 1) for i in (1, 2)} <= set(decision["ranks"])
    for k in (0, 1):
        assert decision["skipped"][f"encoder.layers.{k}.self_attn.out_proj"] == "the model never calls it"
    small = step.apply(copy.deepcopy(model), decision).eval()
    with torch.no_grad():
        assert torch.isfinite(small(x)).all()


def test_an_encoder_computes_the_same_with_factors_of_full_rank() -> None:
    model, _, x = attention()
    ranks = {f"encoder.layers.{k}.linear{i}": 36 for k in (0, 1) for i in (1, 2)}
    small = Svd().apply(copy.deepcopy(model), {"ranks": ranks}).eval()
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_every_factorization_lists_what_would_take_no_less_of_the_file(name: str) -> None:
    model = seeded(Plain)
    step = step_of(name, energy=0.7)
    decision = step.decide(model, context_for(model))
    layers = candidates(step, model)
    assert set(decision["ranks"]) | set(decision["skipped"]) == set(layers)
    assert not set(decision["ranks"]) & set(decision["skipped"])
    for layer, ranks in decision["ranks"].items():
        held = layers[layer].unfolded.held(ranks if isinstance(ranks, list) else [ranks])
        assert shrinks(layers[layer].weights, held, layers[layer].unfolded.layers)
    for reason in decision["skipped"].values():
        assert "no less of the file" in reason


@pytest.mark.parametrize(("setting", "value"), [("keep", 0), ("keep", 1), ("tolerance", 0), ("rank", "best")])
@pytest.mark.parametrize("name", ALL)
def test_settings_out_of_bounds_are_no_settings(name: str, setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=setting):
        registry()[name](**{setting: value})


def test_examples_of_other_tasks_reach_the_model() -> None:
    """Which layers can be replaced is found on the task's own inputs, whole numbers among them."""
    model = nn.Sequential(nn.Embedding(50, 16), nn.Flatten(), nn.Linear(16 * 6, 32), nn.Linear(32, 4)).eval()
    tokens = torch.randint(50, (16, 6), generator=torch.Generator().manual_seed(0))
    split = (tokens, torch.arange(16) % 4)
    context = Context(Classification(lambda: model, split, split, split, None), model, 0)
    assert "2" in Svd(energy=0.5).decide(model, context)["ranks"]
