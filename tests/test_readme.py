"""What README.md shows works: blocks after a `<!-- run -->` line are run, those after `<!-- config -->` are checked.

Blocks that begin with a comment of a file's name (`# task.py`) are written under that name first, for the others.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torchvision
import yaml
from PIL import Image
from safetensors.torch import save_file

from autocompress.config import load_config
from autocompress.documents import read_yaml
from autocompress.search.space_file import find_space, load_space
from autocompress.techniques import load_recipe

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(?:^<!-- (run|config) -->[ ]*\n\s*)?^```(\w+)[^\n]*\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"\A#+ *([\w./-]+\.(?:py|ya?ml|sh))\b")


@dataclass(frozen=True)
class Block:
    """A fenced block: its marker, language, text and line."""

    marker: str
    language: str
    text: str
    line: int

    @property
    def name(self) -> str | None:
        """The file that its first line names."""
        found = NAMED.match(self.text)
        return found.group(1) if found else None

    def __str__(self) -> str:
        return f"line{self.line}"


def read_blocks() -> list[Block]:
    """Every fenced block of README.md that has a language."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [
        Block(found.group(1) or "", found.group(2), found.group(3), text[: found.start(2)].count("\n") + 1)
        for found in BLOCK.finditer(text)
    ]


BLOCKS = read_blocks()
PYTHON = [block for block in BLOCKS if (block.marker, block.language) == ("run", "python")]
SHELL = [block for block in BLOCKS if block.marker == "run" and block.language in ("sh", "bash", "shell")]
YAML = [block for block in BLOCKS if (block.marker, block.language) == ("config", "yaml")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the bundled experiments and the files that README.md shows."""
    for name in ("experiments", "search_spaces"):
        ignored = shutil.ignore_patterns("__pycache__", "*.db", ".autocompress", "mlruns")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for block in BLOCKS:
        if block.name is not None:
            path = tmp_path / block.name
            assert path.resolve().is_relative_to(tmp_path), f"{block}: {block.name} lies outside of the folder"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    return tmp_path


def run(command: list[str], folder: Path) -> None:
    """Run a command with this interpreter's folder first on the path; it must end well."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(("kind", "blocks"), [("python", PYTHON), ("sh", SHELL), ("yaml", YAML)])
def test_readme_has_marked_blocks_of_each_kind(kind: str, blocks: list[Block]) -> None:
    assert blocks, f"README.md has no marked {kind} block"


def test_every_marker_stands_before_a_block() -> None:
    marks = re.findall(r"^<!-- (?:run|config) -->", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(marks) == len(PYTHON) + len(SHELL) + len(YAML)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_of_the_readme_runs(block: Block, folder: Path) -> None:
    path = folder / (block.name or "readme_example.py")
    path.write_text(block.text)
    run([sys.executable, str(path)], folder)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_of_the_readme_runs(block: Block, folder: Path) -> None:
    run(["bash", "-euo", "pipefail", "-c", block.text], folder)


def test_the_readmes_images_are_searched_and_exported(tmp_path: Path) -> None:
    """Its example of a task without code, as it stands: with a folder of pictures, and weights that came trained."""
    text = next(block.text for block in YAML if "kind: image_classification" in block.text)
    (tmp_path / "search.yaml").write_text(text + "search: {trials: 1, workers: 1}\n")
    generator = np.random.default_rng(0)
    for label, brightness in (("daisy", 40), ("rose", 120), ("tulip", 200)):
        (tmp_path / "flowers" / label).mkdir(parents=True)
        for number in range(8):
            pixels = generator.integers(brightness - 30, brightness + 30, (64, 64, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "flowers" / label / f"{number}.png")
    torch.manual_seed(0)
    save_file(torchvision.models.mobilenet_v3_small(num_classes=3).state_dict(), tmp_path / "weights.safetensors")
    study = yaml.safe_load(text)["study"]
    ended = tiny.run(tmp_path, "search", "search.yaml", "--executor", "inline", "--json")
    assert ended.code in (0, 3), ended.err  # one trial need not meet the budget
    assert sum(ended.json()["counts"].values()) == 1
    exported = tiny.run(tmp_path, "export", study, "--trial", "0", "--out", "chosen", "--json")
    assert exported.code == 0, exported.err
    assert exported.json()["classes"] == ["daisy", "rose", "tulip"]
    assert tiny.run(tmp_path, "verify", "chosen").code == 0


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_of_the_readme_is_valid(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    path = folder / (block.name or "readme_example.yaml")
    path.write_text(block.text)
    data = read_yaml(path).data
    if "steps" not in data:
        config = load_config(path)
        load_space(find_space(config.search_space, config.root))
        if isinstance(config.task, str) and ".py:" in config.task:
            assert (config.root / config.task.split(":")[0]).is_file(), f"{config.task} is nowhere in README.md"
    elif any("technique" not in step for step in data["steps"] if isinstance(step, dict)):
        load_space(path)
    else:
        load_recipe(path)
