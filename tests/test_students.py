"""The table of lightweight networks says what its results hold, and its intervals are Student's."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

FOLDER = Path(__file__).parents[1] / "experiments" / "students"


def module(name: str) -> Any:
    """A file of the experiment."""
    spec = importlib.util.spec_from_file_location(f"students_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_differences_are_paired_by_seed_with_students_interval() -> None:
    scratch = pd.Series([0.90, 0.92, 0.94], index=[0, 1, 2])
    distilled = pd.Series([0.97, 0.91, 0.94, 0.5], index=[2, 0, 1, 7])
    # Differences 0.01, 0.02, 0.03: mean 0.02, deviation 0.01; Student's 97.5% at two degrees of freedom is 4.303.
    mean, half, count = module("report").paired(scratch, distilled)
    assert (mean, count) == (pytest.approx(0.02), 3)
    assert half == pytest.approx(4.303 * 0.01 / math.sqrt(3), rel=1e-3)
    assert math.isnan(module("report").paired(scratch[:1], distilled)[1])


def test_a_row_of_the_table_holds_means_over_seeds() -> None:
    same = {"data": "mnist5k", "network": "squeezenet", "width": 0.25, "device": "cpu"}
    files = pd.DataFrame([
        {**same, "size_bytes": 215_000, "macs": 3_080_000, "latency_ms": 0.2},
        {**same, "network": "ResNet-18", "width": math.nan, "size_bytes": 44_685_000, "latency_ms": 2.0},
    ])  # fmt: skip
    results = pd.DataFrame([
        {**same, "network": "ResNet-18", "width": math.nan, "test_accuracy": 0.99},
        {**same, "width": 0.5, "training": "scratch", "seed": 0, "test_accuracy": 0.1},
        {**same, "width": 0.5, "training": "distilled", "seed": 0, "test_accuracy": 0.9, "device": "other"},
        *({**same, "training": "scratch", "seed": seed, "test_accuracy": 0.90 + 0.02 * seed} for seed in (0, 1)),
        {**same, "training": "scratch", "seed": 2, "test_accuracy": 0.2},  # its other half is still to come
        *({**same, "training": "distilled", "seed": seed, "test_accuracy": 0.94 + 0.02 * seed} for seed in (0, 1)),
    ])  # fmt: skip
    lines = module("report").table(results, files).splitlines()
    assert lines[2] == "| mnist5k | ResNet-18 | - | 44685 KB | - | 2.000 ms | 0.990 | - | - | 1 |"
    assert lines[3] == (
        "| mnist5k | squeezenet | 0.25 | 215 KB | 3.08 M | 0.200 ms | 0.910 | 0.950 | +4.0 ± 0.0 points | 2 |"
    )
    # An interval over seeds takes more than one network.
    assert lines[-1] == "Distilled less from scratch, over 1 networks: +4.00 points, median +4.00, better in 1."


def test_what_distillation_adds_has_an_interval_over_networks_and_one_over_seeds() -> None:
    gains = {"a": (0.01, 0.02, 0.06), "b": (0.05, 0.00, 0.04), "c": (0.00, 0.01, 0.05), "d": (0.02,)}
    results = pd.DataFrame([
        {"data": "some", "network": network, "width": 0.5, "device": "cpu", "seed": seed, "training": training,
         "test_accuracy": 0.5 + (gain if training == "distilled" else 0)}
        for network, found in gains.items()
        for seed, gain in enumerate(found)
        for training in ("distilled", "scratch")
    ])  # fmt: skip
    # Of networks 0.03, 0.03, 0.02, 0.02; of the three that have each seed, means 0.02, 0.01, 0.05, medians 0.01, 0.01,
    # 0.05: deviations by hand, Student's t of 3 and 2 degrees of freedom.
    of_networks, of_means, of_medians = 3.182 * 0.57735 / 2, 4.303 * 2.08167 / 3**0.5, 4.303 * 2.30940 / 3**0.5
    assert module("report").overall(results).splitlines() == [
        f"Distilled less from scratch, over 4 networks: +2.50 ± {of_networks:.2f} points, median +2.50, better in 4.",
        f"Means of the 3 networks that have each seed, over 3 seeds: +2.67 ± {of_means:.2f} points, median +2.00, "
        "better in 3.",
        f"Medians of the 3 networks that have each seed, over 3 seeds: +2.33 ± {of_medians:.2f} points, median +1.00, "
        "better in 3.",
    ]


def test_hard_digits_are_the_same_each_time_and_none_of_a_digit_leaves_the_image() -> None:
    pytest.importorskip("mlxtend")
    tasks = module("tasks")
    digits = torch.zeros(64, 1, 28, 28)
    digits[:, :, 8:20, 8:20] = 1
    moved = tasks.hard(digits)
    assert moved.shape == (64, 1, 40, 40)
    assert torch.equal(moved, tasks.hard(digits))
    assert not torch.equal(moved, tasks.hard(digits, seed=1))
    # A square of 144 pixels keeps its area when it is turned and shifted; noise adds 40 * 0.25 of deviation.
    assert ((moved.sum((1, 2, 3)) - 144).abs() < 5 * 10 + 2).all()
    centre = (moved * torch.arange(40.0)).sum((1, 2, 3)) / moved.sum((1, 2, 3))
    assert centre.std() > 2  # shifted by up to 6 pixels


def test_the_readme_holds_the_table_of_the_results() -> None:
    report = module("report")
    text = (FOLDER / "README.md").read_text()
    assert text.split(report.START)[1].split(report.END)[0] == report.table(
        pd.read_csv(FOLDER / "results.csv"), pd.read_csv(FOLDER / "files.csv")
    )
