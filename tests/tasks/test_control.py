"""Control: episodes against a plain loop, splits of seeds of their own, what is refused, and returns of a file."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from gymnasium.spaces import Box, Discrete
from safetensors.torch import save_file
from tiny import run
from torch import nn

from autocompress.data import SPLITS, batches
from autocompress.errors import ArtifactError, TaskError
from autocompress.measure.quality import judge, measure_quality
from autocompress.tasks import load_task, refer
from autocompress.tasks.checks import check_task, check_trainable, metric_names
from autocompress.tasks.kinds import task_kind
from autocompress.tasks.models import as_function
from autocompress.tasks.networks import PolicyMLP
from autocompress.testing import MODELS, make_task

# Push to where the pole falls: far better than chance.
BALANCE = torch.tensor([[0.0, 0.0, -1.0, -0.5], [0.0, 0.0, 1.0, 0.5]])
MODEL = """
from torch import nn

def network(observations, actions):
    return nn.Linear(observations, actions, bias=False)

def wide(observations, actions):
    return nn.Linear(observations, 3, bias=False)
"""


def given(folder: Path, weight: torch.Tensor = BALANCE, **settings: Any) -> dict[str, Any]:
    (folder / "model.py").write_text(MODEL)
    save_file({"weight": weight}, folder / "policy.safetensors")
    usual = {"kind": "control", "environment": "CartPole-v1", "weights": "policy.safetensors", "episodes": 3}
    return {**usual, "steps": 60, "model": "model.py:network", **settings}


def task(folder: Path, weight: torch.Tensor = BALANCE, **settings: Any) -> Any:
    return load_task(refer(task_kind("control").model_validate(given(folder, weight, **settings)), folder))


def left(observations: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A function that always takes action 0."""
    return np.eye(1, 2, dtype=np.float32).repeat(len(observations), axis=0)


class Steps(gymnasium.Env[Any, Any]):
    """Rewards an episode's only step by its action; observations and actions are as they are given."""

    def __init__(self, seen: Any = None, acted: Any = None) -> None:
        self.observation_space = seen or Box(-1, 1, (2,))
        self.action_space = acted or Discrete(3, start=-1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(2), float(action), True, False, {}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    before = dict(gymnasium.registry)
    gymnasium.register("Steps-v0", Steps, max_episode_steps=9)
    gymnasium.register("Endless-v0", Steps)
    gymnasium.register("Images-v0", Steps, max_episode_steps=9, kwargs={"seen": Box(0, 255, (8, 8, 3), np.uint8)})
    gymnasium.register("Places-v0", Steps, max_episode_steps=9, kwargs={"seen": Discrete(4)})
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def played(act: Any, seed: int, steps: int = 60) -> tuple[list[Any], list[int], float]:
    """Observations, actions and return of an episode, by a plain loop."""
    environment = gymnasium.make("CartPole-v1", max_episode_steps=steps)
    seen, acted, total = [], [], 0.0
    observation, _ = environment.reset(seed=seed)
    for _ in range(steps):
        seen.append(observation)
        acted.append(act(observation))
        observation, reward, ended, cut, _ = environment.step(acted[-1])
        total += float(reward)
        if ended or cut:
            break
    return seen, acted, total


def balance(observation: np.ndarray[Any, Any]) -> int:
    return int(observation[2] + 0.5 * observation[3] > 0)


def test_splits_are_what_the_policy_sees_and_does_in_episodes_of_seeds_of_their_own(tmp_path: Path) -> None:
    found = task(tmp_path)
    seeds = [set(found.world.seeds(name)) for name in SPLITS]
    assert sum(map(len, seeds)) == len(set.union(*seeds)) == 9
    other = task(tmp_path, seed=1)
    assert not set.union(*seeds) & set.union(*(set(other.world.seeds(name)) for name in SPLITS))
    for name, split in zip(SPLITS, seeds, strict=True):
        episodes = [played(balance, seed) for seed in sorted(split)]
        batch = next(batches(found.split(name), 10_000))
        expected = np.concatenate([np.stack(seen) for seen, _, _ in episodes])
        assert np.array_equal(batch.inputs[0].numpy(), expected)
        assert batch.targets.tolist() == [action for _, acted, _ in episodes for action in acted]


def test_what_is_measured_is_the_mean_return_of_whoever_acts(tmp_path: Path) -> None:
    found = task(tmp_path)
    for name in ("validation", "test"):
        expected = np.mean([played(lambda _: 0, seed)[2] for seed in found.world.seeds(name)])
        metrics = measure_quality(left, found, name)
        assert metrics["mean_return"] == expected < 20
        targets = next(batches(found.split(name), 10_000)).targets.numpy()
        assert metrics["agreement"] == np.mean(targets == 0)
    own = measure_quality(as_function(found.model()), found, "validation")
    assert own["agreement"] == 1
    assert own["mean_return"] == np.mean([played(balance, seed)[2] for seed in found.world.seeds("validation")]) > 40
    assert metric_names(found) == ("agreement", "mean_return")


def test_the_largest_output_acts_by_the_environments_own_count(tmp_path: Path) -> None:
    found = task(tmp_path, torch.zeros(3, 2), environment="Steps-v0", model="model.py:network", steps=None)
    assert (found.world.actions, found.world.first, found.world.steps) == (3, -1, 9)
    assert found.classes == ("action -1", "action 0", "action 1")
    for action in range(3):
        acting = np.eye(3, dtype=np.float32)[[action]]
        assert found.rollout(lambda _, acting=acting: acting, "test") == {"mean_return": action - 1}


def test_outputs_that_are_no_numbers_have_no_return(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="mean_return of the exported model is nan"):
        measure_quality(lambda seen: np.full((len(seen), 2), np.nan, np.float32), task(tmp_path), "validation")


def test_how_good_the_policy_is_and_how_good_chance_is_said(tmp_path: Path) -> None:
    found = task(tmp_path)
    totals = [played(balance, seed)[2] for seed in found.world.seeds("validation")]
    (said,) = found.notes
    assert f"is {np.mean(totals):.4g} on average, from {min(totals):.4g} to {max(totals):.4g} in 3 episodes" in said
    assert "check the weights" not in said
    assert "no better than chance: check the weights" in task(tmp_path, -BALANCE).notes[0]


def test_what_a_rollout_lacks_is_said(tmp_path: Path) -> None:
    class Acting(type(make_task(MODELS["mlp"]))):  # type: ignore[misc]
        found: Any = None

        def rollout(self, run: Any, split: str) -> Any:
            return self.found

    data = make_task(MODELS["mlp"])
    acting = Acting(data.make_model, data.train, data.validation, data.test, quality="mean_return")
    check_task(acting)
    for found, words in ((3, r"task.rollout\(\) returned 3"), ({"retrun": 1}, "'mean_return', not among task.metrics")):
        Acting.found = found
        with pytest.raises(TaskError, match=words):
            check_trainable(acting, 0)
    Acting.found = {"mean_return": np.float64(1)}
    check_trainable(acting, 0)
    metrics, _ = judge(as_function(acting.model().eval()), acting, "test")
    assert metrics["mean_return"] == 1.0
    assert "accuracy" in metrics


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"environment": "CartPole-v11"}, r"no environment 'CartPole-v11': did you mean 'CartPole-v1'\?"),
        ({"environment": "qqqqqq"}, "no environment 'qqqqqq': gymnasium.pprint_registry"),
        ({"environment": "Pendulum-v1"}, "Pendulum-v1 has actions Box.* only discrete ones are taken"),
        ({"environment": "Images-v0"}, r"Images-v0 has observations Box.*\(8, 8, 3\).* only flat vectors"),
        ({"environment": "Places-v0"}, r"Places-v0 has observations Discrete\(4\): only flat vectors"),
        ({"environment": "Endless-v0", "steps": None}, "no limit on the steps of an episode: set task.steps"),
        ({"model": "mlp"}, "weights: policy.safetensors: do not fit the model"),
        ({"model": "model.py:wide"}, "weights: policy.safetensors: do not fit the model"),
        ({"weights": "none.safetensors"}, "none.safetensors: no such file"),
        ({"weight": torch.full((2, 4), torch.nan)}, "task.weights: the policy's outputs or rewards are NaN"),
        ({"model": "model.py:wide", "weight": torch.zeros(3, 4)}, r"task.model: gives \(2, 3\) .* a logit or value an"),
        ({"episodes": 1000, "steps": 100_000, "environment": "Acrobot-v1"}, None),
    ],
)
def test_what_cannot_be_played_is_said_before_training(
    settings: dict[str, Any], words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words is None:
        monkeypatch.setattr("autocompress.tasks.control.MOST_BYTES", 10**9)
        words = "1000 episodes of 100,000 steps take up to 2,400,000,000 bytes, at most 1,000,000,000 are held"
    with pytest.raises(TaskError, match=words):
        task(tmp_path, **settings)


def test_an_environment_is_never_imported_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "envs_of_mine.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TaskError, match="no environment 'envs_of_mine:CartPole-v1'"):
        task(tmp_path, environment="envs_of_mine:CartPole-v1")
    assert "envs_of_mine" not in sys.modules


def test_what_an_environment_warns_of_is_said(tmp_path: Path) -> None:
    found = task(tmp_path, environment="CartPole-v0")
    (said, _) = found.notes
    assert said.startswith("task.environment: WARN: The environment CartPole-v0 is out of date.")
    assert "\x1b" not in said


def test_without_gymnasium_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(TaskError, match=r"pip install 'autocompress\[control\]'"):
        task(tmp_path)


SPACE = {"version": 1, "steps": [{"one_of": [{"technique": "low_bit", "bits": [6, 8]}, "float16"]}]}


def test_a_policy_is_searched_and_its_file_balances_the_pole(tmp_path: Path) -> None:
    policy = PolicyMLP(4, 2)
    with torch.no_grad():  # the same rule by two hidden layers
        for layer in (policy.first, policy.second, policy.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        policy.first.weight[:2] = BALANCE
        policy.second.weight[:2, :2] = torch.eye(2)
        policy.last.weight[:, :2] = torch.eye(2)
    described = given(tmp_path, model="mlp", steps=100)
    save_file(policy.state_dict(), tmp_path / "policy.safetensors")
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    config = {
        "study": "pole", "task": described, "tracking": None, "search_space": "space.yaml",
        "budget": {"size": "18 KB", "metrics": {"mean_return": 80}}, "search": {"trials": 2, "workers": 1},
        "objectives": ["size_bytes", "mean_return", "latency_ms"],
    }  # fmt: skip
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(config))
    ran = run(tmp_path, "search", "search.yaml", "--executor", "inline")
    assert ran.code == 0
    assert "actions at random come to" in ran.err
    assert run(tmp_path, "export", "pole", "--out", "chosen").code == 0
    assert "largest output acts" in (tmp_path / "chosen" / "MODEL_CARD.md").read_text()
    session = onnxruntime.InferenceSession(tmp_path / "chosen" / "model.onnx")
    (value,) = session.get_inputs()

    def act(observation: np.ndarray[Any, Any]) -> int:
        return int(session.run(None, {value.name: observation[None]})[0].argmax())

    assert np.mean([played(act, seed, 100)[2] for seed in range(50, 55)]) > 80
