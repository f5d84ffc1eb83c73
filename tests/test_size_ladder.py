"""The size ladder's table says what its results hold, and its ratios are those of its sizes."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "size_ladder"


@pytest.fixture(scope="module")
def ladder():
    """What the experiment writes its report with, as a module."""
    spec = importlib.util.spec_from_file_location("size_ladder_report", FOLDER / "report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return pd.read_csv(FOLDER / "results.csv")


def test_the_readme_holds_the_table_of_the_results(ladder, rows: pd.DataFrame) -> None:
    text = (FOLDER / "README.md").read_text()
    assert text.split(ladder.START)[1].split(ladder.END)[0] == ladder.table(rows)


def test_ratios_are_those_of_the_sizes(rows: pd.DataFrame) -> None:
    sizes = dict(zip(rows["case"], rows["size_bytes"], strict=True))
    for row in rows.to_dict("records"):
        own = sizes[f"{row['network']}, float"] / row["size_bytes"]
        assert row["compression_ratio"] == pytest.approx(own, rel=1e-5)
        assert row["alexnet_ratio"] == pytest.approx(sizes["AlexNet, float"] / row["size_bytes"], rel=1e-5)
        assert row["bound_ratio"] == pytest.approx(row["size_bytes"] / row["bound_bytes"], rel=1e-5)


def test_no_file_is_below_its_bound(rows: pd.DataFrame) -> None:
    assert (rows["size_bytes"] > rows["bound_bytes"]).all()


def test_the_bound_is_the_entropy_and_a_book(ladder) -> None:
    # A half, a quarter and two eighths: 1/2 + 2/4 + 3/8 + 3/8 = 1.75 bits a number, and 4 values of a byte.
    values = np.repeat(np.array([0, 1, 2, 3], np.int8), [512, 256, 128, 128])
    assert ladder.bound_bytes(values) == 1024 * 1.75 / 8 + 4


def test_huffman_codes_of_dyadic_shares_meet_the_entropy(ladder) -> None:
    assert ladder.huffman(np.array([512, 256, 128, 128])) == 1024 * 1.75 / 8 + 4


def test_what_is_too_varied_for_a_book_is_plain(ladder) -> None:
    values = np.arange(5000, dtype=np.float32)
    assert ladder.bound_bytes(values) == ladder.huffman_bytes(values) == values.nbytes
    assert math.isclose(ladder.bound_bytes(values[:100]), 400)
