"""Control without code: episodes by their seeds, the return of what acts, and environments that are not taken."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from autocompress.artifacts.export import export_onnx
from autocompress.artifacts.runtime import Model
from autocompress.errors import TaskError
from autocompress.measure.quality import measure_quality
from autocompress.tasks import load_task, refer
from autocompress.tasks.checks import check_trainable, metric_names
from autocompress.tasks.control import ControlConfig
from autocompress.tasks.examples import example_inputs
from autocompress.tasks.models import build_model
from autocompress.tasks.networks import PolicyMLP


def by_hand(policy: nn.Module) -> None:
    """Let a policy push the pole's way: by angle and its speed, which keeps it up for a while."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        for layer in (policy.first, policy.second):
            layer.weight[0, 0], layer.weight[1, 1] = 1.0, 1.0  # type: ignore[operator,index,union-attr]
        policy.first.weight[:2] = torch.tensor([[0.0, 0.0, 1.0, 0.5], [0.0, 0.0, -1.0, -0.5]])  # type: ignore[operator,index,union-attr]
        policy.last.weight[1, 0], policy.last.weight[0, 1] = 1.0, 1.0  # type: ignore[operator,index,union-attr]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    policy = PolicyMLP(4, 2)
    by_hand(policy)
    save_file(policy.state_dict(), tmp_path / "policy.safetensors")
    return tmp_path


def made(root: Path, **settings: Any) -> Any:
    given = {
        "kind": "control",
        "environment": "CartPole-v1",
        "weights": "policy.safetensors",
        "episodes": 4,
        **settings,
    }
    return load_task(refer(ControlConfig.model_validate(given), root))


def played(run: Any, seeds: range) -> float:
    """The mean return by a loop of Gymnasium's own documentation."""
    totals = []
    environment = gymnasium.make("CartPole-v1")
    for seed in seeds:
        observation, _ = environment.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            action = int(np.argmax(run(observation[None].astype(np.float32))[0]))
            observation, reward, ended, cut, _ = environment.step(action)
            total, over = total + float(reward), ended or cut
        totals.append(total)
    environment.close()
    return float(np.mean(totals))


def test_the_mean_return_is_that_of_the_file_in_episodes_of_seeds_of_their_own(place: Path) -> None:
    task = made(place)
    check_trainable(task, 0)
    assert set(metric_names(task)) == {"agreement", "mean_return"}
    seeds = [task.world.seeds(name) for name in ("train", "validation", "test")]
    assert not set(seeds[0]) & set(seeds[1])
    assert not set(seeds[1]) & set(seeds[2])
    model = build_model(task, 0).eval()
    file = Model(export_onnx(model, example_inputs(task)).SerializeToString())
    for name, own in zip(("validation", "test"), seeds[1:], strict=True):
        found = measure_quality(file, task, name)
        assert found["mean_return"] == played(file, own)
        assert found["agreement"] == 1, "it imitates itself"
    other = PolicyMLP(4, 2).eval()
    assert measure_quality(lambda x: other(torch.from_numpy(x)).detach().numpy(), task, "validation")[
        "mean_return"] < found["mean_return"]  # fmt: skip


def test_splits_are_what_the_policy_saw_and_did(place: Path) -> None:
    task = made(place)
    seen, acted = task.split("train").tensors
    assert seen.shape == (len(acted), 4)
    with torch.no_grad():
        assert torch.equal(task.model().eval()(seen).argmax(1), acted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"environment": "CartPole-v9"}, "Gymnasium has no environment 'CartPole-v9'"),
        ({"environment": "os:system"}, "Gymnasium has no environment 'os:system'"),
        ({"environment": "Pendulum-v1"}, "only discrete ones are taken"),
        ({"environment": "Acrobot-v1"}, "do not fit the model"),
        ({"weights": "elsewhere.safetensors"}, "elsewhere.safetensors"),
    ],
)
def test_what_is_not_taken_is_refused(settings: dict[str, Any], message: str, place: Path) -> None:
    with pytest.raises(TaskError, match=message):
        made(place, **settings)


def test_a_policy_that_breaks_down_is_no_baseline(place: Path) -> None:
    policy = PolicyMLP(4, 2)
    policy.last.bias.data.fill_(float("nan"))
    save_file(policy.state_dict(), place / "policy.safetensors")
    with pytest.raises(TaskError, match="NaN"):
        made(place)
