"""What is rejected before its training is paid for, and what is not."""

import copy
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from plain import plain_baseline, trial_spec
from torch import Tensor, nn
from torch.utils.data import Dataset

from autocompress import Classification, Training, techniques
from autocompress.data import Batch, batches
from autocompress.outcome import Candidate, Infeasible
from autocompress.recipe import Kind
from autocompress.techniques import Technique
from autocompress.testing.models import CLASSES, SHAPE, Plain, Residual, make_task, seeded
from autocompress.training import fit
from autocompress.trial import trial
from autocompress.trial.screening import find_collapse, informs
from autocompress.trial.stages import pack_weights


class Regression(Classification):
    """Real targets and the mean squared error."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return ((output - target) ** 2).mean()


class OneByOne(Dataset[Any]):
    """A dataset that gives examples one at a time, as those that read files do."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]


def trained(task: Classification) -> nn.Module:
    model = seeded(task.model)
    settings = Training(epochs=6, learning_rate=5e-3, batch_size=16)
    fit(model, task.split("train"), lambda output, batch: task.loss(output, batch.targets), settings, 0)
    return model


def killed(model: nn.Module) -> nn.Module:
    """The model with a hidden layer that no input brings above zero, so that outputs are constant."""
    dead: Any = copy.deepcopy(model)
    with torch.no_grad():
        dead.conv2.bias.fill_(-1e6)
    return dead


def regression(kind: type[Any] | None = None) -> Regression:
    """Four real targets that are linear in the image."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((96, *SHAPE), generator=generator)
    targets = 5 + inputs.flatten(1) @ torch.randn((432, CLASSES), generator=generator) / 20
    split = (inputs, targets)
    return Regression(Plain, kind(*split) if kind else split, split, split)


def one_by_one() -> Classification:
    task = make_task(Plain)
    return Classification(Plain, OneByOne(*task.train), task.validation, task.test)


TASKS = {
    "classification": lambda: make_task(Plain),
    "regression": regression,
    "one by one": one_by_one,
    "regression one by one": lambda: regression(OneByOne),
}


@pytest.mark.parametrize("name", list(TASKS))
def test_a_dead_network_has_collapsed_and_a_trained_one_has_not(name: str) -> None:
    task = TASKS[name]()
    model = trained(task)
    assert find_collapse(model, model, task, 1e-2) is None
    before = pack_weights(killed(model))
    dead = killed(model)
    reason = find_collapse(dead, model, task, 1e-2)
    assert reason is not None
    count = len(task.split("train"))  # type: ignore[arg-type]
    assert f"outputs say nothing of the targets, nor after {count} examples of training: take away less" in reason
    assert pack_weights(dead) == before  # a copy is trained, and the model itself stays


def test_no_training_is_spent_on_a_model_that_says_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.trial.screening.fit", lambda *_: pytest.fail("trained"))
    task = make_task(Plain)
    model = trained(task)
    assert find_collapse(model, model, task, 1e-2) is None


@pytest.mark.parametrize("network", [Plain, Residual])
def test_a_network_at_chance_that_can_be_trained_is_not_rejected(network: type[nn.Module]) -> None:
    """Its last layer is as pruned to nothing: all outputs are alike until it is trained."""
    task = make_task(network, examples=256)
    teacher = trained(task)
    model: Any = copy.deepcopy(teacher)
    last = model.fc2 if network is Plain else model.head
    with torch.no_grad():
        last.weight.zero_()
    sample = next(batches(task.split("train"), 64))
    assert not informs(model, task, sample)
    assert find_collapse(model, teacher, task, 5e-3) is None


def test_outputs_that_are_no_numbers_say_nothing() -> None:
    task = make_task(Plain)
    teacher = trained(task)
    model: Any = copy.deepcopy(teacher)
    with torch.no_grad():
        model.conv1.weight[0] = float("nan")
    assert not informs(model, task, next(batches(task.split("train"), 64)))
    reason = find_collapse(model, teacher, task, 1e-2)
    assert reason == "collapsed: the loss is no number, nor after a short training: take away less"


class Explosive(Plain):
    """Says nothing before training, and infinity in it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1e38 * 10 if self.training else 0)


def test_a_training_that_diverges_is_left_to_say_so_itself() -> None:
    task = make_task(Explosive)
    teacher = trained(make_task(Plain))
    assert find_collapse(seeded(Explosive), teacher, task, 1e-2) is None


def test_where_the_uncompressed_model_says_nothing_nobody_can_tell() -> None:
    """Targets that are all alike fit any example as well."""
    inputs = torch.randn((64, *SHAPE), generator=torch.Generator().manual_seed(0))
    split = (inputs, torch.zeros(64, dtype=torch.long))
    task = Classification(Plain, split, split, split)
    teacher = trained(task)
    assert find_collapse(killed(teacher), teacher, task, 1e-2) is None


def outputs_of(values: Tensor) -> nn.Module:
    """A model that answers with values whatever it is given."""

    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return values

    return Fixed()


def test_outputs_without_a_relation_to_the_targets_say_nothing_19_times_in_20() -> None:
    generator = torch.Generator().manual_seed(0)
    task = make_task(Plain)
    said = 0
    for _ in range(200):
        targets = torch.randint(CLASSES, (64,), generator=generator)
        batch = Batch((torch.zeros(64),), targets, torch.arange(64))
        said += informs(outputs_of(torch.randn((64, CLASSES), generator=generator)), task, batch)
    assert 2 <= said <= 20  # 10 expected; fewer than 2 or more than 20 happens once in a thousand


def test_a_faint_relation_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    task = make_task(Plain)
    targets = torch.arange(256) % CLASSES
    noise = torch.randn((256, CLASSES), generator=generator)
    signal = 0.5 * nn.functional.one_hot(targets, CLASSES)
    assert informs(outputs_of(noise + signal), task, Batch((torch.zeros(256),), targets, torch.arange(256)))


class Kill(Technique):
    """Set a bias so that no input brings the layer above zero."""

    technique = "kill"
    family = "pruning"
    kind: ClassVar[Kind] = "structure"

    def apply(self, model: Any, decision: dict[str, Any]) -> nn.Module:
        return killed(model)


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**techniques.registry(), "kill": Kill}
    monkeypatch.setattr(techniques, "registry", lambda: known)


@pytest.mark.usefixtures("kill")
@pytest.mark.parametrize("train", [{"technique": "finetune", "epochs": 50}, {"technique": "distill", "epochs": 50}])
def test_a_recipe_that_kills_a_layer_is_rejected_before_its_training(train: dict[str, Any]) -> None:
    outcome = trial.prepare(trial_spec({"technique": "kill"}, train), plain_baseline())
    assert isinstance(outcome, Infeasible), outcome
    assert outcome.violations == {"collapse": 1.0}
    assert outcome.reason.startswith("collapsed: ")
    assert outcome.metrics == {}
    assert outcome.seconds["train"] == 0
    assert outcome.seconds["decide"] > 0


def test_a_recipe_that_cuts_much_and_recovers_is_not_rejected() -> None:
    prune = {"technique": "channel_pruning", "ratio": 0.8, "importance": "l1", "scope": "layer"}
    candidate = trial.prepare(
        trial_spec(prune, {"technique": "finetune", "epochs": 12, "batch_size": 16, "learning_rate": 1e-2}),
        plain_baseline(),
    )
    assert isinstance(candidate, Candidate), candidate
    assert candidate.metrics["accuracy"] > 0.5


def test_judging_costs_less_than_two_epochs_of_a_small_split() -> None:
    """At most PROBE examples are trained on, whatever the size of the split."""
    seen: list[int] = []

    class Counting(Regression):
        def loss(self, output: Tensor, target: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                seen.append(len(output))
            return super().loss(output, target)

    inputs = torch.from_numpy(np.random.default_rng(0).normal(size=(5000, 4)).astype(np.float32))
    task = Counting(lambda: nn.Linear(4, 4), (inputs, inputs), (inputs, inputs), (inputs, inputs))
    teacher = nn.Linear(4, 4)
    with torch.no_grad():
        teacher.weight.copy_(torch.eye(4))
    dead: Any = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    with torch.no_grad():
        dead[0].bias.fill_(-1e6)
    assert find_collapse(dead, teacher, task, 1e-2) is not None
    assert sum(seen) == 1280
