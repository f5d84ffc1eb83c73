"""Texts without code: labels in the model's order, padding that changes nothing, and folders that do not fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from worded import WORDS, save, sentences, tokenizer

from autocompress.artifacts.export import export_onnx
from autocompress.artifacts.parity import check_parity
from autocompress.artifacts.runtime import Model
from autocompress.data import batches
from autocompress.errors import TaskError
from autocompress.measure.quality import measure_quality
from autocompress.tasks import load_task, refer
from autocompress.tasks.checks import check_trainable
from autocompress.tasks.examples import example_inputs, input_signature
from autocompress.tasks.models import build_model
from autocompress.tasks.texts import Sentences, TextClassificationConfig, find_head


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("texts")
    sentences().to_csv(place / "texts.csv", index=False)
    save(place / "model")
    return place


@pytest.fixture
def place(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return tmp_path


def made(root: Path, **settings: Any) -> Any:
    given = {"kind": "text_classification", "data": "csv:texts.csv", "model": "transformers:model", **settings}
    return load_task(refer(TextClassificationConfig.model_validate(given), root))


def test_outputs_are_the_models_own_and_texts_are_what_its_tokenizer_makes_of_them(folder: Path) -> None:
    task = made(folder)
    assert task.classes == ("positive", "negative")
    assert task.baseline is None, "its classifier knows these labels"
    own = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    words = transformers.AutoTokenizer.from_pretrained(folder / "model")
    table = sentences().drop_duplicates("text")
    expected = {}
    for text, label in zip(table["text"], table["label"], strict=True):
        with torch.no_grad():
            expected[tuple(words(text)["input_ids"])] = (own(**words(text, return_tensors="pt")).logits[0], label)
    model = build_model(task, 0).eval()
    seen = 0
    for name in ("train", "validation", "test"):
        for batch in batches(task.split(name), 7):
            with torch.no_grad():
                output = model(*batch.inputs)
            for ids, mask, row, target in zip(*batch.inputs, output, batch.targets, strict=True):
                logits, label = expected[tuple(ids[mask.bool()].tolist())]
                torch.testing.assert_close(row, logits, rtol=1e-4, atol=1e-5)
                assert task.classes[target] == label
                seen += 1
    assert seen == len(sentences())


def test_the_file_takes_texts_of_any_length_and_is_as_right_as_the_model(folder: Path) -> None:
    task = made(folder)
    check_trainable(task, 0)
    assert input_signature(task).varying == (frozenset({1}), frozenset({1}))
    model, example = build_model(task, 0).eval(), example_inputs(task)
    exported = export_onnx(model, example, input_signature(task))
    assert check_parity(model, exported, example, signature=input_signature(task)) < 1e-4
    file = Model(exported.SerializeToString())
    own = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    words = transformers.AutoTokenizer.from_pretrained(folder / "model")
    for count in (1, 3, 17):
        text = " ".join(["film", "was", "good"] * 6).split()[:count]
        given = words(" ".join(text), return_tensors="pt")
        found = file(given["input_ids"].numpy(), given["attention_mask"].numpy())
        with torch.no_grad():
            np.testing.assert_allclose(found, own(**given).logits.numpy(), atol=1e-4)
    rows, right = 0, 0
    for batch in batches(task.split("test"), 1):
        with torch.no_grad():
            right += int(own(*batch.inputs).logits.argmax() == batch.targets[0])
        rows += 1
    assert measure_quality(file, task, "test")["accuracy"] == pytest.approx(right / rows)


def test_several_sequences_are_filled_up_on_the_right_to_the_longest_of_them(folder: Path) -> None:
    words = transformers.AutoTokenizer.from_pretrained(folder / "model")
    texts = list(sentences(9)["text"])
    data = Sentences([words(text)["input_ids"] for text in texts], torch.arange(9), words.pad_token_id)
    for chosen in ([0], [4, 2], [8, 0, 5, 1]):
        expected = words([texts[index] for index in chosen], padding=True, return_tensors="pt")
        found = data[torch.tensor(chosen)]
        assert torch.equal(found["input_ids"], expected["input_ids"])
        assert torch.equal(found["attention_mask"], expected["attention_mask"])
        assert found["labels"].tolist() == chosen


def test_a_model_without_a_classifier_gets_the_same_new_one_each_time_and_is_trained(place: Path) -> None:
    shutil.rmtree(place / "model")
    save(place / "model", headless=True)
    first, again = made(place), made(place)
    assert first.baseline is not None
    assert first.classes == ("negative", "positive")
    assert any("classifier is made anew" in note for note in first.notes)
    models = [task.model().state_dict() for task in (first, again)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_rows_of_one_text_are_in_one_split(place: Path) -> None:
    table = sentences(40)
    pd.concat([table, table.iloc[::-1]]).to_csv(place / "texts.csv", index=False)
    task = made(place)
    assert any("repeat the text" in note for note in task.notes)
    held = [{tuple(batch.given[0][0].tolist()) for batch in batches(task.split(name), 1)}
            for name in ("train", "validation", "test")]  # fmt: skip
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]


def test_long_texts_are_cut_as_the_tokenizer_cuts_them_and_said(folder: Path) -> None:
    task = made(folder, max_length=4)
    assert any("more than 4 tokens" in note for note in task.notes)
    assert max(batch.given[0].shape[1] for batch in batches(task.split("train"), 8)) == 4


@pytest.mark.parametrize(
    ("own", "names", "trains", "expected"),
    [
        (["b", "a"], ("a", "b"), False, (("b", "a"), False)),
        (["b", "a", "c"], ("a", "b"), False, (("b", "a", "c"), False)),
        (["LABEL_0", "LABEL_1"], ("0", "1"), False, (("0", "1"), False)),
        (["LABEL_0", "LABEL_1"], ("no", "yes"), True, (("no", "yes"), True)),
    ],
)
def test_which_output_is_which_label(own: list[str], names: tuple[str, ...], trains: bool, expected: Any) -> None:
    settings = {"architectures": ["XForSequenceClassification"], "id2label": {str(i): n for i, n in enumerate(own)}}
    head = find_head(settings, names, trains)
    assert (head.classes, head.new) == expected


def test_a_classifier_of_other_labels_is_refused() -> None:
    settings = {"architectures": ["XForSequenceClassification"], "id2label": {"0": "cat", "1": "dog"}}
    with pytest.raises(TaskError, match="knows cat, dog, the column of labels no, yes: name them alike, or give a `ba"):
        find_head(settings, ("no", "yes"), False)


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(place: Path) -> None:
        path = place / "model" / "config.json"
        settings = json.loads(path.read_text())
        change(settings)
        path.write_text(json.dumps(settings))

    return edit


def latin(place: Path) -> None:
    (place / "texts.csv").write_bytes("text,label\ncafé,positive\n".encode("latin-1"))


def emptied(place: Path) -> None:
    table = sentences()
    table.loc[3, "text"] = None
    table.to_csv(place / "texts.csv", index=False)


def pickled(place: Path) -> None:
    (place / "model" / "model.safetensors").rename(place / "model" / "pytorch_model.bin")


def another_tokenizer(place: Path) -> None:
    tokenizer([f"w{index}" for index in range(40)] + WORDS).save_pretrained(place / "model")


def halved(place: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = place / "model" / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if ".layer.1.ffn" not in name}
    save_file(kept, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "settings", "message"),
    [
        (latin, {}, "is no UTF-8"),
        (emptied, {}, "column 'text' has 1 empty or NA cells, first in row 4"),
        (None, {"text": "txt"}, "has no column 'txt': did you mean 'text'"),
        (pickled, {}, r"has no \*.safetensors"),
        (another_tokenizer, {}, "the tokenizer is another model's"),
        (halved, {}, "its weights lack .*ffn"),
        (None, {"model": "transformers:elsewhere"}, "has no config.json"),
        (edited(lambda settings: settings.update(max_position_embeddings=6)), {}, "cannot be read|at most 6 tokens"),
        (lambda place: (place / "model" / "tokenizer.json").unlink(), {}, "no tokenizer that can be read"),
    ],
)
def test_what_does_not_fit_is_refused(place: Path, spoil: Any, settings: dict[str, Any], message: str) -> None:
    if spoil is not None:
        spoil(place)
    with pytest.raises(TaskError, match=message):
        made(place, **settings)
