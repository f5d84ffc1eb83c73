"""Control without code: a trained policy in a Gymnasium environment, imitated by what is made of it."""

import contextlib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ..data import SPLITS
from ..errors import TaskError, suggest
from .blame import blaming, one_line
from .bounds import MOST_BYTES
from .kinds import Load, TaskKind
from .models import as_function
from .networks import PolicyMLP
from .preparation import Preparation, finite
from .protocol import Array, Classification, Run
from .weights import load_weights, read_weights

MOST_EPISODES = 1000
MOST_STEPS = 100_000
BYTES = 4
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class ControlPreparation(Preparation):
    """Observations as the environment gives them."""

    example: ClassVar[str] = "environment.reset()[0]"

    observations: int = Field(ge=1)

    def arrays(self, raw: Any) -> tuple[Array, ...]:
        """Observations (N, observations) of one (observations,) or several. Raises TaskError for another shape."""
        given = finite(raw, "observations")
        if given.shape[-1:] != (self.observations,) or given.ndim > 2:
            raise TaskError(f"observations have shape {given.shape}: give (N, {self.observations}), or one alone")
        return (given.reshape(-1, self.observations),)


class ControlConfig(TaskKind):
    """The `task:` mapping of a search config with `kind: control`.

    environment is the id of a registered Gymnasium environment with flat observations and discrete actions, weights
    those of a trained policy. The splits are what it observes in `episodes` episodes each, of seeds of their own, and
    the actions that it takes; files are measured by the mean return of the validation or test episodes. An episode ends
    after `steps` steps, or when the environment says. model is called with `observations` and `actions`, how many there
    are; it takes observations (N, observations) and gives logits or values (N, actions), of which the largest acts.
    """

    networks: ClassVar[Mapping[str, type]] = {"mlp": PolicyMLP}
    preparation: ClassVar[type[ControlPreparation]] = ControlPreparation
    kind: Literal["control"]
    environment: str
    weights: str
    episodes: int = Field(20, ge=2, le=MOST_EPISODES)
    steps: int | None = Field(None, ge=1, le=MOST_STEPS)
    seed: int = Field(0, ge=0, le=100_000)
    model: str = Field("mlp", pattern=r"^(mlp|.+:.+)$")

    def build(self, root: Path, load: Load) -> "Control":
        """The task; relative paths start at root. Raises TaskError."""
        world, said = _world(self)
        make, weights = load(self.code, root), read_weights(root / self.weights)

        def model() -> nn.Module:
            """A new policy, with its weights."""
            policy: nn.Module = make(observations=world.observations, actions=world.actions)
            load_weights(policy, weights, self.weights)
            return policy

        run = as_function(_checked(model().eval(), world))
        visited = {name: world.episodes(run, name) for name in SPLITS}
        splits: dict[str, Any] = {name: _split(episodes) for name, episodes in visited.items()}
        told = f"observations (N, {world.observations}) as {self.environment} gives them; the largest output acts"
        return Control(
            model,
            **splits,
            baseline=None,
            classes=tuple(f"action {world.first + index}" for index in range(world.actions)),
            preparation=ControlPreparation(kind=self.kind, observations=world.observations),
            inputs=(told,),
            notes=(*said, _compared(world, visited["validation"])),
            world=world,
        )


@dataclass(frozen=True)
class Episode:
    """What a policy observed (T, observations), its actions (T,) counted from 0, and the sum of its rewards."""

    observations: NDArray[np.float32]
    actions: NDArray[np.int64]
    total: float


@dataclass(frozen=True)
class World:
    """An environment and the episodes that are played in it, the same ones for the same policy.

    observations and actions: how many there are; first: what action 0 is there; count: episodes a split, of at most so
    many steps.
    """

    environment: str
    observations: int
    actions: int
    first: int
    count: int
    steps: int
    seed: int

    def seeds(self, split: str) -> range:
        """The seeds of a split's episodes; no two splits share one."""
        first = (len(SPLITS) * self.seed + SPLITS.index(split)) * MOST_EPISODES
        return range(first, first + self.count)

    def episodes(self, run: Run, split: str) -> list[Episode]:
        """A split's episodes, one step at a time, where the largest output of run for (1, observations) acts.

        An episode ends with a sum of NaN where an output is no number.
        """
        environment, _ = _made(self.environment, self.steps)
        with contextlib.closing(environment):
            return [self._episode(environment, run, seed) for seed in self.seeds(split)]

    def _episode(self, environment: Any, run: Run, seed: int) -> Episode:
        observation, _ = environment.reset(seed=seed)
        seen: list[NDArray[np.float32]] = []
        acted: list[int] = []
        total, over = 0.0, False
        while not over:
            given = np.array(observation, np.float32)
            output = run(given[None])[0]
            if not np.isfinite(output).all():
                return Episode(np.array(seen, np.float32), np.array(acted, np.int64), float("nan"))
            action = int(output.argmax())
            observation, reward, ended, cut, _ = environment.step(self.first + action)
            seen.append(given)
            acted.append(action)
            total, over = total + float(reward), ended or cut
        return Episode(np.stack(seen), np.array(acted, np.int64), total)


@dataclass(frozen=True)
class Control(Classification):
    """A task of acting as a trained policy does: its actions are imitated, and what counts is the mean return.

    Outputs are logits or values (N, actions), targets the policy's own actions (N,).
    """

    quality: str = "mean_return"
    world: World | None = None

    def metrics(self, output: Array, target: Array) -> dict[str, float]:
        """Share of the policy's observations where the largest output is the policy's own action."""
        return {"agreement": float(np.mean(output.argmax(axis=1) == target))}

    def rollout(self, run: Run, split: str) -> dict[str, float]:
        """Mean sum of rewards over a split's episodes; NaN where an output is no number."""
        assert self.world is not None
        return {"mean_return": float(np.mean([episode.total for episode in self.world.episodes(run, split)]))}


def _world(config: ControlConfig) -> tuple[World, tuple[str, ...]]:
    """The environment and what it says of itself. Raises TaskError for one that is not there or not taken."""
    name = config.environment
    environment, said = _made(name, config.steps)
    with contextlib.closing(environment):
        from gymnasium.spaces import Box, Discrete

        seen, acted, steps = environment.observation_space, environment.action_space, environment.spec.max_episode_steps
    if not isinstance(seen, Box) or len(seen.shape) != 1:
        raise TaskError(f"task.environment: {name} has observations {seen}: only flat vectors of numbers are taken")
    if not isinstance(acted, Discrete):
        raise TaskError(f"task.environment: {name} has actions {acted}: only discrete ones are taken")
    if steps is None:
        raise TaskError(f"task.environment: {name} has no limit on the steps of an episode: set task.steps")
    size = config.episodes * steps * seen.shape[0] * BYTES
    if size > MOST_BYTES:
        raise TaskError(
            f"task.episodes: {config.episodes} episodes of {steps:,} steps take up to {size:,} bytes, at most "
            f"{MOST_BYTES:,} are held: take fewer, or set task.steps"
        )
    world = World(name, seen.shape[0], int(acted.n), int(acted.start), config.episodes, steps, config.seed)
    return world, said


def _made(name: str, steps: int | None) -> tuple[Any, tuple[str, ...]]:
    """A new environment and what it warns of, only by the id that is registered: other names might import code."""
    try:
        import gymnasium
    except ImportError:
        raise TaskError("task.kind: gymnasium is not installed: pip install 'autocompress[control]'") from None
    if name not in gymnasium.registry:
        near = suggest(name, gymnasium.registry)
        hint = near if near.startswith("did") else "gymnasium.pprint_registry() shows what there is"
        raise TaskError(f"task.environment: Gymnasium has no environment {name!r}: {hint}")
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            environment = gymnasium.make(name, max_episode_steps=steps, disable_env_checker=True)
    except Exception as error:
        raise TaskError(f"task.environment: {name} cannot be made: {one_line(error)}") from error
    return environment, tuple(f"task.environment: {COLOURS.sub('', str(found.message))}" for found in warned)


def _checked(policy: nn.Module, world: World) -> nn.Module:
    """The policy. Raises TaskError where it does not give one number an action."""
    with blaming("task.model"), torch.no_grad():
        output = policy(torch.zeros(2, world.observations))
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != (2, world.actions):
        raise TaskError(
            f"task.model: gives {shape} for two observations of {world.observations} numbers: give a logit or value "
            f"an action, {(2, world.actions)}"
        )
    return policy


def _split(episodes: Sequence[Episode]) -> TensorDataset:
    """Observations and actions of episodes, one after the other. Raises TaskError where a policy broke down."""
    if not all(np.isfinite(episode.total) for episode in episodes):
        raise TaskError("task.weights: the policy's outputs or rewards are NaN or infinite: train it again")
    parts = (np.concatenate([getattr(episode, name) for episode in episodes]) for name in ("observations", "actions"))
    return TensorDataset(*map(torch.from_numpy, parts))


def _compared(world: World, episodes: Sequence[Episode]) -> str:
    """How good the policy is, beside one that knows nothing."""
    chance = np.random.default_rng(world.seed)
    others = world.episodes(lambda given: chance.random((len(given), world.actions)), "validation")
    totals = [episode.total for episode in episodes]
    mean, at_random = float(np.mean(totals)), float(np.mean([episode.total for episode in others]))
    doubt = "" if mean > at_random else ", so the policy is no better than chance: check the weights"
    return (
        f"task.weights: the policy's return on validation is {mean:.4g} on average, from {min(totals):.4g} to "
        f"{max(totals):.4g} in {len(totals)} episodes; actions at random come to {at_random:.4g}{doubt}"
    )
