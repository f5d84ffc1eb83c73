"""Which module may import which, what an import costs, and how long files and functions may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import autocompress

ROOT = Path(autocompress.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Lowest first. A module imports from rows above its own, or from its own package.
LAYERS = (
    ("errors", "reading"),
    ("documents", "environment", "outcome", "urls"),
    ("writing_out",),
    ("recipe",),
    ("config", "wording"),
    ("blocks", "data", "front", "held", "tracking", "turns"),
    ("training",),
    ("tasks",),
    ("techniques",),
    ("artifacts",),
    ("measure",),
    ("trial",),
    ("executors", "testing"),
    ("search",),
    ("service",),
    ("terminal",),
    ("api",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# The package itself hands out names of modules, each loaded when it is first used.
FRONT_DOOR = "__init__"


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports anywhere in it, in full, with the line."""
    package = ("autocompress", *path.relative_to(ROOT).parent.parts) if path.is_relative_to(ROOT) else ()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join((*base, *([node.module] if node.module else [])))
            # `from . import recipe` names modules too.
            yield from ((f"{origin}.{alias.name}", node.lineno) for alias in node.names)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def part(path: Path) -> str:
    """The module or sub-package of the top level that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def importers(library: str) -> set[str]:
    found = (path for path in FILES for name, _ in imports(path) if name.split(".")[0] == library)
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_every_module_has_a_layer() -> None:
    assert {part(path) for path in FILES} - {FRONT_DOOR} <= RANK.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path: Path) -> None:
    here = part(path)
    if here == FRONT_DOOR:
        return
    wrong = []
    for name, line in imports(path):
        head, *rest = name.split(".")
        if head != "autocompress" or not rest:
            continue
        there = rest[0]
        if there != here and there in RANK and RANK[there] >= RANK[here]:
            wrong.append(f"line {line}: {here} imports {there}")
        assert there in RANK, f"line {line}: imports {name} from the package itself: name the module"
    assert wrong == []


def test_only_the_search_package_imports_optuna() -> None:
    found = importers("optuna")
    assert found
    assert all(name.startswith("search/") for name in found)


def test_only_executors_and_the_services_jobs_import_ray() -> None:
    found = importers("ray")
    assert found
    assert {name for name in found if not name.startswith("executors/")} == {"service/ray_jobs.py"}


def test_only_tracking_imports_mlflow() -> None:
    found = importers("mlflow")
    assert found
    assert all(name.startswith("tracking/") for name in found)


def test_only_tests_import_the_contract_suites_and_pytest() -> None:
    used = {part(path) for path in FILES for name, _ in imports(path) if name.startswith("autocompress.testing")}
    assert used <= {"testing"}
    assert {name.split("/")[0] for name in importers("pytest")} == {"testing"}


TECHNIQUES = ROOT / "techniques"
FAMILIES = sorted(folder.parent.name for folder in TECHNIQUES.glob("*/__init__.py"))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_technique_imports_another_and_no_family_another_family(family: str) -> None:
    for path in (TECHNIQUES / family).glob("*.py"):
        used = [name.split(".")[2:] for name, _ in imports(path) if name.startswith("autocompress.techniques.")]
        families = {names[0] for names in used} & set(FAMILIES)
        assert families <= {family}, f"{path.name} imports from {families - {family}}"
        beside = {names[1] for names in used if names[0] == family}
        assert all(name.startswith("_") for name in beside), f"{path.name} imports {beside}"


@pytest.mark.parametrize("path", sorted(TECHNIQUES.glob("*.py")), ids=lambda path: path.name)
def test_what_families_share_imports_from_none_of_them(path: Path) -> None:
    used = {name.split(".")[2] for name, _ in imports(path) if name.startswith("autocompress.techniques.")}
    assert not used & set(FAMILIES)


PROJECT = ROOT.parent


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_held_to_the_contract(family: str) -> None:
    found = (PROJECT / "tests" / "techniques" / family / "test_contract.py").read_text(encoding="utf-8")
    assert f'own_techniques("{family}")' in found


OUTSIDE = [path for folder in ("experiments", "tests") for path in sorted((PROJECT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", [*FILES, *OUTSIDE], ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_a_private_module_is_imported_in_its_own_folder_alone_and_by_its_tests(path: Path) -> None:
    for name, line in imports(path):
        folder, found, private = name.partition("._")
        place = Path(*folder.split("."))
        if found and (PROJECT / place / f"_{private.split('.')[0]}.py").is_file():
            homes = (PROJECT / place, PROJECT / "tests" / Path(*place.parts[1:]))
            assert path.parent in homes, f"line {line}: {name} is private"


def test_modules_of_a_package_do_not_import_in_circles() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        own = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        modules = {".".join(p.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__") for p in FILES}
        used = {name if name in modules else name.rpartition(".")[0] for name, _ in imports(path)}
        graph[own] = (used & modules) - {own, "autocompress"}
    graph.pop("autocompress")  # loads its modules when they are first used
    while graph:
        free = {name for name, used in graph.items() if not used & graph.keys()}
        assert free, f"in a circle: {sorted(graph)}"
        graph = {name: used for name, used in graph.items() if name not in free}


def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HEAVY = (
    "torch",
    "torchvision",
    "ray",
    "mlflow",
    "optuna",
    "sqlalchemy",
    "onnx",
    "onnxruntime",
    "sklearn",
    "matplotlib",
    "plotly",
    "jinja2",
    "alembic",
    "fastapi",
    "httpx2",
    "prometheus_client",
    "uvicorn",
)


@pytest.mark.parametrize(
    "modules", ["autocompress", "autocompress.terminal.cli, autocompress.config, autocompress.terminal.views"]
)
def test_importing_loads_no_heavy_library(modules: str) -> None:
    code = f"import sys, {modules}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    assert in_a_new_process(code) == ""


def test_the_techniques_are_there_without_the_libraries_of_single_ones_and_channels_without_those_of_models() -> None:
    code = (
        "import sys; from autocompress.techniques import registry; registry()\n"
        "libraries = {'scipy', 'sklearn', 'tensorly', 'captum', 'torch_pruning', 'torchvision', 'timm'}\n"
        "print(*libraries & sys.modules.keys())\n"
        "from autocompress.techniques.pruning._torch_pruning import torch_pruning; torch_pruning()\n"
        "print(*libraries & sys.modules.keys())"
    )
    assert in_a_new_process(code) == "torch_pruning"


def test_the_package_hands_out_its_names_when_asked() -> None:
    code = "import autocompress as a; print(a.load.__module__, a.Classification.__name__, a.Training.__name__)"
    assert in_a_new_process(code) == "autocompress.artifacts.artifact Classification Training"
    assert set(autocompress.__all__) == {
        "Artifact", "Classification", "Regression", "Study", "Task", "Training", "load", "load_study", "search",
    }  # fmt: skip
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = autocompress.lod


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_stay_within_400_lines_and_functions_within_50(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(node.body) > 1
            start = node.body[1].lineno if documented else first.lineno
            assert node.end_lineno is not None
            assert node.end_lineno - start + 1 <= 50, f"{node.name} is too long"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_module_says_what_it_is_and_so_does_every_public_function_and_class(path: Path) -> None:
    assert ast.get_docstring(parsed(path))
    for node in parsed(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
