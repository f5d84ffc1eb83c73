"""Fresh weights: drawn as torch draws them, for all parameters, again to the bit."""

import copy

import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import NothingToDo
from autocompress.techniques.fresh import begin_anew
from autocompress.techniques.pruning.weight_pruning import WeightPruning
from autocompress.techniques.training.reinitialize import Reinitialize
from autocompress.testing.work import context_of, teacher_of


class Odd(nn.Module):
    """Layers of each sort that has weights, and parameters that no layer draws."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.recurrent = nn.GRU(8, 8)
        self.place = nn.Parameter(0.02 * torch.randn(400, 8) + 3)
        self.scale = nn.Parameter(torch.ones(8))
        self.one = nn.Parameter(torch.tensor(2.0))


def test_the_same_seed_gives_the_same_weights_and_another_others() -> None:
    model, step = teacher_of("plain"), Reinitialize()
    made = [step.apply(copy.deepcopy(model), {"seed": seed}).state_dict() for seed in (3, 3, 4)]
    before = model.state_dict()
    for name, weight in before.items():
        assert torch.equal(made[0][name], made[1][name])
        if weight.dim() > 1:
            assert not torch.equal(made[0][name], weight)
            assert not torch.equal(made[0][name], made[2][name])


def test_weights_are_as_a_new_model_has_them() -> None:
    model = copy.deepcopy(teacher_of("plain"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():
            nn.init.normal_(parameter, 5.0)
        begin_anew(model, every=True)
    layer = model.fc1
    assert isinstance(layer, nn.Linear)
    bound = layer.in_features**-0.5  # of torch's uniform distribution for linear layers
    assert float(layer.weight.detach().abs().max()) <= bound
    assert float(layer.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.1)


def test_statistics_attention_and_parameters_of_no_layer_begin_anew_too() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Odd()
        model.norm.running_mean += 7.0
        before = copy.deepcopy(model)
        begin_anew(model, every=True)
    assert torch.equal(model.norm.running_mean, torch.zeros(8))
    assert not torch.equal(model.attention.in_proj_weight, before.attention.in_proj_weight)
    assert not torch.equal(model.attention.out_proj.weight, before.attention.out_proj.weight)
    assert not torch.equal(model.recurrent.weight_hh_l0, before.recurrent.weight_hh_l0)
    assert not torch.equal(model.place, before.place)
    assert float(model.place.detach().mean()) == pytest.approx(3, abs=0.01)
    assert float(model.place.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert torch.equal(model.scale, torch.ones(8)), "numbers that are all alike stay so"
    assert float(model.one.detach()) == 2.0


def test_pruned_weights_stay_zero() -> None:
    model, context = copy.deepcopy(teacher_of("plain")), context_of("plain")
    pruning = WeightPruning(ratio=0.6)
    model = pruning.apply(model, pruning.decide(model, context))
    zero = {name: weight == 0 for name, weight in model.state_dict().items() if weight.dim() > 1}
    model = Reinitialize().apply(model, {"seed": 1})
    for name, weight in model.state_dict().items():
        if name in zero and not zero[name].all():
            assert torch.equal(weight == 0, zero[name])


def test_a_model_without_weights_is_refused() -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    with pytest.raises(NothingToDo, match="finds no weights"):
        Reinitialize().decide(Doubled(), context_of("plain"))
