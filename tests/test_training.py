"""The training loop: its schedule, its arithmetic on one step, and what it does when training diverges."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from autocompress.config import Train
from autocompress.data import Batch
from autocompress.errors import TaskError
from autocompress.held import Zeros
from autocompress.testing.models import Plain, Residual, make_task, seeded
from autocompress.training import Steps, Training, ascended, device_of, fit, schedule, training_on
from autocompress.trial.stages import pack_weights


def cross_entropy(output: Tensor, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(output, batch.targets)


def squared(output: Tensor, batch: Batch) -> Tensor:
    return ((output - batch.targets) ** 2).mean()


@pytest.mark.parametrize(
    ("progress", "factor"),
    [
        (0.0, 0.01 / 0.11),  # the warm-up starts a little above nothing
        (0.05, 0.06 / 0.11),
        (0.1, 1.0),  # the cosine's top
        (0.325, 0.5 * (1 + math.sqrt(0.5))),  # a quarter of the way down: cos(pi / 4)
        (0.55, 0.5),  # half of the way: cos(pi / 2) = 0
        (1.0, 0.0),
    ],
)
def test_the_schedule_warms_up_and_follows_a_cosine(progress: float, factor: float) -> None:
    assert schedule(progress) == pytest.approx(factor)


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_schedule_rises_then_falls_between_0_and_1(first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert 0 <= schedule(low) <= 1
    if high < 0.1:
        assert schedule(low) <= schedule(high)
    if low >= 0.1:
        assert schedule(low) >= schedule(high)


def line(weight: float = 0.0) -> nn.Linear:
    """y = weight * x."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(weight)
    return model


ONES = TensorDataset(torch.ones(8, 1), torch.full((8, 1), 3.0))


def test_one_step_of_adam_moves_a_weight_by_the_learning_rate() -> None:
    """Adam's first step is the learning rate times the gradient's sign, here at the schedule's first factor."""
    model = line()
    history = fit(model, ONES, squared, Training(epochs=1, learning_rate=0.11, batch_size=8, weight_decay=0), 0)
    assert history == [pytest.approx(9.0)]  # (0 - 3) ** 2, before the step
    assert float(model.weight.detach()) == pytest.approx(0.11 * 0.01 / 0.11, rel=1e-4)


def test_weight_decay_is_decoupled() -> None:
    """Loshchilov and Hutter (2019): weights shrink by rate times decay, also where gradients are zero."""
    model = line(3.0)  # at the optimum
    fit(model, ONES, squared, Training(epochs=1, learning_rate=0.11, batch_size=8, weight_decay=0.5), 0)
    assert float(model.weight.detach()) == pytest.approx(3.0 * (1 - 0.01 * 0.5), rel=1e-5)


def test_every_epoch_sees_every_example_once_in_another_order() -> None:
    seen: list[list[int]] = []

    def loss(output: Tensor, batch: Batch) -> Tensor:
        seen.append(batch.index.tolist())
        return squared(output, batch)

    fit(line(), ONES, loss, Training(epochs=2, batch_size=3), 0)
    assert [len(index) for index in seen] == [3, 3, 2, 3, 3, 2]
    first, second = [*seen[0], *seen[1], *seen[2]], [*seen[3], *seen[4], *seen[5]]
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second


def test_the_history_is_the_mean_loss_of_each_epoch() -> None:
    values = [1.0, 2.0, 6.0, 4.0]
    given = iter(values)

    def loss(output: Tensor, batch: Batch) -> Tensor:
        return 0 * output.sum() + next(given)

    assert fit(line(), ONES, loss, Training(epochs=2, batch_size=4), 0) == [1.5, 5.0]


def test_training_learns_and_leaves_the_model_in_evaluation_mode() -> None:
    task, model = make_task(Plain), seeded(Plain)
    history = fit(model, task.split("train"), cross_entropy, Training(epochs=8, learning_rate=5e-3, batch_size=16), 0)
    assert len(history) == 8
    assert history[0] < 1.2 * math.log(4)  # near guessing among four classes
    assert history[-1] < 0.3
    assert not model.training
    inputs, targets = task.validation
    assert task.metrics(model(inputs).detach().numpy(), targets.numpy())["accuracy"] > 0.9


class Dropping(Plain):
    """Training draws random numbers of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.3, self.training))


@pytest.mark.parametrize("make", [Plain, Residual, Dropping])
def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before(make: type[nn.Module]) -> None:
    task, settings = make_task(make), Training(epochs=2, batch_size=16)

    def trained(seed: int, drawn: int) -> bytes:
        model = seeded(make)
        torch.rand(drawn)
        fit(model, task.split("train"), cross_entropy, settings, seed)
        return pack_weights(model)

    assert trained(1, 0) == trained(1, 10)
    assert trained(1, 0) != trained(2, 0)


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 9), (2, 4), (4, 2), (9, 1)])
def test_a_last_batch_of_one_is_left_out_unless_all_are(batch_size: int, steps: int) -> None:
    """Batch normalization cannot take it: nine examples in twos leave one over."""
    sizes: list[int] = []

    def loss(output: Tensor, batch: Batch) -> Tensor:
        sizes.append(len(batch.index))
        return squared(output, batch)

    nine = TensorDataset(torch.ones(9, 1), torch.ones(9, 1))
    fit(line(), nine, loss, Training(epochs=1, batch_size=batch_size), 0)
    assert sizes == [batch_size] * steps


class Normalized(nn.Module):
    """Batch normalization before a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.norm(x))
        return output


def test_statistics_of_batch_normalization_are_those_of_the_data_after_training() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = 5 + 2 * torch.randn(40, 3, generator=generator)
    data = TensorDataset(inputs, torch.zeros(40, 1))
    model = Normalized()
    # A running mean with momentum 0.1 would have come 1 - 0.9 ** 4 = 34% of the way from 0 to 5 after four steps.
    fit(model, data, squared, Training(epochs=1, batch_size=10), 0)
    torch.testing.assert_close(model.norm.running_mean, inputs.mean(0))  # batches of one size: the mean of means
    torch.testing.assert_close(model.norm.running_var, inputs.var(0), rtol=0.1, atol=0)
    assert model.norm.momentum == 0.1
    assert not any(module.training for module in model.modules())


def test_statistics_are_renewed_from_many_examples_at_batch_size_one() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = 5 + 2 * torch.randn(40, 3, 4, generator=generator)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(12, 1))
    data = TensorDataset(inputs, torch.zeros(40, 1))
    fit(model, data, squared, Training(epochs=1, batch_size=1), 0)
    torch.testing.assert_close(model[0].running_mean, inputs.mean((0, 2)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_training(bad: float) -> None:
    def loss(output: Tensor, batch: Batch) -> Tensor:
        return output.sum() * bad

    with pytest.raises(TaskError, match=r"the loss became (nan|inf) in epoch 1 at learning rate 0.002: lower the"):
        fit(line(1.0), ONES, loss, Training(epochs=3, learning_rate=2e-3), 0)


@pytest.mark.parametrize(
    "settings", [{"epochs": 0}, {"learning_rate": 0}, {"batch_size": 0}, {"weight_decay": -1}, {"rate": 1}]
)
def test_impossible_settings_are_rejected(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Training.model_validate(settings)


def test_a_partly_zero_matrix_keeps_its_zeros_through_training() -> None:
    task, model = make_task(Plain), seeded(Plain)
    with torch.no_grad():
        model.conv1.weight[::2] = 0
        model.fc1.weight[:, :50] = -0.0
        model.fc2.weight.zero_()  # as a whole, so that nobody pruned it: it has to learn
        model.conv2.bias[-3:] = 0  # biases are not what is pruned
    gone = {name: parameter.detach() == 0 for name, parameter in model.named_parameters()}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    fit(model, task.split("train"), cross_entropy, Training(epochs=2, batch_size=16), 0)
    for name in ("conv1.weight", "fc1.weight"):
        weight = model.get_parameter(name).detach()
        assert torch.equal(weight == 0, gone[name])
        assert not torch.signbit(weight[weight == 0]).any()
        assert not torch.equal(weight, before[name])
    assert model.fc2.weight.any()
    assert model.conv2.bias[-3:].any()


def test_what_zeros_holds_is_decided_when_it_is_made() -> None:
    weight = nn.Parameter(torch.tensor([[0.0, 1.0], [2.0, -0.0]]))
    held = Zeros([weight, nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.tensor([0.0, 1.0]))])
    with torch.no_grad():
        weight.copy_(torch.tensor([[5.0, 0.0], [6.0, 7.0]]))
    held.restore(0.5)
    assert weight.tolist() == [[0.0, 0.0], [6.0, 0.0]]
    assert weight.requires_grad


def test_after_each_step_is_told_which_share_of_the_training_is_done() -> None:
    told: list[float] = []
    fit(line(), ONES, squared, Training(epochs=2, batch_size=4), 0, told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]


def test_after_each_step_takes_the_place_of_holding_zeros_and_sees_the_new_weights() -> None:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 1.0]]))
    data = TensorDataset(torch.ones(8, 2), torch.full((8, 1), 9.0))
    seen: list[list[float]] = []
    fit(model, data, squared, Training(epochs=2, batch_size=8), 0, lambda _: seen.append(model.weight.tolist()[0]))
    assert seen[0][0] != 0  # nothing else holds the zero
    assert seen[1] == model.weight.tolist()[0]


def test_a_sharpness_aware_step_takes_the_gradient_up_the_slope_and_comes_back() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, -1.0]]))
        model.bias.zero_()
    inputs, targets = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1)
    seen: list[Tensor] = []

    def loss(output: Tensor, batch: Batch) -> Tensor:
        seen.append(model.weight.detach().clone())
        return squared(output, batch)

    settings = Training(epochs=2, batch_size=2, learning_rate=0.1, sharpness=0.2, weight_decay=0)
    fit(model, TensorDataset(inputs, targets), loss, settings, 0)
    # The mean of (3 a)^2 and (2 b)^2 has the gradient (9 a, 4 b): at (0.5, -1) that is (4.5, -4).
    slope = torch.tensor([[4.5, -4.0]])
    start = torch.tensor([[0.5, -1.0]])
    torch.testing.assert_close(seen[0], start)
    torch.testing.assert_close(seen[1], start + 0.2 * slope / slope.norm())
    # The first step of Adam is as long as the learning rate, which the warm-up begins at 1/11.
    torch.testing.assert_close(seen[2], start - 0.1 / 11 * slope.sign())
    assert len(seen) == 4


def test_weights_come_back_to_the_bit_and_scales_stay_where_they_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model(torch.randn(8, 5)).square().sum().backward()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    slopes = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    with ascended(list(model.parameters()), 0.3):
        inside = {name: parameter.detach() - before[name] for name, parameter in model.named_parameters()}
    length = math.sqrt(sum(float(slopes[name].square().sum()) for name in ("0.weight", "2.weight")))
    for name, moved in inside.items():
        expected = 0.3 * slopes[name] / length if name.endswith("weight") and moved.dim() > 1 else moved * 0
        torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-6)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_several_batches_a_step_are_one_batch_of_their_size() -> None:
    steps = Steps(line(), squared, Training(accumulate=2, batch_size=2), Train(device="cpu"))
    whole = Steps(line(), squared, Training(batch_size=4), Train(device="cpu"))
    data = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    batch = Batch((data,), data * 2, torch.arange(4))
    assert not steps.take(batch.part(slice(0, 2)), 0.1, False)[1]
    assert steps.take(batch.part(slice(2, 4)), 0.1, False)[1]
    assert whole.take(batch, 0.1, False)[1]
    for one, other in zip(steps.parameters, whole.parameters, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
        torch.testing.assert_close(one, other)


def test_gradients_are_cut_to_a_norm() -> None:
    steps = Steps(line(), squared, Training(clip_norm=0.5), Train(device="cpu"))
    data = torch.tensor([[1.0], [2.0]])
    steps.take(Batch((data,), data * 100, torch.arange(2)), 0.1, True)
    assert float(steps.parameters[0].grad.norm()) == pytest.approx(0.5, rel=1e-4)  # type: ignore[union-attr]


def test_a_moving_average_of_the_weights_is_what_is_left() -> None:
    data = torch.randn(40, 1)
    plain, averaged = line(), line()
    seen: list[float] = []
    settings = Training(epochs=4, batch_size=10, learning_rate=0.1)
    fit(plain, TensorDataset(data, 2 * data), squared, settings, 0, lambda _: seen.append(float(plain.weight.detach())))
    fit(averaged, TensorDataset(data, 2 * data), squared, settings.model_copy(update={"ema": 0.5}), 0)
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.5 * expected + 0.5 * weight
    assert float(averaged.weight.detach()) == pytest.approx(expected, rel=1e-5)


def test_training_ends_where_the_validation_loss_does_not_fall_and_leaves_the_best_weights() -> None:
    data = torch.randn(40, 1)
    held_out = TensorDataset(data[:8], 0 * data[:8])  # whatever is learned makes it worse
    model = line()
    settings = Training(epochs=20, batch_size=10, learning_rate=0.1, patience=3)
    first: list[float] = []
    history = fit(model, TensorDataset(data, 2 * data), squared, settings, 0,
                  lambda _: first.append(float(model.weight.detach())), held_out)  # fmt: skip
    assert len(history) == 4, "the first epoch and three that were no better"
    assert float(model.weight.detach()) == first[3], "as it was after the first epoch of four batches"


def test_an_average_of_weights_and_those_of_one_epoch_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="give one of them"):
        Training(ema=0.9, patience=2)


@pytest.mark.parametrize(("examples", "steps"), [(9, 2), (8, 2), (1, 1), (4, 1), (5, 1), (6, 2)])
def test_a_last_batch_of_one_is_left_out_and_what_is_left_is_all_of_the_training(examples: int, steps: int) -> None:
    data = torch.randn(examples, 1)
    seen: list[float] = []
    fit(line(), TensorDataset(data, data), squared, Training(epochs=2, batch_size=4), 0, seen.append)
    assert len(seen) == 2 * steps
    assert seen[-1] == 1
    gathered: list[float] = []
    fit(line(), TensorDataset(data, data), squared, Training(epochs=2, batch_size=4, accumulate=9), 0, gathered.append)
    assert gathered == [0.5, 1], "what was gathered is learned from at the end of each epoch"


class Narrow(nn.Module):
    """Runs out of memory with more than four examples."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.sizes = line(), list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > 4:
            raise torch.OutOfMemoryError("out of memory")
        found: Tensor = self.line(x)
        return found


def test_a_batch_that_is_too_large_for_the_device_is_taken_in_halves_once() -> None:
    data = torch.randn(8, 1)
    narrow, plain = Narrow(), line()
    settings = Training(epochs=2, batch_size=8, learning_rate=0.1)
    fit(narrow, TensorDataset(data, 2 * data), squared, settings, 0)
    fit(plain, TensorDataset(data, 2 * data), squared, settings, 0)
    assert narrow.sizes == [8, 4, 4, 4, 4]
    torch.testing.assert_close(narrow.line.weight, plain.weight)
    with pytest.raises(torch.OutOfMemoryError):
        fit(Narrow(), TensorDataset(torch.randn(16, 1), torch.randn(16, 1)), squared,
            settings.model_copy(update={"batch_size": 16}), 0)  # fmt: skip


def test_bf16_is_for_passes_alone_and_learns_as_32_bits_do() -> None:
    task = make_task(Plain)
    losses = {}
    for precision in ("float32", "bf16"):
        model = seeded(Plain)
        with training_on(Train(device="cpu", precision=precision)):
            losses[precision] = fit(model, task.split("train"), cross_entropy, Training(epochs=2), 0)
        assert all(tensor.dtype == torch.float32 for tensor in model.parameters())
    assert losses["bf16"] != losses["float32"]
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.1)


def test_a_device_that_is_not_there_is_refused_with_what_is() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(TaskError, match=r"train.device: cuda: torch finds none on this machine: .* `device: cpu`"), \
            training_on(Train(device="cuda")):  # fmt: skip
        pass
    assert device_of(Train()).type in ("cpu", "mps")


def test_readers_of_their_own_give_the_same_training() -> None:
    """In a fresh process: readers are forked, which one that other tests left full of threads may not survive."""
    code = "import test_training; test_training.check_readers()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def check_readers() -> None:
    data = torch.randn(20, 1)
    weights = []
    for workers in (0, 2):
        model = line()
        with training_on(Train(device="cpu", loader_workers=workers)):
            fit(model, Read(data), squared, Training(epochs=1, batch_size=5), 0)
        weights.append(model.weight.detach())
    assert torch.equal(*weights)


class Read(Dataset[Any]):
    """Reads one example at a time."""

    def __init__(self, data: Tensor) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.data[index], 2 * self.data[index]


def test_weights_that_trained_with_channels_last_lie_as_others_do_and_are_nearly_the_same() -> None:
    trained = []
    for last in (False, True):
        model = seeded(Residual)
        with training_on(Train(device="cpu", channels_last=last)):
            fit(model, make_task(Residual).split("train"), cross_entropy, Training(epochs=1, batch_size=16), seed=0)
        assert all(parameter.is_contiguous() for parameter in model.parameters())
        trained.append(model.state_dict())
    for name, weight in trained[0].items():
        torch.testing.assert_close(trained[1][name], weight, atol=1e-3, rtol=1e-2)
