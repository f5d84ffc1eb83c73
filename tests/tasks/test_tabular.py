"""Tables: what is a number, a category and a class, what is refused, and that the file takes numbers as they come."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes, load_wine
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from tiny import run

from autocompress import Regression
from autocompress.data import batches, grouped_split
from autocompress.errors import TaskError
from autocompress.tasks import load_task, refer
from autocompress.tasks.kinds import task_kind
from autocompress.tasks.protocol import Task

ROWS = 60


def table() -> pd.DataFrame:
    """Two numbers, two categories, and targets of all kinds."""
    chance = np.random.default_rng(0)
    found = pd.DataFrame({"age": chance.integers(20, 60, ROWS), "height": chance.normal(170, 10, ROWS)})
    found["town"] = np.where(found.index % 3 == 0, "Graz", "Linz")
    found["smokes"] = found.index % 4 == 0
    found["person"] = found.index // 2
    found["price"] = 3.0 * found["age"] - found["height"]
    found["kind"] = np.where(found["price"] > found["price"].median(), "dear", "cheap")
    found["stars"] = found.index % 5
    return found


def task(folder: Path, frame: pd.DataFrame, **settings: Any) -> Task:
    frame.to_csv(folder / "table.csv", index=False)
    given = {"kind": "tabular", "data": "csv:table.csv", **settings}
    return load_task(refer(task_kind("tabular").model_validate(given), folder))


def test_columns_are_numbers_or_categories_and_the_rest_is_left_out(tmp_path: Path) -> None:
    found = task(tmp_path, table(), target="kind", drop=["price", "stars", "person"])
    batch = next(batches(found.split("train"), 1000))
    numbers, codes = batch.inputs
    assert (numbers.shape[1], numbers.dtype, codes.shape[1], codes.dtype) == (2, torch.float32, 2, torch.int64)
    assert found.classes == ("cheap", "dear")  # type: ignore[attr-defined]
    assert found.inputs == (  # type: ignore[attr-defined]
        "numbers (N, 2) as they come, in this order: 'age', 'height'",
        "codes (N, 2): 'town' is 1 for 'Graz', 2 for 'Linz', 0 for anything else; "
        "'smokes' is 1 for 'False', 2 for 'True', 0 for anything else",
    )
    towns = pd.read_csv(tmp_path / "table.csv")
    row = int(np.flatnonzero(np.isclose(towns["height"], float(numbers[0, 1]), atol=1e-4))[0])
    assert int(codes[0, 0]) == {"Graz": 1, "Linz": 2}[towns["town"][row]]
    assert int(codes[0, 1]) == {False: 1, True: 2}[towns["smokes"][row]]
    assert [len(found.split(name)) for name in ("train", "validation", "test")] == [36, 12, 12]  # type: ignore[arg-type]


def test_a_model_takes_numbers_as_they_come_and_scales_by_the_training_split_alone(tmp_path: Path) -> None:
    frame = table()[["age", "height", "price"]].astype({"age": float})
    found = task(tmp_path, frame, target="price")
    train = next(batches(found.split("train"), 1000))
    model = found.model().eval()
    given, target = train.inputs[0], train.targets
    scaled = (given - given.mean(0)) / given.std(0, correction=0)
    expected = model.network(scaled) * target.std(correction=0) + target.mean()  # type: ignore[operator]
    torch.testing.assert_close(model(given), expected, rtol=1e-4, atol=1e-3)
    loss = found.loss(target + float(target.std(correction=0)), target)
    assert float(loss) == pytest.approx(1.0, rel=1e-5)


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=2, max_size=30))
def test_regression_is_measured_as_by_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    output, target = (np.array(part)[:, None] for part in zip(*pairs, strict=True))
    if np.ptp(target) < 1e-3:
        return
    found = Regression(lambda: torch.nn.Linear(1, 1), None, None, None).metrics(output, target)
    assert found["r2"] == pytest.approx(r2_score(target, output), rel=1e-6, abs=1e-6)
    assert found["mae"] == pytest.approx(mean_absolute_error(target, output))
    assert found["rmse"] == pytest.approx(root_mean_squared_error(target, output))


@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), st.integers(0, 5))
def test_no_group_is_in_two_splits_and_nothing_is_lost(groups: list[int], seed: int) -> None:
    parts = grouped_split(groups, (0.6, 0.2, 0.2), seed)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(groups)))
    held = [{groups[index] for index in part.tolist()} for part in parts]
    assert sum(map(len, held)) == len(set(groups))
    # No part is past its share by more than the largest group.
    largest = max(groups.count(group) for group in groups)
    for part, share in zip(parts, (0.6, 0.2, 0.2), strict=True):
        assert len(part) <= share * len(groups) + largest


def test_rows_of_a_group_stay_in_one_split(tmp_path: Path) -> None:
    frame = table()
    found = task(tmp_path, frame, target="price", group="person", drop=["kind", "stars"])
    held = []
    for name in ("train", "validation", "test"):
        heights = next(batches(found.split(name), 1000)).inputs[0][:, 1].numpy()
        rows = [int(np.abs(frame["height"].to_numpy() - height).argmin()) for height in heights]
        held.append(set(frame["person"][rows]))
    assert sum(map(len, held)) == 30


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"target": "kind", "drop": ["price"]}, "Classification", None),
        ({"target": "price", "drop": ["kind"]}, "Regression", None),
        ({"target": "stars", "drop": ["kind"]}, "Classification", "5 different whole numbers is taken as classes"),
        ({"target": "person", "drop": ["kind"]}, "Regression", "30 different whole numbers is taken as numbers"),
        ({"target": "stars", "drop": ["kind"], "predicts": "numbers"}, "Regression", None),
        ({"target": "smokes", "drop": ["kind"]}, "Classification", None),
    ],
)
def test_what_is_predicted_follows_from_the_target_and_a_guess_is_said(
    settings: dict[str, Any], kind: str, said: str | None, tmp_path: Path
) -> None:
    found = task(tmp_path, table(), **settings)
    assert type(found).__name__ == kind
    notes = " ".join(found.notes)  # type: ignore[attr-defined]
    assert (said in notes) if said else ("whole numbers" not in notes)


def test_a_value_that_training_lacks_is_one_more_category_and_said(tmp_path: Path) -> None:
    frame = table()[["age", "town", "price"]]
    train = refer_split(tmp_path, frame)
    frame.loc[[index for index in range(ROWS) if index not in train][:1], "town"] = "Wien"
    found = task(tmp_path, frame, target="price")
    assert any("town" in note and "lacks" in note for note in found.notes)  # type: ignore[attr-defined]
    codes = torch.cat([next(batches(found.split(name), 99)).inputs[1] for name in ("validation", "test")])
    assert int((codes == 0).sum()) == 1
    assert int(next(batches(found.split("train"), 99)).inputs[1].min()) == 1


def refer_split(folder: Path, frame: pd.DataFrame) -> set[int]:
    """The rows that are trained on, by their numbers."""
    marked = frame.assign(age=np.arange(ROWS, dtype=float))
    return {int(age) for age in next(batches(task(folder, marked, target="price").split("train"), 99)).inputs[0][:, 0]}


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({}, {"target": "prize"}, r"has no column 'prize': did you mean 'price'\?"),
        ({}, {"target": "price", "drop": ["towns"]}, "task.drop: .* has no column 'towns'"),
        ({}, {"target": "price", "group": "persn"}, "task.group: .* did you mean 'person'"),
        ({"age": [np.nan, *[1.0] * 59]}, {"target": "price"}, "'age' has 1 empty or NA cells, first in row 1"),
        ({"price": [*[1.0] * 59, np.nan]}, {"target": "price"}, "'price' has 1 empty or NA cells, first in row 60"),
        ({"age": [*map(str, range(59)), "?"]}, {"target": "price"}, r"'age' holds '\?' in row 60 among numbers"),
        ({"town": [f"name {i}" for i in range(60)]}, {"target": "price"}, "60 different values in 60 rows"),
        ({"height": [np.inf, *[1.0] * 59]}, {"target": "price"}, "column 'height' has inf in row 1"),
        (
            {"age": 1_700_000_000 + np.arange(60)},
            {"target": "price"},
            "'age' has values that are one and the same as 32-bit",
        ),
        ({}, {"target": "kind", "predicts": "numbers"}, "column 'kind' holds text, such as '(cheap|dear)'"),
        ({"person": [1] * 60}, {"target": "price", "group": "person"}, "no example is in the split 'validation'"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_before_training(
    change: dict[str, Any], settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match=words):
        task(tmp_path, table().assign(**change), **settings)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a,b\n\xff\xfe,1\n", "byte .* is no UTF-8"),
        (b"", "cannot be read as csv"),
        (b"a,target\n", "has no rows"),
        (b"a,b\n1,2,3\n4,5,6,7\n", "cannot be read as csv"),
        (b"target\n1\n", "nothing to predict from"),
    ],
)
def test_what_is_no_table_is_said(text: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(text)
    given = {"kind": "tabular", "data": "csv:table.csv", "target": "target"}
    with pytest.raises(TaskError, match=words):
        load_task(refer(task_kind("tabular").model_validate(given), tmp_path))


def test_parquet_is_read_as_csv_is(tmp_path: Path) -> None:
    table().to_parquet(tmp_path / "table.parquet")
    given = {"kind": "tabular", "data": "parquet:table.parquet", "target": "price", "drop": ["kind"]}
    found = load_task(refer(task_kind("tabular").model_validate(given), tmp_path))
    other = task(tmp_path, table(), target="price", drop=["kind"])
    for one, two in zip(found.split("test")[:], other.split("test")[:], strict=True):  # type: ignore[index]
        torch.testing.assert_close(one, two)


SPACE = {"version": 1, "steps": [{"one_of": [{"technique": "low_bit", "bits": [6, 8]}, "float16"]}]}


@pytest.mark.parametrize("of", ["wine", "diabetes"])
def test_a_table_is_searched_and_its_file_runs_on_numbers_as_they_come(of: str, tmp_path: Path) -> None:
    frame = {"wine": load_wine, "diabetes": load_diabetes}[of](as_frame=True).frame
    frame.to_csv(tmp_path / "table.csv", index=False)
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    quality = {"wine": "accuracy", "diabetes": "r2"}[of]
    budget = {"size": "60 KB", **({"accuracy_drop": 0.1} if of == "wine" else {"metrics": {"r2": {"at_least": 0.2}}})}
    config = {
        "study": of, "task": {"kind": "tabular", "data": "csv:table.csv", "target": "target"}, "tracking": None,
        "search_space": "space.yaml", "budget": budget, "objectives": ["size_bytes", quality, "latency_ms"],
        "search": {"trials": 2, "workers": 1},
    }  # fmt: skip
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(config))
    assert run(tmp_path, "search", "search.yaml", "--executor", "inline").code == 0
    assert run(tmp_path, "export", of, "--out", "chosen").code == 0
    card = (tmp_path / "chosen" / "MODEL_CARD.md").read_text()
    first = frame.columns[0]
    assert f"`input`: numbers (N, {len(frame.columns) - 1}) as they come, in this order: {first!r}, " in card
    session = onnxruntime.InferenceSession(tmp_path / "chosen" / "model.onnx")
    (given,) = session.get_inputs()
    output = session.run(None, {given.name: frame.drop(columns="target").to_numpy(np.float32)})[0]
    if of == "wine":
        assert float(np.mean(output.argmax(1) == frame["target"])) > 0.9
    else:
        assert r2_score(frame["target"], output[:, 0]) > 0.3
