"""Raw inputs of every kind: what a file is given for them is what its model was trained on, to the last bit."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.io import wavfile
from worded import save, sentences

import autocompress
from autocompress.artifacts.directory import Contents
from autocompress.artifacts.export import export_onnx
from autocompress.data import SPLITS, batches
from autocompress.errors import ArtifactError
from autocompress.recipe import Recipe
from autocompress.search.card import card
from autocompress.search.files import write_folder
from autocompress.tasks import load_task, refer
from autocompress.tasks.examples import example_inputs, input_signature
from autocompress.tasks.kinds import kinds, task_kind
from autocompress.tasks.models import build_model
from autocompress.tasks.preparation import preparation_of

CHANCE = np.random.default_rng(0)
POLICY = """
from torch import nn

def network(observations, actions):
    return nn.Linear(observations, actions, bias=False)
"""
MEASUREMENT = {"study": "study", "quality": "q", "measured": {"size_bytes": 9, "q": 0.5, "test_q": 0.5}}


@dataclass(frozen=True)
class Case:
    """A kind's settings, and all of its data as raw inputs, one by one or all at once."""

    settings: dict[str, Any]
    raw: list[Any]
    together: Any


def photos(folder: Path) -> Case:
    files = []
    for index in range(12):
        path = folder / "photos" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(CHANCE.integers(0, 255, (9, 14, 3), np.uint8)).save(path)
        files.append(path)
    settings = {"data": "folder:photos", "model": "torchvision:squeezenet1_1", "input_size": 32}
    return Case({"kind": "image_classification", **settings}, [str(files[0]), *files[1:]], files)


def arrays(folder: Path) -> Case:
    x, y = CHANCE.integers(0, 255, (12, 9, 8), np.uint8), np.arange(12) % 2
    np.savez(folder / "digits.npz", x=x, y=y)
    (folder / "net.py").write_text("from torch import nn\n\ndef net():\n"
                                   "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))\n")  # fmt: skip
    settings = {"data": "npz:digits.npz", "model": "net.py:net", "input_size": 8, "channels": 1,
                "mean": [0.1], "std": [0.3]}  # fmt: skip
    return Case({"kind": "image_classification", **settings}, [Image.fromarray(x[0]), *x[1:]], x[..., None])


def masks(folder: Path) -> Case:
    files = []
    for index in range(6):
        pixels = CHANCE.integers(0, 255, (16, 16, 3), np.uint8)
        for name, values in (("images", pixels), ("masks", (pixels[..., 0] > 99).astype(np.uint8))):
            (folder / "leaves" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / "leaves" / name / f"{index}.png")
        files.append(folder / "leaves" / "images" / f"{index}.png")
    return Case({"kind": "image_segmentation", "data": "folder:leaves", "input_size": 16}, files, tuple(files))


def sounds(folder: Path) -> Case:
    files = []
    for index in range(8):
        path = folder / "words" / "ab"[index % 2] / f"{index}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        wavfile.write(path, 8000, CHANCE.integers(-9000, 9000, 700 + 40 * index).astype(np.int16))
        files.append(path)
    settings = {"data": "folder:words", "sample_rate": 8000, "seconds": 0.1, "mels": 8}
    samples = wavfile.read(files[0])[1] / 2.0**15
    return Case({"kind": "audio_classification", **settings}, [samples, *files[1:]], files)


def texts(folder: Path) -> Case:
    table = sentences().drop_duplicates("text")
    table.to_csv(folder / "texts.csv", index=False)
    save(folder / "model")
    raw = table["text"].tolist()
    settings = {"data": "csv:texts.csv", "model": "transformers:model", "max_length": 6}
    return Case({"kind": "text_classification", **settings}, raw, raw)


def rows(folder: Path) -> Case:
    table = pd.DataFrame({
        "town": ["Köln", "Aachen", "Bonn"] * 8,
        "zone": np.arange(24) % 5,
        "age": CHANCE.normal(size=24),
        "area": CHANCE.normal(size=24),
        "flat": [True, False] * 12,
        "price": CHANCE.normal(size=24),
    })  # fmt: skip
    table.to_csv(folder / "homes.csv", index=False)
    settings = {"data": "csv:homes.csv", "target": "price", "categories": ["zone"]}
    read = pd.read_csv(folder / "homes.csv")
    return Case({"kind": "tabular", **settings}, read.to_dict("records"), folder / "homes.csv")


def series(folder: Path) -> Case:
    x = CHANCE.normal(size=(12, 20)).astype(np.float32)
    np.savez(folder / "beats.npz", x=x, y=np.arange(12) % 2)
    return Case({"kind": "time_series", "data": "npz:beats.npz"}, list(x), x)


def forecasts(folder: Path) -> Case:
    table = pd.DataFrame({"wind": CHANCE.normal(size=60), "load": CHANCE.normal(size=60)})
    table.to_csv(folder / "load.csv", index=False)
    read = pd.read_csv(folder / "load.csv")
    settings = {"data": "csv:load.csv", "target": "load", "window": 6, "horizon": 2}
    starts = [start for first, end in ((0, 36), (36, 48), (48, 60)) for start in range(first, end - 7)]
    raw = [read.iloc[start : start + 6] for start in starts]
    together = np.stack([each.to_numpy(np.float32).T for each in raw])
    return Case({"kind": "time_series", **settings}, raw, together)


def pairs(folder: Path) -> Case:
    table = pd.DataFrame([(user, f"i{item}") for user in range(3) for item in CHANCE.permutation(12)[:6]])
    table.columns = ["user", "item"]
    table.to_csv(folder / "likes.csv", index=False)
    every = [{"item": f"i{item}", "user": user} for user in range(3) for item in range(12)]
    kept = [row for row in every if row["item"] in set(table["item"])]
    settings = {"data": "csv:likes.csv", "candidates": 2, "k": 1, "negatives": 1}
    return Case({"kind": "recommendation", **settings}, kept, pd.DataFrame(kept))


def actions(folder: Path) -> Case:
    (folder / "model.py").write_text(POLICY)
    save_file({"weight": torch.tensor([[0.0, 0.0, -1.0, -0.5], [0.0, 0.0, 1.0, 0.5]])}, folder / "policy.safetensors")
    settings = {"environment": "CartPole-v1", "weights": "policy.safetensors", "episodes": 2, "steps": 9}
    seen = CHANCE.normal(size=(5, 4)).astype(np.float32)
    return Case({"kind": "control", **settings, "model": "model.py:network"}, list(seen), seen)


CASES: list[Callable[[Path], Case]] = [photos, arrays, masks, sounds, texts, rows, series, forecasts, pairs, actions]


def made(case: Case, folder: Path) -> Any:
    return load_task(refer(task_kind(case.settings["kind"]).model_validate(case.settings), folder))


def exported(task: Any, folder: Path) -> autocompress.Artifact:
    """The artifact of a task's model as it is before training."""
    model = build_model(task, 0).eval()
    file = export_onnx(model, example_inputs(task), input_signature(task)).SerializeToString()
    measurement = {**MEASUREMENT, "classes": list(getattr(task, "classes", ()))}
    write_folder(folder, Contents(file, Recipe().to_yaml(), [], measurement, "card", None,
                                  task.preparation.model_dump_json()).files())  # fmt: skip
    return autocompress.load(folder)


def trained_on(task: Any) -> list[bytes]:
    """Every example of a task's splits as bytes, each once."""
    found = set()
    for name in SPLITS:
        for batch in batches(task.split(name), 1):
            found.add(b"".join(tensor.numpy().tobytes() for tensor in batch.inputs))
    return sorted(found)


@pytest.mark.parametrize("build", CASES)
def test_raw_inputs_come_to_what_was_trained_on_and_to_what_the_model_makes_of_it(
    build: Callable[[Path], Case], tmp_path: Path
) -> None:
    case = build(tmp_path)
    task = made(case, tmp_path)
    artifact = exported(task, tmp_path / "artifact")
    one_by_one = [artifact.prepare(raw) for raw in case.raw]
    seen = {b"".join(array.tobytes() for array in given) for given in one_by_one}
    if build is actions:
        assert [given[0].tobytes() for given in one_by_one] == [each.tobytes() for each in case.together]
    elif build is pairs:
        assert seen >= set(trained_on(task))
    else:
        assert sorted(seen) == trained_on(task)
    together = artifact.prepare(case.together)
    model = build_model(task, 0).eval()
    with torch.no_grad():
        expected = np.concatenate([model(*map(torch.from_numpy, given)).numpy() for given in one_by_one])
    np.testing.assert_allclose(artifact(*together), expected, rtol=1e-3, atol=1e-4)
    classes = getattr(task, "classes", ())
    answers = artifact.predict(case.together)
    if classes:
        clear = np.abs(np.diff(np.sort(expected, axis=1)[:, -2:], axis=1))[:, 0] > 1e-3
        assert clear.any()
        assert (answers == np.array(classes)[expected.argmax(axis=1)])[clear].all()
    else:
        np.testing.assert_array_equal(answers, artifact(*together))


def test_raw_inputs_where_arrays_are_taken_are_refused_with_what_takes_them(tmp_path: Path) -> None:
    artifact = exported(made(case := photos(tmp_path), tmp_path), tmp_path / "artifact")
    assert not isinstance(case.raw[0], np.ndarray)
    with pytest.raises(ArtifactError, match=r"where arrays are taken: predict\(\) takes raw inputs"):
        artifact(case.raw[0])


def test_every_kind_takes_raw_inputs_and_its_card_says_how() -> None:
    for name, kind in kinds().items():
        assert kind.preparation is not None, name
        text = card(Recipe(), {**MEASUREMENT, "baseline": {}, "processor": {"name": "p"},
                               "target": {"runtime": "openvino", "threads": 1, "batch_size": 1}},
                    {"input": ([1], "float32")},
                    kind.preparation.example)  # fmt: skip
        assert f'autocompress.load(".").predict({kind.preparation.example})' in text


REFUSED: list[tuple[Callable[[Path], Case], Any, str]] = [
    (photos, "not_there.png", "not_there.png"),
    (photos, np.zeros((4, 4)), "holds float64: store uint8"),
    (sounds, np.zeros((4, 4)), "shape (4, 4) is no sound: give floats (samples,) at 8000 Hz"),
    (sounds, np.zeros(9, np.int16), "an array of int16"),
    (texts, ["good", 7], "7 is no text: give a string"),
    (rows, {"town": "Bonn", "zone": 1, "age": 2.0, "flat": True}, "there is no column 'area'"),
    (rows, {"town": "Bonn", "zone": 1, "age": "old", "flat": True, "area": 1.0}, "column 'age' holds text"),
    (rows, {"town": None, "zone": 1, "age": 1.0, "flat": True, "area": 1.0}, "column 'town' has empty cells"),
    (rows, 7, "7 is no row: give a mapping"),
    (series, np.zeros((3, 21)), "series have shape (3, 21): give (N, 1, 20), or one alone"),
    (series, pd.DataFrame({"x": [1.0]}), "the channels have no names: give an array"),
    (pairs, {"user": 9, "item": "i1"}, "user 9 is none of the 3 that the model was trained on"),
    (actions, "left", "observations are no array of numbers, but a str"),
    (actions, np.full(4, np.nan), "observations hold NaN or infinity"),
    (series, [["a"] * 20], "series are no array of numbers, but a list"),
    (texts, [], "there is no raw input: give one"),
    (photos, [], "there is no raw input: give one"),
    (rows, [], "there is no raw input: give one"),
    (actions, np.zeros(5), "observations have shape (5,): give (N, 4), or one alone"),
]


@pytest.mark.parametrize(("build", "raw", "words"), REFUSED)
def test_what_is_no_such_input_is_refused(build: Callable[[Path], Case], raw: Any, words: str, tmp_path: Path) -> None:
    artifact = exported(made(build(tmp_path), tmp_path), tmp_path / "artifact")
    with pytest.raises(ArtifactError) as raised:
        artifact.predict(raw)
    assert words in str(raised.value)
    assert "task.data" not in str(raised.value)


def test_a_category_that_was_never_seen_is_the_one_for_all_others(tmp_path: Path) -> None:
    artifact = exported(made(rows(tmp_path), tmp_path), tmp_path / "artifact")
    row = {"town": "Ulm", "zone": "3", "age": 1.5, "area": 2.5, "flat": "True"}
    numbers, codes = artifact.prepare([row, {**row, "town": "Bonn"}])
    np.testing.assert_array_equal(numbers, np.array([[1.5, 2.5]] * 2, np.float32))
    # Values in order: Aachen, Bonn, Köln; 0 to 4; False, True.
    np.testing.assert_array_equal(codes, [[0, 4, 2], [2, 4, 2]])


@pytest.mark.parametrize("written", ["3", "3.0"])
@pytest.mark.parametrize("given", [3, 3.0, "3", np.float32(3), np.int64(3)])
def test_a_whole_number_is_the_same_category_however_it_is_written(written: str, given: Any, tmp_path: Path) -> None:
    zones = [written, "1.5" if "." in written else "1", "2.0" if "." in written else "2"] * 8
    table = pd.DataFrame({"zone": zones, "price": CHANCE.normal(size=24)})
    table.to_csv(tmp_path / "homes.csv", index=False)
    settings = {"kind": "tabular", "data": "csv:homes.csv", "target": "price", "categories": ["zone"]}
    artifact = exported(made(Case(settings, [], None), tmp_path), tmp_path / "artifact")
    (codes,) = artifact.prepare({"zone": given})
    assert codes.tolist() == [[3]], "after 1 or 1.5, and 2"


@pytest.mark.parametrize("side", ["left", "right"])
def test_long_texts_are_cut_on_the_side_that_the_tokenizer_cuts(side: str, tmp_path: Path) -> None:
    case = texts(tmp_path)
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps({**settings, "truncation_side": side}))
    task = made(case, tmp_path)
    assert task.preparation.truncation_side == side
    found = {b"".join(part.tobytes() for part in task.preparation.arrays(text)) for text in case.raw}
    assert sorted(found) == trained_on(task)


def test_outputs_that_no_class_stands_for_go_by_their_numbers(tmp_path: Path) -> None:
    exported(made(series(tmp_path), tmp_path), tmp_path / "artifact")
    folder = tmp_path / "artifact"
    measurement = json.loads((folder / "measurement.json").read_text())
    file, kept = ((folder / name).read_bytes() for name in ("model.onnx", "preparation.json"))

    def named(classes: list[str]) -> autocompress.Artifact:
        contents = Contents(
            file, Recipe().to_yaml(), [], {**measurement, "classes": classes}, "card", None, kept.decode()
        )
        write_folder(folder, contents.files())
        return autocompress.load(folder)

    given = 50 * CHANCE.normal(size=(40, 20)).astype(np.float32)
    expected = named(["a", "b"]).predict(given)
    assert set(expected.tolist()) == {"a", "b"}
    assert named(["a"]).predict(given).tolist() == [{"a": "a", "b": "1"}[each] for each in expected.tolist()]
    with pytest.raises(ArtifactError, match=r"names 3 classes, and outputs are \(40, 2\): export it again"):
        named(["a", "b", "c"]).predict(given)


def spoilt(artifact: Path, change: Callable[[dict[str, Any]], object]) -> autocompress.Artifact:
    """The same artifact after somebody changed how inputs are made, with checksums of its own."""
    data = json.loads((artifact / "preparation.json").read_text())
    change(data)
    measurement = json.loads((artifact / "measurement.json").read_text())
    held = Contents((artifact / "model.onnx").read_bytes(), Recipe().to_yaml(), [], measurement, "card", None,
                    json.dumps(data))  # fmt: skip
    write_folder(artifact, held.files())
    return autocompress.load(artifact)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(kind="tabulr"), "unknown kind of task 'tabulr'; did you mean 'tabular'?"),
        (lambda data: data.pop("numbers"), "numbers"),
        (lambda data: data.update(code="import os"), "code"),
    ],
)
def test_how_inputs_are_made_is_checked_when_it_is_read(
    change: Callable[[dict[str, Any]], object], words: str, tmp_path: Path
) -> None:
    exported(made(rows(tmp_path), tmp_path), tmp_path / "artifact")
    artifact = spoilt(tmp_path / "artifact", change)
    with pytest.raises(ArtifactError, match=r"preparation\.json") as raised:
        artifact.predict({})
    assert words in str(raised.value)


def test_a_changed_file_is_refused_and_one_without_it_takes_arrays(tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    exported(made(series(tmp_path), tmp_path), artifact)
    (artifact / "preparation.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"preparation\.json: differs from SHA256SUMS"):
        autocompress.load(artifact)
    measurement = json.loads((artifact / "measurement.json").read_text())
    write_folder(artifact, Contents((artifact / "model.onnx").read_bytes(), Recipe().to_yaml(), [], measurement,
                                    "card").files())  # fmt: skip
    plain = autocompress.load(artifact)
    assert plain(np.zeros((2, 1, 20), np.float32)).shape == (2, 2)
    with pytest.raises(ArtifactError, match="made by a task's own code: call it with arrays"):
        plain.predict(np.zeros(20))


def test_a_task_may_call_something_else_its_preparation_and_its_classes_by_numbers(tmp_path: Path) -> None:
    assert preparation_of(SimpleNamespace(preparation="a text")) is None
    assert preparation_of(object()) is None
    task = made(series(tmp_path), tmp_path)
    assert preparation_of(task) is task.preparation
    exported(task, tmp_path / "artifact")
    measurement = {**json.loads((tmp_path / "artifact" / "measurement.json").read_text()), "classes": [0, 1]}
    file = (tmp_path / "artifact" / "model.onnx").read_bytes()
    write_folder(tmp_path / "artifact", Contents(file, Recipe().to_yaml(), [], measurement, "card").files())
    assert autocompress.load(tmp_path / "artifact").classes == ("0", "1")
