"""The artifact directory: what it holds, that damage is found, and that it is replaced whole or not at all."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import autocompress
from autocompress.artifacts.directory import (
    NAMES,
    Contents,
    check_sums,
    check_target,
    read_measurement,
    recipe_document,
)
from autocompress.artifacts.export import export_onnx, strip
from autocompress.errors import ArtifactError
from autocompress.recipe import Recipe
from autocompress.search.card import card
from autocompress.search.files import write_folder
from autocompress.techniques import recipe_from_data
from autocompress.testing.models import Plain, seeded

RECIPE = recipe_from_data({"version": 1, "steps": [{"technique": "finetune", "epochs": 2}, {"technique": "float16"}]})
MEASUREMENT = {
    "study": "plain",
    "quality": "accuracy",
    "claimed": {"size_bytes": 20_000.0},
    "measured": {
        "size_bytes": 20_000.0,
        "accuracy": 0.9,
        "test_accuracy": 0.89,
        "speedup_low": 1.4,
        "speedup_high": 1.6,
    },
    "baseline": {"size_bytes": 40_000.0, "accuracy": 0.91},
    "target": {"runtime": "onnxruntime-cpu", "threads": 1, "batch_size": 1},
    "processor": {"name": "a processor", "vnni": True},
}
EXPECTED = {
    "model.onnx",
    "recipe.yaml",
    "decisions.json",
    "measurement.json",
    "environment.json",
    "MODEL_CARD.md",
    "SHA256SUMS",
}


class Mixed(nn.Module):
    """An image's mean and the embedding of a word."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(10, 5), nn.Linear(8, 2)

    def forward(self, image: Tensor, word: Tensor) -> Tensor:
        found: Tensor = self.head(torch.cat([image.mean((2, 3)), self.words(word)], 1))
        return found


@pytest.fixture(scope="module")
def plain() -> bytes:
    """The file of a small network."""
    return strip(export_onnx(seeded(Plain), (torch.zeros(2, 3, 12, 12),))).SerializeToString()


@pytest.fixture(scope="module")
def contents(plain: bytes) -> Contents:
    decisions = [{}, {"halved": ["conv1.weight"], "skipped": {}}]
    text = card(RECIPE, MEASUREMENT, {"input": ([3, 12, 12], "float32")})
    return Contents(plain, RECIPE.to_yaml(), decisions, MEASUREMENT, text)


@pytest.fixture
def folder(contents: Contents, tmp_path: Path) -> Path:
    """A written artifact directory."""
    path = tmp_path / "artifact"
    write_folder(path, contents.files())
    return path


def state(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, hidden ones included."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_directory_holds_what_the_contract_says(folder: Path, contents: Contents) -> None:
    assert {path.name for path in folder.iterdir()} == EXPECTED
    assert (folder / "model.onnx").read_bytes() == contents.onnx
    assert yaml.safe_load((folder / "recipe.yaml").read_text()) == RECIPE.to_data()
    assert json.loads((folder / "decisions.json").read_text()) == contents.decisions
    assert json.loads((folder / "measurement.json").read_text()) == MEASUREMENT


def test_directory_says_where_it_was_measured(folder: Path) -> None:
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["packages"]["onnxruntime"] == version("onnxruntime")
    assert environment["packages"]["autocompress"] == version("autocompress")
    assert set(environment["processor"]) == {"name", "vnni"}


def test_checksums_are_what_sha256sum_reads(folder: Path) -> None:
    rows = [line.split("  ", 1) for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert {name for _, name in rows} == EXPECTED - {"SHA256SUMS"}
    for digest, name in rows:
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_contents_do_not_depend_on_when_they_are_written(contents: Contents) -> None:
    assert contents.files() == contents.files()


def test_a_whole_directory_passes(folder: Path) -> None:
    check_sums(folder)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_damaged_file_is_named(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{name}: differs from SHA256SUMS"):
        check_sums(folder)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name}: is missing"):
        check_sums(folder)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_checksums_must_cover_every_file(folder: Path, name: str) -> None:
    rows = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(row for row in rows if name not in row))
    with pytest.raises(ArtifactError, match=f"does not list {name}"):
        check_sums(folder)


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"\xff\xfe\x00")])
def test_a_folder_without_readable_checksums_is_no_artifact(folder: Path, change: Callable[[Path], Any]) -> None:
    change(folder / "SHA256SUMS")
    with pytest.raises(ArtifactError, match="has no SHA256SUMS"):
        check_sums(folder)
    with pytest.raises(ArtifactError, match="has no SHA256SUMS"):
        check_sums(folder / "not there")


def test_a_file_that_a_user_added_does_not_spoil_the_artifact(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    check_sums(folder)


@pytest.fixture
def with_program(contents: Contents, tmp_path: Path) -> Path:
    """An artifact directory with a torch program, which nothing here loads."""
    path = tmp_path / "both"
    write_folder(path, dataclasses.replace(contents, program=b"a program").files())
    return path


def test_a_program_is_listed_and_may_be_replaced(with_program: Path) -> None:
    assert {path.name for path in with_program.iterdir()} == {*EXPECTED, "model.pt2"}
    check_sums(with_program)
    check_target(with_program)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Path.unlink, "is missing"),
        (lambda path: path.write_bytes(b"another"), "differs from SHA256SUMS"),
    ],
)
def test_a_damaged_program_is_named(with_program: Path, change: Callable[[Path], Any], reason: str) -> None:
    change(with_program / "model.pt2")
    with pytest.raises(ArtifactError, match=rf"model\.pt2: {reason}"):
        check_sums(with_program)


def test_a_program_that_nobody_listed_is_not_taken_for_the_artifact_s(folder: Path) -> None:
    (folder / "model.pt2").write_bytes(b"another")
    with pytest.raises(ArtifactError, match=r"does not list model\.pt2"):
        check_sums(folder)


def test_a_call_with_other_than_its_inputs_says_what_it_takes(folder: Path) -> None:
    model = autocompress.load(folder)
    with pytest.raises(ArtifactError, match=rf"called with 2 arrays, where 1 are taken: {model.inputs[0]}"):
        model(np.zeros((1, 3, 12, 12), np.float32), np.zeros(1, np.float32))


def test_loading_gives_a_callable_over_arrays(folder: Path) -> None:
    inputs = np.random.default_rng(0).standard_normal((5, 3, 12, 12)).astype(np.float32)
    with torch.no_grad():
        expected = seeded(Plain)(torch.tensor(inputs)).numpy()
    for place in (folder, str(folder)):
        np.testing.assert_allclose(autocompress.load(place)(inputs), expected, rtol=1e-4, atol=1e-5)


def test_loading_refuses_a_damaged_directory(folder: Path) -> None:
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match=r"model\.onnx: differs"):
        autocompress.load(folder)


def test_claims_and_recipe_are_read_back(folder: Path) -> None:
    claims = read_measurement(folder).model_dump(exclude_unset=True)
    assert claims == MEASUREMENT
    assert recipe_from_data(recipe_document(folder)) == RECIPE


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"study": "plain", "quality": "accuracy", "measured": {}}'])
def test_claims_that_cannot_be_used_are_an_error_of_the_artifact(folder: Path, text: str) -> None:
    (folder / "measurement.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"measurement\.json: holds no measurement"):
        read_measurement(folder)


@pytest.mark.parametrize("text", ["", "{", "steps: [", "- finetune"])
def test_a_recipe_that_cannot_be_read_is_an_error_of_the_artifact(folder: Path, text: str) -> None:
    (folder / "recipe.yaml").write_text(text)
    with pytest.raises(ArtifactError, match=r"recipe\.yaml"):
        recipe_document(folder)


def test_writing_replaces_a_directory_whole(folder: Path) -> None:
    write_folder(folder, {"model.onnx": b"new"})
    assert state(folder.parent) == {"artifact/model.onnx": b"new"}


def test_writing_makes_the_folders_above(tmp_path: Path) -> None:
    write_folder(tmp_path / "deep" / "down", {"a": b"1"})
    assert state(tmp_path) == {"deep/down/a": b"1"}


def test_others_may_read_what_was_written(folder: Path) -> None:
    assert folder.stat().st_mode & 0o555 == 0o555


def test_a_write_that_fails_half_way_leaves_the_old_directory_and_nothing_else(folder: Path) -> None:
    before = state(folder.parent)
    broken: Any = {"model.onnx": b"new", "recipe.yaml": "text where bytes belong"}
    with pytest.raises(TypeError):
        write_folder(folder, broken)
    assert state(folder.parent) == before


def test_a_write_that_fails_where_there_was_nothing_leaves_nothing(tmp_path: Path) -> None:
    broken: Any = {"model.onnx": b"new", "recipe.yaml": None}
    with pytest.raises(TypeError):
        write_folder(tmp_path / "artifact", broken)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_killed_while_it_writes_leaves_the_old_directory(folder: Path) -> None:
    before = state(folder)
    code = """
import os, signal, sys
from pathlib import Path
from autocompress.search.files import write_folder

class Files(dict):
    def items(self):
        yield "model.onnx", b"new"
        os.kill(os.getpid(), signal.SIGKILL)

write_folder(Path(sys.argv[1]), Files())
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, timeout=120, check=False)
    assert done.returncode == -9, done.stderr
    assert state(folder) == before


def test_a_new_an_empty_and_an_artifact_folder_may_be_written_to(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "new", tmp_path / "new" / "deeper", tmp_path / "empty", folder):
        check_target(path)


@pytest.mark.parametrize(
    "names", [["thesis.tex"], ["model.onnx"], [*EXPECTED, "thesis.tex"], ["SHA256SUMS", "disk.iso"], [".hidden"]]
)
def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "mine"
    path.mkdir()
    for name in names:
        (path / name).write_text("mine")
    with pytest.raises(ArtifactError, match="holds other files than an artifact: choose a new or empty folder"):
        check_target(path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ArtifactError, match="is a file: name a folder"):
        check_target(tmp_path / "mine")


@pytest.mark.parametrize("name", [".", "..", "../.."])
def test_the_folder_that_one_stands_in_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(ArtifactError, match="is the current folder or above it"):
        check_target(Path(name))


def snippet(text: str) -> str:
    """The python block of a model card."""
    return text.split("```python\n")[1].split("```")[0]


def run_snippet(folder: Path) -> str:
    """What a card's snippet prints, in an interpreter that has seen nothing else."""
    seen = 'import sys\nprint(*sorted({"torch", "autocompress"} & sys.modules.keys()))\n'
    code = snippet((folder / "MODEL_CARD.md").read_text()) + seen
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_card_s_five_lines_run_without_torch_or_autocompress(folder: Path) -> None:
    assert len(snippet((folder / "MODEL_CARD.md").read_text()).strip().splitlines()) <= 5
    # One example, four classes; neither module loaded.
    assert run_snippet(folder) == "(1, 4)\n\n"


def test_the_card_s_lines_run_for_several_inputs_of_several_types(contents: Contents, tmp_path: Path) -> None:
    example = (torch.zeros(2, 3, 6, 6), torch.zeros(2, dtype=torch.int64))
    text = card(RECIPE, MEASUREMENT, {"input_0": ([3, 6, 6], "float32"), "input_1": ([], "int64")})
    model = strip(export_onnx(seeded(Mixed), example)).SerializeToString()
    write_folder(tmp_path / "mixed", {"model.onnx": model, "MODEL_CARD.md": text.encode()})
    assert run_snippet(tmp_path / "mixed") == "(1, 2)\n\n"


def test_the_card_says_what_was_done_and_measured(contents: Contents) -> None:
    assert RECIPE.fingerprint in contents.card
    assert "1. `finetune(epochs=2)`\n2. `float16`" in contents.card
    assert "| size_bytes | 40,000 | 20,000 |" in contents.card
    assert "| accuracy | 0.91 | 0.9 |" in contents.card
    assert "interval 1.4 to 1.6" in contents.card.replace("\n", " ")
    assert "study `plain`" in contents.card
    assert "(none)" in card(Recipe(), MEASUREMENT, {"input": ([1], "float32")})
