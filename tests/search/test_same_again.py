"""With one worker and a seed a search asks for the same recipes again, in whatever process."""

import subprocess
from pathlib import Path

import tiny
from commandline import COMMAND, PATIENCE, Project

TRIALS = 12  # beyond the recipes that every search begins with


def begin(folder: Path, hashed: str) -> tuple[Project, "subprocess.Popen[str]"]:
    """A search in a process of its own, whose sets are ordered by `hashed`."""
    folder.mkdir()
    search = {"trials": TRIALS, "workers": 1, "seed": 1}
    objectives = ["size_bytes", "accuracy"]  # speeds are measured, and differ a little each time
    tiny.make_project(folder, search_space="hybrid", search=search, objectives=objectives, budget={"size": "2 KB"})
    project = Project(folder, {"PYTHONHASHSEED": hashed})
    command = [*COMMAND, "search", "search.yaml", "--executor", "inline"]
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return project, subprocess.Popen(command, cwd=folder, env=project.environment, text=True, **output)


def test_a_search_repeats(tmp_path: Path) -> None:
    both = [begin(tmp_path / hashed, hashed) for hashed in ("1", "2")]
    asked = []
    for project, process in both:
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        asked.append([str(trial.attributes["recipe"]) for trial in project.trials().values()])
    assert len(asked[0]) >= TRIALS
    assert asked[0] == asked[1]
