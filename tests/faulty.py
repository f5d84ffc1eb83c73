"""The digits project with a network that misbehaves."""

import json
from pathlib import Path
from typing import Any

import yaml
from commandline import Project

FAULTY = '''
"""The digits with a network that misbehaves while it is trained, as faults.json says by its first layer's width."""

import json
import os
import signal
import threading
from pathlib import Path

from network import DigitsNet
from task import digits

HERE = Path(__file__).parent
FAULTS = json.loads((HERE / "faults.json").read_text())
PAUSE = threading.Event()


class Faulty(DigitsNet):
    def forward(self, x):
        if self.training:
            misbehave(FAULTS.get(str(self.first.weight.shape[0])))
        return super().forward(x)


def misbehave(how):
    if how == "hold":
        while (HERE / "hold").exists():
            (HERE / f"held.{os.getpid()}").touch()
            PAUSE.wait(0.05)
    elif how == "hang":
        while True:
            PAUSE.wait(1)
    elif how == "raise":
        raise RuntimeError("these digits cannot be read")
    elif how == "die" or (how == "die once" and not (HERE / "died").exists()):
        (HERE / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def faulty():
    return digits(Faulty)
'''


def faulty_project(folder: Path, faults: dict[int, str], ratios: list[float], **changes: Any) -> Project:
    """The digits project with faults by width: a ratio r of pruning leaves 32 (1 - r) of 32 neurons.

    Its budget says nothing of what is known before training, so that each trial comes to its fault without an export.
    """
    project = Project.make(folder, task="faulty.py:faulty", **{"budget": {"accuracy_drop": 0.6}, **changes})
    (folder / "digits" / "faulty.py").write_text(FAULTY)
    (folder / "digits" / "faults.json").write_text(json.dumps(faults))
    space = {
        "version": 1,
        "steps": [
            {"technique": "channel_pruning", "ratio": ratios, "importance": "l1", "scope": "layer"},
            {"technique": "finetune", "epochs": 1, "learning_rate": {"low": 0.001, "high": 0.01, "log": True}},
        ],
        "start": [{"channel_pruning.ratio": ratio} for ratio in ratios],
    }
    (folder / "digits" / "space.yaml").write_text(yaml.safe_dump(space, sort_keys=False))
    return project
