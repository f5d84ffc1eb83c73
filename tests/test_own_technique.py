"""The bundled example of a technique of one's own, from its installation to an artifact that holds."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

import autocompress

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "experiments" / "own_technique"
COMMANDS = """
import contextlib, io, json, sys
from autocompress.terminal.cli import main

said = []
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as end:
            assert end.code == 0, (arguments, end.code)
    said.append(out.getvalue())
print(json.dumps(said))
"""


class Installed:
    """A copy of the example's folder, with an environment that it was installed into."""

    def __init__(self, folder: Path) -> None:
        """Libraries come from the environment that tests run in; the example is all that the new one has of its own."""
        self.folder = folder / "own_technique"
        shutil.copytree(EXAMPLE, self.folder, ignore=shutil.ignore_patterns("__pycache__", ".*", "*.db"))
        environment = folder / "environment"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
        self.interpreter = environment / "bin" / "python"
        self.site = Path(self.python("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        homes = [Path(autocompress.__file__).parents[1], sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        (self.site / "libraries.pth").write_text("".join(f"{home}\n" for home in homes))
        where = ["--prefix", str(environment), "--no-deps", "--no-warn-script-location", "--quiet"]
        pip = [sys.executable, "-m", "pip", "install", "--ignore-installed", *where, str(self.folder)]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def python(self, *arguments: str) -> str:
        """Standard output of the new environment's interpreter, which must end well."""
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "AUTOCOMPRESS_STORAGE")}
        done = subprocess.run(
            [str(self.interpreter), *arguments],
            cwd=self.folder,
            env={**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run(self, *commands: list[str]) -> list[str]:
        """Standard output of each of some commands, which one process runs."""
        said: list[str] = json.loads(self.python("-c", COMMANDS, json.dumps(commands)))
        return said


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The example in a new environment."""
    return Installed(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def said(installed: Installed) -> list[str]:
    """What commands printed: the search of three trials begins with those that the space starts with."""
    return installed.run(
        ["techniques", "--json"],
        ["search", "digits.yaml", "--trials", "3", "--executor", "inline", "--json"],
        ["export", "own-technique", "--trial", "0", "--out", "chosen"],
        ["verify", "chosen"],
    )


def test_the_package_is_one_module_of_its_own(installed: Installed) -> None:
    found = {path.name for path in installed.site.iterdir()}
    assert {"interpolative.py", "libraries.pth"} <= found
    assert not {"autocompress", "torch", "task.py", "test_interpolative.py"} & found


def test_it_keeps_the_contract_by_a_test_file_of_under_15_lines(installed: Installed) -> None:
    text = (installed.folder / "test_interpolative.py").read_text()
    assert len(text.splitlines()) < 15
    # The odd models that tell most; all of them pass, and take longer.
    out = installed.python(
        "-m", "pytest", "-q", "test_interpolative.py", "-k", "not (concat or grouped or called_twice)"
    )
    assert " passed" in out
    assert "skipped" not in out


def test_it_is_listed_and_says_where_searches_look(said: list[str]) -> None:
    listed = {row["technique"]: row for row in json.loads(said[0])}
    assert "svd" in listed
    assert listed["interpolative"]["family"] == "low-rank"
    assert "0.3" in listed["interpolative"]["settings"]["error"]["search"]


def test_a_search_an_export_and_a_verification_know_it(installed: Installed, said: list[str]) -> None:
    assert json.loads(said[1])
    recipe = yaml.safe_load((installed.folder / "chosen" / "recipe.yaml").read_text())
    assert recipe["steps"][0] == {"technique": "interpolative", "error": 0.5}
    decisions = json.loads((installed.folder / "chosen" / "decisions.json").read_text())
    assert "columns" in json.dumps(decisions)
    assert said[3].splitlines()[-1] == "holds"
