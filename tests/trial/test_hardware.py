"""Where trials train: what of it makes another stage, and a device that a worker has not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from plain import plain_baseline, reference, trial_spec

from autocompress.config import Train
from autocompress.errors import TaskError
from autocompress.outcome import Candidate, Failed
from autocompress.trial.baseline import train_baseline
from autocompress.trial.trial import failure, prepare

STEPS = ({"technique": "channel_pruning", "ratio": 0.5}, {"technique": "finetune", "epochs": 1})


def made(folder: Path, **train: Any) -> Candidate:
    found = prepare(trial_spec(*STEPS, cache=str(folder), how=Train(**{"device": "cpu", **train})), plain_baseline())
    assert isinstance(found, Candidate)
    return found


def test_a_stage_is_of_the_device_and_precision_that_it_was_trained_in(tmp_path: Path) -> None:
    plain = made(tmp_path)
    half = made(tmp_path, precision="bf16")
    assert half.weights != plain.weights
    again = made(tmp_path, precision="bf16")
    assert again.weights == half.weights
    assert again.seconds["train"] == 0, "it goes on from the stage that was kept"
    shared = made(tmp_path, gpus_per_trial=0.5, loader_workers=1)
    assert shared.weights == plain.weights
    assert shared.seconds["train"] == 0, "these change no number"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_a_device_that_a_worker_has_not_is_said_by_baseline_and_trial() -> None:
    with pytest.raises(TaskError, match=r"train.device: cuda: torch finds none"):
        train_baseline(reference(), 0, how=Train(device="cuda"))
    found = prepare(trial_spec(*STEPS, how=Train(device="cuda")), plain_baseline())
    assert isinstance(found, Failed)
    assert "train.device: cuda" in found.reason


def test_a_trial_that_ran_out_of_the_accelerators_memory_says_so() -> None:
    assert "out of the accelerator's memory" in failure(torch.OutOfMemoryError("CUDA out of memory")).reason


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_fp16_is_for_devices_that_scale_losses(device: Any) -> None:
    with pytest.raises(ValueError, match=f"fp16 trains on cuda alone, where losses are scaled: write bf16 on {device}"):
        Train(device=device, precision="fp16")
