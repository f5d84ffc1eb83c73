"""A network of networks: who learns what, what students are made of, the losses, and what cannot be done."""

from typing import Any

import pytest
import torch
from plain import plain_baseline, trial_spec
from torch import Tensor, nn

from autocompress.errors import NothingToDo, TechniqueError
from autocompress.outcome import Failed
from autocompress.tasks import Classification
from autocompress.techniques import Context
from autocompress.techniques.training.nonn import Nonn, Students, Watched, part_loss
from autocompress.testing import make_task
from autocompress.testing.models import Plain, seeded
from autocompress.testing.own_models import OWN
from autocompress.testing.work import context_of, example_of, teacher_of
from autocompress.trial.trial import prepare

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 16, "examples": 32}


def decision(**changes: Any) -> dict[str, Any]:
    return {"layer": "conv2", "parts": [[0, 2], [1, 3, 4]], "width": 4, "image": [3, 12, 12], "outputs": 4, "seed": 5,
            **changes}  # fmt: skip


def refusal(model: str, **settings: Any) -> TechniqueError:
    with pytest.raises(TechniqueError) as caught:
        Nonn(**QUICK | settings).decide(teacher_of(model), context_of(model))
    return caught.value


def test_the_filters_of_the_last_convolution_are_divided_among_the_students() -> None:
    found = Nonn(students=3, **QUICK).decide(teacher_of("plain"), context_of("plain"))
    assert found["layer"] == "conv2"
    assert sorted(index for part in found["parts"] for index in part) == list(range(24))
    assert len(found["parts"]) == 3
    assert found["image"] == [3, 12, 12]


def test_a_student_has_a_feature_for_each_filter_of_its_part_and_halves_the_image_to_eight() -> None:
    """12 and 8 pixels: one halving; 40: three. By hand: kernels, two numbers a normalization, and the join."""
    small = Students(decision())
    first = 9 * 3 * 4 + 9 * 4 * 8 + 2 * (4 + 8)
    assert sum(p.numel() for p in small.students[0].parameters()) == first + 9 * 8 * 2 + 2 * 2
    assert sum(p.numel() for p in small.students[1].parameters()) == first + 9 * 8 * 3 + 2 * 3
    assert small.last.weight.shape == (4, 5)
    large = Students(decision(image=[1, 40, 60]))
    strides = [m.stride[0] for m in large.students[0] if isinstance(m, nn.Conv2d)]
    assert strides == [1, 2, 2, 2, 1]
    tiny = Students(decision(image=[1, 8, 8])).students[0]
    assert [m.stride[0] for m in tiny if isinstance(m, nn.Conv2d)] == [1, 2, 1]
    assert large(torch.zeros(2, 1, 40, 60)).shape == (2, 4)


def test_students_begin_alike_for_a_seed_and_leave_the_random_numbers_alone() -> None:
    torch.manual_seed(1)
    first = Nonn().apply(nn.Identity(), decision())
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    again, other = Nonn().apply(nn.Identity(), decision()), Nonn().apply(nn.Identity(), decision(seed=6))
    assert torch.equal(first.students[0][0].weight, again.students[0][0].weight)
    assert not torch.equal(first.students[0][0].weight, other.students[0][0].weight)


def test_the_loss_of_parts_is_by_part_and_blind_to_length() -> None:
    """By hand: the first part points elsewhere, (1, 0) against (0, 1), at a squared distance of 2; the second not."""
    features = torch.tensor([[3.0, 0.0, 1.0, 1.0, 0.0]])
    teacher = torch.tensor([[0.0, 2.0, 7.0, 2.0, 0.0]])
    assert float(part_loss(features, teacher, [[0, 2], [1, 3, 4]])) == pytest.approx(2.0)
    assert float(part_loss(teacher[:, [0, 2, 1, 3, 4]], 5 * teacher, [[0, 2], [1, 3, 4]])) == pytest.approx(0.0)


def test_a_watched_teacher_gives_its_outputs_and_the_activities_of_the_layer() -> None:
    teacher, x = teacher_of("plain"), example_of("plain")[0]
    assert isinstance(teacher, Plain)
    with torch.no_grad():
        found = Watched(teacher, "conv2")(x)
        pooled = nn.functional.max_pool2d(torch.relu(teacher.conv1(x)), 2)
        expected = teacher.conv2(pooled).clamp(min=0).mean((2, 3))
        torch.testing.assert_close(found, torch.cat([teacher(x), expected], 1))
    assert not teacher.conv2._forward_hooks


def distances(beta: float) -> float:
    """How far the features of the students are from the teacher's after a training."""
    step, context = Nonn(epochs=8, batch_size=16, examples=32, beta=beta), context_of("plain")
    found = step.decide(teacher_of("plain"), context)
    model = step.apply(seeded(Plain), found)
    assert isinstance(model, Students)
    step.train(model, context)
    x = example_of("plain", 32)[0]
    with torch.no_grad():
        teacher = Watched(teacher_of("plain"), "conv2")(x)[:, 4:]
        features = torch.cat([student(x) for student in model.students], 1)
        return float(part_loss(features, teacher, model.parts))


def test_students_learn_the_features_of_their_parts_where_beta_asks_for_it() -> None:
    assert distances(3.0) < 0.7 * distances(0.0)


def test_more_students_than_filters_are_refused() -> None:
    said = refusal("plain", students=25)
    assert str(said) == "nonn cannot give 25 students a part of the 24 filters of conv2: lower students"
    assert not isinstance(said, NothingToDo)


def test_a_teacher_without_a_convolution_is_refused() -> None:
    assert "finds no convolution that this model calls: use another technique" in str(refusal("mlp"))


def test_several_inputs_and_other_inputs_than_images_are_refused() -> None:
    task = make_task(OWN["two_inputs"])
    model = task.model().eval()
    with pytest.raises(TechniqueError, match=r"for one image, and this model takes \(3, 12, 12\), \(6,\);"):
        Nonn(**QUICK).decide(model, Context(task, model, 0))
    assert "takes (10, 6);" in str(refusal("signals"))


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.conv(x)
        return output


def test_outputs_for_each_pixel_are_refused() -> None:
    data = (torch.randn(8, 3, 12, 12), torch.zeros(8, dtype=torch.int64))
    task = Classification(Pixels, data, data, data, None)
    with pytest.raises(TechniqueError, match=r"gives \(4, 12, 12\) for an example: use another"):
        Nonn(**QUICK).decide(task.model(), Context(task, task.model().eval(), 0))


def test_behind_a_step_that_changed_the_model_it_is_refused() -> None:
    model = seeded(Plain)
    model.conv1 = nn.Conv2d(3, 15, 3)
    with pytest.raises(TechniqueError, match="what steps before it did is lost: put it first"):
        Nonn(**QUICK).decide(model, context_of("plain"))


def test_rewinding_behind_it_is_refused_as_early_weights_are_the_models() -> None:
    steps = {"technique": "nonn", "width": 4, **QUICK}, {"technique": "finetune", "rewind": True, "epochs": 1}
    found = prepare(trial_spec(*steps), plain_baseline())
    assert isinstance(found, Failed)
    assert "put another network in the model's place" in found.reason
