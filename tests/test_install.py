"""The wheel: what is in it, and that it works from wherever it is put."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "search", "plan", "list", "front", "show", "explain", "report", "export", "apply", "verify", "techniques", "ui",
    "doctor",
)  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of the sources that has also been worked in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("autocompress", "search_spaces", "experiments"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", ".gitignore"):
        shutil.copy(ROOT / name, source)
    traces = ("__pycache__/task.cpython-311.pyc", "mlflow.db", ".autocompress/stages/x", "mlruns/1/meta.yaml")
    for trace in traces:
        path = source / "experiments" / "mnist5k_lenet" / trace
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("left by a search")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def unpacked(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel's files, as an installation would."""
    folder = tmp_path_factory.mktemp("site")
    wheel.extractall(folder)
    return folder


def python(code: str, *arguments: str, path: Path, cwd: Path) -> str:
    """Standard output of some code that finds packages in `path` first."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_its_spaces_and_its_experiments(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "autocompress").rglob("*.py")}
    spaces = {f"autocompress/search_spaces/{path.name}" for path in (ROOT / "search_spaces").glob("*.yaml")}
    assert "autocompress/search_spaces/hybrid.yaml" in spaces
    experiments = {f"autocompress/experiments/mnist5k_lenet/{name}" for name in ("search.yaml", "task.py")}
    kinds = (".j2", ".css", ".js")
    files = (path for path in (ROOT / "autocompress").rglob("*") if path.suffix in kinds)
    pages = {path.relative_to(ROOT).as_posix() for path in files}
    assert "autocompress/tracking/report.html.j2" in pages
    assert names >= sources | spaces | experiments | pages


def test_the_wheel_holds_nothing_that_searches_and_interpreters_left(wheel: zipfile.ZipFile) -> None:
    unwanted = re.compile(r"__pycache__|\.pyc$|\.db$|mlruns|/\.|^tests/|^experiments/|^search_spaces/")
    assert [name for name in wheel.namelist() if unwanted.search(name)] == []


def test_the_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    points = configparser.ConfigParser()
    points.read_string(wheel.read(name).decode())
    assert dict(points["console_scripts"]) == {"autocompress": "autocompress.terminal.cli:main"}


def test_bundled_names_resolve_inside_an_installation(unpacked: Path, tmp_path: Path) -> None:
    code = (
        "import autocompress\n"
        "from pathlib import Path\n"
        "from autocompress.config import find_config, load_config\n"
        "from autocompress.search.space_file import find_space, load_space\n"
        "config = find_config('mnist5k_lenet')\n"
        "checked = load_config(config)\n"
        "space = find_space('hybrid', Path('.'))\n"
        "load_space(space)\n"
        "print(autocompress.__file__, config, checked.root / 'task.py', space, sep='\\n')\n"
    )
    package = unpacked / "autocompress"
    assert python(code, path=unpacked, cwd=tmp_path).splitlines() == [
        str(package / "__init__.py"),
        str(package / "experiments" / "mnist5k_lenet" / "search.yaml"),
        str(package / "experiments" / "mnist5k_lenet" / "task.py"),
        str(package / "search_spaces" / "hybrid.yaml"),
    ]
    assert (package / "experiments" / "mnist5k_lenet" / "task.py").is_file()


def test_help_of_an_installation_names_every_command_and_imports_no_library_of_weight(
    unpacked: Path, tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "import autocompress.terminal.cli\n"
        "try:\n"
        "    autocompress.terminal.cli.main()\n"
        "finally:\n"
        "    loaded = {'torch', 'ray', 'mlflow', 'optuna', 'onnx', 'onnxruntime'} & sys.modules.keys()\n"
        "    print(autocompress.terminal.cli.__file__, 'loaded:', *sorted(loaded))\n"
    )
    out = python(code, "--help", path=unpacked, cwd=tmp_path)
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", out), f"{command} is missing in\n{out}"
    assert out.splitlines()[-1] == f"{unpacked / 'autocompress' / 'terminal' / 'cli.py'} loaded:"
