"""Techniques that cannot be applied to a model are known before the search, left out of its space, and stay so."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import SPACE, Ran, Silent, configure, make_project, run

from autocompress.config import load_config
from autocompress.errors import ConfigError, ExecutorError
from autocompress.executors import InlineExecutor
from autocompress.search.leaving_out import note_of, tries
from autocompress.search.plan import make_plan
from autocompress.search.setup import set_up
from autocompress.search.space import Space
from autocompress.search.space_file import load_space
from autocompress.search.store import StudyStore
from autocompress.trial.applicable import find_obstacles

LINES = ("tucker", "stripe_pruning")  # which one linear layer has no use for


def space_of(folder: Path, *steps: Any, start: list[dict[str, Any]] | None = None) -> Space:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "steps": list(steps), "start": start or []}))
    return load_space(path)


def names(space: Space) -> list[list[str]]:
    return [[option.name if option else "none" for option in group.options] for group in space.groups]


# Leaving out


def test_options_go_and_groups_without_any_go_with_them(tmp_path: Path) -> None:
    space = space_of(
        tmp_path, {"any_order": ["tucker", "svd", "cp"]}, {"one_of": ["sparsify", "none"]}, {"one_of": ["qat", "none"]}
    )
    less = space.without(dict.fromkeys(("tucker", "cp", "sparsify"), "needs a convolution"))
    assert names(less) == [["svd"], ["qat", "none"]]
    assert less.groups[1].name == space.groups[2].name, "parameters keep their names"
    assert space.without({}) is space


def test_a_start_point_loses_what_it_says_of_them_or_goes_where_it_chose_one(tmp_path: Path) -> None:
    space = space_of(
        tmp_path,
        {"any_order": ["tucker", "svd"]},
        {"one_of": ["low_bit", "int8_dynamic"]},
        start=[
            {"tucker": True, "tucker.energy": 0.6, "svd": True, "svd.energy": 0.7, "svd.position": 0.3},
            {"tucker": False, "svd": True, "svd.energy": 0.7},
            {"svd": False, "choice_1": "low_bit", "low_bit.bits": 3},
            {"svd": False, "choice_1": "int8_dynamic"},
        ],
    )
    less = space.without({"tucker": "needs", "int8_dynamic": "needs"})
    assert less.start == ({"svd": True, "svd.energy": 0.7}, {"svd": False, "low_bit.bits": 3})
    assert less.parameters() == {"svd", "svd.energy", "svd.variant", "low_bit.bits", "low_bit.group"}


def test_a_step_of_every_recipe_that_cannot_be_applied_is_an_error(tmp_path: Path) -> None:
    space = space_of(tmp_path, "tucker", {"one_of": ["float16", "none"]})
    with pytest.raises(ConfigError, match=r"recipe has the step tucker, which cannot .*: needs a window: take it out"):
        space.without({"tucker": "needs a window"})


def test_a_space_of_which_nothing_is_left_is_an_error(tmp_path: Path) -> None:
    space = space_of(tmp_path, {"any_order": ["tucker", "cp"]}, {"one_of": ["qat", "none"]})
    with pytest.raises(ConfigError, match=r"none of its techniques can be applied to this model: a; b; c$"):
        space.without({"tucker": "a", "cp": "b", "qat": "c"})


# Trying


def test_a_technique_is_tried_at_its_defaults_then_at_the_ends_of_each_setting(tmp_path: Path) -> None:
    svd = space_of(tmp_path, {"technique": "svd", "energy": {"low": 0.6, "high": 0.9}}).options()["svd"]
    first, *others = [(row["energy"], row["variant"]) for row in tries(svd)]
    assert first == (0.8, "channel")
    # Each setting alone at its ends, then all high; all low was tried by then.
    assert sorted(others) == [(0.6, "channel"), (0.8, "spatial"), (0.9, "channel"), (0.9, "spatial")]


def test_settings_that_cannot_be_together_are_not_tried(tmp_path: Path) -> None:
    option = space_of(tmp_path, {"technique": "nm_pruning", "n": [1, 4], "m": [8, 4]}).options()["nm_pruning"]
    assert [(row["n"], row["m"]) for row in tries(option)] == [(1, 4), (1, 8)]  # 4 of 4 is no pattern


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("needs a window", "left out of the search space: cp: needs a window"),
        ("cp: kernel is not finite: check", "left out of the search space: cp: kernel is not finite: check"),
    ],
)
def test_what_is_left_out_is_one_line(reason: str, line: str) -> None:
    assert note_of("cp", reason) == line


# In a search


@pytest.fixture
def project(tmp_path: Path) -> Path:
    made = make_project(tmp_path)
    space = {**SPACE, "steps": [{"any_order": ["svd", *LINES]}, {"one_of": ["float16", "none"]}]}
    (made / "space.yaml").write_text(yaml.safe_dump(space))
    return made


def search(project: Path, *more: str) -> Ran:
    return run(project, "search", "search.yaml", "--executor", "inline", *more)


def test_plan_and_search_say_what_is_left_out_and_no_trial_fails_for_it(project: Path) -> None:
    planned = run(project, "plan", "search.yaml", "--executor", "inline", "--json")
    assert planned.json()["left_out"].keys() == set(LINES)
    ran = search(project, "--json")
    for said in (planned.err, ran.err):
        assert [line for line in said.splitlines() if line.startswith("left out")] == [
            "left out of the search space: tucker: needs a convolution with a window over all of its inputs that is "
            "smaller as three",
            "left out of the search space: stripe_pruning: needs a convolution with a window of more than one position",
        ]
    assert "trying each technique of the search space" in planned.err
    assert "trying each technique of the search space" not in ran.err
    assert all(row["technique"] not in LINES for trial in ran.json()["front"] for row in trial["recipe"]["steps"])


class Telling(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.notes: list[str] = []

    def phase(self, text: str) -> None:
        """Keep it."""
        self.phases.append(text)

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)


class Dying(InlineExecutor):
    """Dies of whatever factorizes."""

    def call(self, function: Any, *arguments: Any, trains: bool = False) -> Any:
        """Call it, or die of it."""
        if function is find_obstacles and "svd" in arguments[-1]:
            raise ExecutorError("find_obstacles failed on two workers: its worker crashed")
        return function(*arguments)


def test_families_are_tried_one_by_one_and_one_that_kills_its_worker_leaves_the_others(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    for executor, left_out in ((Dying(), {"stripe_pruning"}), (InlineExecutor(), set(LINES))):
        view = Telling()
        planned = make_plan(set_up(load_config(project / "search.yaml")), executor, view)
        assert planned.left_out.keys() == left_out
        about = "trying each technique of the search space on the model"
        assert [phase for phase in view.phases if phase.startswith(about)] == [
            f"{about}: low-rank (1 of 3 families)",
            f"{about}: pruning (2 of 3 families)",
            f"{about}: quantization (3 of 3 families)",
        ], "what was not found the first time is tried again"
        unknown = [note for note in view.notes if "not known" in note]
        assert len(unknown) == isinstance(executor, Dying)
        assert all("techniques of low-rank" in note for note in unknown)


def test_what_was_left_out_stays_so_on_resume_whatever_is_found_then(project: Path) -> None:
    assert search(project).code == 0
    store = StudyStore.open(f"sqlite:///{project / 'autocompress.db'}", "tiny")
    assert store.get("left_out").keys() == set(LINES)
    store.set("left_out", {**store.get("left_out"), "svd": "needs rest"})
    shutil.rmtree(project / ".autocompress" / "obstacles")
    again = search(project, "--resume", "--trials", "5")
    assert again.code == 0
    assert "left out of the search space: svd: needs rest" in again.err
    later = [row.recipe_data["steps"] for number, row in StudyStore.open(
        f"sqlite:///{project / 'autocompress.db'}", "tiny").records().items() if number >= 3]  # fmt: skip
    assert all(step["technique"] == "float16" for steps in later for step in steps)


def test_a_step_of_every_recipe_that_cannot_be_applied_ends_the_search_before_it_begins(project: Path) -> None:
    (project / "space.yaml").write_text(yaml.safe_dump({"version": 1, "steps": ["tucker", "svd"]}))
    configure(project / "search.yaml")
    ran = search(project)
    assert ran.code == 2
    assert ran.err.splitlines()[-1].endswith(
        "space.yaml: every recipe has the step tucker, which cannot be applied to this model: needs a convolution with "
        "a window over all of its inputs that is smaller as three: take it out of the space"
    )
