"""A technique that another package installs is found, described, sampled and run like those that come with us."""

import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import onnx
import optuna
import pytest
from plain import plain_baseline, trial_spec

from autocompress.artifacts.packing import weights as stored
from autocompress.errors import ConfigError, RecipeError
from autocompress.outcome import Completed
from autocompress.recipe import Range
from autocompress.search.space_file import load_space
from autocompress.techniques import GROUP, load_recipe, registry, technique
from autocompress.terminal.details import technique_documents, technique_lines
from autocompress.trial.trial import Candidate, measure, prepare

PLUG_IN = '''
from typing import Annotated, ClassVar

import numpy as np
from onnx import numpy_helper
from pydantic import Field

from autocompress.recipe import Kind, Range
from autocompress.techniques import Technique


class DropSmall(Technique):
    """Set the smallest weights of the file to zero."""

    technique: ClassVar[str] = "drop_small"
    family: ClassVar[str] = "sparsity"
    kind: ClassVar[Kind] = "encode"

    share: Annotated[float, Range(0.1, 0.5, step=0.1)] = Field(0.3, gt=0, lt=1)

    def decide(self, model, context):
        found = {}
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.ndim > 1 and values.dtype == np.float32:
                found[tensor.name] = float(np.quantile(np.abs(values), self.share))
        return {"thresholds": found}

    def apply(self, model, decision):
        for tensor in model.graph.initializer:
            if tensor.name in decision["thresholds"]:
                values = numpy_helper.to_array(tensor)
                kept = np.where(np.abs(values) > decision["thresholds"][tensor.name], values, np.float32(0))
                tensor.CopyFrom(numpy_helper.from_array(kept, tensor.name))
        return model
'''


class Site:
    """A folder on sys.path that packages can be put into, as an installer would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, source: str, entry: str = "drop_small = {module}:DropSmall", name: str = "plugged") -> None:
        """Write a module and the metadata of its distribution."""
        (self.folder / f"{name}.py").write_text(source)
        metadata = self.folder / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{entry.format(module=name)}\n")
        registry.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty site; what was installed in it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    before = set(sys.modules)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(folder)
        yield Site(folder)
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    registry.cache_clear()
    assert "drop_small" not in registry()


def test_the_techniques_of_this_package_are_found_by_name() -> None:
    found = registry()
    assert {"channel_pruning", "svd", "finetune", "distill", "int8_static", "float16"} <= set(found)
    assert list(found) == sorted(found)
    assert all(kind.technique == name for name, kind in found.items())


def test_an_unknown_technique_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"unknown technique 'chanel_pruning'; did you mean 'channel_pruning'\?"):
        technique("chanel_pruning")


def test_a_technique_of_another_package_is_registered_and_described(site: Site) -> None:
    site.install(PLUG_IN)
    assert [point.name for point in entry_points(group=GROUP)] == ["drop_small"]
    assert registry()["drop_small"].__module__ == "plugged"
    document = next(row for row in technique_documents() if row["technique"] == "drop_small")
    assert document["about"] == "Set the smallest weights of the file to zero."
    assert document["kind"] == "encode"
    assert document["settings"]["share"]["default"] == 0.3
    assert document["settings"]["share"]["search"] == str(Range(0.1, 0.5, step=0.1))
    assert {"finetune", "svd"} <= set(document["may_follow"])
    assert "int8_static" not in document["may_follow"]
    assert any("drop_small" in line for line in technique_lines([document]))


def test_nothing_may_follow_what_leaves_integers() -> None:
    found = {row["technique"]: row for row in technique_documents()}
    assert found["qat"]["kind"] == "train"
    assert {"svd", "channel_pruning", "distill"} <= set(found["qat"]["may_follow"])
    assert not any({"qat", "int8_dynamic"} & set(row["may_follow"]) for row in found.values())


def test_its_recipes_are_read_and_checked(site: Site, tmp_path: Path) -> None:
    site.install(PLUG_IN)
    path = tmp_path / "recipe.yaml"
    path.write_text("version: 1\nsteps:\n  - finetune\n  - {technique: drop_small, share: 0.2}\n")
    recipe = load_recipe(path)
    assert [step.technique for step in recipe.steps] == ["finetune", "drop_small"]
    assert recipe.steps[1].to_data() == {"technique": "drop_small", "share": 0.2}
    path.write_text("version: 1\nsteps:\n  - {technique: drop_small, shar: 0.2}\n")
    with pytest.raises(ConfigError, match=r"recipe.yaml:3: steps.0.shar: unknown key; did you mean 'share'\?"):
        load_recipe(path)


def test_a_search_space_samples_it_from_its_own_ranges(site: Site, tmp_path: Path) -> None:
    site.install(PLUG_IN)
    path = tmp_path / "space.yaml"
    path.write_text("version: 1\nsteps:\n  - one_of: [drop_small, none]\n")
    space = load_space(path)
    assert space.count() == 5 + 1  # shares 0.1 to 0.5, or nothing
    chosen = space.sample(optuna.trial.FixedTrial({"choice_0": "drop_small", "drop_small.share": 0.4}))
    assert [step.to_data() for step in chosen.steps] == [{"technique": "drop_small", "share": 0.4}]
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    space.sample(trial)
    assert trial.params.keys() == {"choice_0", "drop_small.share"}


def test_a_trial_with_it_completes(site: Site) -> None:
    baseline = plain_baseline()
    site.install(PLUG_IN)
    spec = trial_spec({"technique": "drop_small", "share": 0.4})
    candidate = prepare(spec, baseline)
    assert isinstance(candidate, Candidate)
    outcome = measure(candidate, spec, baseline)
    assert isinstance(outcome, Completed)
    weights = [
        values
        for _, values in stored(onnx.load_from_string(candidate.onnx))
        if values.ndim > 1 and values.dtype == np.float32
    ]
    zeros = sum(int((values == 0).sum()) for values in weights)
    total = sum(values.size for values in weights)
    assert zeros / total == pytest.approx(0.4, abs=0.01)
    assert outcome.metrics["params"] - outcome.metrics["nonzero_params"] >= zeros
    assert np.isfinite(outcome.metrics["accuracy"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import a_package_that_nobody_has", "No module named 'a_package_that_nobody_has'"),
        ("1 / 0", "division by zero"),
        ("DropLarge = None", "DropSmall"),
    ],
    ids=["missing import", "raises", "missing name"],
)
def test_a_plug_in_that_cannot_be_loaded_is_named(site: Site, source: str, message: str) -> None:
    site.install(source)
    with pytest.raises(
        RecipeError, match=r"'drop_small' cannot be loaded from plugged:DropSmall.*uninstall it"
    ) as info:
        registry()
    assert message in str(info.value)


@pytest.mark.parametrize(
    "source",
    [
        "DropSmall = 3",
        "def DropSmall(): pass",
        "class DropSmall: technique = 'drop_small'",
        "from autocompress.techniques import Technique\nclass DropSmall(Technique): pass",
        "from autocompress.techniques.factorization.svd import Svd\nclass DropSmall(Svd): pass",
    ],
    ids=["number", "function", "other class", "nameless", "inherited name"],
)
def test_a_plug_in_that_is_no_technique_is_named(site: Site, source: str) -> None:
    site.install(source)
    with pytest.raises(
        RecipeError, match=r"'drop_small' cannot be used: plugged:DropSmall is no subclass of Technique"
    ):
        registry()


def test_two_techniques_of_one_name_are_refused(site: Site) -> None:
    site.install(PLUG_IN.replace('"drop_small"', '"svd"'))
    with pytest.raises(
        RecipeError, match=r"'svd' is both autocompress.techniques.factorization.svd and plugged: rename one"
    ):
        registry()


def test_two_plug_ins_of_one_name_are_refused(site: Site) -> None:
    site.install(PLUG_IN, name="plugged")
    site.install(PLUG_IN, name="plugged_too")
    with pytest.raises(RecipeError, match=r"'drop_small' is both plugged\w* and plugged\w*: rename one"):
        registry()


def test_a_broken_plug_in_is_reported_by_the_recipes_that_are_read(site: Site, tmp_path: Path) -> None:
    site.install("1 / 0")
    path = tmp_path / "recipe.yaml"
    path.write_text("version: 1\nsteps: [finetune]\n")
    with pytest.raises(ConfigError, match=r"cannot be loaded from plugged:DropSmall"):
        load_recipe(path)
