"""Trainings on an accelerator: tensors are made where they run, and what comes of it is what the processor makes."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import autocompress
from autocompress.config import Train
from autocompress.techniques import registry
from autocompress.testing.work import Work, carry_out, example_of, quick, work
from autocompress.training import training_on

ROOT = Path(autocompress.__file__).parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
# What runs where a model trains: whole files, and these functions of techniques and networks.
WHOLE = {"training.py", "held.py", "techniques/teacher.py"}
FUNCTIONS = {"forward", "train", "after_step", "loss", "restore", "backward"}
MAKERS = {"zeros", "ones", "tensor", "arange", "rand", "randn", "randint", "randperm", "full", "empty", "eye",
          "linspace", "as_tensor"}  # fmt: skip
DEVICE = next((name for name in ("cuda", "mps") if getattr(torch, name).is_available()), None)
TRAINS = [name for name, kind in registry().items() if kind.kind == "train"]


def without_device(tree: ast.AST) -> Iterator[int]:
    """The lines of calls that make a tensor and leave it to torch where."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in MAKERS:
            continue
        of = node.func.value
        if isinstance(of, ast.Name) and of.id == "torch" and not any(word.arg == "device" for word in node.keywords):
            yield node.lineno


def test_a_tensor_that_is_made_without_a_device_is_found() -> None:
    code = "a = torch.zeros(3)\nb = torch.ones(2, device=x.device)\nc = x.new_zeros(1)\nd = torch.zeros_like(x)"
    assert list(without_device(ast.parse(code))) == [1]


@pytest.mark.parametrize("name", [*sorted(WHOLE), *(n for n in FILES if n.startswith(("techniques/", "tasks/net")))])
def test_tensors_of_a_training_are_made_where_it_runs(name: str) -> None:
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in FUNCTIONS]
    parts: list[ast.AST] = [tree] if name in WHOLE else [*functions]
    assert [line for part in parts for line in without_device(part)] == [], "say device=, or make it like another"


@pytest.mark.skipif(DEVICE is None, reason="torch finds no accelerator here: trainings on one are not tried")
@pytest.mark.parametrize("model", ["plain", "recurrent", "sentences"])
@pytest.mark.parametrize("name", TRAINS)
def test_a_training_there_comes_back_and_computes_nearly_what_one_here_does(name: str, model: str) -> None:
    step = quick(registry()[name])
    here = work(step, model)
    if not isinstance(here, Work):
        return
    with training_on(Train(device=DEVICE)):  # type: ignore[arg-type]
        _, there = carry_out(step, model)
    assert {tensor.device.type for tensor in there.state_dict().values()} == {"cpu"}
    with torch.no_grad():
        expected, found = (made(*example_of(model)) for made in (here.after, there))
    assert (found - expected).abs().max() < 0.2 * expected.abs().max()


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler: techniques on a device beside are not tried")
def test_what_decides_and_trains_on_another_device_comes_to_the_same() -> None:
    """In a process of its own, with a device that torch takes for one, and on which tensors of two places fail."""
    script = Path(__file__).parent / "elsewhere" / "run.py"
    command = [sys.executable, str(script), "plain", "recurrent", "sentences", "residual"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
