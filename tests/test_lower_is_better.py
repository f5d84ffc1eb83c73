"""A task whose main metric is an error: less is better, in budgets, on fronts and in choosing."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from tiny import configure, run

from autocompress.config import Budget
from autocompress.errors import ConfigError
from autocompress.front import find_front, hypervolume, pick
from autocompress.outcome import Completed, Limit

TASK = """
import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset


class Heights:
    quality, lower_is_better, baseline = "mae", ("mae",), None

    def model(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))

    def split(self, name):
        x = torch.randn(48, 6, generator=torch.Generator().manual_seed(len(name)))
        with torch.no_grad():
            return TensorDataset(x, self.model()(x) + 0.1)

    def loss(self, output, target):
        return nn.functional.mse_loss(output, target)

    def metrics(self, output, target):
        return {"mae": float(np.abs(output - target).mean()), "count": float(len(target))}
"""
OBJECTIVES = ("size_bytes", "mae")
ROWS = {0: (100.0, 0.5), 1: (90.0, 0.9), 2: (95.0, 1.5), 3: (120.0, 0.5)}


def project(folder: Path, **changes: Any) -> Path:
    (folder / "task.py").write_text(TASK)
    (folder / "space.yaml").write_text(
        "version: 1\n"
        "steps: [{technique: svd, energy: [0.3, 0.9]}, {one_of: [{technique: low_bit, bits: [3, 8]}, none]}]\n"
    )
    configure(folder / "search.yaml", task="task.py:Heights", search={"trials": 6, "workers": 1}, **changes)
    return folder


def test_front_hypervolume_and_choice_take_less_for_better() -> None:
    outcomes = {
        n: Completed({"size_bytes": size, "mae": mae, "latency_ms": 1.0}, {}) for n, (size, mae) in ROWS.items()
    }
    metrics = {number: outcome.metrics for number, outcome in outcomes.items()}
    # 2 is larger and worse than 1, and 3 larger than 0 and no better; were more better, 2 would be on the front.
    front = find_front(outcomes, OBJECTIVES, ("mae",))
    assert front.trials == (1, 0)
    assert pick(front.trials, metrics, "most-accurate", "mae", ("mae",)) == 0
    base = {"size_bytes": 100.0, "mae": 0.5}
    # Both scaled to 1/2 by the baseline: a quarter of the unit square lies beyond.
    assert hypervolume([metrics[0]], OBJECTIVES, base, ("mae",)) == pytest.approx(0.25)
    assert hypervolume([metrics[1]], OBJECTIVES, base, ("mae",)) == pytest.approx((1 - 90 / 190) * (1 - 0.9 / 1.4))


def test_a_number_bounds_a_metric_on_its_worse_side_and_a_bound_where_it_says() -> None:
    baseline = {"mae": 0.1, "auroc": 0.9}
    found = Budget(metrics={"mae": 0.5, "auroc": 0.8}).limits(baseline, ("mae",))
    assert found == (Limit("mae", "at_most", 0.5, "mae"), Limit("auroc", "at_least", 0.8, "auroc"))
    both = Budget.model_validate({"metrics": {"mae": {"at_least": 0.01}, "auroc": {"at_most": 1.0}}})
    assert [limit.sense for limit in both.limits(baseline, ("mae",))] == ["at_least", "at_most"]
    with pytest.raises(ConfigError, match="does not measure 'mse'"):
        Budget(metrics={"mse": 0.5}).limits(baseline)
    with pytest.raises(ValueError, match="give one of at_most and at_least"):
        Budget.model_validate({"metrics": {"mae": {}}})


@pytest.mark.parametrize(
    ("quality", "more"), [("mae", {}), ("count", {"objectives": ["size_bytes", "mae", "latency_ms"]})]
)
def test_a_search_for_a_small_error_finds_one(tmp_path: Path, quality: str, more: dict[str, Any]) -> None:
    # What is picked and shown goes by what is searched by, also where the task's main metric is another.
    folder = project(tmp_path, budget={"metrics": {"mae": 0.6}}, **more)
    (folder / "task.py").write_text(
        TASK.replace('quality, lower_is_better, baseline = "mae"', f'quality, lower_is_better, baseline = "{quality}"')
    )
    ended = run(folder, "search", "search.yaml", "--executor", "inline", "--json")
    assert ended.code == 0, ended.err
    document = ended.json()
    errors = [row["metrics"]["mae"] for row in document["front"]]
    assert max(errors) <= 0.6
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{folder / 'autocompress.db'}")
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MINIMIZE", "MINIMIZE"]
    best = run(folder, "export", "tiny", "--pick", "most-accurate", "--out", "chosen", "--json").json()
    assert best["measured"]["mae"] == pytest.approx(min(errors))
    verified = run(folder, "verify", "chosen", "--json")
    assert (verified.code, verified.json()["quality"]) == (0, "mae"), verified.err
    assert " mae " in run(folder, "front", "tiny").out


def test_an_uncompressed_model_past_the_limit_is_told_to_raise_it(tmp_path: Path) -> None:
    folder = project(tmp_path, budget={"metrics": {"mae": {"at_most": 0.05}}})
    ended = run(folder, "search", "search.yaml", "--executor", "inline")
    assert ended.code == 2
    assert "asks for mae of at most 0.05 but the uncompressed model has 0.1: raise the limit" in ended.err
