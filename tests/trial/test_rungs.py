"""Trainings that are looked at while they run, and end where they come to nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from plain import plain_baseline, trial_spec
from torch import Tensor, nn

from autocompress import Training
from autocompress.outcome import Candidate, Completed, Limit, Stopped
from autocompress.techniques import recipe_from_data
from autocompress.testing.models import Plain, make_task
from autocompress.training import fit
from autocompress.trial.peers import ENOUGH, Peers
from autocompress.trial.rungs import Rungs
from autocompress.trial.trial import TrialSpec, measure, prepare

PRUNE = {"technique": "channel_pruning", "ratio": 0.5, "importance": "l1", "scope": "layer"}
TRAIN = {"technique": "finetune", "epochs": 9, "batch_size": 16}
RECIPE = (PRUNE, TRAIN, PRUNE, TRAIN)
NAMES = [
    *("a ninth of a training with 1 to follow", "a third of a training with 1 to follow"),
    *("all of a training with 1 to follow", "a ninth of the last training", "a third of the last training"),
]
IMPOSSIBLE = (Limit("accuracy", "at_least", 2.0, "accuracy"),)


def spec(*recipe: Any, peers: Peers | None, **changes: Any) -> TrialSpec:
    return replace(trial_spec(*recipe), peers=peers, **changes)


def held_against(rung: str) -> Peers:
    """Others that gained nothing from a rung on."""
    return Peers(("accuracy",), (), (), {rung: [({"accuracy": 0.0}, {"accuracy": 0.0})] * ENOUGH})


def test_a_training_is_looked_at_on_each_rung_and_comes_to_the_same() -> None:
    without = prepare(spec(*RECIPE, peers=None), plain_baseline())
    with_ = prepare(spec(*RECIPE, peers=Peers(("accuracy",))), plain_baseline())
    assert isinstance(without, Candidate)
    assert isinstance(with_, Candidate)
    assert list(with_.rungs) == NAMES
    assert without.rungs == {}
    assert all(row.keys() == {"accuracy"} for row in with_.rungs.values())
    assert with_.onnx == without.onnx
    outcome = measure(with_, spec(*RECIPE, peers=None), plain_baseline())
    assert isinstance(outcome, Completed)
    assert outcome.rungs == with_.rungs


@pytest.mark.parametrize("rung", NAMES)
def test_a_training_ends_on_the_rung_where_it_comes_to_nothing(rung: str) -> None:
    ended = prepare(spec(*RECIPE, peers=held_against(rung), limits=IMPOSSIBLE), plain_baseline())
    assert isinstance(ended, Stopped), ended
    assert f"after {rung}: " in ended.reason
    assert list(ended.rungs) == NAMES[: NAMES.index(rung) + 1]
    assert ended.expected == {"accuracy": ended.rungs[rung]["accuracy"]}
    assert ended.seconds["train"] > 0 == ended.seconds["export"]


def test_few_epochs_have_the_rungs_that_they_reach_together() -> None:
    short = {**TRAIN, "epochs": 2}
    found = prepare(spec(PRUNE, short, peers=Peers(("accuracy",))), plain_baseline())
    assert isinstance(found, Candidate)
    assert list(found.rungs) == NAMES[3:]
    one = prepare(spec(PRUNE, {**TRAIN, "epochs": 1}, peers=Peers(("accuracy",))), plain_baseline())
    assert isinstance(one, Candidate)
    assert one.rungs == {}


def test_a_training_that_was_finished_is_kept_whatever_came_of_it(tmp_path: Path) -> None:
    first = prepare(
        spec(*RECIPE, peers=held_against(NAMES[2]), limits=IMPOSSIBLE, cache=str(tmp_path)), plain_baseline()
    )
    assert isinstance(first, Stopped)
    again = prepare(spec(*RECIPE, peers=Peers(("accuracy",)), cache=str(tmp_path)), plain_baseline())
    assert isinstance(again, Candidate)
    assert list(again.rungs) == NAMES[3:]  # the first training was there already


def test_looking_disturbs_no_random_numbers() -> None:
    def trained(peers: Peers | None) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * 12 * 12, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 4)
        )
        task, rungs = make_task(Plain), Rungs(make_task(lambda: model), peers, (), {})
        recipe = recipe_from_data({"version": 1, "steps": [TRAIN]})
        with rungs.watching(recipe, 0):
            settings = Training(epochs=9, batch_size=16)
            fit(model, task.split("train"), lambda output, batch: task.loss(output, batch.targets), settings, 0)
        assert len(rungs.stood) == (0 if peers is None else 2)
        return list(model.state_dict().values())

    assert all(map(torch.equal, trained(None), trained(Peers(("accuracy",)))))
