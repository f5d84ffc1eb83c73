"""Hints: the loss in numpy, its gradients, adapters that learn and go, layers by name, and what cannot be."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import TechniqueError
from autocompress.techniques import Context
from autocompress.techniques.features import Feature, before_head, watched
from autocompress.techniques.training._guided import Adapter, met
from autocompress.techniques.training.distill import Distill
from autocompress.techniques.training.hint_distill import Hint, HintDistill
from autocompress.testing.models import MODELS, seeded
from autocompress.testing.work import context_of, damaged, example_of, task_of, teacher_of
from autocompress.trial.stages import pack_weights

QUICK: dict[str, Any] = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 16}


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def learned(hint: Hint) -> Hint:
    """With an adapter of any weights, as after some training."""
    nn.init.normal_(hint.adapter.map.weight)
    return hint.double()


def adapted(adapter: Adapter, feature: Tensor) -> Any:
    weight, bias = adapter.map.weight.detach().numpy()[:, :, 0], adapter.map.bias.detach().numpy()  # type: ignore[union-attr]
    return np.einsum("dc,nc...->nd...", weight, feature.numpy()) + bias.reshape(-1, *(1,) * (feature.dim() - 2))


@pytest.mark.parametrize("positions", [(), (5,), (4, 3), (2, 3, 2)])
def test_the_loss_is_that_of_the_paper_as_a_share_of_the_hints_squares(positions: tuple[int, ...]) -> None:
    """Romero et al. (2015), equation 3: half the squared distance of the hint and the regressed feature."""
    own, hint = random(0, 6, 3, *positions), random(1, 6, 5, *positions)
    loss = learned(Hint(3, 5))
    expected = np.sum((adapted(loss.adapter, own) - hint.numpy()) ** 2) / np.sum(hint.numpy() ** 2)
    assert loss(own, hint).item() == pytest.approx(expected, rel=1e-9)


def test_its_gradients_are_right() -> None:
    loss = learned(Hint(3, 2))
    assert torch.autograd.gradcheck(loss, (random(0, 2, 3, 4, 4).requires_grad_(), random(1, 2, 2, 2, 2)))


def test_it_pulls_on_no_layer_at_first_but_on_the_adapter() -> None:
    loss, own = Hint(3, 2).double(), random(0, 2, 3, 4, 4).requires_grad_()
    loss(own, random(1, 2, 2, 4, 4)).backward()
    assert own.grad is not None
    assert not own.grad.any()
    assert bool(loss.adapter.map.weight.grad.any())


def test_maps_of_unlike_size_are_averaged_to_the_smaller_along_each_axis() -> None:
    one, other = random(0, 2, 3, 4, 2), random(1, 2, 5, 2, 6)
    first, second = met(one, other)
    assert (first.shape, second.shape) == ((2, 3, 2, 2), (2, 5, 2, 2))
    torch.testing.assert_close(first[:, :, 1, 0], one[:, :, 2:, 0].mean(2))
    torch.testing.assert_close(second[:, :, 0, 1], other[:, :, 0, 3:].mean(2))
    assert met(one, one)[0] is one


def test_a_map_beside_a_vector_is_averaged_over_all_of_it() -> None:
    one, other = random(0, 2, 3, 4, 2), random(1, 2, 5)
    first, second = met(one, other)
    torch.testing.assert_close(first, one.mean((2, 3)))
    assert second is other


def test_the_last_layer_before_the_output_is_the_hint_where_none_is_named() -> None:
    assert HintDistill().decide(damaged("plain"), context_of("plain")) == {"pairs": {"fc1": "fc1"}}
    assert HintDistill().decide(damaged("residual"), context_of("residual")) == {"pairs": {"inner2": "inner2"}}
    other = HintDistill().decide(seeded(MODELS["mlp"]), context_of("residual"))
    assert other == {"pairs": {"layers.4": "inner2"}}, "the student may be another network"


def test_layers_can_be_named() -> None:
    student, context = damaged("plain"), context_of("plain")
    assert HintDistill(hint="conv2").decide(student, context) == {"pairs": {"conv2": "conv2"}}
    assert HintDistill(guided="conv2").decide(student, context) == {"pairs": {"conv2": "conv2"}}
    assert HintDistill(hint="conv1", guided="conv2").decide(student, context) == {"pairs": {"conv2": "conv1"}}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hint": "conv3"}, r"hint_distill: hint: 'conv3' is no layer of the uncompressed model .*: take 'conv\d'"),
        ({"hint": "conv1", "guided": "fc3"}, r"guided: 'fc3' is no layer of the compressed model .*: take 'fc\d'"),
        ({"hint": "fc1x", "guided": "fc1"}, r"hint: 'fc1x' .* take 'fc1'"),
    ],
)
def test_a_layer_that_is_not_there_is_refused_with_the_nearest(settings: dict[str, str], said: str) -> None:
    with pytest.raises(TechniqueError, match=said):
        HintDistill(**settings).decide(damaged("plain"), context_of("plain"))


def test_a_hint_that_the_student_has_not_asks_for_one_of_its_own() -> None:
    with pytest.raises(TechniqueError, match=r"guided: the compressed model has no layer 'conv1': name one of its own"):
        HintDistill(hint="conv1").decide(seeded(MODELS["mlp"]), context_of("plain"))


def trained(step: HintDistill, model: str = "plain", context: Context | None = None) -> nn.Module:
    student = damaged(model)
    step.train(student, context or context_of(model))
    return student


def test_without_weight_it_is_distillation() -> None:
    plain = damaged("plain")
    Distill(**QUICK).train(plain, context_of("plain"))
    assert pack_weights(trained(HintDistill(beta=0.0, **QUICK))) == pack_weights(plain)
    assert pack_weights(trained(HintDistill(beta=1.0, **QUICK))) != pack_weights(plain)


def test_training_is_the_same_to_the_bit_and_leaves_no_adapter_and_no_hook() -> None:
    first, again = trained(HintDistill(**QUICK), "residual"), trained(HintDistill(**QUICK), "residual")
    assert pack_weights(first) == pack_weights(again)
    assert first.state_dict().keys() == damaged("residual").state_dict().keys()
    assert not any(module._forward_hooks for module in first.modules())


def test_the_teacher_stays_as_it_is() -> None:
    context = context_of("residual")
    before = pack_weights(context.teacher)
    trained(HintDistill(**QUICK), "residual", context)
    assert pack_weights(context.teacher) == before
    assert not context.teacher.training


def test_adapter_and_layer_learn_together_to_tell_the_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of what the adapted layer misses of the hint goes, and a layer that is frozen does not get as near."""
    made: list[Hint] = []

    def noted(step: HintDistill, own: Feature, other: Feature) -> Hint:
        made.append(Hint(own.channels, other.channels))
        return made[-1]

    monkeypatch.setattr(HintDistill, "distance", noted)
    context, layer = context_of("plain"), {"conv2": before_head(teacher_of("plain"), context_of("plain"))["conv2"]}

    def missed(student: nn.Module) -> float:
        found = []
        for model in (student, teacher_of("plain")):
            with watched(model, layer, torch.clone) as seen, torch.no_grad():
                model(*example_of("plain", 32))
            found.append(seen["conv2"])
        return float(made[-1](*found).detach())

    learned, frozen = seeded(MODELS["plain"], seed=11), seeded(MODELS["plain"], seed=11)
    frozen.conv1.requires_grad_(False)  # type: ignore[operator, union-attr]
    frozen.conv2.requires_grad_(False)  # type: ignore[operator, union-attr]
    step = HintDistill(beta=10.0, alpha=1.0, epochs=12, learning_rate=1e-2, batch_size=16, hint="conv2")
    step.model_copy(update={"learning_rate": 1e-9}).train(seeded(MODELS["plain"], seed=11), context)
    before = missed(learned)
    step.train(frozen, context)
    adapter_alone = missed(frozen)
    step.train(learned, context)
    assert missed(learned) < adapter_alone < 0.7 * before


def test_a_student_with_fewer_outputs_is_refused() -> None:
    student: Any = damaged("plain")
    student.fc2 = nn.Linear(32, 3)
    with pytest.raises(TechniqueError, match=r"teacher's outputs have shape \(16, 4\) and the model's \(16, 3\): give"):
        HintDistill(**QUICK).train(student, context_of("plain"))


def test_a_split_that_is_read_one_by_one_teaches_the_same() -> None:
    task: Any = task_of("plain")

    class OneByOne(torch.utils.data.Dataset[Any]):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            return task.train[0][index], task.train[1][index]

        def __len__(self) -> int:
            return len(task.train[1])

    lazy = trained(HintDistill(**QUICK), "plain", Context(replace(task, train=OneByOne()), teacher_of("plain"), 7))
    for name, value in trained(HintDistill(**QUICK)).state_dict().items():
        torch.testing.assert_close(value, lazy.state_dict()[name], rtol=1e-3, atol=1e-4)
