"""Trains a policy for CartPole-v1 by REINFORCE (Williams, 1992) and writes policy.safetensors.

Usage: python experiments/domains/cartpole_policy.py FOLDER
"""

import sys
from pathlib import Path

import gymnasium
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from autocompress.tasks.networks import PolicyMLP

SEED, EPISODES, UPDATES, DISCOUNT, RATE = 0, 16, 120, 0.99, 5e-3
SEEDS = 10**9  # where the seeds of training begin, far from those by which the policy is measured


def play(policy: PolicyMLP, environment: gymnasium.Env, seed: int) -> tuple[list[np.ndarray], list[int]]:
    """Observations and actions of an episode, in which actions are drawn; CartPole rewards each step by 1."""
    observation, _ = environment.reset(seed=seed)
    seen, acted, over = [], [], False
    while not over:
        seen.append(observation)
        with torch.no_grad():
            logits = policy(torch.from_numpy(observation)[None])
        acted.append(int(torch.multinomial(logits.softmax(1), 1)))
        observation, _, ended, cut, _ = environment.step(acted[-1])
        over = ended or cut
    return seen, acted


def to_go(length: int) -> np.ndarray:
    """Discounted sums of the rewards that are to come, step by step."""
    return ((1 - DISCOUNT ** np.arange(length, 0, -1)) / (1 - DISCOUNT)).astype(np.float32)


def loss(policy: PolicyMLP, episodes: list[tuple[list[np.ndarray], list[int]]]) -> Tensor:
    """Minus the log-probability of each action, weighted by how far what came of it is above the mean."""
    seen = torch.from_numpy(np.concatenate([part for part, _ in episodes]).reshape(-1, 4))
    acted = torch.tensor([action for _, actions in episodes for action in actions])
    gained = torch.from_numpy(np.concatenate([to_go(len(actions)) for _, actions in episodes]))
    better = (gained - gained.mean()) / gained.std()
    return (better * torch.nn.functional.cross_entropy(policy(seen), acted, reduction="none")).mean()


def train() -> PolicyMLP:
    """A policy, the same at every call on one machine."""
    torch.manual_seed(SEED)
    policy = PolicyMLP(observations=4, actions=2)
    optimizer = torch.optim.Adam(policy.parameters(), RATE)
    environment = gymnasium.make("CartPole-v1")
    for update in range(UPDATES):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - update / UPDATES)
        episodes = [play(policy, environment, SEEDS + update * EPISODES + index) for index in range(EPISODES)]
        optimizer.zero_grad()
        loss(policy, episodes).backward()
        optimizer.step()
        if (update + 1) % 10 == 0:
            print(f"update {update + 1}: mean return {np.mean([len(actions) for _, actions in episodes]):.1f}")
    return policy


if __name__ == "__main__":
    save_file(train().state_dict(), Path(sys.argv[1]) / "policy.safetensors")
