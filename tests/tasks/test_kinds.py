"""Kinds of tasks: those of this package, those of others, and what is said of a kind that is not there."""

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from tiny import run

from autocompress import Regression
from autocompress.errors import ConfigError
from autocompress.tasks import kinds as module
from autocompress.tasks import load_task, refer
from autocompress.tasks.kinds import Load, TaskKind, kinds, task_kind

OWN = [
    "audio_classification",
    "control",
    "image_classification",
    "image_segmentation",
    "recommendation",
    "tabular",
    "text_classification",
    "time_series",
]


class Waves(TaskKind):
    """A kind of another package, without any data."""

    kind: Literal["waves"]
    model: str = "torch.nn:Identity"

    def places(self) -> list[str]:
        return []

    def build(self, root: Path, load: Load) -> Regression:
        data = ([[1.0], [2.0]], [[1.0], [2.0]])
        return Regression(load(self.model, root), data, data, data, baseline=None)


class Again(Waves):
    kind: Literal["tabular"]  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def _anew() -> Any:
    kinds.cache_clear()
    yield
    kinds.cache_clear()


def given(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    points = [EntryPoint("waves", value, module.GROUP)]
    monkeypatch.setattr(module, "entry_points", lambda group: points if group == module.GROUP else [])


def test_every_kind_has_its_name_and_a_package_may_add_some(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = list(kinds())
    assert own == OWN
    kinds.cache_clear()
    given(monkeypatch, f"{__name__}:Waves")
    assert list(kinds()) == [*own, "waves"]
    task = load_task(refer(task_kind("waves").model_validate({"kind": "waves"}), tmp_path))
    assert task.quality == "r2"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("not_there:Waves", "cannot be loaded from not_there:Waves: No module named 'not_there'"),
        ("math:pi", "math:pi is no subclass of TaskKind"),
        (f"{__name__}:Again", f"'tabular' is both autocompress.tasks.tabular and {__name__}: rename one"),
    ],
)
def test_a_kind_that_cannot_be_used_is_named(value: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, value)
    with pytest.raises(ConfigError) as raised:
        kinds()
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"kind": "tabluar"}, "task.kind: unknown kind of task 'tabluar'; did you mean 'tabular'?"),
        ({"kind": ["tabular"]}, "task.kind: unknown kind of task"),
        (
            {"data": "csv:a.csv"},
            f"task: add `kind:` ({', '.join(OWN)}), or write file.py:factory",
        ),
        ({"kind": "tabular", "data": "csv:a.csv"}, "task.target"),
    ],
)
def test_a_config_without_a_known_kind_is_refused_where_it_stands(
    task: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "search.yaml").write_text(yaml.safe_dump({"study": "a", "task": task, "tracking": None}))
    ran = run(tmp_path, "search", "search.yaml", "--executor", "inline")
    assert ran.code == 2
    assert "search.yaml:" in ran.err
    assert words in ran.err
