"""What a budget asks is held against the task before a baseline is trained, and doubted where data cannot tell it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_project
from torch import nn

from autocompress.config import SearchConfig, load_config
from autocompress.errors import ConfigError
from autocompress.search.plan import too_fine
from autocompress.search.setup import check_names, searched_quality, set_up
from autocompress.tasks import Classification
from autocompress.tasks.checks import metric_names


def of(count: int) -> Classification:
    """A task with so many examples to validate on."""
    pixels, targets = torch.zeros(count, 1, 8, 8), torch.arange(count) % 4
    return Classification(nn.Flatten, (pixels, targets), (pixels, targets), (pixels, targets))


@pytest.mark.parametrize(
    ("drop", "count", "said"),
    [
        (None, 10, None),
        (0.0, 10, None),  # none may be lost, which is a clear wish
        (0.01, 18, "accuracy_drop: 0.01 of 18 validation examples is less than one: "),
        (0.05, 20, "accuracy_drop: 0.05 of 20 validation examples is one: "),
        (0.29 / 3, 20, "accuracy_drop: 0.0966667 of 20 validation examples is one: "),
        (0.1, 20, None),
        (0.01, 200, None),
    ],
)
def test_a_drop_that_one_example_decides_on_is_said(drop: float | None, count: int, said: str | None) -> None:
    found = too_fine(of(count), drop)
    assert found == [] if said is None else found[0].startswith(said)


@pytest.mark.parametrize(
    ("entries", "quality"),
    [
        ({}, "accuracy"),
        ({"objectives": ["size_bytes", "auroc", "accuracy"]}, "accuracy"),
        ({"objectives": ["size_bytes", "latency_ms"]}, "accuracy"),
        ({"objectives": ["size_bytes", "auroc", "f1"]}, "auroc"),
    ],
)
def test_what_is_searched_by_is_what_is_shown(entries: dict[str, Any], quality: str) -> None:
    config = SearchConfig.model_validate({"study": "some", "task": "tasks.py:make", **entries})
    assert searched_quality(config, "accuracy") == quality


def test_a_task_of_another_kind_has_no_examples_to_count() -> None:
    class Other:
        quality = "accuracy"

    other: Any = Other()
    assert too_fine(other, 0.001) == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"budget": {"metrics": {"acuracy": 0.5}}}, "did you mean 'accuracy'"),
        ({"objectives": ["size_bytes", "acuracy"]}, "did you mean 'accuracy'"),
        ({"objectives": ["latency_ms_p90", "accuracy"]}, "objectives.0: 'latency_ms_p90' is not measured"),
        ({"budget": {"metrics": {"latency_ms_p90": 5.0, "accuracy": 0.5}}}, None),
        ({"budget": {"metrics": {"speedup_low": 2.0}}}, None),
        ({"budget": {"size": "5 KB", "accuracy_drop": 0.1}}, None),
    ],
)
def test_names_are_checked_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], error: str | None
) -> None:
    folder = make_project(tmp_path, **changes)
    monkeypatch.chdir(folder)
    setup = set_up(load_config(folder / "search.yaml"))
    if error is None:
        check_names(setup.config, setup.task)
        return
    with pytest.raises(ConfigError, match=error):
        check_names(setup.config, setup.task)


def test_a_metric_that_the_first_examples_do_not_define_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_project(tmp_path, budget={"metrics": {"auroc": 0.5}}, objectives=["size_bytes", "auroc"])
    (folder / "task.py").write_text(
        "import torch\nfrom torch import nn\nfrom autocompress import Classification\n"
        "def tiny():\n    x, y = torch.randn(140, 4), torch.arange(140) // 70\n"
        "    return Classification(lambda: nn.Linear(4, 2), (x, y), (x, y), (x, y))\n"
    )
    monkeypatch.chdir(folder)
    setup = set_up(load_config(folder / "search.yaml"))
    assert "auroc" not in metric_names(setup.task)  # of one class, since they are sorted
    check_names(setup.config, setup.task)
